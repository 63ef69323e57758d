# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that others read while they are written."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["in_memory", "replace_file"]


def in_memory(data: bytes, use: Callable[[str, int], str]) -> str:
    """Let a command read data as if it were a file, which nobody else can read.

    :param use: gets a path, and the descriptor that the command must inherit.
    :returns: what that returns.
    """
    descriptor = os.memfd_create("data")
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(data)
        return use(f"/proc/self/fd/{descriptor}", descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: str, data: bytes, like: os.stat_result) -> None:
    """Write a file so that nobody sees half of it.

    :param like: whose owner and mode it gets.
    :raises OSError:
    """
    path = os.path.realpath(path)
    new = f"{path}.vesper-new"
    descriptor = os.open(new, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        os.fchown(descriptor, like.st_uid, like.st_gid)
        os.fchmod(descriptor, like.st_mode & 0o7777)
        file.write(data)
        file.flush()
        os.fsync(descriptor)
    os.rename(new, path)
