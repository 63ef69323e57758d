# SPDX-License-Identifier: GPL-2.0-or-later
"""How an activation begins and ends, and what the journal and other activations get of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace

from vesper_monitor.faults.activation import MIGRATION, ResourceActivation
from vesper_monitor.faults.fault_numbers import FaultNumbers
from vesper_monitor.faults.fault_reports import FaultReports
from vesper_monitor.faults.registry import ActivationRegistry
from vesper_monitor.faults.watching import Watching
from vesper_monitor.journal.batch import Batch
from vesper_monitor.journal.records import ActivationRecord, Fault
from vesper_monitor.journal.writer import JournalWriter
from vesper_monitor.rules.rule_set import RuleError, RuleSet

__all__ = ["ActivationLifecycle", "make_rules"]

_log = logging.getLogger(__name__)


class ActivationLifecycle:
    """Begins and ends activations.

    :param watching: how well the domain of an activation is watched now.
    :param paused: whether an operator has paused the watching of a VM.
    :ivar left: resources that have ended here, and this node's name: Pacemaker may have a
        degraded monitor of theirs on record.
    :ivar stopped_for: the fault with which each resource's last activation was stopped,
        until the next one begins.
    """

    def __init__(
        self,
        registry: ActivationRegistry,
        reports: FaultReports,
        writer: JournalWriter,
        numbers: FaultNumbers,
        watching: Callable[[ActivationRecord], Watching],
        paused: Callable[[str], bool],
    ) -> None:
        self._registry = registry
        self._reports = reports
        self._writer = writer
        self._watching = watching
        self._paused = paused
        self.left: dict[str, str] = {}
        self.stopped_for: dict[str, Fault] = {}
        self._numbers = numbers
        self._changed_early: set[str] = set()

    def take_changed_early(self) -> set[str]:
        """Return the resources that began or ended an activation before the journal was read."""
        changed, self._changed_early = self._changed_early, set()
        return changed

    def note_change(self, resource: str) -> None:
        """Note that a resource begins or ends an activation now."""
        if not self._numbers.is_known:
            self._changed_early.add(resource)

    def make_activation(
        self, record: ActivationRecord, fault: Fault | None, *, restored: bool = False
    ) -> ResourceActivation:
        """Return an activation, which is not begun yet."""
        return ResourceActivation(
            record, lambda: self._watching(record), fault=fault, rules=make_rules(record),
            restored=restored,
        )  # fmt: skip

    def begin_activation(self, activation: ResourceActivation) -> None:
        """Begin an activation; the resource's earlier one ends."""
        record = activation.record
        self.note_change(record.resource)
        old = self._registry.remove_activation(record.resource)
        if old is not None:
            self.end_activation(old, "a later start")
        self.left.pop(record.resource, None)
        activation.paused = self._paused(record.vm)
        others = self._registry.of_domain(record.domain)
        self._registry.add_activation(activation)
        for other in others:
            self.take_over(other, activation)

    def take_over(self, other: ResourceActivation, activation: ResourceActivation) -> None:
        """End another resource's activation: its domain belongs to the one that began last.

        A fault that Pacemaker does not know yet becomes that one's.
        """
        resource, fault = activation.record.resource, other.fault
        self._registry.remove_activation(other.record.resource)
        why = f"{other.record.vm} belongs to resource {resource} now, which found it last"
        self.end_activation(other, f"resource {resource}", why)
        _log.warning("%s: %s", other.record.resource, why)
        if fault is None or fault.told is not None or other.handed_over or activation.fault:
            return
        fault = replace(fault, resource=resource, instance=activation.record.id)
        activation.fault_found(fault)
        self._reports.put_fault(fault)

    def end_activation(
        self,
        activation: ResourceActivation,
        by: str,
        why: str | None = None,
        then: Callable[[], None] | None = None,
    ) -> Fault | None:
        """End an activation. See :meth:`ResourceActivation.end_activation`.

        :param then: called when that is in the journal, or could not be written.
        """
        by = MIGRATION if activation.handed_over else by
        fault = activation.end_activation(time.time(), by, why)
        if fault is not None:
            self._reports.note_ended(fault)
        self._reports.alarms.reset_alarm(activation)
        self.save_activation(activation, fault, then)
        return fault

    def save_activation(
        self,
        activation: ResourceActivation,
        fault: Fault | None = None,
        then: Callable[[], None] | None = None,
    ) -> None:
        """Write an activation to the journal.

        :param fault: its own, if that has changed, too.
        :param then: called when both are in the journal, or could not be written.
        """
        record = activation.record
        batch = Batch(instances=[record], faults=[fault] if fault is not None else [])
        self._writer.put_batch(record.vm, batch, then)


def make_rules(record: ActivationRecord) -> RuleSet:
    """Return the rules of an activation; the default ones, if its own are wrong."""
    try:
        return RuleSet(record.wishes.fault_on)
    except RuleError as error:  # vesperd lets none in
        _log.error("%s: fault_on: %s; the default rules are in force", record.resource, error)
        return RuleSet()
