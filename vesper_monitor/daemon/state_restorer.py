# SPDX-License-Identifier: GPL-2.0-or-later
"""Goes on where an earlier vesperd stopped, as soon as the journal can be read.

The disk of the journal may hang or fail when vesperd starts.  vesperd then
starts without it, numbers what it sees provisionally, and adds what the
journal holds later.
"""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

from vesper_monitor.daemon.domain_supervisor import DomainSupervisor
from vesper_monitor.daemon.event_pipeline import EventPipeline
from vesper_monitor.daemon.incoming import IncomingDomains
from vesper_monitor.daemon.operator_wishes import OperatorWishes
from vesper_monitor.daemon.services import RECALL_S, Services
from vesper_monitor.daemon.sessions import SessionManager
from vesper_monitor.faults.activations import Activations
from vesper_monitor.faults.failover_limit import WINDOW_S
from vesper_monitor.hypervisor.transport import TransportError
from vesper_monitor.journal.journal import Journal, JournalError, Remembered
from vesper_monitor.journal.records import ActivationRecord
from vesper_monitor.journal.writer import RETRY_FIRST_S, RETRY_LAST_S, JournalWriter

__all__ = ["StateRestorer", "read_boot_id"]

_log = logging.getLogger(__name__)

#: Events of one VM that are judged again for rules that count.
MAX_RECALLED_EVENTS = 5000


class StateRestorer:
    """Reads the journal of an earlier vesperd, once.

    :ivar tried: is set when the journal is read, or cannot be read for now.
    """

    def __init__(
        self,
        journal: JournalWriter,
        activations: Activations,
        operators: OperatorWishes,
        incoming: IncomingDomains,
        services: Services,
        pipeline: EventPipeline,
        sessions: SessionManager,
        domains: DomainSupervisor,
    ) -> None:
        self._journal = journal
        self._activations = activations
        self._operators = operators
        self._incoming = incoming
        self._services = services
        self._pipeline = pipeline
        self._sessions = sessions
        self._domains = domains
        self.tried = asyncio.Event()

    async def restore_state(self) -> None:
        """Restore what the journal holds; try again until it can be read."""
        is_late, found = await self._read_journal()
        self._take_over(found)
        for record in found.records:
            await self._recall_counts(record, found.last_event_id)
        self.tried.set()
        if found.records:
            _log.info("going on with %d resources of an earlier vesperd", len(found.records))
        if is_late:
            await self._catch_up()

    async def _read_journal(self) -> tuple[bool, Remembered]:
        """:returns: whether vesperd has gone on without the journal meanwhile; what it holds."""
        boot_id, pause_s, has_failed = read_boot_id(), RETRY_FIRST_S, False
        while True:
            since = time.time() - WINDOW_S
            try:
                found = await self._journal.run_on_journal(Journal.read_remembered, boot_id, since)
                return has_failed or self.tried.is_set(), found
            except JournalError as error:
                self._journal.note_unusable(str(error))
                has_failed = True
            self.tried.set()
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RETRY_LAST_S)

    def _take_over(self, found: Remembered) -> None:
        """Add what the journal holds. What happened since vesperd was started counts more."""
        self._operators.restore_wishes(found)
        for vm, probes in found.wanted_last:
            is_expected = self._incoming.probes_wanted_for(vm) is not None
            if vm not in self._operators.deactivated and not is_expected:
                self._incoming.note_expected(vm, probes)
        self._activations.restore_all(
            found.records, found.faults, found.last_fault_id, found.stopped_for, found.told,
            found.boots,
        )  # fmt: skip
        self._pipeline.begin_numbering(found.last_event_id, found.last_fault_id)

    async def _catch_up(self) -> None:
        """Do what the transports' start has left out: nobody knew then what is wanted."""
        for vm in list(self._operators.deactivated):
            await self._domains.leave_guests(vm)  # a monitor may have had it watched
        for transport in self._sessions.transports.list_usable(""):
            try:
                await self._domains.watch_wanted_domains(transport)
            except TransportError as error:
                _log.warning("transport %s: cannot tell which domains run: %s",
                             transport.name, error)  # fmt: skip

    async def _recall_counts(self, record: ActivationRecord, last_event_id: int) -> None:
        """Give earlier events to rules that count, and to the wait for services."""
        activation = self._activations.get_activation(record.resource)
        if activation is None or activation.record.domain != record.domain:
            return
        horizon = max(activation.rules.horizon, RECALL_S if record.wishes.services else 0.0)
        if not horizon:
            return
        since = max(record.started, time.time() - horizon)
        run = self._journal.run_for
        try:
            newest = await run(record.vm, Journal.nth_newest, record.vm, MAX_RECALLED_EVENTS) or 1
            events = await run(
                record.vm, Journal.read_events, vm=record.vm, after=newest - 1, until=last_event_id,
                limit=MAX_RECALLED_EVENTS,
            )  # fmt: skip
        except JournalError as error:
            _log.error("%s: rules that count begin at 0: %s", record.resource, error)
            return
        seen = [e for e in events if e.domid == record.domid and e.received >= since]
        self._services.recall_events(activation, seen)
        since = time.time() - activation.rules.horizon
        counted = [event for event in seen if event.received >= since]
        self._activations.recall_events(activation.record, counted)


def read_boot_id() -> str:
    """Return the id of the host's boot (random(4)): each boot has another one."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
