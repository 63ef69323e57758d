# SPDX-License-Identifier: GPL-2.0-or-later
"""The journal's file: bounded, of other versions, used by other processes; and its child."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import resource
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.unit.journal.test_journal import event, fault, instance
from tests.unit.support.standins import until
from vesper_monitor.journal import journal as journals
from vesper_monitor.journal.batch import Batch
from vesper_monitor.journal.journal import Journal
from vesper_monitor.journal.journal_process import JournalProcess
from vesper_monitor.journal.schema import SCHEMA_VERSION, JournalError
from vesper_monitor.journal.writer import JournalWriter


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


def test_history_is_trimmed_by_count(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers may jump: an older vesperd has taken them from the clock."""
    monkeypatch.setattr(journals, "TRIM_INTERVAL_EVENTS", 1)
    journal = Journal(path, keep_events=5, keep_faults=5)
    far = 1_796_076_466_873
    for number in (1, 2, 3, far, far + 1, far + 2):
        ended = dataclasses.replace(fault(number), ended=2.0, ended_by="stop")
        journal.write_batch(Batch([event(number)], faults=[ended]))
    assert [e.id for e in journal.read_events()] == [2, 3, far, far + 1, far + 2]
    journal.write_batch(Batch([event(far + 3)]))
    assert [f.id for f in journal.read_faults()] == [2, 3, far, far + 1, far + 2]
    journal.close()


def test_the_log_is_bounded_whatever_a_reader_holds(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journals, "MAX_LOG_BYTES", 1 << 20)
    journal = Journal(path)
    journal._db.execute("PRAGMA busy_timeout=0")
    journal.write_batch(Batch([event(1)]))
    log = path.with_name(path.name + "-wal")
    with closing(sqlite3.connect(path)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM events").fetchone() == (1,)
        with pytest.raises(JournalError, match="a process reads it and does not end"):
            for number in range(2, 100):
                journal.write_batch(Batch([event(100 * number + part) for part in range(100)]))
        assert log.stat().st_size < 2 << 20
    journal.write_batch(Batch([event(10**6)]))
    assert log.stat().st_size < 1 << 20
    journal.close()


@pytest.mark.parametrize(
    ("change", "usable"),
    [
        ("ALTER TABLE faults ADD COLUMN more TEXT", True),
        ("ALTER TABLE faults ADD COLUMN more TEXT NOT NULL DEFAULT ''", True),
        ("CREATE TABLE other (id INTEGER)", True),
        ("ALTER TABLE faults RENAME COLUMN reason TO why", False),
        ("DROP TABLE activations", False),
    ],
)
def test_a_newer_journal_is_used_as_far_as_it_is_known(
    path: Path, change: str, usable: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a newer vesperd, which was taken back: what it holds goes on."""
    journal = Journal(path)
    journal.write_batch(Batch([event(1)], instances=[instance()], faults=[fault(1)]))
    journal.close()
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(change)
        db.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    journal = Journal(path)
    assert [f.id for f in journal.open_faults()] == ([1] if usable else [])
    journal.write_batch(Batch([event(2)], instances=[instance()], faults=[fault(2)]))
    assert journal.last_ids() == (2, 2)
    journal.close()
    assert path.with_name("journal.sqlite.unusable1").exists() is not usable
    assert f"schema version {SCHEMA_VERSION + 1}" in caplog.text


def process(path: Path) -> JournalProcess:
    return JournalProcess(path, keep_events=100, keep_faults=100)


def test_a_child_that_dies_is_begun_again(path: Path) -> None:
    async def body() -> None:
        worker = process(path)
        assert await worker.call_journal("write_batch", Batch([event(1)])) == []
        assert worker._process is not None
        worker._process.send_signal(signal.SIGSTOP)
        asking = asyncio.create_task(worker.call_journal("last_ids"))
        await asyncio.sleep(0)
        worker._process.kill()
        with pytest.raises(JournalError, match="process has ended"):
            await asking
        assert await worker.call_journal("last_ids") == (1, 0)
        await worker.close()

    asyncio.run(body())


@pytest.mark.parametrize("room", range(4))
def test_without_descriptors_a_child_is_begun_later(path: Path, room: int) -> None:
    """What was put is not dropped for that."""

    async def body() -> None:
        recorder, written = JournalWriter(process(path)), asyncio.Event()
        _, most = limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + room, most))
        try:
            recorder.put_batch("vm1", Batch([event(1)]), None, written.set)
            if room < 2:  # not even a pair of sockets
                await until(lambda: recorder.error is not None, "it fails")
                assert "cannot start its process" in str(recorder.error)
            else:
                await asyncio.sleep(0)
            assert not written.is_set()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        await written.wait()
        assert [e.id for e in await recorder.run_on_journal(Journal.read_events)] == [1]
        await recorder.close()

    asyncio.run(body())


def test_there_is_one_child_whoever_asks_first(path: Path) -> None:
    async def body() -> None:
        worker = process(path)
        asked = (worker.call_journal("last_ids"), worker.read_state(path.with_name("none")))
        ids, missing = await asyncio.gather(*asked, return_exceptions=True)
        assert ids == (0, 0)
        assert isinstance(missing, FileNotFoundError)
        await worker.write_state(path.with_name("state"), {"a": 1})
        assert await worker.read_state(path.with_name("state")) == '{"a": 1}'
        with pytest.raises(OSError, match="Not a directory"):
            await worker.write_state(path.with_name("state") / "x" / "below", {})
        await worker.close()

    asyncio.run(body())


def test_a_second_vesperd_does_not_get_the_journal_of_a_first(path: Path) -> None:
    async def body() -> None:
        first, second = process(path), process(path)
        assert await first.call_journal("last_ids") == (0, 0)
        with pytest.raises(JournalError, match="another vesperd uses the journal"):
            await second.call_journal("last_ids")
        await first.call_journal("write_batch", Batch([event(1)]))
        await first.close()
        assert await second.call_journal("last_ids") == (1, 0)
        await second.close()

    asyncio.run(body())


def test_a_child_ends_with_its_parent(path: Path) -> None:
    """However that ends; here its end of the socket closes."""

    async def body() -> None:
        worker = process(path)
        await worker.call_journal("last_ids")
        child = worker._process
        assert child is not None
        assert worker._pipe is not None
        worker._pipe.close()
        await until(lambda: child.poll() is not None, "the child's end")

    asyncio.run(body())
