# SPDX-License-Identifier: GPL-2.0-or-later
"""The readers' own connection to the journal."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from tests.host.test_server import event
from vesper_monitor.faults.journal import Batch, Journal, JournalError
from vesper_monitor.faults.journal_reader import JournalReader


def test_it_reads_what_is_written_and_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"

    async def run() -> None:
        reader = JournalReader(path)
        with pytest.raises(JournalError, match="cannot open"):
            await reader.run(lambda journal: journal.events())
        assert not path.exists()
        journal = Journal(path)
        for number in range(1, 4):
            journal.write(Batch(events=[event(number)]))
            taken: list[float] = []
            found = await reader.run(lambda j: j.events(), taken.append)
            assert [one.id for one in found] == list(range(1, number + 1))
            assert taken[0] >= 0
        with pytest.raises(JournalError, match="readonly"):
            await reader.run(lambda j: j._execute("DELETE FROM events", ()))
        # A damaged one is set aside, and another put in its place.
        os.rename(path, tmp_path / "aside")
        journal.close()
        fresh = Journal(path)
        fresh.write(Batch(events=[event(9)]))
        found = await reader.run(lambda j: j.events())
        assert [one.id for one in found] == [9]
        fresh.close()
        reader.close()

    asyncio.run(run())


def test_a_disk_that_hangs_holds_up_who_reads_it(tmp_path: Path) -> None:
    """Neither the loop, nor vesperd's end."""
    release = threading.Event()

    async def run() -> None:
        journal = Journal(tmp_path / "journal.sqlite")
        reader = JournalReader(tmp_path / "journal.sqlite")
        work = asyncio.create_task(reader.run(lambda _: release.wait(60)))
        done, _ = await asyncio.wait({work}, timeout=0.05)
        assert not done
        reader.close()
        work.cancel()
        journal.close()

    asyncio.run(run())
    release.set()


def test_a_reader_keeps_nothing_open(tmp_path: Path) -> None:
    """Its transactions would keep SQLite from emptying the write-ahead log."""

    async def run() -> None:
        journal = Journal(tmp_path / "journal.sqlite")
        reader = JournalReader(tmp_path / "journal.sqlite")
        journal.write(Batch(events=[event(1)]))
        await reader.run(lambda j: j.events())
        journal.write(Batch(events=[event(2)]))
        busy, *_ = journal._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        assert not busy
        reader.close()
        journal.close()

    asyncio.run(run())
