# SPDX-License-Identifier: GPL-2.0-or-later
"""What the session manager asks of the rest of vesperd, and reports to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from vesper_monitor.guest.event import Event
from vesper_monitor.guest.relay.positions import Position
from vesper_monitor.guest.session import Session
from vesper_monitor.hypervisor.transport import Domain, DomainReport, Notice, Transport

__all__ = ["SessionManagerListener"]


class SessionManagerListener(Protocol):
    """What a session manager asks, and whom it reports to."""

    def get_hang_timeout(self, domain: Domain) -> float:
        """Return after how many s without a sign of life a guest hangs; 0: do not look."""

    def get_boot_timeout(self, domain: Domain, is_first: bool) -> float:
        """Return how long a guest may boot, in s; 0: without limit.

        :param is_first: the guest was never heard in this domain.
        """

    async def read_positions(self, domain: Domain) -> Mapping[Position, int]:
        """Return where an earlier daemon stopped reading a domain. May take any time."""

    async def watch_wanted_domains(self, transport: Transport) -> None:
        """Begin the sessions that are wanted on a transport, which has just started.

        :raises TransportError: it does not answer; it is started again later.
        """

    async def watch_arrivals(self, transport: Transport) -> None:
        """Look for new domains.

        :raises TransportError: the transport does not answer.
        """

    def take_events(self, session: Session, events: list[Event]) -> None:
        """Record what a session has read, in the order of the guest's time; return soon."""

    def note_session_change(self, session: Session) -> None:
        """Note that a session's state, degradation or probes have changed."""

    def take_report(self, domain: Domain, report: DomainReport) -> None:
        """Note that a domain is in another state than before."""

    def take_notice(self, domain: Domain, notice: Notice) -> None:
        """Note what the hypervisor has seen of a domain."""

    def note_domain_runs(self, domain: Domain) -> None:
        """Note that a domain was looked at, and runs. Idempotent."""

    def note_domain_ended(self, domain: Domain, report: DomainReport) -> None:
        """Note that a domain does not run any more. Idempotent."""

    def note_unwatched(self, domain: Domain) -> None:
        """Note that a domain runs, and has lost its session."""
