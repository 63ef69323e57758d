# SPDX-License-Identifier: GPL-2.0-or-later
"""Progress with times, on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["note_progress", "show_step"]

_begin = time.monotonic()


def note_progress(text: str) -> None:
    """Print a line with the seconds since this process began."""
    print(f"[{time.monotonic() - _begin:6.1f} s] {text}", file=sys.stderr, flush=True)


@contextmanager
def show_step(text: str) -> Iterator[None]:
    """Say what is being done, and afterwards how long it took."""
    note_progress(f"{text} ...")
    start = time.monotonic()
    try:
        yield
    except BaseException:
        note_progress(f"{text}: FAILED after {time.monotonic() - start:.1f} s")
        raise
    note_progress(f"{text}: {time.monotonic() - start:.1f} s")
