# SPDX-License-Identifier: GPL-2.0-or-later
"""Go on with the activations and faults that the journal holds.

The journal may be read late, since its disk may hang.  Meanwhile resources may have
been started and stopped here; what happened then counts, and not the journal.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace

from vesper_monitor.faults.activation import ResourceActivation
from vesper_monitor.faults.carried_fault import boot_of_fault
from vesper_monitor.faults.fault_numbers import FaultNumbers
from vesper_monitor.faults.fault_reports import FaultReports
from vesper_monitor.faults.lifecycle import ActivationLifecycle
from vesper_monitor.faults.migration import FaultMigration
from vesper_monitor.faults.registry import ActivationRegistry
from vesper_monitor.journal.batch import Batch
from vesper_monitor.journal.records import ActivationRecord, Fault
from vesper_monitor.journal.writer import JournalWriter

__all__ = ["Restorer"]


class Restorer:
    """Brings the journal's activations and those begun meanwhile together."""

    def __init__(
        self,
        registry: ActivationRegistry,
        lifecycle: ActivationLifecycle,
        reports: FaultReports,
        migration: FaultMigration,
        writer: JournalWriter,
        numbers: FaultNumbers,
    ) -> None:
        self._registry = registry
        self._lifecycle = lifecycle
        self._reports = reports
        self._migration = migration
        self._writer = writer
        self._numbers = numbers

    def restore_activations(
        self,
        records: Iterable[ActivationRecord],
        faults: Iterable[Fault],
        stopped_for: Iterable[Fault],
        boots: Mapping[tuple[str, int], int],
    ) -> None:
        """Go on with activations of an earlier vesperd.

        :param faults: that have not ended.
        :param stopped_for: as in :class:`ActivationLifecycle`.
        :param boots: of guests' cores, by (UUID, domain id).
        """
        changed_early = self._lifecycle.take_changed_early()
        for fault in stopped_for:
            if fault.resource not in changed_early:
                self._lifecycle.stopped_for[fault.resource] = fault
        held = {fault.instance: fault for fault in faults if fault.ended is None}
        begun_here = self._registry.list_all()
        for record in records:
            if record.resource in changed_early:
                self._supersede_record(record, held.get(record.id))
            else:
                self._restore_one(record, held.get(record.id), boots, begun_here)

    def _restore_one(
        self,
        record: ActivationRecord,
        fault: Fault | None,
        boots: Mapping[tuple[str, int], int],
        begun_here: list[ResourceActivation],
    ) -> None:
        """Go on with an activation, unless another resource has begun one of its domain here."""
        activation = self._lifecycle.make_activation(record, fault, restored=True)
        later = [one for one in self._registry.of_domain(record.domain) if one in begun_here]
        if later:
            self._lifecycle.take_over(activation, later[-1])
            return
        activation.boot_id = boots.get((record.uuid, record.domid))
        self._lifecycle.begin_activation(activation)
        if activation.fault is not None and activation.fault.told is None:
            if activation.boot_id is None:
                self._migration.doubt_fault(activation, boot_of_fault(activation.fault))
            self._reports.admit_fault(activation, activation.fault)
        self._reports.alarms.reset_alarm(activation)

    def _supersede_record(self, record: ActivationRecord, fault: Fault | None) -> None:
        """End an activation of the journal's: its resource was started or stopped meanwhile.

        Its fault becomes that of the present activation, if that has the same domain.
        """
        now = time.time()
        batch = Batch(instances=[replace(record, ended=now)])
        current = self._registry.get_activation(record.resource)
        domain = record.uuid, record.domid
        if fault is None:
            pass
        elif current is None or (current.record.uuid, current.record.domid) != domain:
            by = "stop" if current is None else "a later start"
            ended = replace(fault, ended=now, ended_by=by)
            batch.faults = [ended]
            if current is None:
                self._lifecycle.stopped_for[record.resource] = ended
        elif current.fault is None or _is_same_record(current.fault, fault):
            batch.faults = [self._hold_fault(current, fault)]
        else:
            batch.faults = [replace(fault, ended=now, ended_by="a later fault")]
        self._writer.put_batch(record.vm, batch)

    def _hold_fault(self, activation: ResourceActivation, fault: Fault) -> Fault:
        """Let an activation hold the journal's fault, in place of the one found again here."""
        found = activation.fault
        told = fault.told if found is None or fault.told is not None else found.told
        fault = replace(fault, instance=activation.record.id, told=told)
        if found is not None:
            self._numbers.set_number(found.id, fault.id)
        activation.fault = fault
        self._reports.admit_fault(activation, fault)
        activation.fault_is_recorded(fault.id)
        self._reports.alarms.reset_alarm(activation)
        return fault


def _is_same_record(one: Fault, other: Fault) -> bool:
    """Tell whether both were found in one record of a guest, which was read twice."""
    return one.event_key is not None and one.event_key == other.event_key
