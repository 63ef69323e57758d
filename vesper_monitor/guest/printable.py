# SPDX-License-Identifier: GPL-2.0-or-later
"""Turns names and numbers of a guest's kernel into text that is safe to show."""

from __future__ import annotations

import errno
import signal
from functools import lru_cache

__all__ = ["device_name", "errno_name", "make_printable", "signal_name"]


@lru_cache(1024)  # the same few processes appear again and again
def make_printable(raw: bytes) -> str:
    """Return a text from the guest, safe for a terminal, a log line and XML."""
    text = raw.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@lru_cache(256)
def signal_name(number: int) -> str:
    """Return ``SIGSEGV``, ``SIGRTMIN+3``, or ``signal 99`` if it has no name."""
    # signal(7): the C library reserves 32 and 33 and starts at 34. In the guest's
    # kernel, which sends the number, SIGRTMIN is 32.
    if 32 <= number <= 64:
        return f"SIGRTMIN+{number - 32}" if number > 32 else "SIGRTMIN"
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def errno_name(number: int) -> str:
    """Return ``EIO`` for 5 and for -5, or ``error 1234`` if it has no name."""
    return errno.errorcode.get(abs(number), f"error {abs(number)}")


def device_name(dev: int) -> str:
    """Return ``253:0`` for a kernel-internal ``dev_t`` (``MINORBITS`` is 20)."""
    return f"{dev >> 20}:{dev & 0xFFFFF}"
