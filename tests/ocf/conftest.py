# SPDX-License-Identifier: GPL-2.0-or-later
"""The agent alone, on a host with a scripted xl and a scripted vesperd."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ocf.host import Host


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    try:
        yield host
    finally:
        host.close()
