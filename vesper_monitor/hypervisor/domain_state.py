# SPDX-License-Identifier: GPL-2.0-or-later
"""What can be said of a domain; apart, because the agents must start fast."""

from __future__ import annotations

import enum

__all__ = ["DomainState"]


class DomainState(enum.Enum):
    RUNNING = "running"
    PAUSED = "paused"
    SHUTDOWN = "shutdown"  # by itself, not yet destroyed
    CRASHED = "crashed"
    DYING = "dying"  # destroyed, its memory not yet freed
    GONE = "gone"
