# SPDX-License-Identifier: GPL-2.0-or-later
"""The way of an event while its journal fails: the guest keeps what is not written."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lab.standin.image import make_store
from tests.unit.faults.test_carried_fault import death
from tests.unit.guest.test_session import Watch, watch
from tests.unit.support.journals import ThreadWorker
from tests.unit.support.standins import GuestProcess, guest, until
from vesper_monitor.daemon import event_pipeline
from vesper_monitor.daemon.event_pipeline import EventPipeline
from vesper_monitor.daemon.followers import Followers
from vesper_monitor.faults.activations import Activations
from vesper_monitor.faults.watching import Watching
from vesper_monitor.guest import abi
from vesper_monitor.guest.control.images import ImageStore
from vesper_monitor.guest.event import CrashLog, Event
from vesper_monitor.guest.session import Session
from vesper_monitor.hypervisor.transport import Domain
from vesper_monitor.journal import writer as recorders
from vesper_monitor.journal.batch import Batch
from vesper_monitor.journal.journal import KEEP_WORDS, Journal
from vesper_monitor.journal.schema import JournalError
from vesper_monitor.journal.writer import JournalWriter

READ = abi.field_offset(abi.Index, "read")


class FullDisk(Journal):
    full = False

    def write_batch(self, batch: Batch) -> list[tuple[str, str]]:
        if self.full:
            raise JournalError("no space left on device")
        return super().write_batch(batch)


class Host:
    """A pipeline, and what it makes of a session's events.

    :param held: nobody knows yet what the journal holds.
    """

    def __init__(self, path: Path, *, held: bool = False) -> None:
        self.recorder = JournalWriter(ThreadWorker(lambda: FullDisk(path)), held=held)
        self.instances = Activations(
            self.recorder, lambda _: Watching(True, None), grace=600.0, max_failovers=9,
            numbered=not held,
        )  # fmt: skip
        self.followers = Followers()
        self.pipeline = EventPipeline(self.recorder, self.instances, self.followers)
        if not held:
            self.pipeline.begin_numbering(0, 0)

    def on_events(self, session: Session, events: list[Event]) -> None:
        self.pipeline.record_events(session.domain, events, session)

    async def close(self) -> None:
        await self.instances.close()
        await self.recorder.close()


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ImageStore:
    monkeypatch.setenv("VESPER_STANDIN_DIR", str(tmp_path / "domains"))
    monkeypatch.setattr(recorders, "RETRY_FIRST_S", 0.01)
    monkeypatch.setattr(recorders, "RETRY_LAST_S", 0.02)
    make_store(tmp_path / "probes")
    return ImageStore(tmp_path / "probes")


def through(host: Host, told: Watch) -> None:
    """Send what a session reads through the pipeline."""
    told.listener.take_events = lambda events: host.on_events(told.session, events)


async def say(vm: GuestProcess, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        await vm.tell("emit", "send_signal", "sig=15", f"pid={number}")


def run(images: ImageStore, tmp_path: Path, scene: Callable[[Host], Awaitable[None]]) -> None:
    async def body() -> None:
        host = Host(tmp_path / "journal")
        try:
            async with asyncio.timeout(60):
                await scene(host)
        finally:
            FullDisk.full = False
            await host.close()

    asyncio.run(body())


def test_a_position_is_noted_in_the_guest_once_its_records_are_written(
    images: ImageStore, tmp_path: Path
) -> None:
    """A host that knows no position finds what was told and not written again."""

    async def scene(host: Host) -> None:
        with guest() as vm:
            async with watch(images) as told:
                await until(told.all_collecting, "probes collecting")
                through(host, told)
                await say(vm, 3)
                await until(lambda: _noted(told) == 3, "noted")
                FullDisk.full = True
                follower = host.followers.add_follower(None)
                await say(vm, 2, 3)
                got: list[Event] = []
                while len(got) < 2:
                    got += (await follower.take_events())[0]
                assert host.recorder.error is not None
                assert _noted(told) == 3
            async with watch(images) as again:
                await until(lambda: len(again.events) == 2, "what was not written")
                assert [e.fields["pid"] for e in again.events] == [3, 4]

    run(images, tmp_path, scene)


def _noted(told: Watch) -> int:
    """Up to which record a host need not read, as it stands in the guest."""
    return abi.load_u64(told.session._reader.channels["send_signal"]._cpus[0].index, READ)


def test_a_guest_keeps_what_is_too_much_for_memory(
    images: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told as ever, each once, and is in the journal in the end, each once."""
    monkeypatch.setattr(event_pipeline, "MAX_BACKLOG_OF_ONE", 5)

    async def scene(host: Host) -> None:
        with guest() as vm:
            async with watch(images) as told:
                await until(told.all_collecting, "probes collecting")
                through(host, told)
                record_of(host, told)
                follower = host.followers.add_follower(None)
                FullDisk.full = True
                await say(vm, 1)
                await until(lambda: host.recorder.error is not None, "the disk is full")
                await say(vm, 14, 1)
                got: list[Event] = []
                while len(got) < 15:
                    got += (await follower.take_events())[0]
                # Whatever it goes on saying, no more is kept here.
                (entry,) = host.recorder._queues["vm1"]
                kept = len(entry.written)
                await say(vm, 15, 15)
                while len(got) < 30:
                    got += (await follower.take_events())[0]
                assert host.pipeline._backlog < 30
                assert len(entry.written) == kept
                # A fault among what is too much is found.
                await vm.tell("emit", "send_signal", "sig=11", "comm=httpd", "fatal=1", "pid=30")
                instance = host.instances.get_instance("r1")
                assert instance is not None
                await until(lambda: instance.fault_recorded, "the fault")
                FullDisk.full = False

                async def written() -> list[Event]:
                    return await host.recorder.run_on_journal(Journal.read_events, limit=1000)

                await until(lambda: _noted(told) == 31, "all is written")
                assert [e.fields["pid"] for e in await written()] == list(range(31))
                await say(vm, 1, 31)
                while len(got) < 32:
                    got += (await follower.take_events())[0]
                assert [e.fields["pid"] for e in got] == list(range(32))
                faults = await host.recorder.run_on_journal(Journal.read_faults)
                assert [(f.id, f.event["fields"]["pid"]) for f in faults] == [(1, 30)]
                await until(lambda: _noted(told) == 32, "noted")
                saved = await host.recorder.run_on_journal(
                    Journal.read_positions, told.session.domain.uuid, told.session.domain.domid
                )
                assert max(saved.values()) == 32

    run(images, tmp_path, scene)


@pytest.mark.parametrize("is_back_in_time", [True, False])
def test_a_channel_that_closes_while_its_records_stay_in_the_guest_loses_none(
    images: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_back_in_time: bool
) -> None:
    """As when the link is lost while the journal fails, and the guest connects again."""
    monkeypatch.setattr(event_pipeline, "MAX_BACKLOG_OF_ONE", 5)

    async def scene(host: Host) -> None:
        with guest() as vm:
            async with watch(images) as told:
                await until(told.all_collecting, "probes collecting")
                through(host, told)
                follower = host.followers.add_follower(None)
                FullDisk.full = True
                await say(vm, 1)
                await until(lambda: host.recorder.error is not None, "the disk is full")
                got: list[Event] = []
                for number in range(1, 15):  # each a batch of its own
                    await say(vm, 1, number)
                    while len(got) < number + 1:
                        got += (await follower.take_events())[0]
                assert told.session in host.pipeline._behind
                await vm.tell("hide", "send_signal")
                await until(lambda: not told.all_collecting(), "closed")
                if not is_back_in_time:
                    FullDisk.full = False
                    await until(lambda: not host.pipeline._behind, "the backlog is written")
                await vm.tell("show", "send_signal")
                await until(told.all_collecting, "open again")
                if not is_back_in_time:
                    await until(lambda: _noted(told) == 15, "what the guest kept is written")
                await say(vm, 1, 15)
                FullDisk.full = False
                await until(lambda: _noted(told) == 16, "all is written")
                while len(got) < 16:
                    got += (await follower.take_events())[0]
                assert [e.fields["pid"] for e in got] == list(range(16))
                written = await host.recorder.run_on_journal(Journal.read_events, limit=1000)
                assert sorted(e.fields["pid"] for e in written) == list(range(16))

    run(images, tmp_path, scene)


def record_of(host: Host, told: Watch) -> None:
    """A resource of the session's domain."""
    host.instances.start_instance("r1", told.session.domain, ["send_signal"], ["httpd"])


def test_what_is_numbered_late_has_the_number_of_its_event_too(tmp_path: Path) -> None:
    """Also when the fault is written again, long after."""

    async def scene() -> None:
        host = Host(tmp_path / "journal", held=True)
        domain = Domain("vm1", 2, "u")
        instance = host.instances.start_instance("r1", domain, ["process_exit"], ["httpd"])
        host.pipeline.record_events(domain, [death(7)])
        await until(lambda: instance.fault_recorded, "the fault")
        assert instance.fault is not None
        shown = instance.fault.to_json()
        assert (shown["id"], shown["event"]["id"]) == (None, None)
        host.pipeline.begin_numbering(40, 4)
        assert (instance.fault.id, instance.fault.event["id"]) == (5, 41)
        host.instances.stop_instance("r1")
        faults = await host.recorder.run_on_journal(Journal.read_faults)
        assert [(f.id, f.ended_by, f.event["id"]) for f in faults] == [(5, "stop", 41)]
        events = await host.recorder.run_on_journal(Journal.events_before, faults[0], 1e12, 9)
        assert [e.id for e in events] == [41]
        await host.close()

    asyncio.run(scene())


def test_of_last_words_that_wait_no_more_are_kept_than_the_journal_does(tmp_path: Path) -> None:
    async def scene() -> None:
        host = Host(tmp_path / "journal", held=True)
        domain = Domain("vm1", 2, "u")
        said = CrashLog("oops", "BUG", "stack", "log" * 9999, True)
        for number in range(KEEP_WORDS + 5):
            oops = replace(death(number + 1), event="last_words", words=said)
            host.pipeline.record_events(domain, [oops])
        (entry,) = host.recorder._queues["vm1"]
        kept = [event.words for event in entry.batch.events]
        assert kept == [None] * 5 + [said] * KEEP_WORDS
        host.pipeline.begin_numbering(0, 0)
        words = await host.recorder.run_on_journal(Journal.last_words, "vm1", 2, 0.0)
        assert len(words) == KEEP_WORDS
        assert not host.pipeline._words_of
        await host.close()

    asyncio.run(scene())


def test_what_the_host_has_seen_is_kept_beside_a_guests_flood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No guest has it to be read again; it is bounded, too."""
    monkeypatch.setattr(event_pipeline, "MAX_BACKLOG_OF_ONE", 5)
    monkeypatch.setattr(event_pipeline, "SPARE_FOR_HOST", 3)

    async def scene() -> None:
        host = Host(tmp_path / "journal", held=True)
        host.pipeline._backlog = host.pipeline._backlog_of["vm1"] = 6  # of the guest's own
        for number in range(9):
            host.pipeline.record_events(Domain("vm1", 2, "u"), [death(number + 1)])
        (entry,) = host.recorder._queues["vm1"]
        assert len(entry.batch.events) == 3
        await host.close()

    asyncio.run(scene())
