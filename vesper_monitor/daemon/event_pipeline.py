# SPDX-License-Identifier: GPL-2.0-or-later
"""The path of an event: verdict, journal, then followers and waiting monitors.

::

    event ► verdict (Activations) ► journal ──written, or 0.5 s over──► followers, monitors
                                       │
                                       └──written──► read position stored in the guest

Followers and monitors wait at most 0.5 s for the journal.  The read position is
stored in the guest once the records are written.  If vesperd ends before that,
the next vesperd, or another host, reads them again.

The number of events that wait for a failing journal is bounded.  Beyond
:data:`MAX_BACKLOG_EVENTS` a guest's records are still judged and reported, but
stay in the guest.  When the journal works again, they are read from there once
more, for the journal alone.
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

#: Events that wait for the journal.
MAX_BACKLOG_EVENTS = 20_000
#: Such events of one VM: its flood must not delay the faults of others.
MAX_BACKLOG_EVENTS_OF_VM = 5000
#: Events beyond these limits that the host itself has seen: no guest keeps them.
SPARE_HOST_EVENTS = 500


class EventPipeline:
    """Takes each event from its verdict to those who wait for it.

    :ivar last_event_id: number of the latest event; negative until the journal was
        read, and its last number is known (:meth:`begin_numbering`).
    """

    def __init__(
        self,
        journal: JournalWriter,
        activations: Activations,
        followers: Followers,
        incoming: IncomingDomains | None = None,
    ) -> None:
        self._journal = journal
        self._activations = activations
        self._followers = followers
        self._incoming = incoming or IncomingDomains()
        self.last_event_id = 0
        self._numbered = False
        self._backlog_of: Counter[str] = Counter()  # by VM
        self._backlog = 0
        #: by VM: waiting events that have a crash log
        self._crash_logs_of: dict[str, deque[Event]] = {}
        self._not_kept = 0
        #: sessions whose records stay in the guest beyond the backlog
        self._behind: set[Session] = set()
        #: by (UUID, domain id): positions that were written last
        self._saved: dict[tuple[str, int], Mapping[Position, int]] = {}

    def begin_numbering(self, last_event_id: int, last_fault_id: int) -> None:
        """Number the events from before the journal was read, and write them."""
        number_fault = self._activations.make_fault_numbering(last_fault_id, last_event_id)
        came = -self.last_event_id
        self._numbered = True
        self.last_event_id = last_event_id + came

        def number(batch: Batch) -> None:
            for event in batch.events:
                if event.id is not None and event.id < 0:
                    event.id = last_event_id - event.id
            batch.faults = [number_fault(fault) for fault in batch.faults]
            batch.keep_last()

        self._journal.begin_writing(number)

    def record_events(
        self, domain: Domain, events: list[Event], session: Session | None = None
    ) -> None:
        """Judge and record events of a domain, and report them.

        :param session: the one that has read them; its positions are written with them.
        """
        for event in events:
            self.last_event_id += 1 if self._numbered else -1
            event.id = self.last_event_id
        new = [event for event in events if not event.is_reread]
        self._incoming.note_events(domain, new)
        faults = self._activations.judge_events(domain, new)
        reads = session.take_reads() if session is not None else []
        was_behind, batch = session in self._behind, Batch(faults=faults)
        if reads and session is not None and self._stays_behind(session):
            reads = []
            batch.events = [event for event in events if event.crash_log is not None]
        else:
            spare = 0 if reads else SPARE_HOST_EVENTS
            batch.events = self._events_to_keep(domain.name, events, spare)
            if session is not None:
                self._add_positions(session, batch)
        count, vm = len(batch.events), domain.name
        self._limit_crash_logs(vm, batch.events)
        self._backlog += count
        self._backlog_of[vm] += count

        def report() -> None:
            self._activations.tell_recorded_faults(faults)
            self._followers.put_events(new)

        def written() -> None:
            self._activations.note_written(faults)
            for channel, cpu, following in reads:
                channel.note_written(cpu, following)
            self._reduce_backlog(vm, count)

        # While records stay in the guest, nothing has to be noted when they are written.
        is_needed = bool(count or faults or reads or not was_behind)
        self._journal.put_batch(vm, batch, report, written if is_needed else None)

    def judge_late(self, domain: Domain, events: list[Event]) -> None:
        """Judge events of a domain that a resource owns only now."""
        faults = self._activations.judge_events(domain, events)
        if faults:
            self._journal.put_batch(
                domain.name, Batch(faults=faults),
                lambda: self._activations.tell_recorded_faults(faults),
                lambda: self._activations.note_written(faults),
            )  # fmt: skip

    def save_positions(self, session: Session) -> None:
        """Write how far a session has read its guest."""
        batch = Batch()
        self._add_positions(session, batch)
        if batch.positions:
            self._journal.put_batch(session.domain.name, batch)

    def forget_positions(self, domain: Domain) -> None:
        """Forget how far a domain was read: it has left."""
        self._saved.pop(domain.key, None)

    def _add_positions(self, session: Session, batch: Batch) -> None:
        key = session.domain.key
        positions = session.positions
        # A session that has left its guest has no positions; the saved ones hold.
        if positions and positions != self._saved.get(key) and session not in self._behind:
            self._saved[key] = positions
            batch.positions[key] = positions

    # ------------------------------------------------------------ backlog

    def _is_full(self, vm: str, spare: int = 0) -> bool:
        whole, own = self._backlog - spare, self._backlog_of[vm] - spare
        return whole > MAX_BACKLOG_EVENTS or own > MAX_BACKLOG_EVENTS_OF_VM

    def _stays_behind(self, session: Session) -> bool:
        """Return whether records stay in the guest for now because the journal fails."""
        if session in self._behind:
            return True
        vm = session.domain.name
        if not self._is_full(vm) or not self._journal.is_in_doubt:
            return False
        self._behind.add(session)
        _log.warning("%s: %d of its events wait for the journal; further ones are reported, "
                     "and stay in the guest as long as it has room", vm,
                     self._backlog_of[vm])  # fmt: skip
        return True

    def _events_to_keep(self, vm: str, events: list[Event], spare: int) -> list[Event]:
        """Return the events to write: none while a guest is faster than a working journal."""
        if self._is_full(vm, spare):
            if not self._not_kept:
                _log.warning("%s, perhaps others: too many events; not all are in the journal", vm)
            self._not_kept += len(events)
            return []
        if self._not_kept and not self._backlog:
            _log.warning("the journal keeps events again; %d are not in it", self._not_kept)
            self._not_kept = 0
        return events

    def _limit_crash_logs(self, vm: str, events: list[Event]) -> None:
        """Drop the oldest crash logs that wait beyond what the journal keeps: each is long."""
        said = [event for event in events if event.crash_log is not None]
        if said:
            waiting = self._crash_logs_of.setdefault(vm, deque())
            waiting += said
            while len(waiting) > KEEP_WORDS:
                waiting.popleft().crash_log = None

    def _reduce_backlog(self, vm: str, count: int) -> None:
        self._backlog -= count
        self._backlog_of[vm] -= count
        if self._backlog_of[vm]:
            return
        del self._backlog_of[vm]
        self._crash_logs_of.pop(vm, None)
        for session in [session for session in self._behind if session.domain.name == vm]:
            self._behind.discard(session)
            session.rewind_to_written()
