# SPDX-License-Identifier: GPL-2.0-or-later
"""The journal's disk is slow, hung or refuses: nobody waits long, and nothing is dropped."""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.journal.test_journal import event, fault
from tests.unit.support.journals import ThreadWorker
from tests.unit.support.standins import until
from vesper_monitor.journal import writer as recorders
from vesper_monitor.journal.batch import Batch
from vesper_monitor.journal.journal import Journal
from vesper_monitor.journal.schema import JournalError
from vesper_monitor.journal.writer import JournalWriter


class Disk:
    """A worker that answers when the test says so."""

    def __init__(self) -> None:
        self.works = asyncio.Event()
        self.works.set()
        self.error: JournalError | None = None
        self.written: list[Batch] = []
        self.killed = False

    async def call_journal(self, method: str, *args: Any, **_kwargs: Any) -> Any:
        await self.works.wait()
        if self.error is not None:
            raise self.error
        if method == "write_batch":
            self.written.append(args[0])
            return []
        return sum(len(batch.events) for batch in self.written)

    async def close(self) -> None:
        await self.works.wait()

    def kill_worker(self) -> None:
        self.killed = True

    @property
    def events(self) -> list[int | None]:
        return [event.id for batch in self.written for event in batch.events]


@pytest.fixture(autouse=True)
def _short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorders, "RETRY_FIRST_S", 0.01)
    monkeypatch.setattr(recorders, "RETRY_LAST_S", 0.02)


def run(scene: Callable[[Disk, JournalWriter], Any]) -> None:
    async def body() -> None:
        disk = Disk()
        recorder = JournalWriter(disk)
        await scene(disk, recorder)
        disk.works.set()
        await recorder.close()

    asyncio.run(body())


def test_a_disk_that_hangs_is_waited_for_half_a_second() -> None:
    async def scene(disk: Disk, recorder: JournalWriter) -> None:
        loop = asyncio.get_running_loop()
        disk.works.clear()
        began, told, written = loop.time(), asyncio.Event(), asyncio.Event()
        recorder.put_batch("vm1", Batch(faults=[fault(1)]), told.set, written.set)
        await told.wait()
        assert loop.time() - began >= recorders.WAIT_S
        assert str(recorder.error).startswith("the journal's disk does not answer, since 20")
        # Nobody waits for what is known not to answer.
        began, again = loop.time(), asyncio.Event()
        recorder.put_batch("vm2", Batch(faults=[fault(2)]), again.set)
        await again.wait()
        with pytest.raises(JournalError, match="does not answer"):
            await recorder.run_on_journal(Journal.last_ids)
        assert loop.time() - began < recorders.WAIT_S / 2
        assert not written.is_set()
        disk.works.set()
        await written.wait()
        await until(lambda: len(disk.written) == 2, "both are written")
        assert recorder.error is None

    run(scene)


def test_a_disk_that_hangs_while_nobody_waits_is_noticed_too() -> None:
    async def scene(disk: Disk, recorder: JournalWriter) -> None:
        disk.works.clear()
        recorder.put_batch("vm1", Batch())  # as positions
        await until(lambda: recorder.error is not None, "it is said")
        assert "does not answer, since 20" in str(recorder.error)
        disk.works.set()
        await until(lambda: recorder.error is None, "it works again")

    run(scene)


def test_a_disk_that_writes_again_works_once_all_that_was_kept_is_written() -> None:
    async def scene(disk: Disk, writer: JournalWriter) -> None:
        disk.error = JournalError("full")
        writer.put_batch("vm1", Batch([event(1)]))  # is tried again and again
        await until(lambda: writer.error is not None, "the trouble")
        writer.put_batch("vm1", Batch([event(2)]))
        writer.put_batch("vm2", Batch(faults=[fault(1)]))
        seen: list[str | None] = []
        call = disk.call_journal

        async def call_and_look(method: str, *args: Any, **kwargs: Any) -> Any:
            try:
                return await call(method, *args, **kwargs)
            finally:
                seen.append(writer.error)

        disk.call_journal = call_and_look  # type: ignore[method-assign]
        disk.error = None
        await until(lambda: len(disk.written) == 2, "all is written")
        assert len(seen) >= 2
        assert all(str(error).startswith("full") for error in seen[-2:])
        await until(lambda: writer.error is None, "it works again")

    run(scene)


def test_a_disk_that_hangs_before_all_that_was_kept_is_written_fails_again() -> None:
    """Nothing waits for it then, as before: a batch is told at once."""

    async def scene(disk: Disk, writer: JournalWriter) -> None:
        loop = asyncio.get_running_loop()
        disk.error = JournalError("full")
        writer.put_batch("vm1", Batch([event(1)]))
        await until(lambda: writer.error is not None, "the trouble")
        writer.put_batch("vm2", Batch([event(2)]))
        call = disk.call_journal

        async def call_once(method: str, *args: Any, **kwargs: Any) -> Any:
            try:
                return await call(method, *args, **kwargs)
            finally:
                if disk.error is None and len(disk.written) == 1:
                    disk.works.clear()  # the next write hangs

        disk.call_journal = call_once  # type: ignore[method-assign]
        disk.error = None
        await until(lambda: len(disk.written) == 1, "the first is written")
        assert writer.error is not None
        assert writer.is_in_doubt  # records stay in the guest until all is written
        await until(lambda: "does not answer" in str(writer.error), "the next one hangs")
        began, told = loop.time(), asyncio.Event()
        writer.put_batch("vm2", Batch(faults=[fault(1)]), told.set)
        await told.wait()
        assert loop.time() - began < recorders.WAIT_S / 2
        disk.works.set()
        await until(lambda: writer.error is None, "it works again")
        assert disk.events == [1, 2]

    run(scene)


def test_a_journal_that_opens_late_works_once_what_was_kept_is_written() -> None:
    """Whoever reads "works again" may end vesperd, and find all of it afterwards."""

    async def scene() -> None:
        disk = Disk()
        recorder = JournalWriter(disk, held=True)
        recorder.note_unusable("read-only")
        recorder.put_batch("vm1", Batch(faults=[fault(1)]))
        disk.works.clear()
        recorder.begin_writing(lambda batch: None)
        await asyncio.sleep(0.02)
        assert str(recorder.error).startswith("read-only, since 20")
        disk.works.set()
        await until(lambda: recorder.error is None, "it works again")
        assert len(disk.written) == 1
        await recorder.close()

    asyncio.run(scene())


def test_an_order_is_kept_whatever_the_disk_does() -> None:
    async def scene(disk: Disk, recorder: JournalWriter) -> None:
        order: list[str] = []

        def put(number: int) -> None:
            recorder.put_batch(
                "vm1", Batch([event(number)]), lambda: order.append(f"told {number}"),
                lambda: order.append(f"written {number}"),
            )  # fmt: skip

        put(1)
        await until(lambda: len(order) == 2, "the first is written")
        disk.error = JournalError("full")
        put(2)
        await until(lambda: len(order) == 3, "the second is told")
        put(3)
        await until(lambda: len(order) == 4, "the third is told")
        disk.error = None
        await until(lambda: len(order) == 6, "all are written")
        assert order == ["told 1", "written 1", "told 2", "told 3", "written 2", "written 3"]
        assert disk.events == [1, 2, 3]

    run(scene)


def test_nothing_is_dropped_and_little_is_kept_while_a_disk_fails() -> None:
    async def scene(disk: Disk, recorder: JournalWriter) -> None:
        disk.error = JournalError("full")
        recorder.put_batch("vm1", Batch([event(0)]))
        await until(lambda: recorder.error is not None, "it fails")
        for number in range(1, 500):
            recorder.put_batch("vm1", Batch([event(number)], faults=[fault(7)]))
        assert len(recorder._queues["vm1"]) == 1
        assert len(recorder._queues["vm1"][0].batch.faults) == 1
        disk.error = None
        await until(lambda: recorder.error is None and not recorder._queues, "all is written")
        assert disk.events == list(range(500))

    run(scene)


def test_what_is_held_is_told_and_numbered_later() -> None:
    async def body() -> None:
        disk = Disk()
        recorder = JournalWriter(disk, held=True)
        assert recorder.is_in_doubt  # what is too much for memory stays in its guest
        told = asyncio.Event()
        recorder.put_batch("vm1", Batch([event(-1)]), told.set)
        await asyncio.wait_for(told.wait(), recorders.WAIT_S / 2)
        recorder.put_batch("vm1", Batch([event(-2)]))

        def number(batch: Batch) -> None:
            for found in batch.events:
                assert found.id is not None
                found.id = 10 - found.id

        recorder.begin_writing(number)
        await until(lambda: disk.events == [11, 12], "both are written")
        assert not recorder.is_in_doubt
        await recorder.close()

    asyncio.run(body())


def test_a_read_waits_for_its_own_vm_and_no_flood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorders, "MAX_EVENTS_PER_TRANSACTION", 4)
    monkeypatch.setattr(recorders, "MAX_WAITED_EVENTS", 20)

    async def scene(disk: Disk, recorder: JournalWriter) -> None:
        step = asyncio.Event()
        write = disk.call_journal

        async def slow(method: str, *args: Any, **kwargs: Any) -> Any:
            if method == "write_batch":
                await step.wait()
            return await write(method, *args, **kwargs)

        disk.call_journal = slow  # type: ignore[method-assign]
        for number in range(50):
            recorder.put_batch("flood", Batch([event(number)]))
        recorder.put_batch("vm1", Batch([event(100)]))
        await asyncio.sleep(0)
        reads = [
            asyncio.create_task(recorder.run_for("vm2", Journal.last_ids)),
            asyncio.create_task(recorder.run_for("vm1", Journal.last_ids)),
            asyncio.create_task(recorder.run_on_journal(Journal.last_ids)),
        ]
        await reads[0]
        assert not reads[1].done()
        step.set()
        await asyncio.gather(*reads)
        assert 100 in disk.events
        assert len(disk.events) < 20

    run(scene)


def test_an_end_takes_a_bounded_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(recorders, "CLOSE_LIMIT_S", 0.1)

    async def body() -> None:
        disk = Disk()
        recorder = JournalWriter(disk)
        disk.works.clear()
        recorder.put_batch("vm1", Batch(faults=[fault(1)]))
        async with asyncio.timeout(5):
            await recorder.close()
        assert disk.killed

    with caplog.at_level(logging.ERROR):
        asyncio.run(body())
    assert "batches kept in memory are lost" in caplog.text


def test_an_end_has_a_last_try_at_a_disk_that_failed() -> None:
    async def body() -> None:
        disk = Disk()
        recorder = JournalWriter(disk)
        disk.error = JournalError("full")
        recorder.put_batch("vm1", Batch([event(1)]))
        await until(lambda: recorder.error is not None, "it fails")
        disk.error = None
        await recorder.close()
        assert disk.events == [1]

    asyncio.run(body())


def test_what_cannot_be_represented_is_left_out_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of its batch the rest is written, and it is said once of each VM."""

    async def body() -> None:
        recorder = JournalWriter(ThreadWorker(lambda: Journal(tmp_path / "journal")))
        written = asyncio.Event()
        for first in (1, 11):
            wrong = [event(first), event(first + 2)]
            wrong[0].text = "half a character: \udcfc"
            wrong[1].cpu = 1 << 70
            events = [wrong[0], event(first + 1), wrong[1]]
            recorder.put_batch("vm1", Batch(events, faults=[fault(first)]))
        recorder.put_batch("vm2", Batch([event(100)]), None, written.set)
        await written.wait()
        found = await recorder.run_on_journal(Journal.read_events, limit=1000)
        assert [e.id for e in found] == [2, 12, 100]
        assert len(await recorder.run_on_journal(Journal.read_faults)) == 2
        assert recorder.error is None
        await recorder.close()

    with caplog.at_level(logging.ERROR):
        asyncio.run(body())
    assert caplog.text.count("vm1: the journal does not take a value") == 1


class Odd(dict[str, Any]):
    """What nobody has thought of, when it is decoded in the journal's process."""

    def items(self) -> Any:
        raise struct.error("a record that is too short")


def test_what_fails_each_time_holds_up_nothing_else(tmp_path: Path) -> None:
    async def body() -> None:
        recorder = JournalWriter(ThreadWorker(lambda: Journal(tmp_path / "journal")))
        odd, written = event(1), asyncio.Event()
        odd.fields = Odd(a=1)
        recorder.put_batch("vm1", Batch([odd, event(2)], faults=[fault(1)]), None, written.set)
        await written.wait()
        assert [e.id for e in await recorder.run_on_journal(Journal.read_events)] == [2]
        assert len(await recorder.run_on_journal(Journal.read_faults)) == 1
        await recorder.close()

    asyncio.run(body())
