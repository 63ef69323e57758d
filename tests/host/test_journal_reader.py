# SPDX-License-Identifier: GPL-2.0-or-later
"""The readers' own connection to the journal, in a process of its own."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from tests.host.test_server import event
from vesper_monitor.faults.journal import Batch, Journal, JournalError
from vesper_monitor.faults.journal_process import JournalProcess


def test_it_reads_what_is_written_and_writes_nothing(tmp_path: Path) -> None:
    path, files = tmp_path / "journal.sqlite", tmp_path.glob

    async def run() -> None:
        reader = JournalProcess.for_reading(path)
        with pytest.raises(JournalError, match="cannot open"):
            await reader.call("events")
        assert not path.exists()
        journal = Journal(path)
        for number in range(1, 4):
            journal.write(Batch(events=[event(number)]))
            found, cpu_s = await reader.call_measured("events")
            assert [one.id for one in found] == list(range(1, number + 1))
            assert cpu_s >= 0
        with pytest.raises(JournalError, match="readonly"):
            await reader.call("_execute", "DELETE FROM events", ())
        # A damaged one is set aside, and another put in its place.
        journal.close()
        for file in files("journal.sqlite*"):
            file.rename(tmp_path / f"aside-{file.name}")
        fresh = Journal(path)
        fresh.write(Batch(events=[event(9)]))
        assert [one.id for one in await reader.call("events")] == [9]
        fresh.close()
        reader.kill()

    asyncio.run(run())


def test_a_disk_that_hangs_holds_up_who_reads_it(tmp_path: Path) -> None:
    """Neither the loop, nor vesperd's end."""

    async def run() -> None:
        journal = Journal(tmp_path / "journal.sqlite")
        reader = JournalProcess.for_reading(tmp_path / "journal.sqlite")
        await reader.call("events")
        assert reader._process is not None
        reader._process.send_signal(signal.SIGSTOP)
        work = asyncio.create_task(reader.call("events"))
        done, _ = await asyncio.wait({work}, timeout=0.05)
        assert not done
        reader.kill()
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
        journal.write(Batch(events=[event(1)]))
        await reader.call("events")
        journal.write(Batch(events=[event(2)]))
        busy, *_ = journal._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        assert not busy
        reader.kill()
        journal.close()

    asyncio.run(run())
