# SPDX-License-Identifier: GPL-2.0-or-later
"""Initial RAM file systems (Documentation/driver-api/early-userspace/buffer-format.rst)."""

from __future__ import annotations

import stat
from pathlib import Path

__all__ = ["Archive"]


class Archive:
    """An archive in the "newc" format, everything owned by root."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._inode = 0
        self._folders: set[str] = set()

    def _append_entry(
        self, name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)
    ) -> None:
        self._inode += 1
        path = name.encode() + b"\0"
        fields = (self._inode, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(path), 0)
        self._data += b"070701" + b"".join(b"%08x" % field for field in fields) + path
        self._data += bytes(-len(self._data) % 4) + data
        self._data += bytes(-len(self._data) % 4)

    def add_directory(self, name: str) -> None:
        """Add a directory, and those above it."""
        name = name.strip("/")
        if not name or name in self._folders:
            return
        self.add_directory(name.rpartition("/")[0])
        self._folders.add(name)
        self._append_entry(name, stat.S_IFDIR | 0o755)

    def add_file(self, name: str, data: bytes, mode: int = 0o644) -> None:
        name = name.strip("/")
        self.add_directory(name.rpartition("/")[0])
        self._append_entry(name, stat.S_IFREG | mode, data)

    def copy_file(self, name: str, source: Path, mode: int = 0o644) -> None:
        self.add_file(name, source.read_bytes(), mode)

    def add_link(self, name: str, target: str) -> None:
        """Add a symbolic link."""
        name = name.strip("/")
        self.add_directory(name.rpartition("/")[0])
        self._append_entry(name, stat.S_IFLNK | 0o777, target.encode())

    def add_device(self, name: str, major: int, minor: int) -> None:
        """Add a character device."""
        name = name.strip("/")
        self.add_directory(name.rpartition("/")[0])
        self._append_entry(name, stat.S_IFCHR | 0o600, device=(major, minor))

    def finish_archive(self) -> bytes:
        """Return the finished archive. Nothing can be added after this."""
        self._inode = -1
        self._append_entry("TRAILER!!!", 0)
        return bytes(self._data)
