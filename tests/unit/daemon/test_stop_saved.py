# SPDX-License-Identifier: GPL-2.0-or-later
"""A stop is answered when the journal has it: no later vesperd goes on with what has ended."""

from __future__ import annotations

import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.support.daemons import RESOURCE, DaemonProcess, Monitor, serve, wait_collecting
from tests.unit.support.standins import GuestProcess
from vesper_monitor.daemon.request import SAVE_LIMIT_S


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DaemonProcess]:
    """It watches vm1 for r1."""
    monkeypatch.setenv("VESPER_STANDIN_DIR", str(tmp_path / "domains"))
    for daemon in serve(DaemonProcess(tmp_path, "activate_timeout = 0.5")):
        guest = GuestProcess("vm1")
        daemon.call("start", **RESOURCE)
        wait_collecting(daemon, 2)
        assert Monitor(daemon).result() == "fine"
        yield daemon
        guest.kill()


@pytest.fixture
def locked(daemon: DaemonProcess) -> Iterator[sqlite3.Connection]:
    """Somebody else has the journal for himself."""
    daemon.call("faults")  # all before is written
    connection = sqlite3.connect(daemon.journal, isolation_level=None, check_same_thread=False)
    connection.execute("BEGIN EXCLUSIVE")
    yield connection
    connection.close()


class Stop(threading.Thread):
    def __init__(self, daemon: DaemonProcess) -> None:
        super().__init__(daemon=True)
        self._daemon_process = daemon
        self.answer: dict[str, Any] | None = None
        self.took = 0.0
        self.start()

    def run(self) -> None:
        begun = time.monotonic()
        self.answer = self._daemon_process.call("stop", resource="r1", vm="vm1")
        self.took = time.monotonic() - begun


def test_a_stop_that_was_answered_outlives_a_kill(
    daemon: DaemonProcess, locked: sqlite3.Connection
) -> None:
    stop = Stop(daemon)
    stop.join(SAVE_LIMIT_S / 3)
    assert stop.answer is None, "answered, and the journal does not have it"
    locked.execute("ROLLBACK")
    stop.join(30)
    assert stop.answer is not None
    daemon.stop(signal.SIGKILL)
    daemon.start()
    assert [vm["resource"] for vm in daemon.call("status")["vms"] if vm["resource"]] == []
    assert daemon.call("life", resource="r1").get("vm") is None


def test_a_disk_that_hangs_holds_up_no_stop(
    daemon: DaemonProcess, locked: sqlite3.Connection
) -> None:
    stop = Stop(daemon)
    stop.join(30)
    assert stop.answer is not None
    assert SAVE_LIMIT_S <= stop.took < SAVE_LIMIT_S + 2
    assert locked.in_transaction
