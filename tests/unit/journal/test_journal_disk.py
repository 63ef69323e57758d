# SPDX-License-Identifier: GPL-2.0-or-later
"""The journal's disk fails: faults are told all the same, the trouble is named, nothing deleted."""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.daemon.test_daemon import SEGV, Guest, collecting, wait_for
from tests.unit.journal.test_journal import event, fault
from tests.unit.support.daemons import RESOURCE, DaemonProcess, Monitor, serve
from tests.unit.support.journals import ThreadWorker
from tests.unit.support.standins import GuestProcess
from vesper_monitor.journal.batch import Batch
from vesper_monitor.journal.journal import Journal
from vesper_monitor.journal.schema import JournalDamagedError
from vesper_monitor.journal.writer import JournalWriter

#: KiB of the disk.
SIZE = 2048


class Disk:
    """A small file system of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self._mount("-t", "tmpfs", "-o", f"size={SIZE}k", "vesper-test")

    def _mount(self, *words: str) -> None:
        subprocess.run(["mount", *words, str(self.path)], check=True, timeout=10)

    def fill(self) -> None:
        with (self.path / "filler").open("wb", buffering=0) as file:
            for size in (65536, 4096, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    pass

    def free(self) -> None:
        (self.path / "filler").unlink()

    def close_to_writes(self, closed: bool) -> None:
        """Nobody may have a file open for writing."""
        self._mount("-o", f"remount,{'ro' if closed else 'rw'}")

    def unmount(self) -> None:
        subprocess.run(["umount", "-l", str(self.path)], check=True, timeout=10)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path / "disk")
    try:
        yield disk
    finally:
        disk.unmount()


@pytest.fixture
def daemon(disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DaemonProcess]:
    monkeypatch.setenv("VESPER_STANDIN_DIR", str(tmp_path / "domains"))
    journal = disk.path / "journal"
    yield from serve(DaemonProcess(tmp_path, "activate_timeout = 0.5", journal=journal))


@pytest.fixture
def guest(daemon: DaemonProcess) -> Iterator[GuestProcess]:
    guest = Guest("vm1")
    daemon.call("start", **RESOURCE)
    wait_for(lambda: collecting(daemon) == 2, "both probes")
    assert Monitor(daemon).result() == "fine"
    yield guest
    guest.kill()


def trouble(daemon: DaemonProcess) -> str:
    return str(daemon.call("status")["journal"] or "")


def told(daemon: DaemonProcess, guest: Guest) -> None:
    """A fault is told to the monitor that waits, and its end is as ever.

    (By the operator: a stop would have to end the guest, too.)
    """
    monitor = Monitor(daemon)
    guest.say(*SEGV)
    assert monitor.result() == "fault"
    assert monitor.answer["reason"].startswith("httpd[97] killed by SIGSEGV")
    assert daemon.call("clear", resource="r1")["cleared"] == 1
    assert Monitor(daemon, first=True).result() == "fine"


def test_a_full_disk_holds_up_no_fault(daemon: DaemonProcess, guest: Guest, disk: Disk) -> None:
    disk.fill()
    told(daemon, guest)
    wait_for(lambda: "full" in trouble(daemon), "the trouble in the status")
    assert str(disk.path / "journal") in trouble(daemon)
    assert "full" in daemon.vesper("status").stdout
    told(daemon, guest)
    assert daemon.log.read_text().count("faults are kept in memory and told all the same") == 1
    monitor = Monitor(daemon)
    guest.say(*SEGV)
    assert monitor.result() == "fault"
    disk.free()
    wait_for(lambda: not trouble(daemon), "the journal works again")
    # What was kept in memory is on the disk now.
    daemon.stop(signal.SIGKILL)
    daemon.start()
    assert Monitor(daemon).result() == "fault"
    faults = daemon.call("faults")["faults"]
    assert [fault["ended_by"] for fault in faults] == ["operator", "operator", None]
    assert not list(disk.path.glob("*.unusable*"))


def test_a_read_only_disk_holds_up_no_fault(
    daemon: DaemonProcess, guest: Guest, disk: Disk
) -> None:
    daemon.stop(signal.SIGKILL)
    disk.close_to_writes(True)
    daemon.start()
    assert "Read-only" in daemon.log.read_text()
    assert Monitor(daemon).result() == "fine"  # taken up again
    wait_for(lambda: collecting(daemon) == 2, "both probes")
    told(daemon, guest)
    wait_for(lambda: "Read-only" in trouble(daemon), "the trouble in the status")
    monitor = Monitor(daemon)
    guest.say(*SEGV)
    assert monitor.result() == "fault"
    disk.close_to_writes(False)
    wait_for(lambda: not trouble(daemon), "the journal works again")
    daemon.stop(signal.SIGKILL)
    daemon.start()
    assert Monitor(daemon).result() == "fault"
    assert [f["ended_by"] for f in daemon.call("faults")["faults"]] == ["operator", None]
    assert not list(disk.path.glob("*.unusable*"))


def test_a_journal_that_is_damaged_between_two_runs_is_set_aside(
    daemon: DaemonProcess, guest: Guest, disk: Disk
) -> None:
    """Each is kept; the guest is read on from then, and its next fault told."""
    journal = disk.path / "journal"
    for number in (1, 2):
        daemon.stop()
        content = journal.read_bytes()
        damaged = content[:4096] + random.Random(number).randbytes(len(content) - 4096)
        journal.write_bytes(damaged)
        daemon.start()
        assert journal.with_name(f"journal.unusable{number}").read_bytes() == damaged
        assert Monitor(daemon).result() == "fine"  # taken up again
        wait_for(lambda: collecting(daemon) == 2, "both probes")
        told(daemon, guest)


def test_a_journal_that_is_damaged_while_it_is_used_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    journal.write_batch(Batch([event(number) for number in range(1, 50_000)]))
    journal.close()

    async def run() -> None:
        recorder = JournalWriter(ThreadWorker(lambda: Journal(path)))
        assert await recorder.run_on_journal(Journal.last_ids) == (49_999, 0)
        with path.open("r+b") as file:
            file.seek(8192)
            file.write(b"\xff" * (path.stat().st_size - 8192))
        with pytest.raises(JournalDamagedError):
            await recorder.run_on_journal(Journal.read_events, limit=10**6)
        recorder.put_batch("vm1", Batch(faults=[fault(1)]))
        await recorder.flush_queue()
        assert recorder.error is None
        assert await recorder.run_on_journal(Journal.last_ids) == (0, 1)
        await recorder.close()

    asyncio.run(run())
    assert path.with_name("journal.unusable1").stat().st_size > 1 << 20


def test_a_torn_write_costs_what_was_not_finished(tmp_path: Path) -> None:
    """Cut anywhere: all up to some transaction is there, and no half of one."""
    path = tmp_path / "journal"
    journal = Journal(path)
    for number in range(1, 40):
        journal.write_batch(Batch([event(number)], faults=[fault(number)]))
    wal = path.with_name("journal-wal")
    parts = {p.name: p.read_bytes() for p in (path, wal)}
    journal.close()
    kept = []
    for cut in (*range(0, len(parts[wal.name]), 9973), len(parts[wal.name])):
        torn = tmp_path / f"cut-{cut}"
        torn.mkdir()
        (torn / path.name).write_bytes(parts[path.name])
        (torn / wal.name).write_bytes(parts[wal.name][:cut] + b"\xee" * 512)
        found = Journal(torn / path.name)
        last_event, last_fault = found.last_ids()
        assert last_event == last_fault == len(found.read_faults(limit=1000))
        kept.append(last_fault)
        found.write_batch(Batch([event(1000)]))
        found.close()
        assert not list(torn.glob("*.unusable*"))
        shutil.rmtree(torn)
    assert kept == sorted(kept)
    assert kept[-1] == 39


def test_damage_is_told_from_a_disk_that_fails(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    assert isinstance(
        journal._make_error("read", sqlite3.DatabaseError("malformed")), JournalDamagedError
    )
    full = journal._make_error("write", sqlite3.OperationalError("database or disk is full"))
    assert not isinstance(full, JournalDamagedError)
    journal.close()
