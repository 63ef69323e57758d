# SPDX-License-Identifier: GPL-2.0-or-later
"""State files: small JSON files that outlive vesperd, private to root, written atomically."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Protocol

__all__ = ["DirectDisk", "StateDisk", "read_state", "write_state"]


class StateDisk(Protocol):
    """Reads and writes state files; a disk that hangs must not hold up vesperd."""

    async def read_state(self, path: Path) -> str:
        """Read a file, however long that takes. :raises OSError:"""

    async def write_state(self, path: Path, value: object) -> None:
        """Write a file. :raises OSError: the file is as it was, or the disk does not answer."""


class DirectDisk:
    """A state disk without protection from hangs."""

    async def read_state(self, path: Path) -> str:
        return read_state(path)

    async def write_state(self, path: Path, value: object) -> None:
        write_state(path, value)


def read_state(path: Path) -> str:
    """Read a state file. :raises OSError:"""
    return path.read_text(encoding="utf-8", errors="surrogateescape")


def write_state(path: Path, value: object) -> None:
    """Write a state file atomically. :raises OSError: the file is as it was."""
    new = path.with_name(path.name + ".new")
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    new.unlink(missing_ok=True)  # of an earlier try, whatever its mode
    with open(new, "x", encoding="utf-8", opener=_open_private) as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
