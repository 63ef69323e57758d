# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of operations has what docs/api.md promises: each op, and who may ask for it."""

from __future__ import annotations

import re

from tests.unit.support.apis import list_root_operations, make_api_of_nobody
from tests.unit.support.daemons import PROJECT


def read_documented_operations() -> dict[str, bool]:
    """Return the operations of docs/api.md, and whether each needs root (a star)."""
    text = (PROJECT / "docs/api.md").read_text()
    name = r"(?:`\w+`|\[`\w+`\]\(#[\w-]+\))\*?"
    asked_by = "(?:all|agents|readers|operators)"
    rows = re.findall(rf"^\| ({name}(?:, {name})*) \| {asked_by} \|", text, re.M)
    names = re.findall(r"`(\w+)`(?:\]\([^)]*\))?(\*?)", " ".join(rows))
    return {name: bool(star) for name, star in names}


def test_each_documented_operation_is_in_the_table_with_its_right() -> None:
    documented = read_documented_operations()
    assert len(documented) > 20
    assert make_api_of_nobody().operations.keys() == documented.keys()
    root_only = {name for name, needs_root in documented.items() if needs_root}
    assert set(list_root_operations()) == root_only
