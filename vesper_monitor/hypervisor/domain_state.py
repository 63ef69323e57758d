# SPDX-License-Identifier: GPL-2.0-or-later
"""The states of a domain. A module of its own, because the agents must start fast."""

from __future__ import annotations

import enum

__all__ = ["DomainState"]


class DomainState(enum.Enum):
    RUNNING = "running"
    PAUSED = "paused"
    SHUTDOWN = "shutdown"  #: ended by itself, not yet destroyed
    CRASHED = "crashed"
    DYING = "dying"  #: destroyed, its memory not yet freed
    GONE = "gone"  #: the hypervisor does not know it any more
