# SPDX-License-Identifier: GPL-2.0-or-later
"""Opens regular files that another program keeps, by a name that is not trusted.

The name must not choose what is read: no other directory, no link, no pipe that
would block the open, no file of another user.

The agent must start fast, so this module imports little.
"""

from __future__ import annotations

import errno
import os
import stat

__all__ = ["is_refused", "open_regular", "read_regular"]

_REFUSED = (errno.ELOOP, errno.EPERM, errno.EINVAL, errno.ENXIO, errno.EFBIG)


def open_regular(directory: str, name: str) -> int:
    """Open a regular file in a directory for reading; return its descriptor.

    It must belong to root, to this process's user, or to the directory's owner.

    :raises OSError: it does not exist, or is something else; see :func:`is_refused`.
    """
    path = os.path.join(directory, name)
    if "/" in name or "\0" in name or name in ("", ".", ".."):
        raise OSError(errno.EINVAL, "not the name of a file in that directory", path)
    folder = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        owners = {0, os.geteuid(), os.fstat(folder).st_uid}
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        file = os.open(name, flags, dir_fd=folder)
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(folder)
    status = os.fstat(file)
    why = None
    if not stat.S_ISREG(status.st_mode):
        why = "not a regular file"
    elif status.st_uid not in owners:
        why = f"belongs to user {status.st_uid}, which is not its directory's owner"
    if why is not None:
        os.close(file)
        raise OSError(errno.EPERM, why, path)
    return file


def read_regular(directory: str, name: str, limit: int) -> bytes:
    """Read a whole file, as :func:`open_regular` opens it.

    :param limit: bytes; a longer file is refused.
    :raises OSError:
    """
    with open(open_regular(directory, name), "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"longer than {limit} bytes", os.path.join(directory, name))
    return data


def is_refused(error: OSError) -> bool:
    """Return whether a file is there, but is not one that :func:`open_regular` opens."""
    return error.errno in _REFUSED
