# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks that fail, each its own file system."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.journal.support.disks import FrozenDisk, SmallDisk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    disk = SmallDisk(tmp_path / "disk")
    try:
        yield disk
    finally:
        disk.unmount()


@pytest.fixture
def frozen_disk(tmp_path: Path) -> Iterator[FrozenDisk]:
    disk = FrozenDisk(tmp_path)
    try:
        yield disk
    finally:
        disk.unmount()
