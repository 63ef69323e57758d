# SPDX-License-Identifier: GPL-2.0-or-later
"""A session for each domain that is to be watched.

Whether a domain is watched, and if not why, is known here and nowhere else
(:meth:`SessionManager.state_of`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vesper_monitor.daemon.background_tasks import BackgroundTasks
from vesper_monitor.daemon.session_manager_listener import SessionManagerListener
from vesper_monitor.daemon.session_reports import SessionReports
from vesper_monitor.daemon.transports import NoTransportError, Transports
from vesper_monitor.daemon.watched_domain import WatchedDomain, explain_left_alone
from vesper_monitor.faults.watching import Watching
from vesper_monitor.guest.control.images import ImageStore
from vesper_monitor.guest.dynamic_probes.store import DynamicProbeStore
from vesper_monitor.guest.errors import SessionError
from vesper_monitor.guest.health.hang_detector import LOOK_INTERVAL_S
from vesper_monitor.guest.relay.positions import Position
from vesper_monitor.guest.session import Session
from vesper_monitor.guest.session_listener import SessionSettings
from vesper_monitor.guest.session_state import SessionState
from vesper_monitor.guest.ticker import SharedTicker
from vesper_monitor.hypervisor.transport import (
    ENDED,
    Domain,
    DomainEvent,
    DomainReport,
    DomainState,
    Transport,
    TransportError,
    WatchesArrivals,
)

__all__ = ["SessionManager"]

_log = logging.getLogger(__name__)

#: s until a session that ended by an internal error is begun again.
BEGIN_AGAIN_AFTER_S = 5.0
#: s for a session to leave its guest when vesperd ends.
CLOSE_LIMIT_S = 5.0
#: s for the journal to say where an earlier vesperd stopped reading a guest.  A guest
#: must not stay unwatched for a late answer: the guest's own note of it holds then.
POSITIONS_LIMIT_S = 1.0


@dataclass(frozen=True)
class _Beginning:
    """A session that is being begun, to its end."""

    domain: Domain
    task: asyncio.Task[Session]


class SessionManager:
    """The sessions of this host, and the domains that are looked at.

    :param dynamic_probes: the dynamic probes that operators have added.
    :param activate_timeout: s for a guest's frontend before the VM counts as degraded.
    :ivar listener: is set by :meth:`start`.
    """

    listener: SessionManagerListener

    def __init__(
        self, images: ImageStore, dynamic_probes: DynamicProbeStore, *, activate_timeout: float
    ) -> None:
        self._images = images
        self._dynamic_probes = dynamic_probes
        self._activate_timeout = activate_timeout
        self.transports = Transports()
        self._arriving: set[str] = set()  # transports that are asked for new domains
        self._watched: dict[tuple[str, int], WatchedDomain] = {}
        self._starting: dict[tuple[str, int], _Beginning] = {}
        self._tasks = BackgroundTasks(NoTransportError)
        self._closing = False
        self._beat = SharedTicker(LOOK_INTERVAL_S)

    def start(
        self,
        listener: SessionManagerListener,
        transports: Mapping[str, type[Transport] | str],
        settings: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Begin to start the transports.

        :param transports: :func:`vesper_monitor.daemon.transports.find_transports`
        :param settings: by name of the transport: its class's keyword arguments.
        """
        self.listener = listener
        self.transports.start(self, transports, settings)

    async def close(self) -> None:
        """Leave all guests as they are, for the next vesperd."""
        self._closing = True
        await asyncio.gather(*(self._leave_session(session) for session in self.list_sessions()))
        await self._tasks.cancel_all()
        await self.transports.close()

    # ------------------------------------------------------------ who is watched

    def state_of(self, domain: Domain, transport: str) -> Watching:
        """Return how well a domain is watched now. Without a live session it is not.

        :param transport: name of the one on which it runs; empty: not known.
        """
        watched = self._watched.get(domain.key)
        if watched is None:
            why = self.transports.explain_unwatched(transport)
            return Watching(False, f"{domain.name} is not watched: {why}")
        return watched.describe_watch(self.transports.explain_down(watched.transport))

    def list_sessions(self) -> list[Session]:
        """Return all sessions, also those that are closing."""
        return [watched.session for watched in self._watched.values() if watched.session]

    def find_session(self, domain: Domain) -> Session | None:
        """Return the session of a domain, if it has one."""
        watched = self._watched.get(domain.key)
        return watched.session if watched is not None else None

    def session_of(self, vm: str) -> Session | None:
        """Return the session of a VM; of its latest life if there are two."""
        named = [s for s in self.list_sessions() if s.domain.name == vm]
        return max(named, key=lambda s: s.domain.domid, default=None)

    def require_session(self, vm: str) -> Session:
        """Return the session of a VM.

        :raises SessionError: it has none.
        """
        session = self.session_of(vm)
        if session is None:
            raise SessionError(
                f"{vm} is not watched; begin with: vesper activate {vm}", code="not-active"
            )
        return session

    def domains_of(self, vm: str) -> list[Domain]:
        """Return the domains of that name that are looked at, or will be in a moment."""
        known = [watched.domain for watched in self._watched.values()]
        known += [beginning.domain for beginning in self._starting.values()]
        return [domain for domain in known if domain.name == vm]

    def knows_domain(self, domain: Domain) -> bool:
        """Return whether a domain is looked at, with or without a session."""
        return domain.key in self._watched or domain.key in self._starting

    def shows_life(self, domain: Domain) -> bool:
        """Return whether a domain's kernel has certainly shown life in the last moment."""
        session = self.find_session(domain)
        return session is not None and session.alive

    def find_last_sign(self, vm: str, ident: str) -> float | None:
        """Return when a domain has last shown life (CLOCK_MONOTONIC).

        :param ident: its UUID or its number; of several domains the latest sign counts.
        :returns: None: not known, or the domain was seen to end.
        """
        signs = [
            watched.session.last_sign
            for watched in self._watched.values()
            if watched.session is not None
            and watched.report.state not in ENDED
            and watched.domain.name == vm
            and ident in (watched.domain.uuid, str(watched.domain.domid))
        ]
        return max((sign for sign in signs if sign is not None), default=None)

    # ------------------------------------------------------------ look

    def reports_of_vm(self, vm: str) -> list[tuple[Domain, DomainReport]]:
        """Return the states of the domains of that name, as last seen."""
        return [
            (watched.domain, watched.report)
            for watched in self._watched.values()
            if watched.domain.name == vm
        ]

    async def report_of(self, domain: Domain) -> DomainReport | None:
        """Ask for a domain's state; None: it is not known now."""
        watched = self._watched.get(domain.key)
        if watched is None:
            return None
        try:
            return await watched.transport.report_domain(domain)
        except TransportError as error:
            # A busy toolstack is no reason to think the guest dead.
            _log.warning("%s: cannot tell its state now: %s", domain.name, error)
            return None

    async def look_at_domain(self, domain: Domain) -> None:
        """Ask for a domain's state, and report whether it runs."""
        watched = self._watched.get(domain.key)
        if watched is None:
            return
        watched.must_look_again = True
        if watched.is_looking:
            return
        watched.is_looking = True
        try:
            while watched.must_look_again:
                watched.must_look_again = False
                report = await self.report_of(domain)
                if report is None:
                    continue
                has_ended = report.state in ENDED
                if has_ended and watched.session is not None:
                    watched.session.read_crash_log()
                report = self._note_report(watched, report)
                if has_ended:
                    if watched.session is None and report.state is DomainState.GONE:
                        self._watched.pop(domain.key, None)
                    self.listener.note_domain_ended(domain, report)
                else:
                    self.listener.note_domain_runs(domain)
        finally:
            watched.is_looking = False

    def look_soon(self, domain: Domain) -> None:
        """Look at a domain in the background."""
        self._tasks.spawn_task(self.look_at_domain(domain))

    def _note_report(self, watched: WatchedDomain, report: DomainReport) -> DomainReport:
        report, is_new = watched.note_report(report)
        if is_new:
            self.listener.take_report(watched.domain, report)
        return report

    # ------------------------------------------------------------ sessions

    async def watch_domain(
        self, transport: Transport, domain: Domain, probes: Mapping[str, str] | None
    ) -> Session:
        """Begin to watch a domain, or change which probes are wanted there.

        A session that is being begun is begun to its end, even if the caller is cancelled.

        :param probes: parameters by name; None: leave them as they are.
        """
        key = domain.key
        await self._wait_until_begun(key)
        session = self.find_session(domain)
        if session is None or session.state is SessionState.CLOSED:
            task = self._tasks.spawn_task(self._begin_session(transport, domain, probes or {}))
            self._starting[key] = _Beginning(domain, task)
            task.add_done_callback(lambda _: self._starting.pop(key, None))
            return await asyncio.shield(task)
        if probes is not None:
            await session.set_probes(probes)
        return session

    async def _wait_until_begun(self, key: tuple[str, int]) -> None:
        """Return when no session of that domain is being begun."""
        while (beginning := self._starting.get(key)) is not None:
            await asyncio.wait({beginning.task})

    async def _begin_session(
        self, transport: Transport, domain: Domain, probes: Mapping[str, str]
    ) -> Session:
        positions: Mapping[Position, int] = {}
        try:
            async with asyncio.timeout(POSITIONS_LIMIT_S):
                positions = await self.listener.read_positions(domain)
        except TimeoutError:
            _log.warning(
                "%s: the journal does not answer within %.0f s; reading goes on at the position "
                "that the guest has noted", domain.name, POSITIONS_LIMIT_S,
            )  # fmt: skip
        if self._closing:
            raise NoTransportError("vesperd is being stopped")
        reports = SessionReports(self.listener, domain, self.look_soon)
        settings = SessionSettings(
            dynamic_probes=self._dynamic_probes.probes_of_vm(domain.name),
            resume_from=positions,
            activate_timeout_s=self._activate_timeout,
            ticker=self._beat,
        )
        session = Session(transport, domain, self._images, reports, settings)
        reports.session = session
        await session.set_probes(probes)
        key = domain.key
        watched = self._watched.setdefault(key, WatchedDomain(transport, domain, None))
        watched.session, watched.unwatched = session, None
        self._tasks.spawn_task(self._run_session(session))
        return session

    def look_without_session(self, transport: Transport, domain: Domain) -> None:
        """Look whether a domain runs, but leave its guest alone: an operator wants it so."""
        if not self.knows_domain(domain):
            why = explain_left_alone(domain)
            self._watched[domain.key] = WatchedDomain(transport, domain, None, why)

    async def deactivate_guest(self, domain: Domain) -> None:
        """Unload the probes, and remove the device from the guest.

        Whether the domain runs is still looked at.
        """
        await self._wait_until_begun(domain.key)
        watched = self._watched.get(domain.key)
        if watched is None:
            return
        session, watched.session = watched.session, None
        watched.unwatched = explain_left_alone(domain)
        if session is not None:
            await session.close_session(deactivate=True)
            return
        try:  # an error may have ended its session, and left the device
            await watched.transport.deactivate_domain(domain)
        except TransportError as error:
            _log.warning("%s", error)

    async def _run_session(self, session: Session) -> None:
        domain = session.domain
        try:
            await session.run_session()
        except Exception as error:
            _log.exception("%s: internal error", domain.name)
            await self._begin_again(session, f"{type(error).__name__}: {error}")
            return
        if self._closing or self.find_session(domain) is not session:
            return
        report = await self.report_of(domain)
        watched = self._watched.get(domain.key)
        if watched is None or watched.session is not session:
            return  # deactivated, or begun anew meanwhile
        del self._watched[domain.key]
        # A session ends by itself only if its domain does.
        if report is None or report.state not in ENDED:
            report = DomainReport(DomainState.GONE)
        self.listener.note_domain_ended(domain, self._note_report(watched, report))

    async def _begin_again(self, session: Session, why: str) -> None:
        """Watch a guest again after a bug has ended its session, and report the bug."""
        domain = session.domain
        wanted = {name: status.params for name, status in session.probes.items()}
        await self._leave_session(session)
        watched = self._watched.get(domain.key)
        if self._closing or watched is None or watched.session is not session:
            return
        watched.session = None
        watched.unwatched = why_unwatched = (
            f"{domain.name}: an internal error of vesperd ended the watch ({why}); it is begun "
            "again; please report what the log says: journalctl -u vesperd"
        )
        self.listener.note_unwatched(domain)
        await asyncio.sleep(BEGIN_AGAIN_AFTER_S)
        # Deactivated meanwhile, it would have another reason.
        if self._watched.get(domain.key) is watched and watched.unwatched == why_unwatched:
            await self.watch_domain(session.transport, domain, wanted)

    async def _leave_session(self, session: Session) -> None:
        try:
            async with asyncio.timeout(CLOSE_LIMIT_S):
                await session.close_session(deactivate=False)
        except Exception as error:
            _log.warning("%s: leaving the guest: %s", session.domain.name, error)

    # ------------------------------------------------------------ transports

    async def note_transport_up(self, transport: Transport) -> None:
        """Pass on that a transport has started.

        :raises TransportError: it does not answer.
        """
        await self.listener.watch_wanted_domains(transport)

    def note_transport_event(self, transport: Transport, event: DomainEvent) -> None:
        """Look at the domains that an event is about, and for new ones."""
        if self._closing:
            return
        if isinstance(transport, WatchesArrivals) and transport.name not in self._arriving:
            self._arriving.add(transport.name)
            self._tasks.spawn_task(self._look_for_arrivals(transport))
        for watched in list(self._watched.values()):
            domain = watched.domain
            if watched.transport is transport and event.domid in (None, domain.domid):
                if event.notice is not None:
                    now = asyncio.get_running_loop().time()
                    if watched.note_notice(event.notice, now):
                        self.listener.take_notice(domain, event.notice)
                self.look_soon(domain)

    async def _look_for_arrivals(self, transport: Transport) -> None:
        await asyncio.sleep(0)  # several events at once are one
        self._arriving.discard(transport.name)
        try:
            await self.listener.watch_arrivals(transport)
        except (TransportError, NoTransportError) as error:
            _log.warning("transport %s: cannot tell which domains arrived: %s",
                         transport.name, error)  # fmt: skip
