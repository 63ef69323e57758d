# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks names of VMs.

xl and libvirt accept nearly any text: blanks, quotes, letters of any language. A
name becomes part of file names, log lines and commands. A text that would be
something else there is refused; libvirt refuses ``/`` and line ends itself.
"""

from __future__ import annotations

__all__ = ["MAX_NAME_BYTES", "explain_bad_name"]

#: Longest name in UTF-8. Each toolstack makes a file name of it (NAME_MAX, limits.h).
MAX_NAME_BYTES = 255


def explain_bad_name(name: str) -> str | None:
    """Return why a text cannot be the name of a VM; None: it can."""
    if not name:
        return "it is empty"
    if "/" in name:
        return "it has a '/'"
    if name in (".", ".."):
        return f"{name!r} is a directory"
    if any(ord(letter) < 0x20 or 0x7F <= ord(letter) < 0xA0 for letter in name):
        return "it has a control character"
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "it is not UTF-8"
    if size > MAX_NAME_BYTES:
        return f"it has more than {MAX_NAME_BYTES} bytes"
    return None
