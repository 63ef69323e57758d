# SPDX-License-Identifier: GPL-2.0-or-later
"""A fault that goes with its VM: packed, and told once in whatever order things happen."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from vesper_monitor.faults.activation import Answer, ResourceActivation, Result
from vesper_monitor.faults.activations import Activations
from vesper_monitor.faults.carried_fault import MAX_PACKED_BYTES, pack_fault, unpack_fault
from vesper_monitor.faults.watching import Watching
from vesper_monitor.guest.event import Event
from vesper_monitor.guest.relay.positions import Position
from vesper_monitor.hypervisor.transport import Domain, DomainReport, DomainState
from vesper_monitor.journal.batch import Batch
from vesper_monitor.journal.journal import Journal
from vesper_monitor.journal.records import ActivationRecord, Fault
from vesper_monitor.journal.writer import JournalWriter

UUID = "4f6c"
FAULT = Fault(3, "r", "vm1", UUID, 1, "r/1", "service", "main", "why", {"id": 9}, 1.5)


@given(
    reason=st.text(max_size=2000),
    text=st.text(max_size=2000),
    fields=st.dictionaries(st.text(max_size=300), st.text(max_size=300) | st.integers()),
    boot_id=st.none() | st.integers(0, 2**64 - 1),
    node=st.none() | st.text(max_size=500),
)
def test_whatever_a_guest_says_is_bounded(
    reason: str, text: str, fields: dict[str, Any], boot_id: int | None, node: str | None
) -> None:
    event = {"id": 7, "probe": "p", "event": "e", "cpu": 0, "seq": 5, "guest_ns": 8,
             "fields": fields, "text": text}  # fmt: skip
    fault = Fault(3, "r", "vm1", UUID, 1, "r/1", "system", "main", reason, event, 1.5)
    packed = json.loads(json.dumps(pack_fault(fault, boot_id, node)))
    assert len(json.dumps(packed, separators=(",", ":"))) <= MAX_PACKED_BYTES
    carried = unpack_fault(packed)
    assert (carried.boot_id, carried.seen, carried.fault_id) == (boot_id, 1.5, 3)
    assert carried.reason.isprintable() or not carried.reason
    assert carried.event_key in (None, ("p", "e", 0, 5, 8))


@pytest.mark.parametrize(
    "change",
    [
        {"boot_id": -1}, {"boot_id": True}, {"boot_id": 2**64}, {"event": None}, {"scope": ""},
        {"fault": "3"}, {"told": None}, {"seen": None}, {"seen": True}, {"seen": float("nan")},
        {"seen": -1}, {"rule": "x" * 101}, {"reason": None}, {"uuid": 5}, {"node": "n" * 256},
        {"event": {"x": "y" * 3000}},
    ],
    ids=str,
)  # fmt: skip
def test_a_text_that_is_no_fault_is_refused(change: dict[str, Any]) -> None:
    unpack_fault(pack_fault(FAULT, 1, "n"))
    with pytest.raises(ValueError):
        unpack_fault({**pack_fault(FAULT, 1, "n"), **change})
    with pytest.raises(ValueError):
        unpack_fault([change])


class SynchronousRecorder:
    """The journal without its thread."""

    error = None

    def __init__(self, journal: Journal) -> None:
        self.journal = journal

    def put_batch(
        self,
        _vm: str,
        batch: Batch,
        then: Callable[[], None] | None = None,
        written: Callable[[], None] | None = None,
    ) -> None:
        self.journal.write_batch(batch)
        for tell in (then, written):
            if tell is not None:
                tell()

    async def run_for(self, _vm: str, method: Callable[..., Any], *args: Any) -> Any:
        return method(self.journal, *args)


def well_watched(_: ActivationRecord) -> Watching:
    return Watching(followed=True, lacking=None)


async def started(
    folder: Path, tell: Any = None, carried: dict[str, Any] | None = None
) -> tuple[Activations, ResourceActivation]:
    """An instance of vm1, with a fault of its own or one that has come along."""
    recorder = cast(JournalWriter, SynchronousRecorder(Journal(folder / "journal.sqlite")))
    instances = Activations(recorder, well_watched, grace=0.0, max_failovers=9, tell=tell or never)
    instance = instances.start_instance("r", Domain("vm1", 2, UUID), [], ["httpd"])
    if carried is not None:
        assert not instances.take_carried_fault(instance, unpack_fault(carried))
    return instances, instance


async def never(*_: Any) -> bool:
    await asyncio.Event().wait()
    return False


def death(seq: int, domid: int = 2) -> Event:
    """Of the service."""
    fields = {"sig": 11, "signal": "SIGSEGV", "fatal": True, "comm": "httpd",
              "leader_comm": "httpd", "parent_comm": "init", "pid": 9}  # fmt: skip
    return Event(
        vm="vm1", domid=domid, probe="send_signal", event="send_signal", cpu=0, seq=seq,
        guest_ns=seq, received=1000.0 + seq, fields=fields, text="dead", id=seq,
    )  # fmt: skip


def found(instances: Activations, event: Event) -> None:
    faults = instances.judge_events(Domain("vm1", 2, UUID), [event])
    instances.tell_recorded_faults(faults)


@pytest.mark.parametrize("taken", [True, False])
def test_a_report_that_is_under_way_is_waited_for(tmp_path: Path, taken: bool) -> None:
    """The end of that is waited for, and what it has come to goes along."""

    async def scene() -> None:
        answer, sent = asyncio.Event(), asyncio.Event()

        async def tell(_r: str, _n: str | None, wanted: Any, injecting: Any) -> bool:
            assert wanted()
            injecting()
            sent.set()
            await answer.wait()
            assert not wanted()
            return taken

        instances, instance = await started(tmp_path, tell)
        found(instances, death(1))
        await asyncio.wait_for(sent.wait(), 10)
        asking = asyncio.create_task(instances.hand_over(instance, None, 10.0))
        await asyncio.sleep(0)
        assert not asking.done()
        answer.set()
        packed = await asking
        assert packed is not None
        assert packed["told"] is taken
        await instances.close()

    asyncio.run(scene())


def test_a_fault_here_is_more_certain_than_one_that_may_be_another_boots(tmp_path: Path) -> None:
    async def scene() -> None:
        carried = pack_fault(FAULT, 7, "node1")
        instances, instance = await started(tmp_path, carried=carried)
        assert instance.doubted_boot == 7
        found(instances, death(1))
        assert instance.fault is not None
        assert instance.fault.event["seq"] == 1
        assert instance.doubted_boot is None
        instances.guest_met(Domain("vm1", 2, UUID), 8)
        assert instance.fault is not None
        await instances.close()

    asyncio.run(scene())


class OneHost:
    """A vesperd's journal, and its instances while it lives."""

    def __init__(self, folder: Path, world: Migration) -> None:
        self._world = world
        self.journal = Journal(folder / "journal.sqlite")
        self.instances: Activations | None = None
        self.live()

    def live(self) -> None:
        """As Daemon._restore and _on_up."""
        journal, told = self.journal, self._world.told_without_monitor
        recorder = cast(JournalWriter, SynchronousRecorder(journal))
        self.instances = Activations(
            recorder, well_watched, grace=1000.0, max_failovers=10**6, tell=told
        )
        records = journal.open_instances()
        self.instances.restore_all(
            records, journal.open_faults(), journal.last_ids()[1], journal.stopped_for(), (),
            journal.read_boots(),
        )  # fmt: skip
        for record in records:
            domain = Domain(record.vm, record.domid, record.uuid)
            if self._world.runs(self, domain):
                self.instances.domain_seen(domain)
            else:
                self.instances.domain_ended(domain, DomainReport(DomainState.GONE))

    @property
    def instance(self) -> ResourceActivation | None:
        return self.instances.get_instance("r") if self.instances is not None else None


class Migration(RuleBasedStateMachine):
    """One VM, two hosts, and Pacemaker, which may be told of each fault once."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.loop = asyncio.new_event_loop()
        self.domid = self.boot = 1
        self.home = 0  # where it runs
        self.seq = 0  # of the last fault's record
        self.open = False  # the service is dead
        self.unread: list[Event] = []
        self.last: Event | None = None
        self.read_by = 0  # domain as which the guest had it read first
        self.attribute: dict[str, Any] | None = None
        self.stale: list[list[dict[str, Any]]] = [[], []]  # by node, oldest first
        self.file: dict[str, Any] | None = None  # at home, for its vesperd
        self.met = False
        #: seq of each fault, and the instances that told Pacemaker of it
        self.told: dict[int, set[str]] = {}
        self.hosts: list[OneHost] = []
        self.do(self._begin())

    async def _begin(self) -> None:
        for number in range(2):
            (self.folder / str(number)).mkdir()
            self.hosts.append(OneHost(self.folder / str(number), self))
        await self._start(None)
        self._meet()

    def teardown(self) -> None:
        try:
            self.do(self._settle())
            for seq in range(1, self.seq + 1):
                assert len(self.told.get(seq, ())) == 1, (seq, self.told)
        finally:
            for host in self.hosts:
                host.journal.close()
            self.loop.close()
            shutil.rmtree(self.folder)

    async def _settle(self) -> None:
        """Whatever is under way ends, and all live: now it is told."""
        for host in self.hosts:
            if host.instances is None:
                host.live()
        for _ in range(2):
            await self._monitor()
            self._meet()
            self._read()
        await self._monitor()

    def do(self, work: Coroutine[Any, Any, None]) -> None:
        self.loop.run_until_complete(work)

    # -- the world ------------------------------------------------------------

    @property
    def here(self) -> OneHost:
        return self.hosts[self.home]

    @property
    def source(self) -> OneHost:
        return self.hosts[1 - self.home]

    @property
    def domain(self) -> Domain:
        return Domain("vm1", self.domid, UUID)

    def runs(self, host: OneHost, domain: Domain) -> bool:
        return bool(self.hosts) and host is self.here and domain == self.domain

    def note_told(self, fault: Fault) -> None:
        seq = fault.event["seq"]
        self.told.setdefault(seq, set()).add(fault.instance)

    async def told_without_monitor(
        self, _resource: str, _node: str | None, wanted: Callable[[], bool],
        injecting: Callable[[], None],
    ) -> bool:  # fmt: skip
        if wanted():
            injecting()
            self.injected = True
            return True
        return False

    def _read(self) -> None:
        """vesperd reads what the guest has written."""
        host, domain = self.here, self.domain
        if host.instances is None or not host.instances.of_domain(domain):
            return
        events, self.unread = self.unread, []
        if not events:
            return
        self._meet()  # it has said so before
        self.read_by = self.read_by or self.domid
        faults = host.instances.judge_events(domain, events)
        host.journal.write_batch(Batch(faults=faults))
        host.instances.tell_recorded_faults(faults)

    def _meet(self) -> None:
        host, domain = self.here, self.domain
        if host.instances is not None and host.instances.of_domain(domain):
            position = Position(self.boot, "send_signal", 1, 0)
            key = (domain.uuid, domain.domid)
            host.journal.write_batch(Batch(positions={key: {position: self.seq}}))
            host.instances.guest_met(domain, self.boot)

    async def _start(self, carried: dict[str, Any] | None) -> None:
        """As Api._begin."""
        instances = self.here.instances
        assert instances is not None
        unpacked = None if carried is None else unpack_fault(carried)
        if unpacked is not None and await instances.has_reported("vm1", unpacked, None):
            unpacked = None
        instance = instances.start_instance("r", self.domain, ["send_signal"], ["httpd"])
        if unpacked is not None:
            instances.take_carried_fault(instance, unpacked)
        self._read()

    async def _monitor(self) -> None:
        """As Api._wait."""
        instances, instance = self.here.instances, self.here.instance
        assert instances is not None
        carried, self.file = self.file, None
        if instance is None or not instances.of_domain(self.domain):
            await self._start(carried)
            instance = instances.get_instance("r")
        elif carried is not None:
            unpacked = unpack_fault(carried)
            if not await instances.has_reported("vm1", unpacked, instance):
                instances.take_carried_fault(instance, unpacked)
        assert instance is not None

        async def deliver(answer: Answer) -> None:
            if answer.result is Result.FAULT:
                assert answer.fault is not None
                self.note_told(answer.fault)

        await instances.serve_monitor(
            instance, interval=1.0, timeout=0.0, first=None, deliver=deliver
        )

    async def _hand_over(self) -> None:
        instances, instance = self.source.instances, self.source.instance
        assert instances is not None
        packed = await instances.hand_over(instance, None, 1.0) if instance is not None else None
        self.attribute = None if packed is None else json.loads(json.dumps(packed))
        if self.attribute is not None:
            self.stale[self.home].append(self.attribute)

    async def _arrive(self, *, stale: bool) -> None:
        carried, self.attribute = self.attribute, None
        if carried is None and stale and self.stale[self.home]:
            carried = self.stale[self.home][-1]
        self.file = carried
        if self.here.instances is not None:
            self.file = None
            await self._start(carried)
        if self.source.instances is not None:
            self.source.instances.stop_instance("r")

    # -- what happens ---------------------------------------------------------

    @rule()
    def the_service_dies(self) -> None:
        if self.open:
            return
        self.open, self.read_by = True, 0
        self.seq += 1
        self.last = death(self.seq, self.domid)
        self.unread.append(self.last)
        self.do(self._later(self._read))

    async def _later(self, work: Callable[[], None]) -> None:
        work()

    @precondition(lambda self: self.here.instances is not None)
    @rule()
    def a_monitor(self) -> None:
        self.do(self._monitor())

    @rule()
    def no_monitor_comes(self) -> None:
        instance, instances = self.here.instance, self.here.instances
        if instance is None or instances is None or instance.seconds_until_alarm(0.0, 0.0) is None:
            return
        fault = instance.fault
        assert fault is not None
        self.note_told(fault)
        self.do(instances._tell_pacemaker(instance))
        assert instance.fault is not None and instance.fault.told is not None

    @rule(
        dies=st.sampled_from(["", "before", "while it goes", "when it has left"]),
        told=st.booleans(),
        ends=st.sampled_from(["fails", "goes", "goes", "goes"]),
        at_source=st.sampled_from(["", "dead before", "restarted before", "restarted after"]),
        at_target=st.sampled_from(["", "", "dead", "restarted"]),
        asked=st.integers(1, 2),
        stale=st.booleans(),
        read_again=st.booleans(),
    )
    def a_migration(
        self, *, dies: str, told: bool, ends: str, at_source: str, at_target: str, asked: int,
        stale: bool, read_again: bool,
    ) -> None:  # fmt: skip
        """
        :param dies: when the service does.
        :param told: Pacemaker is told of a fault before the VM leaves.
        :param at_source: what becomes of vesperd there.
        :param at_target: likewise.
        :param asked: how often the agent asks for the fault.
        :param stale: what an earlier migration has left is still there.
        :param read_again: the guest comes without the last note of how far it was read.
        """
        if self.here.instance is None:
            return
        if dies in ("before", "while it goes"):
            self.the_service_dies()
        if told:
            self.no_monitor_comes()
        if at_source == "dead before":
            self.vesperd_dies(self.here)
            if dies == "while it goes":
                self.the_service_dies()
        if at_source == "restarted before":
            self.vesperd_dies(self.here)
            self.vesperd_comes(self.here)
        if ends == "fails":
            return
        self.do(self._later(self._leave))
        if dies == "when it has left":
            self.the_service_dies()
        if at_source == "restarted after":
            self.vesperd_dies(self.source)
        self.vesperd_comes(self.source)
        for _ in range(asked):
            self.do(self._hand_over())
        if at_target in ("dead", "restarted"):
            self.vesperd_dies(self.here)
        if at_target == "restarted":
            self.vesperd_comes(self.here)
        if read_again and self.open and self.last and self.read_by == self.domid - 1:
            self.unread.append(self.last)
        self.do(self._arrive(stale=stale))

    def _leave(self) -> None:
        old = self.domain
        self.home = 1 - self.home
        self.domid += 1
        if self.source.instances is not None:
            self.source.instances.domain_ended(old, DomainReport(DomainState.GONE))

    @rule()
    def the_guest_is_heard(self) -> None:
        self.do(self._later(self._meet))

    @rule(number=st.integers(0, 1))
    def vesperd_is_killed(self, number: int) -> None:
        self.vesperd_dies(self.hosts[number])

    @rule()
    def vesperd_is_started(self) -> None:
        for host in self.hosts:
            self.vesperd_comes(host)

    def vesperd_dies(self, host: OneHost) -> None:
        if host.instances is not None:
            self.do(host.instances.close())
            host.instances = None

    def vesperd_comes(self, host: OneHost) -> None:
        if host.instances is None:
            self.do(self._later(host.live))
            self.do(self._later(self._read))

    @precondition(lambda self: self.seq in self.told and self.here.instances)
    @rule()
    def it_is_restarted(self) -> None:
        self.do(self._restart())

    async def _restart(self) -> None:
        instances = self.here.instances
        assert instances is not None
        instances.stop_instance("r")
        instances.domain_ended(self.domain, DomainReport(DomainState.GONE))
        self.domid += 1
        self.boot += 1
        self.open, self.unread, self.file = False, [], None
        await self._start(None)

    @invariant()
    def no_fault_is_told_twice(self) -> None:
        assert all(len(instances) == 1 for instances in self.told.values()), self.told


TestMigration = Migration.TestCase
TestMigration.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)


def test_one_domain_has_one_activation(tmp_path: Path) -> None:
    """A start or probe of another resource finds it: a fault is told to that one alone."""

    async def scene() -> None:
        instances, first = await started(tmp_path)
        asked: list[Answer] = []

        async def deliver(answer: Answer) -> None:
            asked.append(answer)

        waiting = asyncio.create_task(
            instances.serve_monitor(first, interval=1.0, timeout=30.0, first=False, deliver=deliver)
        )
        await asyncio.sleep(0)
        second = instances.start_instance("s", Domain("vm1", 2, UUID), [], ["httpd"])
        await asyncio.wait_for(waiting, 10)
        assert [answer.result for answer in asked] == [Result.DEGRADED]
        assert "belongs to resource s now" in str(asked[0].reason)
        assert instances.of_domain(Domain("vm1", 2, UUID)) == [second]
        found(instances, death(1))
        assert second.answer_at_timeout().result is Result.FAULT
        # Of what r had been told, s is not told again.
        instances._note_told(second, second.fault or FAULT)
        third = instances.start_instance("r", Domain("vm1", 2, UUID), [], ["httpd"])
        assert third.answer_at_timeout().result is Result.FINE
        await instances.close()

    asyncio.run(scene())


def test_another_resource_takes_a_fault_that_nobody_was_told_of(tmp_path: Path) -> None:
    async def scene() -> None:
        instances, _ = await started(tmp_path)
        found(instances, death(1))
        second = instances.start_instance("s", Domain("vm1", 2, UUID), [], ["httpd"])
        assert second.answer_at_timeout().result is Result.FAULT
        await instances.close()
        with_second = Journal(tmp_path / "journal.sqlite")
        assert [fault.resource for fault in with_second.open_faults()] == ["s"]
        with_second.close()

    asyncio.run(scene())


def test_a_journal_with_two_resources_of_one_domain_keeps_the_last(tmp_path: Path) -> None:
    """An older vesperd kept both: the later one has it."""

    async def scene() -> None:
        journal = Journal(tmp_path / "journal.sqlite")
        records = [
            ActivationRecord(f"{name}/1", name, "vm1", UUID, 2, started, (), ())
            for name, started in (("r", 1.0), ("s", 2.0))
        ]
        journal.write_batch(Batch(instances=records))
        recorder = cast(JournalWriter, SynchronousRecorder(journal))
        instances = Activations(recorder, well_watched, grace=0.0, max_failovers=9, tell=never)
        instances.restore_all(journal.open_instances(), [], 0)
        assert [instance.record.resource for instance in instances.list_all()] == ["s"]
        assert [record.resource for record in journal.open_instances()] == ["s"]
        await instances.close()

    asyncio.run(scene())


def test_a_journal_that_is_read_late_takes_no_domain_from_who_has_it_now(tmp_path: Path) -> None:
    """Another resource had the domain before; its fault goes on as this one's."""

    async def scene() -> None:
        instances, first = await started(tmp_path)
        found(instances, death(1))
        await instances.close()
        journal = Journal(tmp_path / "journal.sqlite")
        assert first.fault is not None
        journal.write_batch(Batch(faults=[first.fault]))
        recorder = cast(JournalWriter, SynchronousRecorder(journal))
        instances = Activations(
            recorder, well_watched, grace=0.0, max_failovers=9, tell=never, numbered=False
        )
        second = instances.start_instance("s", Domain("vm1", 2, UUID), [], ["httpd"])
        instances.restore_all(journal.open_instances()[:1], journal.open_faults(), 1)
        instances.make_fault_numbering(1, 1)
        assert instances.list_all() == [second]
        assert second.answer_at_timeout().result is Result.FAULT
        assert [record.resource for record in journal.open_instances()] == ["s"]
        assert [fault.resource for fault in journal.open_faults()] == ["s"]
        await instances.close()

    asyncio.run(scene())
