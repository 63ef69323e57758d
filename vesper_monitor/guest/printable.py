# SPDX-License-Identifier: GPL-2.0-or-later
"""Words and numbers of a guest's kernel, made fit to be shown."""

from __future__ import annotations

import errno
import signal
from functools import lru_cache

__all__ = ["device_name", "errno_name", "make_printable", "signal_name"]


@lru_cache(1024)  # the same few processes appear again and again
def make_printable(raw: bytes) -> str:
    """A name from the guest, safe for a terminal, a log line and XML."""
    text = raw.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@lru_cache(256)
def signal_name(number: int) -> str:
    """``SIGSEGV``, ``SIGRTMIN+3``, or ``signal 99`` where it has no name."""
    # signal(7): the C library keeps 32 and 33 to itself and starts at 34, but
    # in the guest's kernel, whose words these are, SIGRTMIN is 32.
    if 32 <= number <= 64:
        return f"SIGRTMIN+{number - 32}" if number > 32 else "SIGRTMIN"
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def errno_name(number: int) -> str:
    """``EIO`` for 5 and for -5, or ``error 1234`` where it has no name."""
    return errno.errorcode.get(abs(number), f"error {abs(number)}")


def device_name(dev: int) -> str:
    """``253:0`` of a ``dev_t`` as the kernel has it inside (``MINORBITS`` is 20)."""
    return f"{dev >> 20}:{dev & 0xFFFFF}"
