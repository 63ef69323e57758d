# SPDX-License-Identifier: GPL-2.0-or-later
"""The states of a guest session and of a probe in it."""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["ProbeState", "ProbeStatus", "SessionState"]


class SessionState(enum.Enum):
    WAITING = "waiting"  #: for the guest's frontend
    CONNECTING = "connecting"  #: link is there, HELLO under way
    ACTIVE = "active"  #: probes are being loaded and collected from
    UNFIT = "unfit"  #: the guest speaks another version or nonsense; tried again later
    CLOSING = "closing"
    CLOSED = "closed"


class ProbeState(enum.Enum):
    WANTED = "wanted"  #: not loaded (yet)
    LOADING = "loading"
    COLLECTING = "collecting"
    UNLOADING = "unloading"
    FAILED = "failed"  #: ``error`` tells why; tried again later


@dataclass
class ProbeStatus:
    """What a person wants to know of one probe in one guest."""

    name: str
    state: ProbeState = ProbeState.WANTED
    params: str = ""
    cpus: int = 0
    records: int = 0
    lost: int = 0
    error: str | None = None
