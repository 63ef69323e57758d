# SPDX-License-Identifier: GPL-2.0-or-later
"""The link to one guest: connect, HELLO, read until the link is lost, and again; end.

The task of :meth:`SessionLink.run_until_closed` connects and reads; it never waits for
C-chan. A second task brings the guest's probes in line with the wish. All changes of
the guest's probes are made under one lock.
"""

from __future__ import annotations

import asyncio
import logging
import time

from vesper_monitor.guest.control.cchan import (
    CchanBrokenError,
    CchanError,
    CchanLostError,
    GuestSilentError,
)
from vesper_monitor.guest.control.commands import GuestControl
from vesper_monitor.guest.health.hang_detector import LOOK_INTERVAL_S
from vesper_monitor.guest.health.heartbeat import HeartbeatWatch, find_heartbeat_page
from vesper_monitor.guest.relay.channel import TableError
from vesper_monitor.guest.session_contact import CONNECT_TIMEOUT_S, GuestContact
from vesper_monitor.guest.session_listener import SessionListener, SessionSettings
from vesper_monitor.guest.session_probes import SessionProbes
from vesper_monitor.guest.session_reader import SessionReader
from vesper_monitor.guest.session_state import SessionState
from vesper_monitor.guest.ticker import SharedTicker
from vesper_monitor.hypervisor.domain_state import DomainState
from vesper_monitor.hypervisor.transport import (
    Domain,
    DomainReport,
    FrontendMissingError,
    Link,
    LinkLostError,
    Transport,
    TransportError,
)

__all__ = ["SessionLink"]

_log = logging.getLogger(__name__)

#: s between two tries to connect: the first pause; each further one is twice as long.
RETRY_FIRST_S = 0.5
#: s: the longest pause.
RETRY_MAX_S = 30.0
#: s. The guest's modules may be exchanged for fitting ones at any time.
RETRY_UNFIT_S = 30.0
#: s for the link of a guest whose channel table is unreadable to be lost.
LEAVE_LIMIT_S = 0.5
#: s between two looks at a guest that does not notify.
POLL_INTERVAL_S = 5.0


class SessionLink:
    """Keeps the link to one guest.

    :ivar guest: the guest while it is linked and has answered HELLO.
    :ivar contact: why the guest is not active.
    :ivar heartbeat: whether the guest's kernel lives.
    """

    def __init__(
        self,
        transport: Transport,
        domain: Domain,
        listener: SessionListener,
        settings: SessionSettings,
        reader: SessionReader,
        probes: SessionProbes,
    ) -> None:
        self._transport = transport
        self._domain = domain
        self._listener = listener
        self._reader = reader
        self._probes = probes
        self._ticker = settings.ticker or SharedTicker(LOOK_INTERVAL_S)
        self.guest: GuestControl | None = None
        self.contact = GuestContact(
            domain.name,
            heard=bool(settings.resume_from),
            activate_timeout_s=settings.activate_timeout_s,
            clock=settings.clock,
        )
        self.heartbeat = HeartbeatWatch(transport, domain, listener, self._ticker, self._on_unsure)
        self._state = SessionState.WAITING
        self._reported_degraded: str | None = None
        self._ticks = 0
        self._connecting: asyncio.Task[None] | None = None
        self._is_closing = False
        self._closed = asyncio.Event()

    # ------------------------------------------------------------ what is known

    @property
    def state(self) -> SessionState:
        return self._state

    @property
    def is_linked(self) -> bool:
        """Whether the guest has answered HELLO, and its end of the link is open."""
        return self.guest is not None and self.contact.lost is None

    @property
    def degraded(self) -> str | None:
        """What is missing on this VM, and what to do; None: nothing."""
        if not self.contact.has_begun or not self._state.may_become(SessionState.CLOSING):
            return None
        if self._state is SessionState.UNFIT:
            return self.contact.missing
        if self._state is not SessionState.ACTIVE or self.contact.lost is not None:
            return self.contact.describe_absence()
        if not self.contact.is_paused and (silence := self.heartbeat.unexplained) is not None:
            return silence
        return self._probes.describe_fault() if self.contact.had_time_for_probes else None

    # ------------------------------------------------------------ begin and end

    async def run_until_closed(self) -> None:
        """Run until closed, or until the domain has ended."""
        self.contact.begin_waiting()
        try:
            await self._connect_and_read()
        finally:
            self._ticker.remove_call(self._on_waiting)
        if self._is_closing:
            await self._closed.wait()
        else:
            await self.close(deactivate=False)

    async def close(self, *, deactivate: bool) -> None:
        """Leave the guest for good. Idempotent.

        :param deactivate: unload the probes and remove the device.
        """
        if self._state is SessionState.CLOSED:
            return
        self._is_closing = True
        self._reader.wake_up()
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait({self._connecting})
        async with self._probes.lock:
            self._switch_state(SessionState.CLOSING)
            if self.guest is not None:
                if deactivate:
                    await self._probes.unload_all(self.guest)
                await self._disconnect_guest(deactivate=deactivate)
            elif deactivate:
                try:
                    await self._transport.deactivate_domain(self._domain)
                except TransportError as error:
                    _log.warning("%s", error)
            self._switch_state(SessionState.CLOSED)
            self._reader.close()
        self._closed.set()

    # ------------------------------------------------------------ the link's task

    async def _connect_and_read(self) -> None:
        """Connect again and again, until closed or the domain has ended."""
        delay = RETRY_FIRST_S
        self._ticker.add_call(self._on_waiting)
        while not self._is_closing:
            self._connecting = asyncio.create_task(self._connect_guest())
            try:
                await self._connecting
                delay = RETRY_FIRST_S
                await self._read_until_lost()
            except FrontendMissingError as error:
                self.contact.note_failure(error)
                delay = RETRY_FIRST_S  # connect_domain() has waited already
            except (TransportError, GuestSilentError, CchanBrokenError, CchanLostError) as error:
                self.contact.note_failure(error)
            except (CchanError, TableError) as error:
                self.contact.note_unfit(error)
                self._switch_state(SessionState.UNFIT)
                delay = RETRY_UNFIT_S
            except asyncio.CancelledError:
                if not self._is_closing:
                    raise
            self._connecting = None
            if self._is_closing:
                break
            await self._give_up_link()
            if await self._has_domain_ended():
                break
            self._notify_degraded()
            await self._sleep_or_close(delay)
            delay = min(delay * 2, RETRY_MAX_S)

    async def _connect_guest(self) -> None:
        self._switch_state(SessionState.WAITING)
        link = await self._transport.connect_domain(self._domain, CONNECT_TIMEOUT_S)
        self.contact.note_link()
        self._switch_state(SessionState.CONNECTING)
        self.heartbeat.begin_watching(link, *find_heartbeat_page(link))
        try:
            guest = await self._greet_guest(link)
        except BaseException as error:
            await self.heartbeat.end_watching()
            # A C-chan page that the guest has spoilt stays so: remove the device, begin again.
            await link.close(deactivate=isinstance(error, CchanBrokenError))
            raise
        link.on_lost(self._on_lost)
        link.on_notify(self._on_notify)
        self.guest = guest
        self._reader.begin_link(guest)
        if self._reader.collector.meet_boot(guest.hello.boot_id):
            self._probes.meet_new_boot()
        self._reader.collector.open_crash_log(link, guest.hello.crash_log_region)
        if (notice := self.contact.note_answer()) is not None:
            self._listener.take_notice(notice)
        self.heartbeat.begin_watching(link, guest.hello.heartbeat_region, guest.hello.nr_cpus)
        self._switch_state(SessionState.ACTIVE)
        self._probes.follow_table(guest)
        if found := ", ".join(self._reader.channels):
            # The guest was migrated to this host, or an earlier vesperd loaded them.
            _log.info("%s: goes on with %s", self._domain.name, found)

    async def _greet_guest(self, link: Link) -> GuestControl:
        """Say HELLO; again and again to a guest that shows no heartbeat, which may hang."""
        while True:
            try:
                return await GuestControl.greet_guest(link)
            except GuestSilentError as error:
                if (watch := self.heartbeat.task) is not None:
                    _raise_task_errors([watch])
                if self.contact.lost is not None:
                    raise LinkLostError(f"{self._domain.name}: {self.contact.lost}") from None
                if not self.heartbeat.is_silent:
                    raise
                self.contact.note_failure(error)
                self._notify_degraded()

    async def _read_until_lost(self) -> None:
        """Read what there is, when there is something. :raises LinkLostError: in the end."""
        helpers = [asyncio.create_task(self._keep_probes())]
        if self.heartbeat.task is not None:
            helpers.append(self.heartbeat.task)
        for task in helpers:
            task.add_done_callback(lambda _: self._reader.wake_up())
        self._ticker.remove_call(self._on_waiting)
        self._ticker.add_call(self._on_tick)
        try:
            while not self._is_closing and (guest := self.guest) is not None:
                _raise_task_errors(helpers)
                if self.contact.lost is not None:
                    raise LinkLostError(f"{self._domain.name}: {self.contact.lost}")
                try:
                    has_more = await self._reader.read_round(guest, self._probes.follow_table)
                except TableError:
                    await self._raise_if_lost_soon()
                    raise
                if not has_more:
                    self._notify_degraded()
                    await self._reader.wait_until_woken()
                await self._reader.keep_budget(has_more=has_more)
        finally:
            self._ticker.remove_call(self._on_tick)
            self._ticker.add_call(self._on_waiting)
            for task in helpers:
                task.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
            await self.heartbeat.end_watching()

    async def _raise_if_lost_soon(self) -> None:
        """Give the link a moment to be lost: the table of a guest that leaves is no table.

        :raises LinkLostError: it is lost.
        """
        until = time.monotonic() + LEAVE_LIMIT_S
        while self.contact.lost is None and not self._is_closing:
            if (rest := until - time.monotonic()) <= 0:
                break
            await self._reader.sleep_until_woken(rest)
        if self.contact.lost is not None:
            raise LinkLostError(f"{self._domain.name}: {self.contact.lost}") from None

    async def _keep_probes(self) -> None:
        """Keep the guest's probes in line with the wish."""
        while True:
            async with self._probes.lock:
                if self._is_closing or self.guest is None:
                    return
                await self._probes.reconcile_guest(self.guest)
            await self._probes.wait_for_work()

    async def _sleep_or_close(self, delay_s: float) -> None:
        """Return when the time is over or the session is closed."""
        until = time.monotonic() + delay_s
        while not self._is_closing and (rest := until - time.monotonic()) > 0:
            await self._reader.sleep_until_woken(min(rest, POLL_INTERVAL_S))
            self._notify_degraded()

    async def _has_domain_ended(self) -> bool:
        try:
            report = await self._transport.report_domain(self._domain)
        except TransportError:
            return False  # unknown: go on trying
        return report.state in (DomainState.GONE, DomainState.DYING)

    async def _give_up_link(self) -> None:
        async with self._probes.lock:
            if self.guest is not None and not self._is_closing:
                await self._disconnect_guest(deactivate=False)
        if self._state in (SessionState.ACTIVE, SessionState.CONNECTING):
            self._switch_state(SessionState.WAITING)

    async def _disconnect_guest(self, *, deactivate: bool) -> None:
        guest, self.guest = self.guest, None
        if guest is None:
            return
        if self.contact.lost is not None:
            self._reader.read_crash_log()
        elif not guest.cchan.asleep:
            await self._reader.read_rest()
        await self.heartbeat.end_watching()
        self._reader.end_link()
        self._probes.leave_link()
        await guest.close_link(deactivate=deactivate)

    # ------------------------------------------------------------ what happens

    def _on_notify(self) -> None:
        self._reader.note_notification()

    def _on_tick(self, _now: float) -> None:
        """Poll an active guest: a notification may be lost, and time makes some degraded."""
        self._ticks += 1
        if self._ticks % round(POLL_INTERVAL_S / LOOK_INTERVAL_S) == 0:
            self._notify_degraded()
            self._on_notify()

    def _on_waiting(self, now: float) -> None:
        """Check a guest that is not active: time makes it degraded, or its boot overdue."""
        limit = self._listener.get_boot_timeout(is_first=self.contact.is_first_boot)
        if (overdue := self.contact.check_boot(now, limit)) is not None:
            self._listener.take_notice(overdue)
        self._notify_degraded()

    def _on_lost(self, reason: str) -> None:
        self.contact.note_leave()
        self._lose_link(reason)

    def _on_unsure(self) -> None:
        """Drop the link of a guest without heartbeat: after a reset only a new HELLO works."""
        if self._has_link:
            self.contact.note_unsure()
            self._lose_link("the guest shows no heartbeat and may have been reset")

    def note_reset(self) -> None:
        """Drop the link: the hypervisor has reset the domain."""
        self.contact.note_reset()
        if self._has_link:
            self._lose_link("the guest was reset")
        self.notify_change()

    def note_report(self, report: DomainReport) -> None:
        """Take the domain's state as the hypervisor has reported it."""
        self.contact.note_report(report)
        self._notify_degraded()

    @property
    def _has_link(self) -> bool:
        """Like :attr:`is_linked`, but also before the guest has answered HELLO."""
        return self.is_linked or (
            self.contact.lost is None and self._state is SessionState.CONNECTING
        )

    def _lose_link(self, reason: str) -> None:
        self.contact.note_loss(reason)
        self.heartbeat.stop_reading()
        if self.guest is not None:
            self.guest.cchan.abort_requests(reason)
        self._reader.lose_link()

    def _switch_state(self, state: SessionState) -> None:
        """Change the state. No other place does."""
        if state is not self._state and self._state.may_become(state):
            self._state = state
            self.notify_change()

    def notify_change(self) -> None:
        self._reported_degraded = self.degraded
        self._listener.note_change()

    def _notify_degraded(self) -> None:
        if self.degraded != self._reported_degraded:
            self.notify_change()


def _raise_task_errors(tasks: list[asyncio.Task[None]]) -> None:
    """Raise the exception of a task that has ended by one: a bug must not stay unseen."""
    for task in tasks:
        if task.done() and not task.cancelled() and (error := task.exception()) is not None:
            raise error
