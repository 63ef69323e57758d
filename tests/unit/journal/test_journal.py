# SPDX-License-Identifier: GPL-2.0-or-later
"""The journal: what is written is there, whatever happens to writer or file."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.support.journals import ThreadWorker
from tests.unit.support.standins import until
from vesper_monitor.guest.event import Event
from vesper_monitor.guest.relay.positions import Position
from vesper_monitor.journal import schema
from vesper_monitor.journal.batch import Batch
from vesper_monitor.journal.journal import Journal
from vesper_monitor.journal.records import ActivationRecord, Fault
from vesper_monitor.journal.schema import JournalError
from vesper_monitor.journal.writer import JournalWriter

PROJECT = Path(__file__).parents[3]


def event(number: int, vm: str = "vm1") -> Event:
    return Event(
        vm, 1, "send_signal", "send_signal", 0, 2**64 - 1, 5, 1.5, {"sig": 11}, "text", number
    )


def fault(number: int, instance: str = "r/u/1/1") -> Fault:
    return Fault(
        number, "r", "vm1", "u", 1, instance, "service", "send_signal", "why", {"id": 1}, 1.0
    )


def instance(name: str = "r/u/1/1") -> ActivationRecord:
    return ActivationRecord(name, "r", "vm1", "u", 1, 1.0, ("send_signal",), ("httpd",))


POSITIONS = {Position(2**64 - 1, "send_signal", 7, 0): 2**64 - 1}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "var" / "journal.sqlite"


def test_everything_written_is_read_back(path: Path) -> None:
    journal = Journal(path)
    journal.write_batch(
        Batch([event(1), event(2)], {("u", 1): POSITIONS}, [fault(1)], [instance()])
    )
    journal.set_activation("vm2", ["out_of_memory"])
    journal.close()
    journal = Journal(path)
    assert journal.read_events() == [event(1), event(2)]
    assert journal.read_faults() == journal.open_faults() == [fault(1)]
    assert journal.open_instances() == [instance()]
    assert journal.read_positions("u", 1) == POSITIONS
    assert journal.read_activations() == {"vm2": ("out_of_memory",)}
    assert journal.last_ids() == (2, 1)
    # Left alone, nothing is activated there; and the other way round.
    for vm in ("vm2", "vm3"):
        journal.set_deactivation(vm, True)
    journal.set_deactivation("vm3", False)
    assert (journal.read_activations(), journal.read_deactivations()) == ({}, {"vm2"})
    journal.begin_boot("another", 3.0)
    assert journal.read_deactivations() == {"vm2"}
    journal.close()


def test_only_root_may_read_it(path: Path) -> None:
    journal = Journal(path)
    journal.write_batch(Batch([event(1)]))
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    journal.close()


def test_a_journal_without_deactivations_is_brought_up(path: Path) -> None:
    """Of version 6."""
    path.parent.mkdir()
    with sqlite3.connect(path) as db:
        db.executescript("".join(schema.STEPS[:6]) + "PRAGMA user_version=6;")
        db.execute("INSERT INTO activations VALUES ('vm1', '[]')")
    db.close()
    for deactivated in (set[str](), {"vm1"}):
        journal = Journal(path)
        assert journal.read_deactivations() == deactivated
        journal.set_deactivation("vm1", True)
        journal.close()
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_the_end_of_a_fault_is_kept(path: Path) -> None:
    journal = Journal(path)
    journal.write_batch(Batch(faults=[fault(1), fault(2)]))
    journal.write_batch(Batch(faults=[dataclasses.replace(fault(1), ended=2.0, ended_by="stop")]))
    assert [f.id for f in journal.open_faults()] == [2]
    assert [f.ended_by for f in journal.read_faults()] == ["stop", None]
    journal.close()


def test_events_are_bounded_and_paged(path: Path) -> None:
    journal = Journal(path, keep_events=1000)
    for start in range(1, 3001, 100):
        journal.write_batch(Batch([event(n, f"vm{n % 2}") for n in range(start, start + 100)]))
    ids = [e.id for e in journal.read_events(limit=10_000)]
    assert ids == list(range(2001, 3001))
    assert [e.id for e in journal.read_events(after=2500, until=2502)] == [2501, 2502]
    assert journal.nth_newest(None, 10) == 2991
    assert journal.nth_newest("vm1", 10) == 2981
    assert [e.id for e in journal.read_events(vm="vm1", after=2990)] == [
        2991,
        2993,
        2995,
        2997,
        2999,
    ]
    journal.close()


def test_another_boot_of_the_host_ends_instances_and_faults(path: Path) -> None:
    journal = Journal(path)
    journal.begin_boot("one", 1.0)
    journal.write_batch(
        Batch(positions={("u", 1): POSITIONS}, faults=[fault(1)], instances=[instance()])
    )
    journal.begin_boot("one", 2.0)
    assert journal.open_faults()
    assert journal.open_instances()
    journal.begin_boot("two", 3.0)
    assert not journal.open_faults()
    assert not journal.open_instances()
    assert not journal.read_positions("u", 1)
    assert journal.read_faults()[0].ended_by == "boot of the host"
    journal.close()


def test_the_fault_that_a_resource_was_stopped_for_is_kept(path: Path) -> None:
    """In this boot, and of its last instance alone."""
    journal = Journal(path)
    journal.begin_boot("one", 1.0)
    stopped = dataclasses.replace(fault(1), ended=2.0, ended_by="stop")
    journal.write_batch(Batch(faults=[stopped], instances=[instance()]))
    assert journal.stopped_for() == [stopped]
    later = dataclasses.replace(instance(), id="later", started=instance().started + 1)
    journal.write_batch(Batch(instances=[later]))
    assert journal.stopped_for() == []
    last = dataclasses.replace(fault(2), instance="later", ended=3.0, ended_by="stop")
    journal.write_batch(Batch(faults=[last]))
    assert journal.stopped_for() == [last]
    journal.begin_boot("two", 3.0)
    assert journal.stopped_for() == []
    journal.close()


_WRITER = """
import sys
import threading
from pathlib import Path
from tests.unit.support.journals import ThreadWorker
from vesper_monitor.journal.batch import Batch
from vesper_monitor.journal.journal import Journal
from vesper_monitor.guest.relay.positions import Position
from tests_journal import event, fault
journal = Journal(Path(sys.argv[1]))
number = 0
while True:
    number += 1
    batch = Batch([event(number)], {("u", 1): {Position(1, "p", 1, 0): number}}, [fault(number)])
    journal.write_batch(batch)
    print(number, flush=True)
"""


def test_a_killed_writer_loses_nothing_and_halves_nothing(path: Path, tmp_path: Path) -> None:
    (tmp_path / "tests_journal.py").write_bytes(Path(__file__).read_bytes())
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{PROJECT}"}
    with subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, env=environment
    ) as writer:
        assert writer.stdout is not None
        for _ in range(20):
            said = writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
        said = (said + writer.stdout.read()).splitlines()[-1]
    journal = Journal(path)
    last_event, last_fault = journal.last_ids()
    assert int(said) <= last_fault <= int(said) + 1
    assert last_event == last_fault == journal.read_positions("u", 1)[Position(1, "p", 1, 0)]
    assert len(journal.read_faults(limit=100_000)) == last_fault
    journal.close()


@pytest.mark.parametrize(
    "content", [b"not a database" * 1000, b"SQLite format 3\0" + b"\xff" * 9000]
)
def test_an_unusable_file_is_set_aside(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    journal = Journal(path)
    journal.write_batch(Batch([event(1)]))
    assert journal.read_events() == [event(1)]
    assert path.with_name("journal.sqlite.unusable1").read_bytes() == content
    journal.close()


def test_a_journal_of_another_schema_is_set_aside(path: Path) -> None:
    journal = Journal(path)
    journal._execute_statement("PRAGMA user_version=99", ())
    journal.close()
    journal = Journal(path)
    assert journal.last_ids() == (0, 0)
    journal.close()


def test_no_way_to_open_it_is_an_error_not_a_crash(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="cannot open the journal"):
        Journal(tmp_path / "file" / "journal.sqlite")
    with pytest.raises(JournalError, match="cannot open the journal"):
        Journal(tmp_path)


def test_recorder_keeps_the_order_and_reads_what_was_put(path: Path) -> None:
    async def run() -> None:
        recorder = JournalWriter(ThreadWorker(lambda: Journal(path)))
        order: list[int] = []
        for number in range(1, 200):
            recorder.put_batch("vm1", Batch([event(number)]), lambda n=number: order.append(n))  # type: ignore[misc]
        events = await recorder.run_on_journal(Journal.read_events, limit=1000)
        assert [e.id for e in events] == order == list(range(1, 200))
        await recorder.close()

    asyncio.run(run())


def test_a_flood_of_one_vm_is_not_before_the_fault_of_another(path: Path) -> None:
    async def run() -> None:
        recorder = JournalWriter(ThreadWorker(lambda: Journal(path)))
        order: list[str] = []
        for first in range(1, 5001, 100):
            flood = Batch([event(number) for number in range(first, first + 100)])
            recorder.put_batch("flood", flood, lambda: order.append("flood"))
        recorder.put_batch("vm1", Batch(faults=[fault(1)]), lambda: order.append("fault"))
        await until(lambda: len(order) == 51, "all is written")
        assert order.index("fault") <= 2
        await recorder.close()

    asyncio.run(run())


def test_monitors_are_told_before_the_disk_has_it_and_it_gets_there(path: Path) -> None:
    syncing = threading.Event()
    synced: list[bool] = []

    class Slow(Journal):
        def sync_to_disk(self) -> None:
            synced.append(syncing.wait(10))
            super().sync_to_disk()

    async def run() -> None:
        recorder = JournalWriter(ThreadWorker(lambda: Slow(path)))
        told = asyncio.Event()
        recorder.put_batch("vm1", Batch([event(1)]))
        await recorder.flush_queue()
        assert not synced  # an event alone need not survive the power
        recorder.put_batch("vm1", Batch(faults=[fault(1)]), told.set)
        await asyncio.wait_for(told.wait(), 5)
        assert not synced
        recorder.put_batch("vm1", Batch(faults=[fault(2)]))
        syncing.set()
        await until(lambda: synced, "synced")
        assert synced == [True]  # one for both
        await recorder.close()
        assert recorder.error is None

    asyncio.run(run())


def test_a_disk_that_does_not_sync_is_named(path: Path) -> None:
    journal = Journal(path)
    journal.write_batch(Batch(faults=[fault(1)]))
    journal.sync_to_disk()
    path.with_name(path.name + "-wal").unlink()
    with pytest.raises(JournalError, match="cannot sync"):
        journal.sync_to_disk()
    journal.close()


def test_a_failing_journal_delays_nobody_and_loses_no_fault(path: Path) -> None:
    class Full(Journal):
        full = False

        def write_batch(self, batch: Batch) -> list[tuple[str, str]]:
            if Full.full:
                raise JournalError("no space left on device")
            return super().write_batch(batch)

    async def run() -> None:
        recorder = JournalWriter(ThreadWorker(lambda: Full(path)))
        told: list[int] = []
        recorder.put_batch("vm1", Batch([event(1)]), lambda: told.append(1))
        await recorder.flush_queue()
        Full.full = True
        for number in range(2, 7000):
            recorder.put_batch("vm1", Batch([event(number)]))
        recorder.put_batch("vm1", Batch(faults=[fault(1)]), lambda: told.append(2))
        recorder.put_batch("vm1", Batch(faults=[dataclasses.replace(fault(1), told=2.0)]))
        await until(lambda: told == [1, 2], "both are told")
        assert str(recorder.error).startswith("no space left on device, since 20")
        Full.full = False
        await until(lambda: recorder.error is None, "the journal works again")
        await recorder.close()

    asyncio.run(run())
    journal = Journal(path)
    assert [f.told for f in journal.read_faults()] == [2.0]
    assert journal.last_ids()[0] == 6999
    assert len(journal.read_events(limit=10_000)) == 6999
    journal.close()


_DOMAIN = st.sampled_from([("u", 1), ("v", 2)])
_NUMBERS = st.dictionaries(st.integers(0, 3), st.integers(0, 1 << 63), max_size=4)


@given(st.lists(st.tuples(st.sampled_from(["write", "fail", "forget", "open"]), _DOMAIN, _NUMBERS)))
def test_positions_are_those_written_last(
    steps: list[tuple[str, tuple[str, int], dict[int, int]]],
) -> None:
    """Only what has changed is written: whatever came in between."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "journal.sqlite"
        journal = Journal(path)
        last: dict[tuple[str, int], dict[Position, int]] = {("u", 1): {}, ("v", 2): {}}
        for step, domain, numbers in steps:
            positions = {Position(1, "p", 1, cpu): seq for cpu, seq in numbers.items()}
            if step == "write":
                journal.write_batch(Batch(positions={domain: positions}))
                last[domain] = positions
            elif step == "fail":
                journal._db.execute("PRAGMA query_only=1")
                with pytest.raises(JournalError, match="readonly"):
                    journal.write_batch(Batch(positions={domain: positions}))
                journal._db.execute("PRAGMA query_only=0")
            elif step == "forget":
                journal.forget_positions(*domain)
                last[domain] = {}
            else:
                journal.close()
                journal = Journal(path)
            for key, expected in last.items():
                assert journal.read_positions(*key) == expected
        journal.close()


def test_any_number_of_events_at_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite")
    wanted = 0
    for count in (0, 1, 7, 8, 9, 63, 64, 65, 200):
        journal.write_batch(Batch(events=[event(wanted + i + 1) for i in range(count)]))
        wanted += count
    assert [e.id for e in journal.read_events(limit=10_000)] == list(range(1, wanted + 1))
    journal.close()
