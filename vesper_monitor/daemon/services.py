# SPDX-License-Identifier: GPL-2.0-or-later
"""Asks guests whether their services have a main process.

Around the state machine of vesper_monitor/faults/service_watch.py: the clock,
the guests' sessions, and who is told of a change.
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

#: s between two looks at which guests are to be asked.
TICK_S = 1.0
#: Guests that are asked at the same time.
MAX_ASKED = 50
#: s before this vesperd's start: what has ended a service then may still be missing.
RECALL_S = 600.0
#: s for which a monitor is reminded of a change: it may have been told of another just before.
REMIND_S = 15.0


class Services:
    """The services of all instances.

    :param instances: of this host.
    :param session_of: who watches a domain.
    :param on_change: what :meth:`find_missing_service` says of a domain's instance has changed.
    :param clock: s of any monotonic clock.
    """

    def __init__(
        self,
        instances: Callable[[], Iterable[ResourceActivation]],
        session_of: Callable[[Domain], Session | None],
        on_change: Callable[[Domain], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._instances = instances
        self._session_of = session_of
        self._on_change = on_change
        self._clock = clock
        #: by the instance's id
        self._watches: dict[str, ServiceWatch] = {}
        #: likewise: whether something is lacking, and until when that is new
        self._told: dict[str, tuple[bool, float]] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}

    # ------------------------------------------------------------ looking

    def find_missing_service(self, record: ActivationRecord) -> str | None:
        """Which of an instance's services is missing in its guest; None: none, as far as is known.

        Says nothing of a guest that is not heard.
        """
        watch = self._watches.get(record.id)
        return watch.find_missing_service(self._clock()) if watch is not None else None

    # ------------------------------------------------------------ what happens

    def note_events(self, instances: Iterable[ResourceActivation], events: Iterable[Event]) -> None:
        """Something happened in the guest of these instances."""
        now = self._clock()
        watches = [self._watch_of(instance) for instance in instances if instance.record.services]
        new = [event for event in events if not event.again]  # those are long past
        for watch in watches:
            for event in new:
                watch.note_event(event, now)

    def recall_events(self, instance: ResourceActivation, events: Iterable[Event]) -> None:
        """What an earlier daemon has seen of an instance, in order."""
        now, today = self._clock(), time.time()
        watch = self._watch_of(instance)
        for event in events:
            watch.note_event(event, now - max(0.0, today - event.received))

    async def run(self) -> None:
        """Ask, again and again. Never returns."""
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
        """Ask those guests that are due, and say what has changed."""
        now = self._clock()
        known = {}
        for instance in self._instances():
            record = instance.record
            if not record.services or instance.handed_over:
                continue
            known[record.id] = watch = self._watch_of(instance)
            domain = Domain(record.vm, record.domid, record.uuid)
            session = self._session_of(domain)
            hello = session.hello if session is not None else None
            if session is None or hello is None or session.state is not SessionState.ACTIVE:
                watch.note_unheard()
            else:
                watch.note_heard(hello.boot_id, now)
                may_ask = record.id not in self._asking and len(self._asking) < MAX_ASKED
                if may_ask and watch.is_due(now):
                    self._begin_task(record.id, self._ask_guest(watch, session))
            self._tell_change(record.id, domain, watch.find_missing_service(now) is not None, now)
        self._watches = known
        self._told = {key: told for key, told in self._told.items() if key in known}

    # ------------------------------------------------------------ inside

    def _watch_of(self, instance: ResourceActivation) -> ServiceWatch:
        record = instance.record
        watch = self._watches.setdefault(record.id, ServiceWatch(record.vm))
        watch.set_services(record.services, self._clock())
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

    def _tell_change(self, key: str, domain: Domain, is_lacking: bool, now: float) -> None:
        before, until = self._told.get(key, (False, 0.0))
        if is_lacking != before:
            until = now + REMIND_S
            self._told[key] = is_lacking, until
        if now < until:
            self._on_change(domain)
