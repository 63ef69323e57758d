# SPDX-License-Identifier: GPL-2.0-or-later
"""The way of an event: verdict, journal, followers and waiting monitors.

::

    event ► verdict (instances) ► journal (recorder) ──written, or 0.5 s over──► followers
                                        │                                        monitors
                                        └──written──► position noted in the guest

Nobody waits longer for the journal than that.  A guest's position is noted in
the guest once its records are written: a vesperd that ends before that, and
another host, find them again there.

What waits for a journal that fails is bounded, too.  Beyond :data:`MAX_BACKLOG`
a guest's records are judged and reported as ever, and stay in the guest.  They
are read from there again, for the journal alone, when it works again.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Mapping

from vesper_monitor.daemon.followers import Followers
from vesper_monitor.daemon.incoming import IncomingDomains
from vesper_monitor.faults.activations import Activations
from vesper_monitor.guest.event import Event
from vesper_monitor.guest.relay.positions import Position
from vesper_monitor.guest.session import Session
from vesper_monitor.hypervisor.transport import Domain
from vesper_monitor.journal.journal import KEEP_WORDS, Batch
from vesper_monitor.journal.writer import JournalWriter

__all__ = ["EventPipeline"]

_log = logging.getLogger(__name__)

#: Events that wait for the journal, and those of one VM, whose flood must not
#: delay the others' faults.
MAX_BACKLOG = 20_000
MAX_BACKLOG_OF_ONE = 5000
#: Beyond that, those that the host itself has seen: no guest keeps them.
SPARE_FOR_HOST = 500


class EventPipeline:
    """
    :ivar last_event_id: the number of the latest event; negative as long as the
        journal has not said where its own end (:meth:`begin_numbering`).
    """

    def __init__(
        self,
        recorder: JournalWriter,
        instances: Activations,
        followers: Followers,
        expected: IncomingDomains | None = None,
    ) -> None:
        self._recorder = recorder
        self._instances = instances
        self._followers = followers
        self._expected = expected or IncomingDomains()
        self.last_event_id = 0
        self._numbered = False
        self._backlog_of: Counter[str] = Counter()  # by VM
        self._backlog = 0
        self._words_of: dict[str, deque[Event]] = {}  # events with last words among them, by VM
        self._not_kept = 0
        #: what their guests have beyond the backlog is read again later
        self._behind: set[Session] = set()
        #: positions that were put last, by (UUID, domain id)
        self._saved: dict[tuple[str, int], Mapping[Position, int]] = {}

    def begin_numbering(self, last_event_id: int, last_fault_id: int) -> None:
        """Number what came before the journal could be read, and write it."""
        number_fault = self._instances.make_fault_numbering(last_fault_id, last_event_id)
        came = -self.last_event_id
        self._numbered = True
        self.last_event_id = last_event_id + came

        def number(batch: Batch) -> None:
            for event in batch.events:
                if event.id is not None and event.id < 0:
                    event.id = last_event_id - event.id
            batch.faults = [number_fault(fault) for fault in batch.faults]
            batch.keep_last()

        self._recorder.begin_writing(number)

    def record_events(
        self, domain: Domain, events: list[Event], session: Session | None = None
    ) -> None:
        """Take the way with events of a domain.

        :param session: that has read them; its positions are written with them.
        """
        for event in events:
            self.last_event_id += 1 if self._numbered else -1
            event.id = self.last_event_id
        new = [event for event in events if not event.again]
        self._expected.note_events(domain, new)
        faults = self._instances.judge_events(domain, new)
        reads = session.take_reads() if session is not None else []
        was_behind, batch = session in self._behind, Batch(faults=faults)
        if reads and session is not None and self._stays_behind(session):
            reads = []
            batch.events = [event for event in events if event.words is not None]
        else:
            batch.events = self._events_to_keep(domain.name, events, 0 if reads else SPARE_FOR_HOST)
            if session is not None:
                self._add_positions(session, batch)
        count, vm = len(batch.events), domain.name
        self._limit_words(vm, batch.events)
        self._backlog += count
        self._backlog_of[vm] += count

        def tell() -> None:
            self._instances.tell_recorded_faults(faults)
            self._followers.put_events(new)

        def written() -> None:
            self._instances.note_written(faults)
            for channel, cpu, following in reads:
                channel.note_written(cpu, following)
            self._reduce_backlog(vm, count)

        # Of what stays in the guest nothing is kept here, for as long as that lasts.
        is_needed = bool(count or faults or reads or not was_behind)
        self._recorder.put_batch(vm, batch, tell, written if is_needed else None)

    def judge_late(self, domain: Domain, events: list[Event]) -> None:
        """Judge events of which nobody had said what is a fault there."""
        faults = self._instances.judge_events(domain, events)
        if faults:
            self._recorder.put_batch(
                domain.name, Batch(faults=faults),
                lambda: self._instances.tell_recorded_faults(faults),
                lambda: self._instances.note_written(faults),
            )  # fmt: skip

    def save_positions(self, session: Session) -> None:
        """Write how far a session has read."""
        batch = Batch()
        self._add_positions(session, batch)
        if batch.positions:
            self._recorder.put_batch(session.domain.name, batch)

    def forget_positions(self, domain: Domain) -> None:
        """The domain has gone."""
        self._saved.pop((domain.uuid, domain.domid), None)

    def _add_positions(self, session: Session, batch: Batch) -> None:
        key = (session.domain.uuid, session.domain.domid)
        positions = session.positions
        # A session that has left its guest knows none; the saved ones hold.
        if positions and positions != self._saved.get(key) and session not in self._behind:
            self._saved[key] = positions
            batch.positions[key] = positions

    # ------------------------------------------------------------ what is too much

    def _is_full(self, vm: str, spare: int = 0) -> bool:
        whole, own = self._backlog - spare, self._backlog_of[vm] - spare
        return whole > MAX_BACKLOG or own > MAX_BACKLOG_OF_ONE

    def _stays_behind(self, session: Session) -> bool:
        """Whether what was read stays in the guest for now: the journal fails."""
        if session in self._behind:
            return True
        vm = session.domain.name
        if not self._is_full(vm) or not self._recorder.is_in_doubt:
            return False
        self._behind.add(session)
        _log.warning("%s: %d events of it wait for the journal; what its guest writes beyond is "
                     "reported as ever, and kept there as long as it has room", vm,
                     self._backlog_of[vm])  # fmt: skip
        return True

    def _events_to_keep(self, vm: str, events: list[Event], spare: int) -> list[Event]:
        """Those that go to the journal: none if it works, but not as fast as the guest."""
        if self._is_full(vm, spare):
            if not self._not_kept:
                _log.warning("%s, perhaps others: too many events: not all are in the journal", vm)
            self._not_kept += len(events)
            return []
        if self._not_kept and not self._backlog:
            _log.warning("the journal keeps events again; %d are not in it", self._not_kept)
            self._not_kept = 0
        return events

    def _limit_words(self, vm: str, events: list[Event]) -> None:
        """Of last words that wait keep as many as the journal does: each is long."""
        said = [event for event in events if event.words is not None]
        if said:
            waiting = self._words_of.setdefault(vm, deque())
            waiting += said
            while len(waiting) > KEEP_WORDS:
                waiting.popleft().words = None

    def _reduce_backlog(self, vm: str, count: int) -> None:
        self._backlog -= count
        self._backlog_of[vm] -= count
        if self._backlog_of[vm]:
            return
        del self._backlog_of[vm]
        self._words_of.pop(vm, None)
        for session in [session for session in self._behind if session.domain.name == vm]:
            self._behind.discard(session)
            session.rewind_to_written()
