# SPDX-License-Identifier: GPL-2.0-or-later
"""One guest under watch: the life cycle, seen from the host.

::

    WAITING ──frontend──► CONNECTING ──HELLO──► ACTIVE ──┐
       ▲  ▲                 │     │               │      │ close(), or
       │  └──── later ──────┘     └─► UNFIT ──┐   │      │ the domain died
       └────────────── link lost ─────────────┴───┘      ▼
                                                 CLOSING ──► CLOSED

In ACTIVE each wanted probe goes WANTED → LOADING → COLLECTING → UNLOADING; a
probe that an earlier daemon has loaded is found in the guest's channel table
and goes to COLLECTING at once.

One task, :meth:`Session.run_session`, connects and reads; reading never waits for
C-chan. A second one brings the guest's probes in line with what is wanted;
each change of them, whoever asked for it, is made under one lock.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping

from vesper_monitor.guest import abi
from vesper_monitor.guest.control.cchan import (
    CchanBrokenError,
    CchanError,
    GuestRefusedError,
    GuestSilentError,
)
from vesper_monitor.guest.control.commands import GuestControl, Hello
from vesper_monitor.guest.control.images import ImageStore
from vesper_monitor.guest.control.processes import Processes, find_processes
from vesper_monitor.guest.dynamic_probes.point import DynamicProbe
from vesper_monitor.guest.errors import SessionError
from vesper_monitor.guest.event import Event
from vesper_monitor.guest.health.boot_watch import BootWatch
from vesper_monitor.guest.health.hang_detector import LOOK
from vesper_monitor.guest.health.heartbeat import HeartbeatReader, HeartbeatWatch, find_life
from vesper_monitor.guest.read_budget import ReadBudget
from vesper_monitor.guest.relay.channel import ChannelEntry, ChannelReader, TableError
from vesper_monitor.guest.relay.collector import Collector
from vesper_monitor.guest.relay.positions import Position
from vesper_monitor.guest.relay.raw_stream import RawStream
from vesper_monitor.guest.session_state import ProbeState, ProbeStatus, SessionState
from vesper_monitor.guest.ticker import SharedTicker
from vesper_monitor.hypervisor.domain_state import DomainState
from vesper_monitor.hypervisor.transport import (
    Domain,
    DomainReport,
    FrontendMissingError,
    FrontendSilentError,
    Link,
    LinkLostError,
    Notice,
    Transport,
    TransportError,
)

__all__ = ["Session"]

_log = logging.getLogger(__name__)

#: s, between tries that failed: the first, then doubled up to the last.
_RETRY_FIRST = 0.5
_RETRY_LAST = 30.0
#: s. The guest's modules may be exchanged for fitting ones at any time.
_RETRY_UNFIT_S = 30.0
#: s to wait for a frontend in one call; the device stays there between calls.
_CONNECT_TIMEOUT_S = 10.0
#: Rounds of reading before a channel is closed because the guest has, or the
#: link; others have their turn between them. And without, just before that.
_REST_ROUNDS = 256
_LAST_ROUNDS = 8
#: s between two looks at a channel table that goes on changing, at least; and
#: so many times what the last one took.
_TABLE_CALM = 0.1
_TABLE_SHARE = 4.0
#: s: how often the session looks without having been notified.
_LOOK_EVERY_S = 5.0
#: s for the probes of a guest that has answered, before they count as missing.
_PROBES_TIMEOUT_S = 20.0


class Session:
    """Watches one life of one domain until :meth:`close_session` or its death."""

    def __init__(
        self,
        transport: Transport,
        domain: Domain,
        images: ImageStore,
        on_events: Callable[[Session, list[Event]], None],
        on_change: Callable[[Session], None],
        *,
        points: Mapping[str, DynamicProbe] | None = None,
        resume_from: Mapping[Position, int] | None = None,
        activate_timeout: float = 90.0,
        hang_timeout: Callable[[], float] = lambda: 0.0,
        boot_timeout: Callable[[bool], float] = lambda _is_first: 0.0,
        on_standstill: Callable[[], None] = lambda: None,
        on_notice: Callable[[Notice], None] = lambda _: None,
        beat: SharedTicker | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """
        :param on_events: called on the loop with events in the order of the
            guest's time; returns soon. ``session.positions`` is then the
            state after them: save both in one transaction.
        :param on_change: called on the loop when state, degraded, or a
            probe's state changed. Save ``positions`` then, too: a channel
            without a saved position is new to the daemon.
        :param points: what operators have defined for this VM, by name; may
            change. Each is loaded as a probe of that name.
        :param resume_from: next sequence numbers an earlier daemon saved.
            Records below are skipped. Of a channel that does not occur in it
            (a lost journal; a guest that has come from another host) those are
            read that the guest's index does not have as read.
        :param activate_timeout: seconds after the start of :meth:`run_session`, and after
            the loss of the link (the guest reboots), during which nothing counts
            as degraded; of them some for the probes, once the guest has answered.
        :param hang_timeout: seconds without a sign of life that are a hang;
            0: do not look. Asked again and again.
        :param boot_timeout: seconds that the guest may take to be heard, in its
            domain's first boot or a later one; 0: for ever. Asked again and again.
        :param on_notice: gets what there is to say of a boot that takes too long.
        :param on_standstill: called when the domain most likely is in another
            state than before: it does not run, or runs again.
        :param beat: of :data:`LOOK`, shared by all sessions; None: an own one.
        :param clock: s, for ``Event.received``.
        """
        self.transport = transport
        self.domain = domain
        self._images = images
        self._on_events = on_events
        self._on_change = on_change
        self._activate_timeout = activate_timeout
        self._started: float | None = None  # of run() or anew, CLOCK_MONOTONIC
        self._answered = 0.0  # the guest has, CLOCK_MONOTONIC
        self._state = SessionState.WAITING
        self._missing: str | None = None  # why the guest is not active
        self._is_silent = True  # nothing else is in the way
        self._boot = BootWatch(domain.name, heard=bool(resume_from))
        self._boot_timeout = boot_timeout
        self._on_notice = on_notice
        self._clock = clock
        self._told_degraded: str | None = None
        self._wanted: dict[str, str] = {}
        self._probes: dict[str, ProbeStatus] = {}
        self._guest: GuestControl | None = None
        self._points = points if points is not None else {}
        self._raw = RawStream()
        self._collector = Collector(domain, self._raw, clock, resume_from or {}, self._points)
        self._channels = self._collector.channels
        self._beat = beat or SharedTicker(LOOK)
        self._beats = 0
        self._life = HeartbeatWatch(
            transport, domain, hang_timeout, lambda event: on_events(self, [event]),
            on_standstill, self._beat, self._on_unsure,
        )  # fmt: skip
        self._life_reader: HeartbeatReader | None = None
        self._life_task: asyncio.Task[None] | None = None
        self._loaded_here: set[str] = set()  # in this life of the guest's core
        self._look = asyncio.Event()  # the guest has notified, or we close
        self._idle = False  # _collect() waits for that
        self._pace = ReadBudget()
        self._wish = asyncio.Event()  # probes may have to be loaded or unloaded
        self._lost: str | None = None  # why the link has gone
        self._busy = asyncio.Lock()  # one change of the guest's probes at a time
        self._retry_at: dict[str, float] = {}  # probe → CLOCK_MONOTONIC
        self._retry_after: dict[str, float] = {}
        self._connecting: asyncio.Task[None] | None = None
        self._closing = False
        self._closed = asyncio.Event()

    # ------------------------------------------------------------ to look at

    @property
    def state(self) -> SessionState:
        return self._state

    @property
    def hello(self) -> Hello | None:
        """What the guest said of itself, once it has."""
        return self._guest.hello if self._guest else None

    @property
    def alive(self) -> bool:
        """Certainly: the guest's kernel has shown life in the last moment."""
        return self._guest is not None and self._lost is None and self._life.shown

    @property
    def last_sign(self) -> float | None:
        """When the guest's kernel has shown life last (CLOCK_MONOTONIC); None: not known."""
        return self._life.last_sign

    @property
    def linked(self) -> bool:
        """Whether the guest's pages are mapped, and its end of the link has not gone."""
        return self._guest is not None and self._lost is None

    @property
    def degraded(self) -> str | None:
        """What is missing on which VM and what to do; None while all is well."""
        if self._started is None or self._state in (SessionState.CLOSING, SessionState.CLOSED):
            return None
        if self._state is SessionState.UNFIT:
            return self._missing
        now = time.monotonic()
        if self._state is not SessionState.ACTIVE or self._lost is not None:
            if now - self._started < self._activate_timeout:
                return None
            words = (self._boot.words if self._is_silent else None) or self._missing
            if words is None and now - self._started < self._activate_timeout + _CONNECT_TIMEOUT_S:
                return None  # the first try is still under way, and will say what to do
            return words or f"{self.domain.name}: no contact with the guest's VESPER modules yet"
        if not self.is_paused and (silence := self._life.unexplained) is not None:
            return silence
        if now - self._answered < min(self._activate_timeout, _PROBES_TIMEOUT_S):
            return None
        for name in self._wanted:
            status = self._probes.get(name)
            if status is None or status.state is not ProbeState.COLLECTING:
                reason = status.error if status else None
                return reason or f"{self.domain.name}: probe {name} is not loaded yet"
            if status.error:
                return f"{self.domain.name}: probe {name}: {status.error}"
        return None

    @property
    def is_paused(self) -> bool:
        """The hypervisor says so of the domain, as far as is known."""
        return self._boot.pause is not None

    @property
    def missing(self) -> str | None:
        """Like :attr:`degraded`, of a guest that is not active, without giving it time."""
        return self._missing if self._state is not SessionState.ACTIVE else None

    @property
    def standstill(self) -> tuple[str, float | None] | None:
        """That the domain is paused, or why its guest is not heard, and since when;
        None: it is heard, or nothing is known. The text stays the same."""
        words = self._boot.pause if self._state is SessionState.ACTIVE else self._boot.words
        return (words, self._boot.since) if words is not None else None

    @property
    def probes(self) -> dict[str, ProbeStatus]:
        """Wanted probes, and loaded ones."""
        for name, channel in self._channels.items():
            status = self._status_of_probe(name)
            status.cpus, status.records, status.lost = channel.cpus, channel.records, channel.lost
        return self._probes

    @property
    def positions(self) -> dict[Position, int]:
        """Next sequence number of each buffer of the guest's core; {} before HELLO.

        Also of those that an earlier daemon has read and this one has not
        opened yet: whoever saves this must not lose them.
        """
        return self._collector.read_positions()

    def take_reads(self) -> list[tuple[ChannelReader, int, int]]:
        """Within ``on_events``: promise to note when these events are written.

        Without that they count as written when ``on_events`` returns; see
        :meth:`Collector.take_reads`.
        """
        return self._collector.take_reads()

    def rewind_to_written(self) -> None:
        """Read again what was read and not written, as far as the guest still has it."""
        self._collector.rewind_to_written()
        self._look.set()

    def subscribe_raw(
        self, probe: str, cpu: int | None = None
    ) -> AsyncIterator[tuple[int, int, bytes]]:
        """(cpu, seq, record) as they are read; a slow reader loses some."""
        return self._raw.subscribe_reader(probe, cpu)

    # ------------------------------------------------------------- to ask for

    async def set_probes(self, wanted: Mapping[str, str]) -> None:
        """What is to be loaded: name → module parameters.

        What this session loaded for an earlier wish gets unloaded. Returns at
        once; the work is done by :meth:`run_session`, failures show in ``probes``.
        """
        self._wanted = dict(wanted)
        for name, params in wanted.items():
            self._status_of_probe(name).params = params
        self._retry_at.clear()
        self._retry_after.clear()
        for name in list(self._probes):
            if name not in self._wanted and name not in self._channels:
                del self._probes[name]
        self._wish.set()

    async def load_probe(self, name: str, params: str = "") -> None:
        """Load a probe now and keep it loaded.

        :raises SessionError: it is not wanted then.
        """
        async with self._busy:
            guest = self._active_guest(f"load {name}")
            if name in self._channels:
                raise SessionError(
                    f"{self.domain.name}: probe {name} is loaded already", code="bad-request"
                )
            self._status_of_probe(name).params = params
            try:
                await self._load_into_guest(guest, name)
            except SessionError:
                if name not in self._wanted:
                    self._probes.pop(name, None)
                raise
            self._wanted[name] = params
            self._notify_change()

    async def unload_probe(self, name: str) -> None:
        """Unload a probe now; it is no longer wanted. :raises SessionError:"""
        async with self._busy:
            guest = self._active_guest(f"unload {name}")
            if name not in self._channels:
                raise SessionError(
                    f"{self.domain.name}: probe {name} is not loaded", code="no-such-probe"
                )
            self._wanted.pop(name, None)
            await self._unload_from_guest(guest, name)
            self._notify_change()

    async def find_processes(self, names: Collection[str]) -> Processes | None:
        """The main processes of some names. None: the guest's core cannot be asked for them.

        :raises SessionError: not known now.
        """
        guest = self._active_guest("ask for processes")
        if guest.cchan.asleep or self.is_paused:
            raise SessionError(f"{self.domain.name}: the guest sleeps", code="not-active")
        try:
            return await find_processes(guest.cchan, names)
        except (CchanError, GuestRefusedError) as error:
            raise _session_error(error) from None

    def note_report(self, report: DomainReport) -> None:
        """The hypervisor says that the domain is in that state."""
        self._boot.note_report(report, self._clock())
        self._tell_degraded()

    def note_reset(self) -> None:
        """The hypervisor says that another kernel boots: what this one shows is over."""
        self._boot.note_reset(self._clock())
        if self._has_link:
            self._lose_link("the guest was reset")
        self._notify_change()

    def read_last_words(self) -> None:
        """The domain is dead: take what its kernel left, while it is mapped."""
        if events := self._collector.read_words(final=True):
            self._on_events(self, events)

    async def close_session(self, *, deactivate: bool) -> None:
        """End. With ``deactivate`` probes are unloaded and the device is taken
        away from the guest; without, all stays for the next daemon."""
        if self._state is SessionState.CLOSED:
            return
        self._closing = True
        self._look.set()
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait({self._connecting})
        async with self._busy:
            self._switch_state(SessionState.CLOSING)
            if self._guest is not None:
                if deactivate:
                    await self._unload_all(self._guest)
                await self._disconnect_guest(deactivate=deactivate)
            elif deactivate:
                try:
                    await self.transport.deactivate_domain(self.domain)
                except TransportError as error:
                    _log.warning("%s", error)
            self._switch_state(SessionState.CLOSED)
            self._raw.close()
        self._closed.set()

    # ------------------------------------------------------------ the session

    async def run_session(self) -> None:
        """The session's task: returns when closed or when the domain is gone."""
        self._started = time.monotonic()
        try:
            await self._connect_and_collect()
        finally:
            self._beat.remove_call(self._on_waiting)
        if self._closing:
            await self._closed.wait()
        else:
            await self.close_session(deactivate=False)

    async def _connect_and_collect(self) -> None:
        """Again and again, until closed or the domain is gone."""
        delay = _RETRY_FIRST
        self._beat.add_call(self._on_waiting)
        while not self._closing:
            self._connecting = asyncio.create_task(self._connect_guest())
            try:
                await self._connecting
                delay = _RETRY_FIRST
                self._beat.remove_call(self._on_waiting)
                try:
                    await self._collect_records()
                finally:
                    self._beat.add_call(self._on_waiting)
            except FrontendMissingError as error:
                self._note_missing(error)
                delay = _RETRY_FIRST  # connect() has waited already
            except (TransportError, GuestSilentError, CchanBrokenError) as error:
                self._note_missing(error)
            except (CchanError, TableError) as error:
                self._missing = str(error)
                self._switch_state(SessionState.UNFIT)
                delay = _RETRY_UNFIT_S
            except asyncio.CancelledError:
                if not self._closing:
                    raise
            self._connecting = None
            if self._closing:
                break
            await self._give_up_link()
            if await self._domain_gone():
                break
            self._tell_degraded()
            await self._sleep_or_close(delay)
            delay = min(delay * 2, _RETRY_LAST)

    def _note_missing(self, error: Exception) -> None:
        """Note why the guest is not active."""
        self._missing = str(error)
        self._is_silent = isinstance(error, (FrontendSilentError, LinkLostError, GuestSilentError))
        if isinstance(error, FrontendSilentError) and error.was_active:
            self._boot.note_unsure(self._clock())

    async def _connect_guest(self) -> None:
        self._switch_state(SessionState.WAITING)
        link = await self.transport.connect_domain(self.domain, _CONNECT_TIMEOUT_S)
        self._lost = None
        self._switch_state(SessionState.CONNECTING)
        self._begin_life(link, *find_life(link))
        try:
            guest = await self._greet_guest(link)
        except BaseException as error:
            await self._end_life()
            # A page that the guest has spoilt stays so: then all is begun anew.
            await link.close(deactivate=isinstance(error, CchanBrokenError))
            raise
        link.on_lost(self._on_lost)
        link.on_notify(self._on_notify)
        self._guest = guest
        if self._collector.meet_boot(guest.hello.boot_id):
            self._loaded_here.clear()
        self._collector.open_words(link, guest.hello.words)
        self._missing, self._is_silent = None, True
        self._answered = time.monotonic()
        if (notice := self._boot.note_heard()) is not None:
            self._on_notice(notice)
        self._begin_life(link, guest.hello.life, guest.hello.nr_cpus)
        self._switch_state(SessionState.ACTIVE)
        self._follow_table(guest)
        if self._channels:
            # It has come from another host, or an earlier daemon was here.
            _log.info("%s: goes on with %s", self.domain.name, ", ".join(self._channels))

    async def _greet_guest(self, link: Link) -> GuestControl:
        """Say HELLO; again and again to a guest that shows no life, which may hang."""
        while True:
            try:
                return await GuestControl.greet_guest(link)
            except GuestSilentError as error:
                if self._life_task is not None:
                    _raise_what_ended([self._life_task])
                if self._lost is not None:
                    raise LinkLostError(f"{self.domain.name}: {self._lost}") from None
                if not self._life.is_silent:
                    raise
                self._note_missing(error)
                self._tell_degraded()

    async def _collect_records(self) -> None:
        """Read what there is, when there is something, until the link is lost."""
        table_at = 0.0  # not looked at before
        helpers = [asyncio.create_task(self._keep_probes())]
        if self._life_task is not None:
            helpers.append(self._life_task)
        for task in helpers:
            task.add_done_callback(lambda _: self._look.set())
        self._beat.add_call(self._on_beat)
        try:
            while not self._closing and self._guest is not None:
                _raise_what_ended(helpers)
                if self._lost is not None:
                    raise LinkLostError(f"{self.domain.name}: {self._lost}")
                self._look.clear()
                self._guest.cchan.arm_notification()
                begin = time.monotonic()
                look_after = None  # not before somebody wants it
                if self._guest.table.has_changed():
                    look_after = max(0.0, table_at - begin)
                if look_after == 0.0:
                    guest = self._guest
                    await self._read_rest()  # of channels that have gone
                    if self._guest is not guest or self._lost is not None:
                        continue
                    self._follow_table(guest)
                    now, look_after = time.monotonic(), None
                    table_at = now + max(_TABLE_CALM, _TABLE_SHARE * (now - begin))
                more = self._drain_channels()
                self._pace.take_time(begin, time.monotonic())
                if not more:
                    self._tell_degraded()
                    self._idle = True
                    await _wait_for_event(self._look, look_after)
                    self._idle = False
                pause = self._pace.pause_needed(time.monotonic())
                if more or pause:
                    await asyncio.sleep(pause)
        finally:
            self._beat.remove_call(self._on_beat)
            self._idle = False
            for task in helpers:
                task.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
            self._life_task = None

    def _begin_life(self, link: Link, region: abi.Region, nr_cpus: int) -> None:
        """Watch the guest's signs of life, if that is not done already."""
        if not region.handle or self._life_task is not None:
            return
        try:
            self._life_reader = HeartbeatReader(link, region, nr_cpus)
        except (TransportError, ValueError) as error:
            _log.warning("signs of life cannot be read: %s", error)
            return
        self._life_task = asyncio.create_task(self._watch_life(self._life_reader))

    async def _watch_life(self, reader: HeartbeatReader) -> None:
        try:
            await self._life.run_until_closed(reader)
        finally:
            reader.close()

    async def _end_life(self) -> None:
        if self._life_reader is not None:
            self._life_reader.close()
        task, self._life_task = self._life_task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _keep_probes(self) -> None:
        """Load what is wanted and missing, unload what nobody wants any more."""
        while True:
            self._wish.clear()
            async with self._busy:
                if self._closing or self._guest is None:
                    return
                await self._reconcile_probes(self._guest)
            now = time.monotonic()
            due = [at - now for name, at in self._retry_at.items() if name in self._wanted]
            await _wait_for_event(self._wish, max(min(due), 0.01) if due else None)

    async def _sleep_or_close(self, delay: float) -> None:
        """Until ``delay`` is over or the session is closed."""
        until = time.monotonic() + delay
        while not self._closing and (rest := until - time.monotonic()) > 0:
            self._look.clear()
            await _wait_for_event(self._look, min(rest, _LOOK_EVERY_S))
            self._tell_degraded()

    async def _domain_gone(self) -> bool:
        try:
            report = await self.transport.report_domain(self.domain)
        except TransportError:
            return False  # not known: go on trying
        return report.state in (DomainState.GONE, DomainState.DYING)

    # ---------------------------------------------------------------- D-chan

    def _follow_table(self, guest: GuestControl) -> None:
        """Open channels that have come, close those that have gone."""
        entries = guest.read_table()
        gone = [
            name for name, channel in self._channels.items() if entries.get(name) != channel.entry
        ]
        for _ in range(_LAST_ROUNDS):
            if not gone or not self._drain_channels():  # what came since the rest was read
                break
        for name in gone:
            self._drop_channel(name, "the guest has unloaded it")
        for name, entry in entries.items():
            status = self._status_of_probe(name)
            if name not in self._channels and status.state is not ProbeState.LOADING:
                self._open_channel(guest, entry)
                if name not in self._channels and name not in self._wanted:
                    # The guest may show ever new names.
                    _log.warning("%s", status.error)
                    self._forget_probe(name)

    def _open_channel(self, guest: GuestControl, entry: ChannelEntry) -> None:
        status = self._status_of_probe(entry.probe)
        try:
            channel = self._collector.open_channel(guest.link, entry)
        except TransportError as error:
            self._fail_probe(status, str(error))
            return
        self._set_probe(status, ProbeState.COLLECTING, channel.error)

    def _drop_channel(self, name: str, why: str) -> None:
        """The channel has gone by itself, and was read: close, load again later."""
        self._close_channel(name, for_good=False)
        status = self._status_of_probe(name)
        if name in self._wanted:
            self._fail_probe(status, f"{self.domain.name}: probe {name} has stopped: {why}")
        else:
            self._forget_probe(name)
            self._notify_change()

    def _forget_probe(self, name: str) -> None:
        """Of a probe that nobody wants and that is not there."""
        for kept in (self._probes, self._retry_at, self._retry_after):
            kept.pop(name, None)

    def _close_channel(self, name: str, *, for_good: bool) -> None:
        channel = self._collector.close_channel(name, for_good=for_good)
        status = self._status_of_probe(name)
        status.records, status.lost, status.cpus = channel.records, channel.lost, 0

    def _drain_channels(self) -> bool:
        """One bounded round over all channels. :returns: whether there is more."""
        if self._is_asleep():
            return False  # it is being saved or migrated: the next host reads that
        events, more = self._collector.read_events()
        if self._is_asleep():
            # Since when, nobody knows: of what was noted in the guest from now on,
            # the next host may see nothing. Last words are not noted there.
            self._collector.take_back()
            events, more = [event for event in events if event.words is not None], False
        for name, channel in self._channels.items():
            if channel.error:
                self._status_of_probe(name).error = channel.error
        if events:
            self._on_events(self, events)
            for channel, cpu, following in self._collector.take_reads():
                channel.note_written(cpu, following)
        return more

    def _is_asleep(self) -> bool:
        return self._guest is not None and self._guest.cchan.asleep

    async def _read_rest(self) -> None:
        """All there is, in a bounded number of rounds; others have their turn in between."""
        for _ in range(_REST_ROUNDS):
            if not self._drain_channels():
                break
            await asyncio.sleep(0)

    # ---------------------------------------------------------------- C-chan

    async def _reconcile_probes(self, guest: GuestControl) -> None:
        """Load what is wanted and missing, unload what this session loaded and
        nobody wants any more."""
        now = time.monotonic()
        for name in list(self._wanted):
            if name not in self._channels and self._retry_at.get(name, 0.0) <= now:
                try:
                    await self._load_into_guest(guest, name)
                except SessionError as error:
                    _log.warning("%s", error)
        for name in [name for name in self._loaded_here if name not in self._wanted]:
            if name in self._channels:
                try:
                    await self._unload_from_guest(guest, name)
                except SessionError as error:
                    _log.warning("%s", error)
            self._loaded_here.discard(name)

    async def _load_into_guest(self, guest: GuestControl, name: str) -> None:
        """:raises SessionError: and the probe is FAILED."""
        status = self._status_of_probe(name)
        self._set_probe(status, ProbeState.LOADING, status.error)  # the last try's
        try:
            point = self._points.get(name)
            if point is not None:
                await guest.load_point(self._images, point)
            else:
                await guest.load_probe(self._images, name, status.params)
            self._loaded_here.add(name)
            entry = guest.read_table().get(name)
            if entry is None:
                raise SessionError(
                    f"{self.domain.name}: {name} was loaded but shows no relay channel: "
                    "is it a probe of VESPER?",
                    code="guest",
                )
        except (SessionError, TableError) as error:
            self._fail_probe(status, str(error))
            raise _session_error(error) from None
        finally:
            guest.table.look_again()  # it was read here for one channel only
        self._open_channel(guest, entry)
        if status.state is not ProbeState.COLLECTING:
            raise SessionError(status.error or "", code="guest")
        self._retry_at.pop(name, None)
        self._retry_after.pop(name, None)

    async def _unload_from_guest(self, guest: GuestControl, name: str) -> None:
        """Final drain, unmap, unload. :raises SessionError:"""
        status = self._status_of_probe(name)
        self._set_probe(status, ProbeState.UNLOADING, None)
        for _ in range(_REST_ROUNDS):
            if not self._drain_channels():
                break
        self._close_channel(name, for_good=True)
        try:
            await guest.unload_probe(name)
        except SessionError as error:
            self._fail_probe(status, str(error))
            raise
        self._loaded_here.discard(name)
        if name not in self._wanted:
            self._probes.pop(name, None)

    async def _unload_all(self, guest: GuestControl) -> None:
        for name in list(self._channels):
            try:
                await self._unload_from_guest(guest, name)
            except SessionError as error:
                _log.warning("%s", error)

    def _active_guest(self, what: str) -> GuestControl:
        if self._guest is None or self._state is not SessionState.ACTIVE:
            raise SessionError(
                self._missing or f"{self.domain.name}: cannot {what}: the guest is not active yet",
                code="not-active",
            )
        return self._guest

    # ------------------------------------------------------------ ends, states

    async def _give_up_link(self) -> None:
        async with self._busy:
            if self._guest is not None and not self._closing:
                await self._disconnect_guest(deactivate=False)
        if self._state in (SessionState.ACTIVE, SessionState.CONNECTING):
            self._switch_state(SessionState.WAITING)

    async def _disconnect_guest(self, *, deactivate: bool) -> None:
        guest, self._guest = self._guest, None
        if guest is None:
            return
        if self._lost is not None:
            self.read_last_words()
        elif not guest.cchan.asleep:
            await self._read_rest()
        self._collector.leave_link()
        await self._end_life()
        for name in list(self._channels):
            self._close_channel(name, for_good=False)
            self._set_probe(self._status_of_probe(name), ProbeState.WANTED, None)
        await guest.close_link(deactivate=deactivate)

    def _on_notify(self) -> None:
        guest = self._guest
        if guest is not None:
            guest.cchan.wake_up()
            now = time.monotonic()
            if self._idle and not guest.table.has_changed() and not self._pace.pause_needed(now):
                # Records as a rule: read at once, and the task that would do it
                # a turn of the loop later sleeps on.
                guest.cchan.arm_notification()
                more = self._drain_channels()
                self._pace.take_time(now, time.monotonic())
                if not more:
                    return
        self._look.set()

    def _on_beat(self, _now: float) -> None:
        """A notification may have got lost; and time alone makes some degraded."""
        self._beats += 1
        if self._beats % round(_LOOK_EVERY_S / LOOK) == 0:
            self._tell_degraded()
            self._on_notify()

    def _on_waiting(self, now: float) -> None:
        """While the guest is not active: time alone makes it degraded, or overdue."""
        overdue = self._boot.check_boot(now, self._boot_timeout(self._boot.is_first))
        if overdue is not None:
            self._on_notice(overdue)
        self._tell_degraded()

    def _on_lost(self, reason: str) -> None:
        self._boot.note_leave(self._clock())
        self._lose_link(reason)

    def _on_unsure(self) -> None:
        """The guest shows no life, and may have been reset: only a live kernel answers anew."""
        if self._has_link:
            self._boot.note_unsure(self._clock())
            self._lose_link("the guest shows no life and may have been reset")

    @property
    def _has_link(self) -> bool:
        """Like :attr:`linked`, and also while the guest has not answered HELLO."""
        return self._lost is None and (
            self._guest is not None or self._state is SessionState.CONNECTING
        )

    def _lose_link(self, reason: str) -> None:
        self._lost = reason
        self._started = time.monotonic()
        if self._life_reader is not None:
            self._life_reader.close()  # what it shows is not judged any more
        if self._guest is not None:
            self._guest.cchan.abort_requests(reason)
        self._look.set()

    def _switch_state(self, state: SessionState) -> None:
        """The one place that changes the state."""
        if state is self._state or self._state is SessionState.CLOSED:
            return
        if self._state is SessionState.CLOSING and state is not SessionState.CLOSED:
            return
        self._state = state
        self._notify_change()

    def _status_of_probe(self, name: str) -> ProbeStatus:
        return self._probes.setdefault(name, ProbeStatus(name, params=self._wanted.get(name, "")))

    def _set_probe(self, status: ProbeStatus, state: ProbeState, error: str | None) -> None:
        status.error = error
        status.state = state
        self._notify_change()

    def _fail_probe(self, status: ProbeStatus, error: str) -> None:
        """Failed; tried again later and later if it is still wanted."""
        pause = self._retry_after.get(status.name, _RETRY_FIRST)
        self._retry_at[status.name] = time.monotonic() + pause
        self._retry_after[status.name] = min(pause * 2, _RETRY_LAST)
        self._set_probe(status, ProbeState.FAILED, error)
        self._wish.set()

    def _tell_degraded(self) -> None:
        if self.degraded != self._told_degraded:
            self._notify_change()

    def _notify_change(self) -> None:
        self._told_degraded = self.degraded
        self._on_change(self)


def _raise_what_ended(tasks: list[asyncio.Task[None]]) -> None:
    """Raise the exception of a task that has ended by one, so that it does not pass unseen."""
    for task in tasks:
        if task.done() and not task.cancelled() and (error := task.exception()) is not None:
            raise error


async def _wait_for_event(event: asyncio.Event, at_most: float | None) -> None:
    """Until the event is set or ``at_most`` seconds are over, if so many are given."""
    try:
        async with asyncio.timeout(at_most):
            await event.wait()
    except TimeoutError:
        pass


def _session_error(error: Exception) -> SessionError:
    return error if isinstance(error, SessionError) else SessionError(str(error), code="guest")
