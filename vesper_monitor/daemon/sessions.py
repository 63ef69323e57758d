# SPDX-License-Identifier: GPL-2.0-or-later
"""The transports of this host, and a session for each domain that is to be watched.

Whether a domain is watched, and if not why, is known here and nowhere else
(:meth:`Watch.state_of`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata
from typing import Any, TypeVar

from vesper_monitor.faults.watching import Watching
from vesper_monitor.guest.control.images import ImageStore
from vesper_monitor.guest.dynamic_probes.store import DynamicProbeStore
from vesper_monitor.guest.event import Event
from vesper_monitor.guest.health.hang_detector import LOOK_INTERVAL_S
from vesper_monitor.guest.relay.positions import Position
from vesper_monitor.guest.session import Session
from vesper_monitor.guest.session_listener import SessionSettings
from vesper_monitor.guest.session_state import SessionState
from vesper_monitor.guest.ticker import SharedTicker
from vesper_monitor.hypervisor.transport import (
    ENDED,
    Cause,
    Domain,
    DomainReport,
    DomainState,
    Notice,
    ReportsTrouble,
    Transport,
    TransportError,
    WatchesArrivals,
)
from vesper_monitor.util.errors import VesperError

__all__ = ["NoTransportError", "SessionManager", "find_transports"]

_log = logging.getLogger(__name__)

#: Entry points of transports; another hypervisor is a new package.
GROUP = "vesper.transports"
#: s between two tries to start a transport.
RETRY_FIRST = 1.0
RETRY_MAX = 30.0
#: s until a session that ended by an internal error is begun again.
BEGIN_AGAIN_AFTER_S = 5.0
#: s between two notices of one kind about one domain, failures apart.
EVENT_CALM_S = 1.0
#: s for a session to leave its guest when the daemon ends.
CLOSE_TIMEOUT_S = 5.0
#: s for the journal to say where an earlier daemon stopped reading a guest.  One
#: that is late must not keep the guest unwatched: the guest's own note holds then.
POSITIONS_LIMIT_S = 1.0

_T = TypeVar("_T")

_RUNNING = DomainReport(DomainState.RUNNING)


class NoTransportError(VesperError):
    """No hypervisor can be asked now; the text says why."""


@dataclass
class _Slot:
    """One transport, and why it does not work now (None: it does)."""

    name: str
    transport: Transport | None
    error: str | None = "not started yet"
    usable: bool = True  # False: it will not come up by itself
    elsewhere: bool = False  # its hypervisor does not run here, which is no trouble
    #: set when the first try has ended, well or not
    tried: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class _Watched:
    transport: Transport
    domain: Domain
    session: Session | None  # None: its domain is looked at only
    #: why there is no session
    unwatched: str | None = None
    report: DomainReport = _RUNNING  # as last seen
    #: kind of notice, and whether it is a failure → when
    noticed: dict[tuple[str, bool], float] = field(default_factory=dict)
    looking: bool = False
    look_again: bool = False  # something happened since


@dataclass(frozen=True)
class _Beginning:
    """A session that is being begun, to its end."""

    domain: Domain
    task: asyncio.Task[Session]


def find_transports(wanted: tuple[str, ...]) -> dict[str, type[Transport] | str]:
    """Classes of the installed transports by name; a text says why one has none.

    :param wanted: names; empty: all.
    """
    found: dict[str, type[Transport] | str] = {}
    for entry in metadata.entry_points(group=GROUP):
        if wanted and entry.name not in wanted:
            continue
        try:
            found[entry.name] = entry.load()
        except Exception as error:  # whatever a foreign package does at import
            found[entry.name] = f"cannot be loaded: {error}"
    for name in wanted:
        found.setdefault(name, "not installed")
    return found


class SessionManager:
    """
    :param points: what operators have added.
    :param hang_timeout: of a session, for a domain.
    :param boot_timeout: likewise; and whether the guest was never heard in it.
    :param on_events: of a session, see there.
    :param on_change: likewise.
    :param on_up: called when a transport has started: sessions that are
        wanted on it may begin.
    :param on_arrivals: called when domains may have come to a transport.
    :param on_report: a domain is in another state than before.
    :param on_notice: the hypervisor has seen something of a domain.
    :param on_seen: a domain was looked at, and runs; may be called again.
    :param on_ended: a domain does not run any more; may be called again.
    :param on_unwatched: nobody watches a domain that runs.
    :param positions: where an earlier daemon stopped reading a domain; may take
        as long as it likes.
    """

    def __init__(
        self,
        images: ImageStore,
        points: DynamicProbeStore,
        *,
        activate_timeout: float,
        hang_timeout: Callable[[Domain], float],
        boot_timeout: Callable[[Domain, bool], float],
        on_events: Callable[[Session, list[Event]], None],
        on_change: Callable[[Session], None],
        on_up: Callable[[Transport], Awaitable[None]],
        on_arrivals: Callable[[Transport], Awaitable[None]],
        on_report: Callable[[Domain, DomainReport], None],
        on_notice: Callable[[Domain, Notice], None],
        on_seen: Callable[[Domain], None],
        on_ended: Callable[[Domain, DomainReport], None],
        on_unwatched: Callable[[Domain], None],
        positions: Callable[[Domain], Awaitable[Mapping[Position, int]]],
    ) -> None:
        self._images = images
        self._points = points
        self._activate_timeout = activate_timeout
        self._hang_timeout = hang_timeout
        self._boot_timeout = boot_timeout
        self._on_events = on_events
        self._on_change = on_change
        self._on_up = on_up
        self._on_arrivals = on_arrivals
        self._arriving: set[str] = set()  # transports that are asked for new domains
        self._on_report = on_report
        self._on_notice = on_notice
        self._on_seen = on_seen
        self._on_ended = on_ended
        self._on_unwatched = on_unwatched
        self._positions = positions
        self._slots: list[_Slot] = []
        self._watched: dict[tuple[str, int], _Watched] = {}
        self._starting: dict[tuple[str, int], _Beginning] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing = False
        self._beat = SharedTicker(LOOK_INTERVAL_S)

    def start(
        self,
        transports: Mapping[str, type[Transport] | str],
        settings: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Begin to start the transports; those that fail are tried again for ever.

        :param settings: by name of the transport: its class's keyword arguments.
        """
        settings = settings or {}
        for name in settings.keys() - transports.keys():
            _log.error("settings in [%s]: no transport of that name is installed", name)
        for name, factory in transports.items():
            slot = _Slot(name, None)
            self._slots.append(slot)
            if isinstance(factory, str):
                slot.error, slot.usable = factory, False
                slot.tried.set()
                _log.warning("transport %s: %s", name, factory)
            else:
                given = settings.get(name, {})
                self._spawn_task(self._keep_up(slot, factory, given))
        if not self._slots:
            _log.warning("no transport is installed (entry points %s)", GROUP)

    async def close(self) -> None:
        """Leave all guests as they are, for the next daemon."""
        self._closing = True
        await asyncio.gather(*(self._leave_session(session) for session in self.list_sessions()))
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for slot in self._slots:
            if slot.transport is not None:
                try:
                    async with asyncio.timeout(CLOSE_TIMEOUT_S):
                        await slot.transport.stop()
                except Exception as error:
                    _log.warning("transport %s: stopping: %s", slot.name, error)

    # ------------------------------------------------------------ looking

    def list_transport_states(self) -> dict[str, str | None]:
        """Why each does not work; None: it does."""
        return {slot.name: slot.error for slot in self._slots}

    @property
    def settled(self) -> bool:
        """No transport is still to come: what none of them knows is not there."""
        return all(slot.error is None or not slot.usable for slot in self._slots)

    async def first_try(self, name: str) -> None:
        """Return when a transport has come up, or has failed to; if it has no name: each."""
        for slot in self._slots:
            if name in ("", slot.name):
                await slot.tried.wait()

    def list_usable_transports(self, name: str) -> list[Transport]:
        """The transports of that name that work; of any name if it is empty."""
        return [
            slot.transport
            for slot in self._slots
            if slot.transport is not None and slot.error is None and name in ("", slot.name)
        ]

    def list_troubles(self) -> dict[str, str | None]:
        """What is wrong with each; None: nothing.

        One whose hypervisor does not run here is left out where another one works.
        """
        works = bool(self.list_usable_transports(""))
        found: dict[str, str | None] = {}
        for slot in self._slots:
            if slot.elsewhere and works:
                continue
            found[slot.name] = slot.error
            if slot.error is None and isinstance(slot.transport, ReportsTrouble):
                found[slot.name] = slot.transport.trouble
        return found

    def state_of(self, domain: Domain, transport: str) -> Watching:
        """How well a domain is watched now. Without a live session it is not, and that is said.

        :param transport: name of the one on which it runs; empty: not known.
        """
        watched = self._watched.get(_domain_key(domain))
        if watched is None:
            why = self._why_unwatched(transport)
            return Watching(False, f"{domain.name} is not watched: {why}")
        if error := self._slot_error(watched.transport):
            why = f"transport {watched.transport.name}: {error}"
            return Watching(False, f"{domain.name} is not watched: {why}")
        if watched.session is None:
            return Watching(True, watched.unwatched or f"{domain.name} is not watched")
        if watched.session.state in (SessionState.CLOSING, SessionState.CLOSED):
            over = watched.session.state is SessionState.CLOSED
            return Watching(not over, f"{domain.name} is not watched: its session has ended")
        return Watching(True, watched.session.degraded)

    def _why_unwatched(self, transport: str) -> str:
        slots = [slot for slot in self._slots if transport in ("", slot.name)]
        if not slots and transport:
            used = ", ".join(slot.name for slot in self._slots) or "none"
            return (
                f"it runs on transport {transport}, which vesperd does not use (it uses: {used}; "
                "see transports in vesperd.toml)"
            )
        if any(slot.error is None for slot in slots):
            return "vesperd has not come to it yet"
        return self._all_errors(slots)

    def _all_errors(self, slots: list[_Slot]) -> str:
        """Why none of some transports works: of each, but those that no one would expect to."""
        expected = [slot for slot in slots if not slot.elsewhere] or slots
        said = "; ".join(f"transport {slot.name}: {slot.error}" for slot in expected)
        return said or f"no transport is installed (entry points {GROUP})"

    def _slot_error(self, transport: Transport) -> str | None:
        return next((slot.error for slot in self._slots if slot.transport is transport), None)

    def list_sessions(self) -> list[Session]:
        return [watched.session for watched in self._watched.values() if watched.session]

    def find_session(self, domain: Domain) -> Session | None:
        watched = self._watched.get(_domain_key(domain))
        return watched.session if watched is not None else None

    def domains_of(self, vm: str) -> list[Domain]:
        """Those of that name that are looked at, or will be in a moment."""
        known = [watched.domain for watched in self._watched.values()]
        known += [beginning.domain for beginning in self._starting.values()]
        return [domain for domain in known if domain.name == vm]

    def shows_life(self, domain: Domain) -> bool:
        """Certainly: its kernel has, in the last moment."""
        session = self.find_session(domain)
        return session is not None and session.alive

    def last_sign(self, vm: str, ident: str) -> float | None:
        """When a domain has shown life last (CLOCK_MONOTONIC), if it was not seen to end.

        :param ident: its UUID or its number; of several the latest sign counts.
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

    def knows_domain(self, domain: Domain) -> bool:
        """Also of one whose watching was ended by hand."""
        return _domain_key(domain) in self._watched or _domain_key(domain) in self._starting

    def session_of(self, vm: str) -> Session | None:
        """By name; the latest life if there are two."""
        named = [s for s in self.list_sessions() if s.domain.name == vm]
        return max(named, key=lambda s: s.domain.domid, default=None)

    async def find_domain(self, vm: str) -> tuple[Transport, Domain] | None:
        """The running domain of that name; None: it runs on none of the transports.

        :raises NoTransportError: nobody can tell, or not each of those that might know it.
        """
        transports = self.list_usable_transports("")
        if not transports:
            why = self._all_errors(self._slots)
            raise NoTransportError(f"vesperd can watch no VM on this host: {why}")
        problem: NoTransportError | None = None
        for transport in transports:
            try:
                domain = await transport.find_domain(vm)
            except TransportError as error:
                problem = NoTransportError(f"{vm}: cannot ask {transport.name}: {error}")
                continue
            if domain is not None:
                return transport, domain
        if problem is not None:
            raise problem
        if missing := [slot for slot in self._slots if slot.error and not slot.elsewhere]:
            raise NoTransportError(f"whether {vm} runs is not known: {self._all_errors(missing)}")
        return None

    async def report_of(self, domain: Domain) -> DomainReport | None:
        """None: not known now."""
        watched = self._watched.get(_domain_key(domain))
        if watched is None:
            return None
        try:
            return await watched.transport.report_domain(domain)
        except TransportError as error:
            # A busy toolstack is no reason to think the guest dead.
            _log.warning("%s: its state is not known now: %s", domain.name, error)
            return None

    def reports_of_vm(self, vm: str) -> list[tuple[Domain, DomainReport]]:
        """Of the domains of that name, as last seen."""
        return [
            (watched.domain, watched.report)
            for watched in self._watched.values()
            if watched.domain.name == vm
        ]

    async def look_at_domain(self, domain: Domain) -> None:
        """Ask for a domain's state, and say so if it does not run any more."""
        watched = self._watched.get(_domain_key(domain))
        if watched is None:
            return
        watched.look_again = True
        if watched.looking:
            return
        watched.looking = True
        try:
            while watched.look_again:
                watched.look_again = False
                report = await self.report_of(domain)
                if report is None:
                    continue
                ended = report.state in ENDED
                if ended and watched.session is not None:
                    watched.session.read_last_words()
                report = self._note_report(watched, report)
                if ended:
                    if watched.session is None and report.state is DomainState.GONE:
                        self._watched.pop(_domain_key(domain), None)
                    self._on_ended(domain, report)
                else:
                    self._on_seen(domain)
        finally:
            watched.looking = False

    def _note_report(self, watched: _Watched, report: DomainReport) -> DomainReport:
        """Note what is reported, and say so where it is new.

        :returns: the same, with all that is known of it.
        """
        before = watched.report
        if before.state in ENDED and report.state in ENDED and report.cause is Cause.UNKNOWN:
            # What was seen of its end holds when the rest of it has gone.
            report = replace(report, cause=before.cause, why=before.why)
        if report != before:
            watched.report = report
            if watched.session is not None:
                if before.state in ENDED and report.state not in ENDED:
                    # Reset after a crash, or for another kernel (kexec), in the same domain.
                    watched.session.note_reset()
                watched.session.note_report(report)
            self._on_report(watched.domain, report)
        return report

    def look_soon(self, domain: Domain) -> None:
        """The same, without waiting for it."""
        self._spawn_task(self.look_at_domain(domain))

    # ------------------------------------------------------------ sessions

    async def watch_domain(
        self, transport: Transport, domain: Domain, probes: Mapping[str, str] | None
    ) -> Session:
        """Begin to watch a domain, or change what is wanted there.

        :param probes: name to parameters; None: leave as it is.
        """
        key = _domain_key(domain)
        await self._wait_until_begun(key)
        session = self.find_session(domain)
        if session is None or session.state is SessionState.CLOSED:
            # To its end, whatever becomes of whoever wanted it.
            task = self._spawn_task(self._begin_session(transport, domain, probes or {}))
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
                positions = await self._positions(domain)
        except TimeoutError:
            _log.warning(
                "%s: the journal does not say within %.0f s where reading has stopped; it goes on "
                "where the guest has noted it", domain.name, POSITIONS_LIMIT_S,
            )  # fmt: skip
        if self._closing:
            raise NoTransportError("vesperd is being stopped")
        listener = _SessionListener(self, domain)
        settings = SessionSettings(
            dynamic_probes=self._points.points_of_vm(domain.name),
            resume_from=positions,
            activate_timeout_s=self._activate_timeout,
            ticker=self._beat,
        )
        session = Session(transport, domain, self._images, listener, settings)
        listener.session = session
        await session.set_probes(probes)
        watched = self._watched.setdefault(_domain_key(domain), _Watched(transport, domain, None))
        watched.session, watched.unwatched = session, None
        self._spawn_task(self._run_session(session))
        return session

    def only_look(self, transport: Transport, domain: Domain) -> None:
        """Follow whether a domain runs, but leave its guest alone: an operator wants it so."""
        key = _domain_key(domain)
        if key not in self._watched and key not in self._starting:
            self._watched[key] = _Watched(transport, domain, None, unwatched=_by_hand(domain))

    async def deactivate_guest(self, domain: Domain) -> None:
        """Unload the probes and take the device away from the guest.

        Whether the domain runs is still looked at.
        """
        await self._wait_until_begun(_domain_key(domain))
        watched = self._watched.get(_domain_key(domain))
        if watched is None:
            return
        session, watched.session = watched.session, None
        watched.unwatched = _by_hand(domain)
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
        watched = self._watched.get(_domain_key(domain))
        if watched is None or watched.session is not session:
            return  # deactivated, or begun anew meanwhile
        del self._watched[_domain_key(domain)]
        # A session ends by itself only if its domain does.
        if report is None or report.state not in ENDED:
            report = DomainReport(DomainState.GONE)
        self._on_ended(domain, self._note_report(watched, report))

    async def _begin_again(self, session: Session, why: str) -> None:
        """A bug must not leave a guest without a watch for long, nor unseen."""
        domain = session.domain
        wanted = {name: status.params for name, status in session.probes.items()}
        await self._leave_session(session)
        watched = self._watched.get(_domain_key(domain))
        if self._closing or watched is None or watched.session is not session:
            return
        watched.session = None
        watched.unwatched = why_unwatched = (
            f"{domain.name}: an internal error of vesperd ended the watch ({why}); it is begun "
            "again; please report what the log says: journalctl -u vesperd"
        )
        self._on_unwatched(domain)
        await asyncio.sleep(BEGIN_AGAIN_AFTER_S)
        # Deactivated meanwhile, it would have another reason.
        if self._watched.get(_domain_key(domain)) is watched and watched.unwatched == why_unwatched:
            await self.watch_domain(session.transport, domain, wanted)

    async def _leave_session(self, session: Session) -> None:
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await session.close_session(deactivate=False)
        except Exception as error:
            _log.warning("%s: leaving the guest: %s", session.domain.name, error)

    # ------------------------------------------------------------ transports

    async def _keep_up(
        self, slot: _Slot, factory: type[Transport], settings: Mapping[str, Any]
    ) -> None:
        pause = RETRY_FIRST
        started = False
        while True:
            error = None if started else factory.explain_unusable()
            slot.usable, slot.elsewhere = error is None, error is not None
            if error is None:
                try:
                    transport = slot.transport or _make_transport(factory, settings)
                    slot.transport = transport
                    if not started:
                        await transport.start()
                        started = True
                    slot.error, pause = None, RETRY_FIRST
                    _log.info("transport %s: up", slot.name)
                    await self._on_up(transport)
                    slot.tried.set()
                    await self._follow_events(transport)
                    error = "its events have ended"
                except TransportError as problem:
                    error = str(problem)
                except asyncio.CancelledError:
                    raise
                except Exception as problem:
                    _log.exception("transport %s: internal error", slot.name)
                    error = f"internal error: {problem}"
            if error != slot.error:
                # That another hypervisor is not here is no trouble.
                level = logging.INFO if slot.elsewhere else logging.WARNING
                _log.log(level, "transport %s: %s", slot.name, error)
            slot.error = error
            slot.tried.set()
            await asyncio.sleep(pause)
            pause = min(pause * 2, RETRY_MAX)

    async def _follow_events(self, transport: Transport) -> None:
        async for event in transport.follow_events():
            if isinstance(transport, WatchesArrivals) and transport.name not in self._arriving:
                self._arriving.add(transport.name)
                self._spawn_task(self._look_for_arrivals(transport))
            for watched in list(self._watched.values()):
                domain = watched.domain
                if watched.transport is transport and event.domid in (None, domain.domid):
                    if event.notice is not None:
                        self._pass_notice_on(watched, event.notice)
                    self.look_soon(domain)

    async def _look_for_arrivals(self, transport: Transport) -> None:
        await asyncio.sleep(0)  # several events at once are one
        self._arriving.discard(transport.name)
        try:
            await self._on_arrivals(transport)
        except (TransportError, NoTransportError) as error:
            _log.warning("transport %s: which domains have come is not known: %s",
                         transport.name, error)  # fmt: skip

    def _pass_notice_on(self, watched: _Watched, notice: Notice) -> None:
        """A guest that reboots without end must not fill the journal.

        One that tells of a failure is not left out for one before that does not.
        """
        if notice.reset and watched.session is not None:
            watched.session.note_reset()
        now = asyncio.get_running_loop().time()
        kind = notice.kind, notice.failure
        if now - watched.noticed.get(kind, -EVENT_CALM_S) >= EVENT_CALM_S:
            watched.noticed[kind] = now
            self._on_notice(watched.domain, notice)

    def _spawn_task(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._log_ended_task)
        return task

    def _log_ended_task(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, NoTransportError):
            _log.error("internal error", exc_info=error)


class _SessionListener:
    """Passes on what the session of one domain reports and asks."""

    session: Session

    def __init__(self, manager: SessionManager, domain: Domain) -> None:
        self._manager = manager
        self._domain = domain

    def take_events(self, events: list[Event]) -> None:
        self._manager._on_events(self.session, events)

    def note_change(self) -> None:
        self._manager._on_change(self.session)

    def take_notice(self, notice: Notice) -> None:
        self._manager._on_notice(self._domain, notice)

    def recheck_domain(self) -> None:
        self._manager.look_soon(self._domain)

    def get_hang_timeout(self) -> float:
        return self._manager._hang_timeout(self._domain)

    def get_boot_timeout(self, *, is_first: bool) -> float:
        return self._manager._boot_timeout(self._domain, is_first)


def _make_transport(factory: type[Transport], settings: Mapping[str, Any]) -> Transport:
    """:raises TransportError: its settings are not to be used."""
    try:
        return factory(**settings)
    except (TypeError, ValueError) as error:
        raise TransportError(f"settings in [{factory.name}]: {error}") from None


def _domain_key(domain: Domain) -> tuple[str, int]:
    return domain.uuid, domain.domid


def _by_hand(domain: Domain) -> str:
    return (
        f"{domain.name}: watching was ended by hand; begin again with: vesper activate "
        f"{domain.name}"
    )
