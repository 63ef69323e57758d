# SPDX-License-Identifier: GPL-2.0-or-later
"""One guest under watch: the life cycle, seen from the host."""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from vesper_monitor.decode import Event
from vesper_monitor.images import ImageStore
from vesper_monitor.transport import Domain, Transport

__all__ = ["Hello", "Position", "ProbeState", "ProbeStatus", "Session", "SessionError",
           "SessionState"]


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


class SessionError(Exception):
    """What was asked of the guest did not work.

    :ivar code: one of docs/api.md: ``no-image``, ``not-active``, ``guest``, ``timeout``.
    :ivar errno: the guest kernel's, positive, if it was the guest that refused.
    """

    def __init__(self, text: str, *, code: str, errno: int | None = None) -> None:
        super().__init__(text)
        self.code = code
        self.errno = errno


class Position(NamedTuple):
    """Names one CPU's buffer of one channel for as long as it exists."""

    boot_id: int
    probe: str
    generation: int
    cpu: int


@dataclass(frozen=True)
class Hello:
    """What the guest said of itself (made printable)."""

    version: int
    release: str
    vermagic: str
    nr_cpus: int
    boot_id: int


@dataclass
class ProbeStatus:
    name: str
    state: ProbeState = ProbeState.WANTED
    params: str = ""
    cpus: int = 0
    records: int = 0
    lost: int = 0
    error: str | None = None


class Session:
    """Watches one life of one domain until :meth:`close` or its death."""

    domain: Domain
    transport: Transport

    def __init__(
        self,
        transport: Transport,
        domain: Domain,
        images: ImageStore,
        on_events: Callable[[Session, list[Event]], None],
        on_change: Callable[[Session], None],
        *,
        resume_from: Mapping[Position, int] | None = None,
        activate_timeout: float = 20.0,
        clock: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """
        :param on_events: called on the loop with events in the order of the
            guest's time; returns soon. ``session.positions`` is then the
            state after them: save both in one transaction.
        :param on_change: called on the loop when state, degraded, or a
            probe's state changed. Save ``positions`` then, too: a channel
            without a saved position is new to the daemon.
        :param resume_from: next sequence numbers an earlier daemon saved.
            Records below are skipped. Where a *boot_id* does not occur in it
            at all (a lost journal), an adopted channel is read from its end:
            old events must not fell a healthy guest.
        :param activate_timeout: seconds after the start of :meth:`run` during
            which nothing counts as degraded.
        """
        raise NotImplementedError

    @property
    def state(self) -> SessionState:
        raise NotImplementedError

    @property
    def degraded(self) -> str | None:
        """What is missing on which VM and what to do; None while all is well."""
        raise NotImplementedError

    @property
    def hello(self) -> Hello | None:
        raise NotImplementedError

    @property
    def probes(self) -> dict[str, ProbeStatus]:
        """Wanted probes, and loaded ones."""
        raise NotImplementedError

    @property
    def positions(self) -> dict[Position, int]:
        """Next sequence number of each open buffer."""
        raise NotImplementedError

    async def run(self) -> None:
        """The session's task: returns when closed or when the domain is gone."""

    async def set_probes(self, wanted: Mapping[str, str]) -> None:
        """Name → module parameters. Others that are loaded get unloaded. Returns
        at once; the work is done by :meth:`run`, failures show in ``probes``."""

    async def load(self, name: str, params: str = "") -> None:
        """Load now. :raises SessionError:"""

    async def unload(self, name: str) -> None:
        """Unload now. :raises SessionError:"""

    async def close(self, *, deactivate: bool) -> None:
        """End. With ``deactivate`` probes are unloaded and the device is taken
        away from the guest; without, all stays for the next daemon."""

    def subscribe_raw(
        self, probe: str, cpu: int | None = None
    ) -> AsyncIterator[tuple[int, int, bytes]]:
        """(cpu, seq, record) as they are read; a slow reader loses some."""
        raise NotImplementedError


_ = field
