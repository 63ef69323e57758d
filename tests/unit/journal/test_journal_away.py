# SPDX-License-Identifier: GPL-2.0-or-later
"""vesperd whose journal hangs, is locked, or is not there when it is started."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.unit.daemon.test_daemon import SEGV, Guest, collecting, wait_for, waiting
from tests.unit.journal.test_journal_disk import Disk, trouble
from tests.unit.support.daemons import RESOURCE, DaemonProcess, Monitor, serve
from tests.unit.support.standins import GuestProcess
from vesper_monitor.client import DaemonError

#: s in which a fault is told whatever the disk does: half a second, and a busy machine.
SOON = 5.0
#: s for vesperd to end, likewise.
END = 15.0


class FrozenDisk:
    """An ext4 of its own, all writes to which can be made to wait. Nothing can end a process
    that does."""

    def __init__(self, directory: Path) -> None:
        self.path, self._image = directory / "disk", directory / "disk.img"
        self.path.mkdir()
        self._image.touch()
        self._run("truncate", "-s", "32M", str(self._image))
        self._run("mkfs.ext4", "-q", str(self._image))
        self._run("mount", "-o", "loop", str(self._image), str(self.path))

    @contextmanager
    def frozen(self) -> Iterator[None]:
        self._run("fsfreeze", "-f", str(self.path))
        try:
            yield
        finally:
            self._run("fsfreeze", "-u", str(self.path))

    def unmount(self) -> None:
        self._run("umount", "-l", str(self.path))

    @staticmethod
    def _run(*command: str) -> None:
        subprocess.run(command, check=True, timeout=30)


@pytest.fixture
def frozen_disk(tmp_path: Path) -> Iterator[FrozenDisk]:
    disk = FrozenDisk(tmp_path)
    try:
        yield disk
    finally:
        disk.unmount()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path / "disk")
    try:
        yield disk
    finally:
        disk.unmount()


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("VESPER_STANDIN_DIR", str(tmp_path / "domains"))
    return tmp_path


@pytest.fixture
def start_guest() -> Iterator[Callable[[str], Guest]]:
    guests: list[GuestProcess] = []

    def start(name: str) -> Guest:
        guests.append(guest := Guest(name))
        return guest

    yield start
    for guest in guests:
        guest.kill()


@contextmanager
def running(place: Path, journal: Path | None = None) -> Iterator[DaemonProcess]:
    config = "activate_timeout = 0.5\nmonitor_grace = 600.0"
    yield from serve(DaemonProcess(place, config, journal=journal))


def begin(daemon: DaemonProcess, guests: int = 1, **resource: Any) -> None:
    """A resource whose guest is watched and which has had its first monitor."""
    mine = {**RESOURCE, **resource}
    daemon.call("start", **mine)
    wait_for(lambda: collecting(daemon) == 2 * guests, "both probes")
    assert Monitor(daemon, **mine).result() == "fine"


def tell_fault(daemon: DaemonProcess, guest: Guest) -> Monitor:
    monitor = Monitor(daemon)
    wait_for(lambda: waiting(daemon), "the monitor")
    began = time.monotonic()
    guest.say(*SEGV)
    assert monitor.result() == "fault"
    assert time.monotonic() - began < SOON
    return monitor


def end(daemon: DaemonProcess) -> None:
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(END) == 0


def test_a_disk_that_hangs_holds_up_no_fault(
    place: Path, frozen_disk: FrozenDisk, start_guest: Callable[[str], Guest]
) -> None:
    with running(place, frozen_disk.path / "journal") as daemon:
        guest = start_guest("vm1")
        begin(daemon)
        with frozen_disk.frozen():
            told = tell_fault(daemon, guest).answer["fault"]
            assert told["id"] == 1
            wait_for(lambda: "does not answer, since 20" in trouble(daemon), "said in the status")
            start_guest("vm2")
            begin(daemon, 2, resource="r2", vm="vm2")
            # What an operator wants kept is refused: it cannot be.
            with pytest.raises(DaemonError, match="does not answer"):
                daemon.call("pause", vm="vm1", **{"for": 60})
            assert [vm["paused"] for vm in daemon.call("status")["vms"]] == [None, None]
            end(daemon)
            # It is started again, and can neither read nor write the journal.
            daemon.start()
            assert "another vesperd uses the journal" in trouble(daemon)
            Monitor(daemon).result()
            monitor = Monitor(daemon)
            assert monitor.result() == "fault"
            found = monitor.answer["fault"]
            assert (found["id"], found["event"]["seq"]) == (None, told["event"]["seq"])
            assert found["told"] is not None  # known, although the journal does not know it
            assert "not written yet" in daemon.vesper("faults").stdout
        wait_for(lambda: not trouble(daemon), "the journal works again")
        held = [(f["id"], f["ended"], f["event"]["seq"]) for f in daemon.call("faults")["faults"]]
        assert held == [(1, None, told["event"]["seq"])]
        daemon.stop(signal.SIGKILL)
        daemon.start()
        assert Monitor(daemon).result() == "fault"
        assert [f["id"] for f in daemon.call("faults")["faults"]] == [1]
        assert [event["id"] for event in daemon.events()] == [1]


def test_a_journal_that_cannot_be_opened_at_the_start_is_read_later(
    place: Path, disk: Disk, start_guest: Callable[[str], Guest]
) -> None:
    """What was held is told when it can be; history and its numbers go on."""
    journal = disk.path / "journal"
    with running(place, journal) as daemon:
        guest, other = start_guest("vm1"), start_guest("vm2")
        begin(daemon)
        begin(daemon, 2, resource="r2", vm="vm2")
        guest.say(*SEGV)
        assert Monitor(daemon).result() == "fault"
        daemon.call("faults")
        daemon.stop()
        disk.fill()
        daemon.start()
        assert trouble(daemon)
        assert Monitor(daemon).result() == "fine"  # nobody can know it
        Monitor(daemon, resource="r2", vm="vm2").result()
        monitor = Monitor(daemon, resource="r2", vm="vm2")
        wait_for(lambda: waiting(daemon), "the monitor")
        other.say(*SEGV)
        assert monitor.result() == "fault"
        assert monitor.answer["fault"]["id"] is None
        waits = Monitor(daemon)
        wait_for(lambda: waiting(daemon), "the other monitor")
        disk.free()
        assert waits.result() == "fault"
        assert waits.answer["fault"]["id"] == 1
        faults = daemon.call("faults")["faults"]
        assert [(f["id"], f["resource"], f["ended"]) for f in faults] == [
            (1, "r1", None), (2, "r2", None)
        ]  # fmt: skip
        assert [event["id"] for event in daemon.events()] == [1, 2]
        assert faults[1]["event"]["id"] == 2
        assert not list(disk.path.glob("*.unusable*"))


def test_a_resource_that_was_stopped_meanwhile_has_no_fault_left(
    place: Path, disk: Disk, start_guest: Callable[[str], Guest]
) -> None:
    with running(place, disk.path / "journal") as daemon:
        guest = start_guest("vm1")
        begin(daemon)
        guest.say(*SEGV)
        assert Monitor(daemon).result() == "fault"
        daemon.call("faults")
        daemon.stop()
        disk.fill()
        daemon.start()
        daemon.call("stop", resource="r1", vm="vm1")
        guest.kill()
        disk.free()
        wait_for(lambda: not trouble(daemon), "the journal works again")
        assert [f["ended_by"] for f in daemon.call("faults")["faults"]] == ["stop"]
        # The guest's device was there, so it is watched until its domain is seen to have gone.
        wait_for(lambda: not daemon.call("status")["vms"], "nothing is left")


def test_a_backup_that_locks_the_journal_holds_up_no_fault(
    place: Path, start_guest: Callable[[str], Guest]
) -> None:
    with running(place) as daemon:
        guest = start_guest("vm1")
        begin(daemon)
        daemon.call("faults")
        with closing(sqlite3.connect(daemon.journal, isolation_level=None)) as backup:
            backup.execute("BEGIN IMMEDIATE")
            tell_fault(daemon, guest)
            wait_for(lambda: "since 20" in trouble(daemon), "said in the status")
        wait_for(lambda: not trouble(daemon), "the journal works again")
        daemon.stop(signal.SIGKILL)
        daemon.start()
        assert Monitor(daemon).result() == "fault"
        assert [(f["id"], f["ended"]) for f in daemon.call("faults")["faults"]] == [(1, None)]
