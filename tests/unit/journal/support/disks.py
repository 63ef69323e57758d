# SPDX-License-Identifier: GPL-2.0-or-later
"""File systems that can be made to fail, for a journal of vesperd's."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.unit.support.daemons import DaemonProcess

__all__ = ["FrozenDisk", "SmallDisk", "trouble"]

#: KiB of a small disk.
SIZE_KIB = 2048


class SmallDisk:
    """A small tmpfs, which can be filled or made read-only."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self._mount("-t", "tmpfs", "-o", f"size={SIZE_KIB}k", "vesper-test")

    def _mount(self, *words: str) -> None:
        subprocess.run(["mount", *words, str(self.path)], check=True, timeout=10)

    def fill(self) -> None:
        """Leave no byte free."""
        with (self.path / "filler").open("wb", buffering=0) as file:
            for size in (65536, 4096, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    pass

    def free(self) -> None:
        """Undo :meth:`fill`."""
        (self.path / "filler").unlink()

    def close_to_writes(self, closed: bool) -> None:
        """Mount it read-only, or writable again; no file may be open for writing."""
        self._mount("-o", f"remount,{'ro' if closed else 'rw'}")

    def unmount(self) -> None:
        subprocess.run(["umount", "-l", str(self.path)], check=True, timeout=10)


class FrozenDisk:
    """An ext4 whose writes can be made to wait; no signal ends a process that waits for one."""

    def __init__(self, directory: Path) -> None:
        self.path, self._image = directory / "disk", directory / "disk.img"
        self.path.mkdir()
        self._image.touch()
        self._run("truncate", "-s", "32M", str(self._image))
        self._run("mkfs.ext4", "-q", str(self._image))
        self._run("mount", "-o", "loop", str(self._image), str(self.path))

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let all writes wait until the end of the ``with``."""
        self._run("fsfreeze", "-f", str(self.path))
        try:
            yield
        finally:
            self._run("fsfreeze", "-u", str(self.path))

    def unmount(self) -> None:
        self._run("umount", "-l", str(self.path))

    @staticmethod
    def _run(*command: str) -> None:
        subprocess.run(command, check=True, timeout=30)


def trouble(daemon: DaemonProcess) -> str:
    """Return what vesperd's status says is wrong with the journal; empty if nothing is."""
    return str(daemon.call("status")["journal"] or "")
