# SPDX-License-Identifier: GPL-2.0-or-later
"""The way back: VMs that an operator has deactivated, and activated again."""

from __future__ import annotations

import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from lab.standin.transport import StandinTransport
from tests.unit.support import guests
from tests.unit.support.daemons import (
    RESOURCE,
    DaemonProcess,
    Monitor,
    serve,
    wait_collecting,
)
from tests.unit.support.guests import wait_for
from tests.unit.support.running import Running, collects, run
from tests.unit.support.standins import guest, until
from vesper_monitor.client import Client
from vesper_monitor.journal.journal import Journal


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Running:
    monkeypatch.setenv("VESPER_STANDIN_DIR", str(tmp_path / "domains"))
    return Running(tmp_path)


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DaemonProcess]:
    monkeypatch.setenv("VESPER_STANDIN_DIR", str(tmp_path / "domains"))
    yield from serve(DaemonProcess(tmp_path, "activate_timeout = 0.5"))


def probes_in_guests(daemon: DaemonProcess) -> int:
    return sum(len(vm["probes"]) for vm in daemon.call("status")["vms"])


def test_what_was_deactivated_stays_so(daemon: DaemonProcess, tmp_path: Path) -> None:
    """The resource is no longer VESPER's: over restarts, and in the VM's next life."""
    with guest("vm1") as vm:
        daemon.call("start", **RESOURCE)
        wait_collecting(daemon, 2)
        waiting = Monitor(daemon, first=False, timeout=50)
        wait_for(lambda: guests.waiting(daemon), "the monitor")
        daemon.call("deactivate", vm="vm1")
        assert waiting.result() == "degraded"
        assert daemon.call("status")["vms"] == []
        for _ in range(2):
            daemon.stop()
            daemon.start()
            assert daemon.call("status")["vms"] == []
            assert not vm.place.active.exists()
    daemon.call("expect", resource="r2", vm="vm2", probes=["send_signal"])
    with guest("vm1") as vm, guest("vm2"):
        # vm2, which is expected, shows when arrivals have been looked at.
        wait_collecting(daemon, 1)
        assert not vm.place.active.exists()
        # Its next start is VESPER's again.
        daemon.call("start", **RESOURCE)
        wait_collecting(daemon, 3)
        daemon.stop()
        daemon.start()
        wait_collecting(daemon, 3)


def test_a_resource_that_still_monitors_is_told_until_its_next_start(
    daemon: DaemonProcess,
) -> None:
    with guest("vm1") as vm:
        daemon.call("start", **RESOURCE)
        wait_collecting(daemon, 2)
        daemon.call("deactivate", vm="vm1")
        for restarted in (False, True):
            if restarted:
                daemon.stop()
                daemon.start()
            for _ in range(2):
                told = Monitor(daemon, timeout=0.2)
                assert told.result() == "degraded"
                assert "vesper activate vm1" in told.answer["reason"]
            assert probes_in_guests(daemon) == 0
        # Its agent's other requests change nothing in that.
        daemon.call("change", **{**RESOURCE, "probes": ["send_signal"]})
        assert Monitor(daemon, timeout=0.2).result() == "degraded"
        assert not vm.place.active.exists()
        # Its end is still seen.
        waiting = Monitor(daemon, timeout=50)
        wait_for(lambda: guests.waiting(daemon), "the monitor")
        vm.kill()
        assert waiting.result() == "dead"
    with guest("vm1"):
        daemon.call("start", **RESOURCE)
        wait_collecting(daemon, 2)
        assert Monitor(daemon, timeout=0.2).result() == "fine"


def test_a_deactivation_holds_when_the_journal_is_read_late(running: Running) -> None:
    """A monitor does not change that, a start does, and each is kept."""
    path = Path(running.config.journal)
    aside = path.with_name("aside")

    def take_away() -> None:
        path.rename(aside)
        path.mkdir()  # it cannot be opened

    def bring_back() -> None:
        path.rmdir()
        aside.rename(path)

    async def body() -> None:
        journal = Journal(path)
        for vm in ("vm1", "vm2", "vm3"):
            journal.set_deactivation(vm, vm != "vm3")
        journal.close()
        with guest("vm1"), guest("vm2") as left_alone, guest("vm3"):
            take_away()
            daemon = await running.begin({"standin": StandinTransport})
            assert daemon.journal.error is not None
            await running.ask("start", **RESOURCE)
            await running.monitor(first=True, resource="r2", vm="vm2")
            await running.ask("activate", vm="vm3", probes=["send_signal"])
            await until(lambda: collects(daemon), "vm1 is watched")
            await until(lambda: collects(daemon, "vm2"), "so is vm2")
            bring_back()
            await until(lambda: daemon.journal.error is None, "the journal is read")
            await until(lambda: not left_alone.place.active.exists(), "vm2 is left alone")
            assert collects(daemon)
            await daemon.stop()
        journal = Journal(path)
        assert journal.read_deactivations() == {"vm2"}
        assert journal.read_activations() == {"vm3": ("send_signal",)}
        journal.close()

    run(body)


def test_a_wish_is_kept_as_soon_as_the_journal_takes_it(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vesper_monitor.daemon.operator_wishes.RETRY_LAST_S", 0.05)

    async def body() -> None:
        daemon = await running.begin({})
        with closing(sqlite3.connect(running.config.journal, isolation_level=None)) as backup:
            backup.execute("BEGIN IMMEDIATE")
            await daemon.operators.activate_vm("vm1", ("send_signal",))
        await until(lambda: not daemon.operators._unwritten, "it is remembered")
        await daemon.stop()
        journal = Journal(Path(running.config.journal))
        assert journal.read_activations() == {"vm1": ("send_signal",)}
        journal.close()

    run(body)


def test_a_deactivated_vm_can_be_activated_by_hand(daemon: DaemonProcess) -> None:
    with guest("vm1"):
        daemon.call("start", **RESOURCE)
        wait_collecting(daemon, 2)
        daemon.call("deactivate", vm="vm1")
        assert Monitor(daemon, timeout=0.2).result() == "degraded"
        daemon.call("activate", vm="vm1")
        wait_collecting(daemon, 2)
        assert Monitor(daemon, timeout=0.2).result() == "fine"
        daemon.stop()
        daemon.start()
        wait_collecting(daemon, 2)


def test_the_death_of_a_client_does_not_undo_a_deactivation(daemon: DaemonProcess) -> None:
    with guest("vm1") as vm:
        daemon.call("start", **RESOURCE)
        wait_collecting(daemon, 2)
        with Client(str(daemon.socket)) as client:
            client.begin_request("deactivate", vm="vm1")
            assert client._socket is not None
            client._socket.shutdown(socket.SHUT_RDWR)
        wait_for(lambda: not vm.place.active.exists(), "the guest is let go")
        wait_for(lambda: not daemon.call("status")["vms"], "nothing is watched")
