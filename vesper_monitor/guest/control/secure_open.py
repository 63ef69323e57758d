# SPDX-License-Identifier: GPL-2.0-or-later
"""Opens files that only root can have changed: they become part of a guest's kernel.

As with sshd's StrictModes, the file and each directory above it must belong to
root, and nobody else may write to them. The checks are made on what was opened,
from ``/`` downwards. So nothing can be replaced between the check and the use.

A sticky directory that all may write to (``/tmp``) may be above: root's entries
in it stay root's. It may not hold the file itself, since another user could link
it to another name there.
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
    """Somebody other than root could have changed a file; the text says what to do."""


def open_trusted(path: Path) -> BinaryIO:
    """Open a file for reading; symbolic links are resolved first.

    If vesperd runs as another user (tests), that user counts as root.

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
        # O_NONBLOCK: a pipe must not block the open.
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
    """Check owner and mode. :param last: it is the file, or the directory that holds it."""
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
