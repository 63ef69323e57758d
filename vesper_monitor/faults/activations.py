# SPDX-License-Identifier: GPL-2.0-or-later
"""The instances of this host: keeps their monitors waiting, their faults safe.

Around the state machine of vesper_monitor/faults/activation.py: the journal, the
clock, and Pacemaker where no monitor is there to be told.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from vesper_monitor.faults import domain_events as domains
from vesper_monitor.faults.activation import (
    MIGRATION,
    ActivationState,
    Answer,
    ResourceActivation,
    Result,
    Waiter,
)
from vesper_monitor.faults.carried_fault import (
    CarriedFault,
    boot_of_fault,
    pack_fault,
)
from vesper_monitor.faults.failover_limit import WINDOW_S, FailoverLimit
from vesper_monitor.faults.watching import Watching
from vesper_monitor.guest.event import Event
from vesper_monitor.hypervisor.transport import Domain, DomainReport
from vesper_monitor.journal.batch import Batch
from vesper_monitor.journal.journal import Journal
from vesper_monitor.journal.records import (
    END_RULE,
    PANIC_RULE,
    ActivationRecord,
    Fault,
    key_of_event,
)
from vesper_monitor.journal.schema import JournalError
from vesper_monitor.journal.told_ledger import ToldLedger
from vesper_monitor.journal.writer import JournalWriter
from vesper_monitor.pacemaker import commands
from vesper_monitor.pacemaker.node_attributes import NodeAttributes
from vesper_monitor.rules.reasons import Scope
from vesper_monitor.rules.rule_set import RuleError, RuleSet
from vesper_monitor.util.logs import ALWAYS

__all__ = ["Activations", "Tell", "fault_attribute_name"]

#: :func:`vesper_monitor.pacemaker.commands.report_failure`
Tell = Callable[[str, str | None, Callable[[], bool], Callable[[], None]], Awaitable[bool]]

_log = logging.getLogger(__name__)

#: What has ended a fault that came in a pause of watching, and one that is its domain's end.
PAUSE = "pause of watching"
DOMAIN_END = "end of the domain"
#: Instances held at the same time; more is a mistake of whoever starts them.
MAX_ACTIVATIONS = 1000

#: Faults of which Pacemaker is told at the same time without a monitor: its tools
#: take a second of CPU, and many VMs may have faults at once.
MAX_REPORTS_AT_ONCE = 4

#: s for a guest that has arrived to be heard, before the fault that has come
#: with it is told all the same.
DOUBT_S = 20.0
#: s that a monitor waits for its domain to be watched, until it is told that it is not.
UNWATCHED_WAIT_S = 10.0

#: s after a fault until the cluster shows it: the failover has precedence.
SHOW_AFTER_S = 10.0


def fault_attribute_name(vm: str) -> str:
    """Name of the node attribute with a VM's last fault."""
    return f"vesper-fault-{vm}"


def _do_nothing() -> None:
    pass


class Activations:
    """
    :param watching: how well the domain of an instance is watched now.
    :param grace: s by which a monitor may be late before Pacemaker is told
        of a fault without it.
    :param max_failovers: faults of one VM that are told in an hour.
    :param tell: tells Pacemaker (:func:`vesper_monitor.pacemaker.commands.report_failure`).
    :param paused: whether an operator has paused the watching of a VM.
    :param attributes: where the cluster is shown each VM's last fault.
    :param ledger: remembers what Pacemaker knows and the journal does not.
    :param numbered: else faults have no numbers before :meth:`make_fault_numbering` is called.
    """

    def __init__(
        self,
        recorder: JournalWriter,
        watching: Callable[[ActivationRecord], Watching],
        *,
        grace: float,
        max_failovers: int,
        tell: Tell = commands.report_failure,
        paused: Callable[[str], bool] = lambda _: False,
        attributes: NodeAttributes | None = None,
        ledger: ToldLedger | None = None,
        numbered: bool = True,
    ) -> None:
        self._ledger = ledger or ToldLedger(None)
        self._recorder = recorder
        self._watching = watching
        self._grace = grace
        self._rate = FailoverLimit(max_failovers)
        self._tell = tell
        self._paused = paused
        self._attributes = attributes
        self._by_resource: dict[str, ResourceActivation] = {}
        self._by_domain: dict[tuple[str, int], list[ResourceActivation]] = {}
        #: negative as long as nobody knows how many the journal has
        self._last_fault_id = 0
        self._numbered = numbered
        #: which number the journal has given to faults that were found before
        self._numbers: dict[int, int] = {}
        #: after which number those of their events go on; None: that is not known yet
        self._first_event_id: int | None = None
        #: faults that are not in the journal yet, by instance and time
        self._unwritten: set[tuple[str, float]] = set()
        #: resources of which something was begun or ended while nobody knew the journal
        self._known_better: set[str] = set()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._tellers: dict[str, asyncio.Task[None]] = {}
        self._room = asyncio.Semaphore(MAX_REPORTS_AT_ONCE)
        #: what the last life of a resource ended with, until the next begins
        self._stopped_for: dict[str, Fault] = {}
        #: resources that have ended here, and this node's name: Pacemaker may
        #: have a degraded monitor of theirs on record
        self.left: dict[str, str] = {}
        #: faults that Pacemaker did not take; they wait for a monitor
        self._given_up: set[int] = set()

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

        Much may have happened here before it could be read; that is known better.
        Faults found meanwhile have no numbers until :meth:`make_fault_numbering` is called.

        :param stopped_for: see :meth:`stopped_for`.
        :param told: VMs of which faults were told in the last hour, and when.
        :param boots: of guests' cores, by (UUID, domain id).
        """
        if self._numbered:
            self._last_fault_id = last_fault_id
        known_better, self._known_better = self._known_better, set()
        for fault in stopped_for:
            if fault.resource not in known_better:
                self._stopped_for[fault.resource] = fault
        for vm, at in told:
            self._rate.note_told(vm, at)
        held = {fault.instance: fault for fault in faults if fault.ended is None}
        begun_here = self.list_all()
        for record in records:
            if record.resource in known_better:
                self._supersede_record(record, held.get(record.id))
                continue
            instance = self._make_instance(record, held.get(record.id), restored=True)
            domain = Domain(record.vm, record.domid, record.uuid)
            later = [one for one in self.of_domain(domain) if one in begun_here]
            if later:
                self._take_over(instance, later[-1])
                continue
            instance.boot_id = (boots or {}).get((record.uuid, record.domid))
            self._begin_instance(instance)
            if instance.fault is not None and instance.fault.told is None:
                if instance.boot_id is None:
                    self._doubt_fault(instance, boot_of_fault(instance.fault))
                self._admit_fault(instance, instance.fault)
            self._reset_alarm(instance)

    def _supersede_record(self, record: ActivationRecord, fault: Fault | None) -> None:
        """An instance of the journal's: its resource was begun or stopped here meanwhile.

        Its fault is the present instance's, if that is of the same life of the VM.
        """
        now = time.time()
        batch = Batch(instances=[replace(record, ended=now)])
        current = self._by_resource.get(record.resource)
        life = record.uuid, record.domid
        if fault is None:
            pass
        elif current is None or (current.record.uuid, current.record.domid) != life:
            by = "stop" if current is None else "a later start"
            ended = replace(fault, ended=now, ended_by=by)
            batch.faults = [ended]
            if current is None:
                self._stopped_for[record.resource] = ended
        elif current.fault is None or _is_same(current.fault, fault):
            found = current.fault
            told = fault.told if found is None or fault.told is not None else found.told
            fault = replace(fault, instance=current.record.id, told=told)
            if found is not None:
                self._numbers[found.id] = fault.id
            current.fault = fault
            batch.faults = [fault]
            self._admit_fault(current, fault)
            current.fault_is_recorded(fault.id)
            self._reset_alarm(current)
        else:
            batch.faults = [replace(fault, ended=now, ended_by="a later fault")]
        self._recorder.put_batch(record.vm, batch)

    def make_fault_numbering(
        self, last_fault_id: int, last_event_id: int
    ) -> Callable[[Fault], Fault]:
        """Number the faults that were found before, and their events, after the journal's last.

        :returns: what does so with a fault.
        """
        self._first_event_id = last_event_id
        found, self._last_fault_id = -self._last_fault_id, last_fault_id
        if not self._numbered:
            self._numbered = True
            for provisional in range(1, found + 1):
                if -provisional not in self._numbers:
                    self._last_fault_id += 1
                    self._numbers[-provisional] = self._last_fault_id
        for instance in self.list_all():
            if instance.fault is not None:
                instance.fault = self._number_fault(instance.fault)
        for resource, fault in self._stopped_for.items():
            self._stopped_for[resource] = self._number_fault(fault)
        return self._number_fault

    def _number_fault(self, fault: Fault) -> Fault:
        number, event = self._numbers.get(fault.id, fault.id), fault.event
        provisional = event.get("id")
        if isinstance(provisional, int) and provisional < 0 and self._first_event_id is not None:
            event = {**event, "id": self._first_event_id - provisional}
        return replace(fault, id=number, event=event)

    def _next_fault_id(self) -> int:
        self._last_fault_id += 1 if self._numbered else -1
        return self._last_fault_id

    def recall_events(self, record: ActivationRecord, events: Iterable[Event]) -> None:
        """Count what an earlier daemon has judged: the events of that instance, in order."""
        instance = self._by_resource.get(record.resource)
        if instance is not None and instance.record.id == record.id:
            for event in events:
                instance.rules.judge_event(event, record.services)

    async def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        tellers = list(self._tellers.values())
        for task in tellers:
            task.cancel()
        await asyncio.gather(*tellers, return_exceptions=True)

    # ------------------------------------------------------------ looking

    def list_all(self) -> list[ResourceActivation]:
        return list(self._by_resource.values())

    def get_instance(self, resource: str) -> ResourceActivation | None:
        return self._by_resource.get(resource)

    def of_domain(self, domain: Domain) -> list[ResourceActivation]:
        """Instances that are this life of that domain."""
        return list(self._by_domain.get((domain.uuid, domain.domid), ()))

    def of_vm(self, vm: str) -> list[ResourceActivation]:
        """Instances of any life of a VM."""
        return [instance for instance in self.list_all() if instance.record.vm == vm]

    # ------------------------------------------------------------ start, stop

    def _make_instance(
        self, record: ActivationRecord, fault: Fault | None, *, restored: bool = False
    ) -> ResourceActivation:
        return ResourceActivation(
            record, lambda: self._watching(record), fault=fault, rules=_rules_of_record(record),
            restored=restored,
        )  # fmt: skip

    def _begin_instance(self, instance: ResourceActivation) -> None:
        """In place of an earlier life, which ends."""
        record = instance.record
        self._know_better(record.resource)
        old = self._drop_instance(record.resource)
        if old is not None:
            self._end_instance(old, "a later start")
        self.left.pop(record.resource, None)
        instance.paused = self._paused(record.vm)
        others = self.of_domain(Domain(record.vm, record.domid, record.uuid))
        self._by_resource[record.resource] = instance
        self._by_domain.setdefault((record.uuid, record.domid), []).append(instance)
        for other in others:
            self._take_over(other, instance)

    def _take_over(self, other: ResourceActivation, instance: ResourceActivation) -> None:
        """End another resource's activation: the domain belongs to who began last.

        A fault that nobody was told of yet goes on as that one's.
        """
        resource, fault = instance.record.resource, other.fault
        self._drop_instance(other.record.resource)
        why = f"{other.record.vm} belongs to resource {resource} now, which found it last"
        self._end_instance(other, f"resource {resource}", why)
        _log.warning("%s: %s", other.record.resource, why)
        if fault is None or fault.told is not None or other.handed_over or instance.fault:
            return
        fault = replace(fault, resource=resource, instance=instance.record.id)
        instance.fault_found(fault)
        self._put(fault)

    def _put(self, fault: Fault) -> None:
        """Write a fault that is an instance's now, and tell its monitors."""
        self._unwritten.add((fault.instance, fault.seen))
        self._recorder.put_batch(
            fault.vm, Batch(faults=[fault]), lambda: self.tell_recorded_faults([fault]),
            lambda: self.note_written([fault]),
        )  # fmt: skip

    def _know_better(self, resource: str) -> None:
        if not self._numbered:
            self._known_better.add(resource)

    def _drop_instance(self, resource: str) -> ResourceActivation | None:
        instance = self._by_resource.pop(resource, None)
        if instance is not None:
            key = instance.record.uuid, instance.record.domid
            self._by_domain[key].remove(instance)
            if not self._by_domain[key]:
                del self._by_domain[key]
        return instance

    def start_instance(
        self,
        resource: str,
        domain: Domain,
        probes: Iterable[str],
        services: Iterable[str],
        hang_timeout: float | None = None,
        pause_timeout: float | None = None,
        transport: str = "",
        fault_on: str = "",
        boot_timeout: float | None = None,
    ) -> ResourceActivation:
        """A new instance begins; its predecessor and its fault end.

        A fault that has ended with a stop is this one's, if the domain is still
        in the same life: the stop was not carried through (its process died).

        :param transport: name of the one on which the domain runs.
        :raises ValueError: too many.
        """
        if resource not in self._by_resource and len(self._by_resource) >= MAX_ACTIVATIONS:
            raise ValueError(f"more than {MAX_ACTIVATIONS} resources")
        now = time.time()
        record = ActivationRecord(
            id=f"{resource}/{domain.uuid}/{domain.domid}/{now:.6f}",
            resource=resource,
            vm=domain.name,
            uuid=domain.uuid,
            domid=domain.domid,
            started=now,
            probes=tuple(probes),
            services=tuple(services),
            hang_timeout=hang_timeout,
            pause_timeout=pause_timeout,
            transport=transport,
            fault_on=fault_on,
            boot_timeout=boot_timeout,
        )
        fault = self._stopped_for.pop(resource, None)
        if fault is not None and (fault.uuid, fault.domid) == (domain.uuid, domain.domid):
            fault = replace(fault, instance=record.id, ended=None, ended_by=None)
        else:
            fault = None
        instance = self._make_instance(record, fault)
        self._begin_instance(instance)
        self._save_instance(instance, fault)
        _log.info("%s: watching %s (domain %d)", resource, domain.name, domain.domid)
        if fault is not None:
            _log.warning(
                "%s: its stop was not carried through, so it still has %s", resource, fault.label
            )
            self._admit_fault(instance, fault)
            self._reset_alarm(instance)
        return instance

    def stop_instance(
        self, resource: str, then: Callable[[], None] = _do_nothing
    ) -> ResourceActivation | None:
        """The resource is being stopped.

        :param then: called when that is in the journal, or could not be written.
        :returns: the instance that ended.
        """
        self._know_better(resource)
        instance = self._drop_instance(resource)
        if instance is not None:
            self._record_death(instance)
            fault = self._end_instance(instance, "stop", then=then)
            if fault is not None and not instance.handed_over:
                self._stopped_for[resource] = fault
            if instance.node is not None and instance.may_be_on_record:
                self.left[resource] = instance.node
            _log.info("%s: stopped", resource)
        return instance

    def stopped_for(self, resource: str) -> Fault | None:
        """The fault with which the last life of a resource ended, until another begins.

        A stop that was killed and is tried again must still know it.  Whether
        the domain that is there now is the one that had it is not looked at.
        """
        return self._stopped_for.get(resource)

    def forget_earlier_lives(self, domain: Domain) -> None:
        """A VM was seen in this life: no stop is for a fault of another one any more."""
        for resource, fault in list(self._stopped_for.items()):
            if fault.vm == domain.name and (fault.uuid, fault.domid) != (domain.uuid, domain.domid):
                del self._stopped_for[resource]

    def end_vm(self, vm: str, by: str, why: str) -> int:
        """End all instances of a VM, without a stop. :returns: how many there were.

        :param why: for monitors that wait.
        """
        ended = [self._drop_instance(instance.record.resource) for instance in self.of_vm(vm)]
        for instance in ended:
            if instance is not None:
                self._end_instance(instance, by, why)
                _log.info("%s: ended by %s", instance.record.resource, by)
        return len(ended)

    def change_wishes(
        self,
        instance: ResourceActivation,
        probes: tuple[str, ...],
        services: tuple[str, ...],
        hang_timeout: float | None,
        pause_timeout: float | None,
        fault_on: str,
        boot_timeout: float | None,
    ) -> None:
        """Its resource has other parameters now."""
        before = instance.record.fault_on
        instance.record = replace(
            instance.record,
            probes=probes,
            services=services,
            hang_timeout=hang_timeout,
            pause_timeout=pause_timeout,
            fault_on=fault_on,
            boot_timeout=boot_timeout,
        )
        if fault_on != before:
            instance.rules = _rules_of_record(instance.record)
            _log.info("%s: fault_on is now: %s", instance.record.resource, fault_on or "(default)")
        self._save_instance(instance)

    def refuse_wishes(self, instance: ResourceActivation, why: str | None) -> None:
        """Its agent wishes what cannot be done now; None: no more."""
        if why != instance.refused:
            if why is not None:
                _log.error("%s: %s", instance.record.resource, why)
            instance.refuse_wishes(why)
            instance.watch_changed(_clock_now())

    def _save_instance(
        self,
        instance: ResourceActivation,
        fault: Fault | None = None,
        then: Callable[[], None] = _do_nothing,
    ) -> None:
        """:param fault: of its own that has changed, too."""
        faults = [fault] if fault is not None else []
        record = instance.record
        self._recorder.put_batch(record.vm, Batch(instances=[record], faults=faults), then)

    def _end_instance(
        self,
        instance: ResourceActivation,
        by: str,
        why: str | None = None,
        then: Callable[[], None] = _do_nothing,
    ) -> Fault | None:
        """See :meth:`Instance.end_activation`."""
        fault = instance.end_activation(time.time(), MIGRATION if instance.handed_over else by, why)
        self._reset_alarm(instance)
        self._save_instance(instance, fault, then)
        return fault

    # ------------------------------------------------------------ faults

    def judge_events(self, domain: Domain, events: Iterable[Event]) -> list[Fault]:
        """The faults among events; hand them to the recorder, then to :meth:`tell_recorded_faults`.

        An instance holds one fault: until that is over, whatever else goes
        wrong in the guest is an event.
        """
        found: list[Fault] = []
        instances = self.of_domain(domain)
        for event in events:
            for instance in instances:
                if instance.fault is not None and instance.doubted_boot is None:
                    continue
                if instance.judged_at_source == key_of_event(event):
                    continue
                verdict = instance.rules.judge_event(event, instance.record.services)
                if verdict is None or verdict.rule in instance.rules_in_pause:
                    continue
                self._drop_doubted(instance, "a later fault")
                record, now = instance.record, time.time()
                flapping = self._rate.describe_flapping(record.vm, now)
                fault = Fault.of_activation(
                    record,
                    id=self._next_fault_id(),
                    scope=verdict.scope.value,
                    rule=verdict.rule,
                    reason=f"{verdict.reason}; {flapping}" if flapping else verdict.reason,
                    event={**event.to_json(), "id": event.id},
                    seen=now,
                    told=self._ledger.when_told(record, event),
                )
                self._unwritten.add((fault.instance, fault.seen))
                if instance.paused:
                    fault = replace(fault, ended=fault.seen, ended_by=PAUSE)
                    instance.rules_in_pause.add(verdict.rule)
                else:
                    instance.fault_found(fault)
                found.append(fault)
        return found

    def tell_recorded_faults(self, faults: Iterable[Fault]) -> None:
        """They are in the journal, or have waited for it: tell the monitors."""
        for fault in map(self._number_fault, faults):
            instance = self._by_resource.get(fault.resource)
            if instance is None or instance.record.id != fault.instance:
                continue
            if fault.ended_by == PAUSE:
                _log.error("%s: %s is not reported, paused: %s",
                           fault.resource, fault.label, fault.reason)  # fmt: skip
                continue
            self._admit_fault(instance, fault)
            instance.fault_is_recorded(fault.id)
            self._reset_alarm(instance)
            # After the monitor has its answer, in the loop's next turn.
            asyncio.get_running_loop().call_soon(_log_fault, fault)
            if self._attributes is not None:
                self._attributes.set_attribute(
                    fault_attribute_name(fault.vm), _shown_fault(fault), after=SHOW_AFTER_S
                )

    def note_written(self, faults: Iterable[Fault]) -> None:
        """They are in the journal."""
        for fault in faults:
            self._unwritten.discard((fault.instance, fault.seen))
            if fault.told is not None:
                self._ledger.forget_fault(fault)

    def _admit_fault(self, instance: ResourceActivation, fault: Fault) -> None:
        """Let a fault be told now, or defer it: its guest has had too many."""
        held = instance.fault
        if held is None or held.id != fault.id or held.told is not None:
            return
        now = time.time()
        event = fault.event.get("id")
        at = self._rate.next_allowed_time(fault.vm, now, event)
        if at <= now:
            self._rate.note_told(fault.vm, now, event)
            instance.end_deferral()
            return
        when = time.strftime("%H:%M:%S", time.localtime(at))
        why = (
            f"{fault.vm}: {fault.label} ({fault.reason}) is not reported before {when}: there "
            f"were {self._rate.most} in the last {WINDOW_S / 60:.0f} min, as many as max_failovers "
            f"allows; see to the guest, then: vesper faults clear {fault.resource}"
        )
        if instance.deferred is None:
            _log.error("%s: %s", fault.resource, why)
        instance.defer_fault(why, _clock_now() + at - now, _clock_now())

    def _admit_again(self, instance: ResourceActivation) -> None:
        if instance.fault is not None and instance.deferred is not None:
            self._admit_fault(instance, instance.fault)
            self._reset_alarm(instance)

    def clear_faults(self, *, fault_id: int | None = None, resource: str | None = None) -> int:
        """The operator says it is over. :returns: number of faults that ended."""
        ended = 0
        for instance in self.list_all():
            fault = instance.fault
            if fault is None or (fault.id != fault_id and instance.record.resource != resource):
                continue
            gone = instance.fault_cleared(time.time(), "operator")
            if gone is not None:
                ended += 1
                self._recorder.put_batch(gone.vm, Batch(faults=[gone]))
                _log.warning("%s: %s cleared by the operator", gone.resource, gone.label)
            self._reset_alarm(instance)
        return ended

    # ------------------------------------------------------------ live migration

    async def hand_over(
        self, instance: ResourceActivation, ident: str | None, limit: float
    ) -> dict[str, Any] | None:
        """Its VM has left by live migration. See :meth:`Instance.hand_over`.

        :param ident: the domain number as text, if the agent knows it.
        :param limit: s, to learn whether Pacemaker takes the fault just now.
        :returns: the fault that goes along, packed; None: there is none.
        """
        record = instance.record
        fault = instance.hand_over()
        self._reset_alarm(instance)
        teller = self._tellers.get(record.id)
        if teller is not None:
            await asyncio.wait({teller}, timeout=limit)
            fault = instance.fault
        if fault is None:
            return None
        boot_id = instance.boot_id if instance.doubted_boot is None else instance.doubted_boot
        if instance.restored and boot_id is None and ident != str(record.domid):
            # While no vesperd was here the resource may have got another life.
            _log.warning(
                "%s: %s does not go along: whether it was of the domain that has left is "
                "not known", record.resource, fault.label,
            )  # fmt: skip
            return None
        known = "which Pacemaker knows" if fault.told is not None else "to be told there"
        _log.info("%s: %s goes along with %s, %s",
                  fault.resource, fault.label, fault.vm, known)  # fmt: skip
        return pack_fault(fault, boot_id, instance.node)

    async def has_reported(
        self, vm: str, carried: CarriedFault, instance: ResourceActivation | None
    ) -> bool:
        """Whether a fault that has come with a VM was reported from here, or taken, before.

        :param instance: that goes on; None: another one is about to begin.
        """
        known = instance.record.id if instance is not None else ""
        try:
            return await self._recorder.run_for(vm, Journal.has_reported, vm, carried.seen, known)
        except JournalError:
            held = instance.fault if instance is not None else None
            return held is not None and held.seen == carried.seen

    def take_carried_fault(self, instance: ResourceActivation, carried: CarriedFault) -> str:
        """Take a fault that has come with the VM of this instance.

        :returns: why it is not taken; empty: it is.
        """
        record = instance.record
        if carried.uuid != record.uuid:
            return f"it is of a domain with UUID {carried.uuid}, {record.vm} has {record.uuid}"
        if instance.boot_id is not None and carried.boot_id not in (None, instance.boot_id):
            return "it is of an earlier boot of the guest"
        instance.judged_at_source = carried.event_key
        if carried.told or self._ledger.when_told_of(record, carried.event_key) is not None:
            return "Pacemaker knows it"
        if instance.fault is not None:
            return f"there is {instance.fault.label} already"
        fault = carried.to_fault(self._next_fault_id(), record)
        instance.fault_found(fault)
        self._doubt_fault(instance, carried.boot_id)
        _log.info("%s: %s has come along from %s, where it was fault %d",
                  fault.resource, fault.label, carried.node, carried.fault_id)  # fmt: skip
        self._put(fault)
        return ""

    def guest_met(self, domain: Domain, boot_id: int) -> None:
        """The guest's core has said which boot of it this is."""
        for instance in self.of_domain(domain):
            doubted = instance.doubted_boot is not None
            if instance.guest_met(boot_id):
                self._drop_doubted(instance, "another boot of the guest")
            if doubted:
                self._reset_alarm(instance)

    def _drop_doubted(self, instance: ResourceActivation, by: str) -> None:
        """The fault that has come with the VM is not known to be this guest's: end it."""
        if instance.doubted_boot is None:
            return
        gone = instance.fault_cleared(time.time(), by)
        if gone is not None:
            self._recorder.put_batch(gone.vm, Batch(faults=[gone]))
            _log.warning("%s: %s ended by %s", gone.resource, gone.label, by)

    def _doubt_fault(self, instance: ResourceActivation, boot_id: int | None) -> None:
        instance.doubt_fault(boot_id)
        if instance.doubted_boot is not None:
            asyncio.get_running_loop().call_later(DOUBT_S, self._end_doubt, instance)

    def _end_doubt(self, instance: ResourceActivation) -> None:
        instance.end_doubt()
        self._reset_alarm(instance)

    # ------------------------------------------------------------ the guest

    def watch_changed(self, domain: Domain) -> None:
        """It may be watched better or worse than before."""
        for instance in self.of_domain(domain):
            instance.watch_changed(_clock_now())

    def domain_seen(self, domain: Domain) -> None:
        """The domain runs."""
        for instance in self.of_domain(domain):
            if instance.restored:
                instance.domain_seen()
                self._reset_alarm(instance)

    def domain_ended(self, domain: Domain, report: DomainReport) -> None:
        """The domain does not run any more."""
        for instance in self.of_domain(domain):
            fault = instance.fault
            if fault is not None and fault.rule == PANIC_RULE:
                report = replace(report, why=fault.reason)  # the kernel's own words
            if instance.death is None:
                instance.death = domains.make_report_event(domain, report).to_json()
            instance.domain_ended(report, domains.describe_ending(domain, report))
            self._reset_alarm(instance)

    def _death_told(self, instance: ResourceActivation) -> None:
        """A monitor was told that the domain has ended.

        Its agent may find that the guest has rebooted, and then begins another instance.
        """
        if instance.death_told is None:
            instance.death_told = time.time()
        else:
            self._record_death(instance)

    def _record_death(self, instance: ResourceActivation) -> None:
        """Put the end of its domain into the list of faults, if Pacemaker was told of it."""
        told, death, reason = instance.death_told, instance.death, instance.dead_reason
        if told is None or death is None or reason is None or instance.death_recorded:
            return
        if instance.fault is not None and instance.fault.told is not None:
            return  # Pacemaker was told of that instead
        instance.death_recorded = True
        record = instance.record
        fault = Fault.of_activation(
            record,
            id=self._next_fault_id(),
            scope=Scope.SYSTEM.value,
            rule=END_RULE,
            reason=reason,
            event=death,
            seen=min(death["received"], told),
            told=told,
            ended=time.time(),
            ended_by=DOMAIN_END,
        )
        self._recorder.put_batch(record.vm, Batch(faults=[fault]))
        _log_fault(fault)
        if self._attributes is not None:
            self._attributes.set_attribute(
                fault_attribute_name(fault.vm), _shown_fault(fault), after=SHOW_AFTER_S
            )

    def pause_vm(self, vm: str, paused: bool) -> None:
        """Report nothing but the domain's death, or all again."""
        for instance in self.list_all():
            if instance.record.vm == vm:
                instance.set_paused(paused)
                self._reset_alarm(instance)

    # ------------------------------------------------------------ monitors

    async def serve_monitor(
        self,
        instance: ResourceActivation,
        *,
        interval: float,
        timeout: float,  # noqa: ASYNC109 - an answer, not an error
        first: bool | None,
        deliver: Callable[[Answer], Awaitable[None]],
    ) -> None:
        """Serve one monitor.

        :param timeout: s, after which it is answered in any case.
        :param deliver: hands the answer over; raises if the agent is gone.
            The call may also be cancelled while it waits: the agent was killed.
        """
        if instance.state is ActivationState.ENDED:  # while the request was prepared
            vm = instance.record.vm
            await deliver(Answer(Result.DEGRADED, f"{vm}: its resource was stopped or begun anew"))
            return
        awake = asyncio.Event()
        waiter = Waiter(awake.set)
        start = _clock_now()
        monitored = instance.record.monitored
        instance.monitor_begins(waiter, start, interval, first)
        if not monitored:
            self._save_instance(instance)
        self._reset_alarm(instance)
        delivered = False
        try:
            end = start + timeout
            hold = instance.hold_until()
            if hold is not None:
                end = min(end, max(hold, start))
            while waiter.answer is None and (left := end - _clock_now()) > 0:
                try:
                    async with asyncio.timeout(min(left, UNWATCHED_WAIT_S)):
                        await awake.wait()
                except TimeoutError:
                    if not instance.followed:
                        break
            answer = waiter.answer or instance.answer_at_timeout()
            waiter.answer = answer
            await deliver(answer)
            delivered = True
            if answer.result is Result.FAULT and answer.fault is not None:
                self._note_told(instance, answer.fault)
            elif answer.result is Result.DEAD:
                self._death_told(instance)
        finally:
            instance.monitor_ends(waiter, _clock_now(), delivered=delivered)
            self._reset_alarm(instance)

    def _note_told(self, instance: ResourceActivation, fault: Fault) -> None:
        told = instance.fault_told(self._number_fault(fault).id, time.time())
        if told is not None:
            if (told.instance, told.seen) in self._unwritten:
                self._ledger.note_told(told)
            self._recorder.put_batch(
                told.vm, Batch(faults=[told]), None, lambda: self.note_written([told])
            )

    # ------------------------------------------------------------ no monitor

    def _reset_alarm(self, instance: ResourceActivation) -> None:
        """Set, or take back, the alarm after which Pacemaker is told without a monitor."""
        key = instance.record.id
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
        if instance.deferred_until is not None:
            wait = max(0.0, instance.deferred_until - _clock_now())
            loop = asyncio.get_running_loop()
            self._timers[key] = loop.call_later(wait, self._admit_again, instance)
            return
        patience = instance.seconds_until_alarm(_clock_now(), self._grace)
        if patience is None or key in self._tellers:
            return
        if instance.fault is not None and instance.fault.id in self._given_up:
            return
        loop = asyncio.get_running_loop()
        self._timers[key] = loop.call_later(patience, self._start_telling, instance)

    def _start_telling(self, instance: ResourceActivation) -> None:
        key = instance.record.id
        self._timers.pop(key, None)
        task = asyncio.get_running_loop().create_task(self._tell_pacemaker(instance))
        self._tellers[key] = task
        task.add_done_callback(lambda _: self._tellers.pop(key, None))

    async def _tell_pacemaker(self, instance: ResourceActivation) -> None:
        fault = instance.fault
        if fault is None:
            return

        def wanted() -> bool:
            # A monitor that has come meanwhile is the better way.
            held = instance.fault
            return (
                instance.state is not ActivationState.ENDED
                and held is not None
                and held.id == self._number_fault(fault).id
                and held.told is None
                and not instance.waiting
                and not instance.handed_over
            )

        def injecting() -> None:
            instance.fault_injected(_clock_now())

        _log.info("%s: no monitor waits, telling Pacemaker of %s", fault.resource, fault.label)
        try:
            async with self._room:
                told = await self._tell(fault.resource, instance.node, wanted, injecting)
            if told:
                self._note_told(instance, fault)
            elif wanted():
                self._given_up.add(fault.id)
        except Exception:
            _log.exception("%s: internal error while telling Pacemaker", fault.resource)


def _log_fault(fault: Fault) -> None:
    _log.error("%s: %s: %s", fault.resource, fault.label, fault.reason, extra={ALWAYS: True})


def _shown_fault(fault: Fault) -> str:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(fault.seen))
    return f"{when} {fault.label}: {fault.reason}"


def _is_same(one: Fault, other: Fault) -> bool:
    """Whether they are of one record of a guest, which was read twice."""
    return one.event_key is not None and one.event_key == other.event_key


def _rules_of_record(record: ActivationRecord) -> RuleSet:
    """Its own; the default ones where they are wrong, which vesperd has not let in."""
    try:
        return RuleSet(record.fault_on)
    except RuleError as error:
        _log.error("%s: fault_on: %s; the default rules hold", record.resource, error)
        return RuleSet()


def _clock_now() -> float:
    return asyncio.get_running_loop().time()
