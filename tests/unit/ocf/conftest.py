# SPDX-License-Identifier: GPL-2.0-or-later
"""An agent alone, on a host with a scripted toolstack and a scripted vesperd."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.ocf.support.host import Host, LibvirtHost, XenHost


@pytest.fixture(params=[XenHost, LibvirtHost], ids=lambda kind: kind.name)
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Host]:
    """What all agents must do."""
    host = request.param(tmp_path)
    try:
        yield host
    finally:
        host.close()


@pytest.fixture
def xen(tmp_path: Path) -> Iterator[Host]:
    """What only XenVM does."""
    host = XenHost(tmp_path)
    try:
        yield host
    finally:
        host.close()


@pytest.fixture
def kvm(tmp_path: Path) -> Iterator[Host]:
    """What only LibvirtVM does."""
    host = LibvirtHost(tmp_path)
    try:
        yield host
    finally:
        host.close()
