# SPDX-License-Identifier: GPL-2.0-or-later
"""The way of a fault: found by a rule, written to the journal, told to Pacemaker.

A fault is told to the monitor that waits, or to Pacemaker by an alarm
(:mod:`vesper_monitor.faults.alarms`).  It is told later if its guest has had too many
(:mod:`vesper_monitor.faults.failover_limit`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from dataclasses import replace

from vesper_monitor.faults.activation import ResourceActivation
from vesper_monitor.faults.alarms import Alarms, ReportFailure
from vesper_monitor.faults.failover_limit import WINDOW_S, FailoverLimit
from vesper_monitor.faults.fault_numbers import FaultNumbers
from vesper_monitor.faults.registry import ActivationRegistry
from vesper_monitor.guest.event import Event
from vesper_monitor.journal.batch import Batch
from vesper_monitor.journal.records import END_RULE, Fault, key_of_event
from vesper_monitor.journal.told_ledger import ToldLedger
from vesper_monitor.journal.writer import JournalWriter
from vesper_monitor.pacemaker.node_attributes import NodeAttributes
from vesper_monitor.rules.reasons import Scope, Verdict
from vesper_monitor.util.logs import ALWAYS

__all__ = ["FaultReports", "fault_attribute_name"]

_log = logging.getLogger(__name__)

#: ``Fault.ended_by`` of a fault found in a pause of watching, and of the end of a domain.
PAUSE = "pause of watching"
DOMAIN_END = "end of the domain"
#: s after a fault until the cluster shows it: the failover has precedence.
SHOW_AFTER_S = 10.0


def fault_attribute_name(vm: str) -> str:
    """Return the name of the node attribute with a VM's last fault."""
    return f"vesper-fault-{vm}"


class FaultReports:
    """
    :param ledger: remembers which faults Pacemaker knows and the journal does not.
    :param attributes: where the cluster shows each VM's last fault.
    :param grace: see :class:`vesper_monitor.faults.alarms.Alarms`.
    """

    def __init__(
        self,
        registry: ActivationRegistry,
        writer: JournalWriter,
        *,
        numbers: FaultNumbers,
        limit: FailoverLimit,
        ledger: ToldLedger,
        attributes: NodeAttributes | None,
        report_failure: ReportFailure,
        grace: float,
    ) -> None:
        self._registry = registry
        self._writer = writer
        self._numbers = numbers
        self._limit = limit
        self._ledger = ledger
        self._attributes = attributes
        self.alarms = Alarms(report_failure, grace, numbers, self)
        #: faults that are not in the journal yet, by activation and time
        self._unwritten: set[tuple[str, float]] = set()

    # ------------------------------------------------------------ found

    def judge_events(
        self, activations: list[ResourceActivation], events: Iterable[Event]
    ) -> list[Fault]:
        """Return the faults among events of one domain.

        They are to be written to the journal, then told (:meth:`tell_recorded_faults`).
        An activation holds one fault: until that is over, further ones are only events.
        """
        found: list[Fault] = []
        for event in events:
            for activation in activations:
                if activation.fault is not None and activation.doubted_boot is None:
                    continue
                if activation.judged_at_source == key_of_event(event):
                    continue
                verdict = activation.rules.judge_event(event, activation.record.wishes.services)
                if verdict is not None and verdict.rule not in activation.rules_in_pause:
                    found.append(self._hold_fault(activation, event, verdict))
        return found

    def _hold_fault(
        self, activation: ResourceActivation, event: Event, verdict: Verdict
    ) -> Fault:
        """Make a fault of an event, and let its activation hold it."""
        self.drop_doubted(activation, "a later fault")
        record, now = activation.record, time.time()
        flapping = self._limit.describe_flapping(record.vm, now)
        fault = Fault.of_activation(
            record,
            id=self._numbers.take_number(),
            scope=verdict.scope.value,
            rule=verdict.rule,
            reason=f"{verdict.reason}; {flapping}" if flapping else verdict.reason,
            event={**event.to_json(), "id": event.id},
            seen=now,
            told=self._ledger.when_told(record, event, verdict.rule),
        )
        self._unwritten.add((fault.instance, fault.seen))
        if activation.paused:
            activation.rules_in_pause.add(verdict.rule)
            return replace(fault, ended=fault.seen, ended_by=PAUSE)
        activation.fault_found(fault)
        return fault

    def record_death(self, activation: ResourceActivation) -> None:
        """Write the end of a domain to the list of faults, if Pacemaker was told of it."""
        told, death = activation.death_told, activation.death
        reason = activation.dead_reason
        if told is None or death is None or reason is None or activation.death_recorded:
            return
        if activation.fault is not None and activation.fault.told is not None:
            return  # Pacemaker was told of that instead
        activation.death_recorded = True
        fault = Fault.of_activation(
            activation.record,
            id=self._numbers.take_number(),
            scope=Scope.SYSTEM.value,
            rule=END_RULE,
            reason=reason,
            event=death,
            seen=min(death["received"], told),
            told=told,
            ended=time.time(),
            ended_by=DOMAIN_END,
        )
        self._writer.put_batch(fault.vm, Batch(faults=[fault]))
        _log_fault(fault)
        self._show_fault(fault)

    # ------------------------------------------------------------ written

    def put_fault(self, fault: Fault) -> None:
        """Write a fault that its activation holds from now on, then tell its monitors."""
        self._unwritten.add((fault.instance, fault.seen))
        self._writer.put_batch(
            fault.vm, Batch(faults=[fault]), lambda: self.tell_recorded_faults([fault]),
            lambda: self.note_written([fault]),
        )  # fmt: skip

    def note_written(self, faults: Iterable[Fault]) -> None:
        """Note that the journal has these faults."""
        for fault in faults:
            self._unwritten.discard((fault.instance, fault.seen))
            if fault.told is not None:
                self._ledger.forget_fault(fault)

    # ------------------------------------------------------------ told

    def tell_recorded_faults(self, faults: Iterable[Fault]) -> None:
        """Tell the monitors of faults that the journal has, or that waited long enough for it."""
        for fault in map(self._numbers.number_fault, faults):
            activation = self._registry.get_activation(fault.resource)
            if activation is None or activation.record.id != fault.instance:
                continue
            if fault.ended_by == PAUSE:
                _log.error("%s: %s is not reported, because watching is paused: %s",
                           fault.resource, fault.label, fault.reason)  # fmt: skip
                continue
            self.admit_fault(activation, fault)
            activation.fault_is_recorded(fault.id)
            self.alarms.reset_alarm(activation)
            # After the monitor has its answer, in the loop's next turn.
            asyncio.get_running_loop().call_soon(_log_fault, fault)
            self._show_fault(fault)

    def admit_fault(self, activation: ResourceActivation, fault: Fault) -> None:
        """Let a fault be told now, or defer it because its guest has had too many."""
        held = activation.fault
        if held is None or held.id != fault.id or held.told is not None:
            return
        now = time.time()
        event = fault.event.get("id")
        at = self._limit.next_allowed_time(fault.vm, now, event)
        if at <= now:
            self._limit.note_told(fault.vm, now, event)
            activation.end_deferral()
            return
        when = time.strftime("%H:%M:%S", time.localtime(at))
        why = (
            f"{fault.vm}: {fault.label} ({fault.reason}) is not reported before {when}: there "
            f"were {self._limit.most} in the last {WINDOW_S / 60:.0f} min, as many as "
            f"max_failovers allows; see to the guest, then: vesper faults clear {fault.resource}"
        )
        if activation.deferred is None:
            _log.error("%s: %s", fault.resource, why)
        clock = asyncio.get_running_loop().time()
        activation.defer_fault(why, clock + at - now, clock)

    def deferral_over(self, activation: ResourceActivation) -> None:
        """Tell a fault whose time has come, or defer it again."""
        if activation.fault is not None and activation.deferred is not None:
            self.admit_fault(activation, activation.fault)
            self.alarms.reset_alarm(activation)

    def fault_told(self, activation: ResourceActivation, fault: Fault) -> None:
        """Note that Pacemaker knows a fault."""
        told = activation.fault_told(self._numbers.number_of(fault.id), time.time())
        if told is not None:
            if (told.instance, told.seen) in self._unwritten:
                self._ledger.note_told(told)
            self._writer.put_batch(
                told.vm, Batch(faults=[told]), None, lambda: self.note_written([told])
            )

    def death_told(self, activation: ResourceActivation) -> None:
        """Note that a monitor was told of the end of the domain.

        Its agent may find that the guest has rebooted, and then begins another activation.
        So the end is written at the second time only, or when the resource is stopped.
        """
        if activation.death_told is None:
            activation.death_told = time.time()
        else:
            self.record_death(activation)

    # ------------------------------------------------------------ over

    def end_fault(self, activation: ResourceActivation, by: str) -> Fault | None:
        """End the fault that an activation holds. :returns: the fault; None: it held none."""
        ended = activation.fault_cleared(time.time(), by)
        if ended is not None:
            self.note_ended(ended)
            self._writer.put_batch(ended.vm, Batch(faults=[ended]))
            _log.warning("%s: %s ended by %s", ended.resource, ended.label, by)
        return ended

    def note_ended(self, fault: Fault) -> None:
        """Note that a fault is over."""
        if fault.event_key is None:  # the next one by its rule is another fault
            self._ledger.forget_fault(fault)

    def drop_doubted(self, activation: ResourceActivation, by: str) -> None:
        """End a fault that came along with the VM, if it may be another boot's."""
        if activation.doubted_boot is not None:
            self.end_fault(activation, by)

    def _show_fault(self, fault: Fault) -> None:
        """Let the cluster show a fault as its VM's last one."""
        if self._attributes is not None:
            when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(fault.seen))
            text = f"{when} {fault.label}: {fault.reason}"
            name = fault_attribute_name(fault.vm)
            self._attributes.set_attribute(name, text, after=SHOW_AFTER_S)


def _log_fault(fault: Fault) -> None:
    _log.error("%s: %s: %s", fault.resource, fault.label, fault.reason, extra={ALWAYS: True})
