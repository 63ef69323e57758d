# SPDX-License-Identifier: GPL-2.0-or-later
"""Asks guests whether the services of their resources have a main process.

The rules are in the state machine of vesper_monitor/faults/service_watch.py.
Here are the clock, the guests' sessions, and the report of a change.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable

from vesper_monitor.faults.activation import ResourceActivation
from vesper_monitor.faults.service_watch import ServiceWatch
from vesper_monitor.guest.errors import SessionError
from vesper_monitor.guest.event import Event
from vesper_monitor.guest.session import Session
from vesper_monitor.guest.session_state import SessionState
from vesper_monitor.hypervisor.transport import Domain
from vesper_monitor.journal.records import ActivationRecord

__all__ = ["RECALL_S", "Services"]

_log = logging.getLogger(__name__)

#: s between two looks which guests are due to be asked.
TICK_S = 1.0
#: Guests that are asked at the same time.
MAX_ASKED_GUESTS = 50
#: s before vesperd's start whose events count: a service that ended then may still be missing.
RECALL_S = 600.0
#: s in which a change is reported again: a monitor may have had another answer just before.
REMIND_S = 15.0


class Services:
    """The services of all resource activations.

    :param activations: returns those of this host.
    :param session_of: returns the session of a domain.
    :param on_change: is called when :meth:`find_missing_service` may answer otherwise for
        a domain.
    :param clock: s of any monotonic clock.
    """

    def __init__(
        self,
        activations: Callable[[], Iterable[ResourceActivation]],
        session_of: Callable[[Domain], Session | None],
        on_change: Callable[[Domain], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._activations = activations
        self._session_of = session_of
        self._on_change = on_change
        self._clock = clock
        #: by the activation's id
        self._watches: dict[str, ServiceWatch] = {}
        #: by the activation's id: whether a service is missing, and until when that is new
        self._reported: dict[str, tuple[bool, float]] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}

    # ------------------------------------------------------------ look

    def find_missing_service(self, record: ActivationRecord) -> str | None:
        """Return a sentence that names a missing service, or None if none is known to be missing.

        Of a guest that does not answer nothing is known.
        """
        watch = self._watches.get(record.id)
        return watch.find_missing_service(self._clock()) if watch is not None else None

    # ------------------------------------------------------------ events

    def note_events(
        self, activations: Iterable[ResourceActivation], events: Iterable[Event]
    ) -> None:
        """Note events in the guest of some activations."""
        now = self._clock()
        watches = [self._watch_of(one) for one in activations if one.record.wishes.services]
        new = [event for event in events if not event.is_reread]  # those are long past
        for watch in watches:
            for event in new:
                watch.note_event(event, now)

    def recall_events(self, activation: ResourceActivation, events: Iterable[Event]) -> None:
        """Note events that an earlier vesperd has seen in the guest of an activation, in order."""
        now, today = self._clock(), time.time()
        watch = self._watch_of(activation)
        for event in events:
            watch.note_event(event, now - max(0.0, today - event.received))

    async def run(self) -> None:
        """Ask guests as they are due. Never returns."""
        try:
            while True:
                await asyncio.sleep(TICK_S)
                try:
                    self.ask_due_guests()
                except Exception:
                    _log.exception("internal error while looking for services")
        finally:
            for task in self._asking.values():
                task.cancel()

    def ask_due_guests(self) -> None:
        """Ask the guests that are due, and report what has changed."""
        now = self._clock()
        known = {}
        for activation in self._activations():
            record = activation.record
            if not record.wishes.services or activation.handed_over:
                continue
            known[record.id] = watch = self._watch_of(activation)
            domain = record.domain
            session = self._session_of(domain)
            hello = session.hello if session is not None else None
            if session is None or hello is None or session.state is not SessionState.ACTIVE:
                watch.note_unheard()
            else:
                watch.note_heard(hello.boot_id, now)
                may_ask = record.id not in self._asking and len(self._asking) < MAX_ASKED_GUESTS
                if may_ask and watch.is_due(now):
                    self._begin_task(record.id, self._ask_guest(watch, session))
            self._report_change(record.id, domain, watch.find_missing_service(now) is not None, now)
        self._watches = known
        self._reported = {key: told for key, told in self._reported.items() if key in known}

    # ------------------------------------------------------------ ask

    def _watch_of(self, activation: ResourceActivation) -> ServiceWatch:
        record = activation.record
        watch = self._watches.setdefault(record.id, ServiceWatch(record.vm))
        watch.set_services(record.wishes.services, self._clock())
        return watch

    def _begin_task(self, key: str, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._asking[key] = task
        task.add_done_callback(lambda _: self._asking.pop(key, None))

    async def _ask_guest(self, watch: ServiceWatch, session: Session) -> None:
        try:
            answer = await session.find_processes(watch.names)
        except SessionError as error:
            _log.debug("%s", error)
            watch.note_no_answer(self._clock())
        except Exception:
            watch.note_no_answer(self._clock())
            _log.exception("%s: internal error while asking for processes", session.domain.name)
        else:
            watch.note_answer(answer, self._clock())

    def _report_change(self, key: str, domain: Domain, is_missing: bool, now: float) -> None:
        before, until = self._reported.get(key, (False, 0.0))
        if is_missing != before:
            until = now + REMIND_S
            self._reported[key] = is_missing, until
        if now < until:
            self._on_change(domain)
