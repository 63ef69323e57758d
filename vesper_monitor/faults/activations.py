# SPDX-License-Identifier: GPL-2.0-or-later
"""The activations of this host, as vesperd's other parts see them.

Around the state machine of one activation (activation.py) each part has a module:
registry.py holds the activations, lifecycle.py begins and ends them, fault_reports.py
takes a fault its way, alarms.py tells Pacemaker without a monitor, monitors.py serves
the monitors that wait, migration.py lets a fault go with its VM, restore.py goes on
with what the journal holds.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from vesper_monitor.faults import domain_events
from vesper_monitor.faults.activation import ResourceActivation
from vesper_monitor.faults.alarms import ReportFailure
from vesper_monitor.faults.carried_fault import CarriedFault
from vesper_monitor.faults.failover_limit import FailoverLimit
from vesper_monitor.faults.fault_numbers import FaultNumbers
from vesper_monitor.faults.fault_reports import FaultReports
from vesper_monitor.faults.lifecycle import ActivationLifecycle, make_rules
from vesper_monitor.faults.migration import FaultMigration
from vesper_monitor.faults.monitors import Deliver, serve_monitor
from vesper_monitor.faults.registry import ActivationRegistry
from vesper_monitor.faults.restore import Restorer
from vesper_monitor.faults.watching import Watching
from vesper_monitor.guest.event import Event
from vesper_monitor.hypervisor.transport import Domain, DomainReport
from vesper_monitor.journal.records import PANIC_RULE, ActivationRecord, Fault, Wishes
from vesper_monitor.journal.told_ledger import ToldLedger
from vesper_monitor.journal.writer import JournalWriter
from vesper_monitor.pacemaker import commands
from vesper_monitor.pacemaker.node_attributes import NodeAttributes

__all__ = ["Activations"]

_log = logging.getLogger(__name__)

#: Activations held at the same time; more is a mistake of the one who starts them.
MAX_ACTIVATIONS = 1000


class Activations:
    """
    :param watching: how well the domain of an activation is watched now.
    :param grace: s by which a monitor may be late before Pacemaker is told of a fault
        without it.
    :param max_failovers: faults of one VM that are told in an hour.
    :param tell: tells Pacemaker (:func:`vesper_monitor.pacemaker.commands.report_failure`).
    :param paused: whether an operator has paused the watching of a VM.
    :param attributes: where the cluster shows each VM's last fault.
    :param ledger: remembers which faults Pacemaker knows and the journal does not.
    :param numbered: False: faults have no numbers until :meth:`make_fault_numbering`.
    """

    def __init__(
        self,
        writer: JournalWriter,
        watching: Callable[[ActivationRecord], Watching],
        *,
        grace: float,
        max_failovers: int,
        tell: ReportFailure = commands.report_failure,
        paused: Callable[[str], bool] = lambda _: False,
        attributes: NodeAttributes | None = None,
        ledger: ToldLedger | None = None,
        numbered: bool = True,
    ) -> None:
        ledger = ledger or ToldLedger(None)
        self._limit = FailoverLimit(max_failovers)
        self._numbers = FaultNumbers(is_known=numbered)
        self._registry = ActivationRegistry()
        self.reports = FaultReports(
            self._registry, writer, numbers=self._numbers, limit=self._limit, ledger=ledger,
            attributes=attributes, report_failure=tell, grace=grace,
        )  # fmt: skip
        self._migration = FaultMigration(self.reports, writer, self._numbers, ledger)
        self._lifecycle = ActivationLifecycle(
            self._registry, self.reports, writer, self._numbers, watching, paused
        )
        self._restorer = Restorer(
            self._registry, self._lifecycle, self.reports, self._migration, writer,
            self._numbers,
        )  # fmt: skip
        # What all of them are asked for.
        self.list_all = self._registry.list_all
        self.get_activation = self._registry.get_activation
        self.of_domain = self._registry.of_domain
        self.of_vm = self._registry.of_vm
        self.tell_recorded_faults = self.reports.tell_recorded_faults
        self.note_written = self.reports.note_written
        self.hand_over = self._migration.hand_over
        self.has_reported = self._migration.has_reported

    @property
    def left(self) -> dict[str, str]:
        """Resources that have ended here, and this node's name."""
        return self._lifecycle.left

    async def close(self) -> None:
        """Tell Pacemaker nothing more."""
        await self.reports.alarms.close()

    # ------------------------------------------------------------ the journal

    def restore_all(
        self,
        records: Iterable[ActivationRecord],
        faults: Iterable[Fault],
        last_fault_id: int,
        stopped_for: Iterable[Fault] = (),
        told: Iterable[tuple[str, float]] = (),
        boots: Mapping[tuple[str, int], int] | None = None,
    ) -> None:
        """Go on with what the journal holds.

        Faults found before have no numbers until :meth:`make_fault_numbering`.

        :param stopped_for: see :meth:`stopped_for`.
        :param told: VMs of which faults were told in the last hour, and when.
        :param boots: of guests' cores, by (UUID, domain id).
        """
        self._numbers.begin_after(last_fault_id)
        for vm, at in told:
            self._limit.note_told(vm, at)
        self._restorer.restore_activations(records, faults, stopped_for, boots or {})

    def make_fault_numbering(
        self, last_fault_id: int, last_event_id: int
    ) -> Callable[[Fault], Fault]:
        """Number the faults that were found before, and their events, after the journal's last.

        :returns: a function that does so with a fault.
        """
        self._numbers.number_found(last_fault_id, last_event_id)
        for activation in self.list_all():
            if activation.fault is not None:
                activation.fault = self._numbers.number_fault(activation.fault)
        for resource, fault in self._lifecycle.stopped_for.items():
            self._lifecycle.stopped_for[resource] = self._numbers.number_fault(fault)
        return self._numbers.number_fault

    def recall_events(self, record: ActivationRecord, events: Iterable[Event]) -> None:
        """Count the events that an earlier vesperd has judged.

        :param events: of that activation, in order.
        """
        activation = self.get_activation(record.resource)
        if activation is not None and activation.record.id == record.id:
            for event in events:
                activation.rules.judge_event(event, record.wishes.services)

    # ------------------------------------------------------------ start, stop

    def start_activation(
        self,
        resource: str,
        domain: Domain,
        wishes: Wishes,
        transport: str = "",
    ) -> ResourceActivation:
        """Begin an activation; the resource's earlier one and its fault end.

        If the domain is the one that the resource was stopped for, the stop was not
        complete (its process died).  Then the fault is this activation's.

        :param transport: name of the one on which the domain runs.
        :raises ValueError: there are too many.
        """
        if resource not in self._registry and len(self._registry) >= MAX_ACTIVATIONS:
            raise ValueError(f"more than {MAX_ACTIVATIONS} resources")
        now = time.time()
        record = ActivationRecord(
            id=f"{resource}/{domain.uuid}/{domain.domid}/{now:.6f}",
            resource=resource,
            vm=domain.name,
            uuid=domain.uuid,
            domid=domain.domid,
            started=now,
            wishes=wishes,
            transport=transport,
        )
        fault = self._lifecycle.stopped_for.pop(resource, None)
        if fault is not None and (fault.uuid, fault.domid) == domain.key:
            fault = replace(fault, instance=record.id, ended=None, ended_by=None)
        else:
            fault = None
        activation = self._lifecycle.make_activation(record, fault)
        self._lifecycle.begin_activation(activation)
        self._lifecycle.save_activation(activation, fault)
        _log.info("%s: watching %s (domain %d)", resource, domain.name, domain.domid)
        if fault is not None:
            _log.warning(
                "%s: its stop was not completed, so it still has %s", resource, fault.label
            )
            self.reports.admit_fault(activation, fault)
            self.reports.alarms.reset_alarm(activation)
        return activation

    def stop_activation(
        self, resource: str, then: Callable[[], None] | None = None
    ) -> ResourceActivation | None:
        """End the activation of a resource that is being stopped.

        :param then: called when that is in the journal, or could not be written.
        :returns: the activation that ended; None: there was none.
        """
        self._lifecycle.note_change(resource)
        activation = self._registry.remove_activation(resource)
        if activation is None:
            return None
        self.reports.record_death(activation)
        fault = self._lifecycle.end_activation(activation, "stop", then=then)
        if fault is not None and not activation.handed_over:
            self._lifecycle.stopped_for[resource] = fault
        if activation.node is not None and activation.turns.may_be_on_record:
            self.left[resource] = activation.node
        _log.info("%s: stopped", resource)
        return activation

    def stopped_for(self, resource: str) -> Fault | None:
        """Return the fault with which a resource was stopped last, until its next activation.

        A stop that was killed and is tried again must still know it.  The domain that runs
        now may be another one than the fault's.
        """
        return self._lifecycle.stopped_for.get(resource)

    def forget_earlier_lives(self, domain: Domain) -> None:
        """Forget what resources were stopped for in earlier domains of this VM."""
        for resource, fault in list(self._lifecycle.stopped_for.items()):
            if fault.vm == domain.name and (fault.uuid, fault.domid) != domain.key:
                del self._lifecycle.stopped_for[resource]

    def end_vm(self, vm: str, by: str, why: str) -> int:
        """End all activations of a VM, without a stop. :returns: how many there were.

        :param why: for monitors that wait.
        """
        ended = self.of_vm(vm)
        for activation in ended:
            self._registry.remove_activation(activation.record.resource)
        for activation in ended:
            self._lifecycle.end_activation(activation, by, why)
            _log.info("%s: ended by %s", activation.record.resource, by)
        return len(ended)

    # ------------------------------------------------------------ wishes

    def change_wishes(self, activation: ResourceActivation, wishes: Wishes) -> None:
        """Note that a resource has other parameters now."""
        before = activation.record.wishes
        activation.record = record = replace(activation.record, wishes=wishes)
        if wishes.fault_on != before.fault_on:
            activation.rules = make_rules(record)
            _log.info("%s: fault_on is now: %s", record.resource, wishes.fault_on or "(default)")
        self._lifecycle.save_activation(activation)

    def refuse_wishes(self, activation: ResourceActivation, why: str | None) -> None:
        """Note which of an agent's present wishes cannot be fulfilled; None: all can."""
        if why != activation.refused:
            if why is not None:
                _log.error("%s: %s", activation.record.resource, why)
            activation.refuse_wishes(why)
            activation.watch_changed(_clock_now())

    # ------------------------------------------------------------ faults

    def judge_events(self, domain: Domain, events: Iterable[Event]) -> list[Fault]:
        """Return the faults among a domain's events. See :meth:`FaultReports.judge_events`."""
        return self.reports.judge_events(self.of_domain(domain), events)

    def clear_faults(self, *, fault_id: int | None = None, resource: str | None = None) -> int:
        """End faults by an operator's word. :returns: how many ended."""
        ended = 0
        for activation in self.list_all():
            fault = activation.fault
            if fault is None or (fault.id != fault_id and activation.record.resource != resource):
                continue
            ended += self.reports.end_fault(activation, "operator") is not None
            self.reports.alarms.reset_alarm(activation)
        return ended

    def take_carried_fault(self, activation: ResourceActivation, carried: CarriedFault) -> str:
        """Take a fault that came along with a VM. See :meth:`FaultMigration.take_fault`."""
        return self._migration.take_fault(activation, carried)

    def guest_met(self, domain: Domain, boot_id: int) -> None:
        """Note which boot of the guest this is, as its core says."""
        for activation in self.of_domain(domain):
            self._migration.note_boot(activation, boot_id)

    # ------------------------------------------------------------ the domain

    def watch_changed(self, domain: Domain) -> None:
        """Note that a domain may be watched better or worse than before."""
        for activation in self.of_domain(domain):
            activation.watch_changed(_clock_now())

    def domain_seen(self, domain: Domain) -> None:
        """Note that a domain runs."""
        for activation in self.of_domain(domain):
            if activation.restored:
                activation.domain_seen()
                self.reports.alarms.reset_alarm(activation)

    def domain_ended(self, domain: Domain, report: DomainReport) -> None:
        """Note that a domain does not run any more."""
        for activation in self.of_domain(domain):
            fault = activation.fault
            if fault is not None and fault.rule == PANIC_RULE:
                report = replace(report, why=fault.reason)  # the kernel's own words
            if activation.death is None:
                activation.death = domain_events.make_report_event(domain, report).to_json()
            activation.domain_ended(report, domain_events.describe_ending(domain, report))
            self.reports.alarms.reset_alarm(activation)

    def pause_vm(self, vm: str, paused: bool) -> None:
        """Report nothing of a VM but its domain's end, or report all again."""
        for activation in self.of_vm(vm):
            activation.set_paused(paused)
            self.reports.alarms.reset_alarm(activation)

    # ------------------------------------------------------------ monitors

    async def serve_monitor(
        self,
        activation: ResourceActivation,
        *,
        interval: float,
        timeout: float,  # noqa: ASYNC109 - an answer, not an error
        first: bool | None,
        deliver: Deliver,
    ) -> None:
        """Serve one monitor. See :func:`vesper_monitor.faults.monitors.serve_monitor`."""
        await serve_monitor(
            activation, self.reports, interval=interval, timeout=timeout, first=first,
            deliver=deliver, on_first=lambda: self._lifecycle.save_activation(activation),
        )  # fmt: skip


def _clock_now() -> float:
    return asyncio.get_running_loop().time()
