# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that nobody but root can have changed: what becomes part of a guest's kernel.

As sshd's StrictModes: the file, and each directory above it, is root's and
can be written by nobody else.  Looked at is what was opened, from ``/`` on
down, so that nothing can be put in its place between the look and the use.

A directory where all may write but delete only what is theirs (``/tmp``) may
be above: what lies in it and is root's was made there by root, and stays.
It may not hold the file itself, to which another name could be given there.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from vesper_monitor.util.errors import VesperError

__all__ = ["NotTrustedError", "open_trusted"]

_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


class NotTrustedError(VesperError):
    """Somebody else could have changed it; the text says what to do."""


def open_trusted(path: Path) -> BinaryIO:
    """Open a file for reading; links on the way are followed first.

    The daemon's own user passes for root where that is another (tests).

    :raises NotTrustedError:
    :raises OSError: it cannot be opened.
    """
    *folders, name = Path(os.path.realpath(path)).parts
    at = -1
    try:
        above = Path()
        for folder in folders:
            above = above / folder
            inner = os.open(
                folder, _OPEN | os.O_DIRECTORY | os.O_PATH, dir_fd=at if at != -1 else None
            )
            if at != -1:
                os.close(at)
            at = inner
            _check_owner(above, os.fstat(at), last=len(above.parts) == len(folders))
        # Not to hang on a pipe that is no image.
        file = os.fdopen(os.open(name, _OPEN | os.O_NONBLOCK, dir_fd=at), "rb")
    finally:
        if at != -1:
            os.close(at)
    try:
        _check_owner(above / name, os.fstat(file.fileno()), last=True)
    except BaseException:
        file.close()
        raise
    return file


def _check_owner(path: Path, status: os.stat_result, *, last: bool) -> None:
    """:param last: the file, or the directory in which it is."""
    if status.st_uid not in (0, os.geteuid()):
        raise NotTrustedError(
            f"{path} belongs to user {status.st_uid}, who could change what goes into guests' "
            f"kernels; if it is what it should be: chown root: {path}"
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and (
        last or not status.st_mode & stat.S_ISVTX
    ):
        raise NotTrustedError(
            f"{path} can be written by others than root, who could change what goes into guests' "
            f"kernels; if it is what it should be: chmod go-w {path}"
        )
