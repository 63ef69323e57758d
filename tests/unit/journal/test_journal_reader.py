# SPDX-License-Identifier: GPL-2.0-or-later
"""The readers' own connection to the journal, in a process of its own."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any, cast

import pytest

from tests.unit.daemon.test_server import event
from tests.unit.support.standins import until
from vesper_monitor.daemon.connection import Connection
from vesper_monitor.daemon.reader_requests import ReaderRequests
from vesper_monitor.journal import journal_process, read_limit
from vesper_monitor.journal.batch import Batch
from vesper_monitor.journal.journal import Journal
from vesper_monitor.journal.journal_process import JournalProcess
from vesper_monitor.journal.schema import JournalError


def test_it_reads_what_is_written_and_writes_nothing(tmp_path: Path) -> None:
    path, files = tmp_path / "journal.sqlite", tmp_path.glob

    async def run() -> None:
        reader = JournalProcess.for_reading(path)
        with pytest.raises(JournalError, match="cannot open"):
            await reader.call_journal("read_events")
        assert not path.exists()
        journal = Journal(path)
        for number in range(1, 4):
            journal.write_batch(Batch(events=[event(number)]))
            found, cpu_s = await reader.call_measured("read_events")
            assert [one.id for one in found] == list(range(1, number + 1))
            assert cpu_s >= 0
        with pytest.raises(JournalError, match="readonly"):
            await reader.call_journal("_query_rows", "DELETE FROM events")
        with pytest.raises(JournalError, match="no attribute 'write_batch'"):
            await reader.call_journal("write_batch", Batch(events=[event(4)]))
        # A damaged one is set aside, and another put in its place.
        journal.close()
        for file in files("journal.sqlite*"):
            file.rename(tmp_path / f"aside-{file.name}")
        fresh = Journal(path)
        fresh.write_batch(Batch(events=[event(9)]))
        assert [one.id for one in await reader.call_journal("read_events")] == [9]
        fresh.close()
        reader.kill_worker()

    asyncio.run(run())


def test_a_disk_that_hangs_holds_up_who_reads_it(tmp_path: Path) -> None:
    """Neither the loop, nor vesperd's end."""

    async def run() -> None:
        journal = Journal(tmp_path / "journal.sqlite")
        reader = JournalProcess.for_reading(tmp_path / "journal.sqlite")
        await reader.call_journal("read_events")
        assert reader._process is not None
        reader._process.send_signal(signal.SIGSTOP)
        work = asyncio.create_task(reader.call_journal("read_events"))
        done, _ = await asyncio.wait({work}, timeout=0.05)
        assert not done
        reader.kill_worker()
        with pytest.raises(JournalError, match="has ended"):
            await work
        assert reader._process.wait(10) != 0
        journal.close()

    asyncio.run(run())


def test_a_reader_keeps_nothing_open(tmp_path: Path) -> None:
    """Its transactions would keep SQLite from emptying the write-ahead log."""

    async def run() -> None:
        journal = Journal(tmp_path / "journal.sqlite")
        reader = JournalProcess.for_reading(tmp_path / "journal.sqlite")
        journal.write_batch(Batch(events=[event(1)]))
        await reader.call_journal("read_events")
        journal.write_batch(Batch(events=[event(2)]))
        busy, *_ = journal._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        assert not busy
        reader.kill_worker()
        journal.close()

    asyncio.run(run())


class Reader:
    """A client of the group's."""

    privileged = False

    async def take_turn(self) -> None:
        pass

    def count_cpu_time(self, seconds: float) -> None:
        pass


def test_the_group_waits_for_a_disk_that_hangs_no_longer_than_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what it asks for meanwhile does not pile up, however often it asks."""
    monkeypatch.setattr(read_limit, "READ_LIMIT_S", 0.05)
    monkeypatch.setattr(journal_process, "MAX_UNANSWERED", 3)

    async def run() -> None:
        journal = Journal(tmp_path / "journal.sqlite")
        reader = JournalProcess.for_reading(tmp_path / "journal.sqlite")
        await reader.call_journal("read_events")
        assert reader._process is not None
        reader._process.send_signal(signal.SIGSTOP)
        nothing: Any = None
        mine = ReaderRequests(nothing, nothing, nothing, nothing, nothing, reader)
        client = cast(Connection, Reader())
        for _ in range(3):
            with pytest.raises(JournalError, match="not answered within"):
                await mine._read_journal(client, Journal.last_ids)
        with pytest.raises(JournalError, match="does not answer"):
            await mine._read_journal(client, Journal.last_ids)
        monkeypatch.setattr(read_limit, "READ_LIMIT_S", 20.0)
        reader._process.send_signal(signal.SIGCONT)
        await until(lambda: reader._pipe is not None and not reader._pipe._waiting, "its answers")
        assert await mine._read_journal(client, Journal.last_ids) == (0, 0)
        reader.kill_worker()
        journal.close()

    asyncio.run(run())
