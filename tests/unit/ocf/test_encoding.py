# SPDX-License-Identifier: GPL-2.0-or-later
"""The agents read what Pacemaker gives as UTF-8, whatever the locale is."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.unit.ocf.support.host import PROJECT

TEXT = "by default … 日本"


@pytest.mark.parametrize("agent", ["XenVM", "LibvirtVM"])
def test_a_parameter_is_read_under_a_locale_of_another_encoding(agent: str, tmp_path: Path) -> None:
    made = subprocess.run(
        ["localedef", "-i", "ja_JP", "-f", "EUC-JP", str(tmp_path / "ja_JP.eucJP")],
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert (tmp_path / "ja_JP.eucJP").is_dir(), made.stderr
    python = (PROJECT / "ocf" / agent).read_text().splitlines()[0].removeprefix("#!").split()
    code = "import os, sys; sys.stdout.buffer.write(os.environ['OCF_RESKEY_x'].encode())"
    environ = {**os.environ, "LC_ALL": "ja_JP.eucJP", "LOCPATH": str(tmp_path)}
    said = subprocess.run(
        [*python, "-c", code], check=True, capture_output=True, timeout=30,
        env={**{name.encode(): value.encode() for name, value in environ.items()},
             b"OCF_RESKEY_x": TEXT.encode()},
    )  # fmt: skip
    assert said.stdout.decode() == TEXT
