# SPDX-License-Identifier: GPL-2.0-or-later
"""The clock since the host's boot: nobody can set it, and all processes have the same."""

from __future__ import annotations

import time

__all__ = ["seconds_since_boot"]


def seconds_since_boot() -> float:
    """Return s since the host's boot, suspended time included (CLOCK_BOOTTIME)."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
