# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest that is hostile by tests/guest_modules/hostile.c says, and may bring about."""

from __future__ import annotations

import re

__all__ = ["MAX_LINES_PER_S", "MAX_MEMORY_KIB", "last_counts"]

#: KiB that a hostile guest can make vesperd take.
MAX_MEMORY_KIB = 64 << 10
#: Lines that it can make vesperd log in a second: one for each place, and some at once.
MAX_LINES_PER_S = 10

_COUNTS = re.compile(r"^corrupted (\d+) looked at (\d+) rung (\d+)$", re.MULTILINE)


def last_counts(said: str) -> tuple[int, int, int]:
    """
    :param said: by the guest; it may have read /proc/vsp_hostile several times.
    :returns: how many corruptions there have been in all, after how many of
        them vesperd has looked, and how often it was rung.
    """
    found = _COUNTS.findall(said)
    assert found, said
    made, looked_at, rung = map(int, found[-1])
    return made, looked_at, rung
