# SPDX-License-Identifier: GPL-2.0-or-later
"""A fault goes along with its VM, when that is migrated live to another host.

How it is packed for the way: :mod:`vesper_monitor.faults.carried_fault`.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from vesper_monitor.faults.activation import ResourceActivation
from vesper_monitor.faults.carried_fault import CarriedFault, pack_fault
from vesper_monitor.faults.fault_numbers import FaultNumbers
from vesper_monitor.faults.fault_reports import FaultReports
from vesper_monitor.journal.journal import Journal
from vesper_monitor.journal.schema import JournalError
from vesper_monitor.journal.told_ledger import ToldLedger
from vesper_monitor.journal.writer import JournalWriter

__all__ = ["FaultMigration"]

_log = logging.getLogger(__name__)

#: s for a guest that has arrived to be heard, before the fault that came along
#: with it is told all the same.
DOUBT_S = 20.0


class FaultMigration:
    """Hands faults over at the source of a migration, and takes them at the target."""

    def __init__(
        self,
        reports: FaultReports,
        writer: JournalWriter,
        numbers: FaultNumbers,
        ledger: ToldLedger,
    ) -> None:
        self._reports = reports
        self._writer = writer
        self._numbers = numbers
        self._ledger = ledger

    async def hand_over(
        self, activation: ResourceActivation, ident: str | None, limit: float
    ) -> dict[str, Any] | None:
        """Hand over the fault of a VM that has left this host.

        See :meth:`ResourceActivation.hand_over`.

        :param ident: the domain number as text, if the agent knows it.
        :param limit: s, to learn whether Pacemaker takes the fault just now.
        :returns: the fault that goes along, packed; None: there is none.
        """
        record = activation.record
        activation.hand_over()
        self._reports.alarms.reset_alarm(activation)
        await self._reports.alarms.wait_for_report(activation, limit)
        fault = activation.fault
        if fault is None:
            return None
        boot_id = activation.boot_id
        if activation.doubted_boot is not None:
            boot_id = activation.doubted_boot
        if activation.restored and boot_id is None and ident != str(record.domid):
            # While no vesperd was here, the resource may have begun another activation.
            _log.warning(
                "%s: %s does not go along: it may be of another domain than the one that has "
                "left", record.resource, fault.label,
            )  # fmt: skip
            return None
        known = "which Pacemaker knows" if fault.told is not None else "to be told there"
        _log.info("%s: %s goes along with %s, %s",
                  fault.resource, fault.label, fault.vm, known)  # fmt: skip
        return pack_fault(fault, boot_id, activation.node)

    async def has_reported(
        self, vm: str, carried: CarriedFault, activation: ResourceActivation | None
    ) -> bool:
        """Tell whether a fault that came along with a VM was reported or taken here before.

        :param activation: that goes on; None: another one is about to begin.
        """
        known = activation.record.id if activation is not None else ""
        try:
            return await self._writer.run_for(vm, Journal.has_reported, vm, carried.seen, known)
        except JournalError:
            held = activation.fault if activation is not None else None
            return held is not None and held.seen == carried.seen

    def take_fault(self, activation: ResourceActivation, carried: CarriedFault) -> str:
        """Take a fault that came along with the VM of an activation.

        :returns: why it is not taken; empty: it is.
        """
        record = activation.record
        if carried.uuid != record.uuid:
            return f"it is of a domain with UUID {carried.uuid}, {record.vm} has {record.uuid}"
        if activation.boot_id is not None and carried.boot_id not in (None, activation.boot_id):
            return "it is of an earlier boot of the guest"
        activation.judged_at_source = carried.event_key
        if carried.told or self._ledger.when_told_of(record, carried.event_key) is not None:
            return "Pacemaker knows it"
        if activation.fault is not None:
            return f"there is {activation.fault.label} already"
        fault = carried.to_fault(self._numbers.take_number(), record)
        activation.fault_found(fault)
        self.doubt_fault(activation, carried.boot_id)
        _log.info("%s: %s came along from %s, where it was fault %d",
                  fault.resource, fault.label, carried.node, carried.fault_id)  # fmt: skip
        self._reports.put_fault(fault)
        return ""

    def note_boot(self, activation: ResourceActivation, boot_id: int) -> None:
        """Note which boot of the guest this is, as its core says."""
        was_doubted = activation.doubted_boot is not None
        if activation.guest_met(boot_id):
            self._reports.drop_doubted(activation, "another boot of the guest")
        if was_doubted:
            self._reports.alarms.reset_alarm(activation)

    def doubt_fault(self, activation: ResourceActivation, boot_id: int | None) -> None:
        """Tell a fault only once the guest that came with it is known to be the one that had it.

        After :data:`DOUBT_S` it is told in any case.

        :param boot_id: of the guest that had the fault, if known.
        """
        activation.doubt_fault(boot_id)
        if activation.doubted_boot is not None:
            asyncio.get_running_loop().call_later(DOUBT_S, self._end_doubt, activation)

    def _end_doubt(self, activation: ResourceActivation) -> None:
        activation.end_doubt()
        self._reports.alarms.reset_alarm(activation)
