# SPDX-License-Identifier: GPL-2.0-or-later
"""A domain's state by the hypervisor's word: what becomes of it in the daemon."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.unit.support.daemons import RESOURCE, DaemonProcess, Monitor
from tests.unit.support.standins import GuestProcess, guest


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DaemonProcess]:
    (tmp_path / "domains").mkdir()
    monkeypatch.setenv("VESPER_STANDIN_DIR", str(tmp_path / "domains"))
    daemon = DaemonProcess(tmp_path, "pause_timeout = 1.5")
    daemon.start()
    yield daemon
    daemon.stop()


def put(vm: GuestProcess, state: str) -> None:
    assert asyncio.run(vm.tell("state", state)) == "ok"


def texts(daemon: DaemonProcess) -> list[str]:
    return [event["text"] for event in daemon.events() if event["event"] == "domain"]


def test_a_pause_that_nobody_explains_must_not_last(daemon: DaemonProcess) -> None:
    with guest() as vm:
        daemon.call("start", **RESOURCE, pause_timeout=-1)
        assert "'pause_timeout' must be" in daemon.call("status")["vms"][0]["degraded"]
        daemon.call("start", **RESOURCE, pause_timeout=0)
        assert Monitor(daemon).result() == "fine"
        # For ever, as its resource wants it.
        put(vm, "paused")
        assert Monitor(daemon, timeout=4).result() == "fine"
        put(vm, "running")
        assert Monitor(daemon, timeout=1).result() == "fine"
        assert texts(daemon) == ["vm1 is paused", "vm1 runs"]
        # As vesperd's configuration says: a short one is none, a long one is.
        daemon.call("start", **RESOURCE)
        assert Monitor(daemon).result() == "fine"
        waiting = Monitor(daemon, timeout=60)
        put(vm, "paused")
        time.sleep(0.5)
        put(vm, "running")
        time.sleep(2.0)
        assert waiting.is_alive()
        put(vm, "paused")
        assert waiting.result() == "fault"
        assert waiting.answer["reason"] == "vm1 is paused for 2 s (system)"
        assert waiting.answer["fault"]["rule"] == "paused"
        # A new instance of the same life begins with it, and has its own patience.
        daemon.call("start", **RESOURCE, pause_timeout=3)
        assert Monitor(daemon).result() == "fine"
        again = Monitor(daemon, timeout=60)
        assert again.result() == "fault"
        assert again.answer["reason"] == "vm1 is paused for 3 s (system)"
        # The stop need not try to shut it down.
        assert daemon.call("stop", resource="r1")["system_gone"] is True


def test_a_pause_of_watching_only_puts_it_off(daemon: DaemonProcess) -> None:
    with guest() as vm:
        daemon.call("start", **RESOURCE)
        assert Monitor(daemon).result() == "fine"
        daemon.call("pause", vm="vm1", **{"for": 600})
        put(vm, "paused")
        assert Monitor(daemon, timeout=4).result() == "fine"
        waiting = Monitor(daemon, timeout=60)
        daemon.call("resume", vm="vm1")
        assert waiting.result() == "fault"


def test_of_an_end_all_is_told_that_was_seen(daemon: DaemonProcess) -> None:
    with guest() as vm:
        daemon.call("start", **RESOURCE)
        assert Monitor(daemon).result() == "fine"
        waiting = Monitor(daemon, timeout=60)
        put(vm, "crashed")
        assert waiting.result() == "dead"
        assert (waiting.answer["state"], waiting.answer["cause"]) == ("crashed", "unknown")
        vm.kill()
        end = time.monotonic() + 30
        while "vm1 does not run any more" not in texts(daemon):
            assert time.monotonic() < end, texts(daemon)
            time.sleep(0.1)
        assert Monitor(daemon).result() == "dead"


def status(daemon: DaemonProcess) -> list[str]:
    """States of the probes in the VM."""
    return [probe["state"] for probe in daemon.call("status")["vms"][-1]["probes"]]


def told_of_the_end(daemon: DaemonProcess) -> Monitor:
    """A VM that is watched ends while a monitor waits."""
    with guest() as vm:
        daemon.call("start", **RESOURCE)
        assert Monitor(daemon).result() == "fine"
        end = time.monotonic() + 30
        while len(status(daemon)) < 2 or set(status(daemon)) != {"collecting"}:
            assert time.monotonic() < end
            time.sleep(0.05)
        waiting = Monitor(daemon, timeout=60)
        vm.kill()
        assert waiting.result() == "dead"
    return waiting


def test_the_end_of_a_domain_is_in_the_list_of_faults(daemon: DaemonProcess) -> None:
    waiting = told_of_the_end(daemon)
    # It may have rebooted: its agent looks.
    assert daemon.call("faults", vm="vm1")["faults"] == []
    assert daemon.call("stop", resource="r1")["fault"] is None
    (fault,) = daemon.call("faults", vm="vm1")["faults"]
    assert (fault["rule"], fault["ended_by"]) == ("domain_ended", "end of the domain")
    assert fault["reason"] == waiting.answer["reason"]
    assert fault["seen"] <= fault["told"] <= fault["ended"]
    (event,) = daemon.call("fault", id=fault["id"])["events"]
    assert event["text"] == "vm1 does not run any more"
    # It is no fault of the guest's that counts towards max_failovers, nor of the next life.
    with closing(sqlite3.connect(daemon.journal)) as journal:
        assert journal.execute("SELECT rule FROM faults").fetchall() == [("domain_ended",)]
    daemon.stop()
    daemon.start()
    with guest():
        daemon.call("start", **RESOURCE)
        assert Monitor(daemon).result() == "fine"
        assert daemon.call("status")["vms"][0]["fault"] is None


def test_a_domain_that_has_rebooted_or_was_stopped_is_no_fault(daemon: DaemonProcess) -> None:
    told_of_the_end(daemon)
    with guest() as vm:  # as after a reboot on Xen, of which the agent tells
        daemon.call("start", **RESOURCE)
        assert Monitor(daemon).result() == "fine"
        daemon.call("stop", resource="r1")
        vm.kill()
    assert daemon.call("faults", vm="vm1")["faults"] == []


def test_the_end_of_a_domain_that_nobody_stops_is_in_the_list_once(daemon: DaemonProcess) -> None:
    """As of a resource that is not managed."""
    told_of_the_end(daemon)
    for _ in range(3):
        assert Monitor(daemon).result() == "dead"
    daemon.call("stop", resource="r1")
    assert len(daemon.call("faults", vm="vm1")["faults"]) == 1


def test_the_domain_of_another_hypervisor_is_not_missed_on_this_one(
    daemon: DaemonProcess,
) -> None:
    with guest() as vm:
        daemon.call("start", **RESOURCE)
        assert Monitor(daemon).result() == "fine"
        assert daemon.stop() == 0
        vm.kill()
    with closing(sqlite3.connect(daemon.journal)) as journal, journal:
        assert journal.execute("SELECT transport FROM instances").fetchall() == [("standin",)]
        journal.execute("UPDATE instances SET transport = 'other'")
    daemon.start()
    other = Monitor(daemon, timeout=0.5)
    assert other.result() == "degraded"
    assert "transport other, which vesperd does not use" in other.answer["reason"]
    assert daemon.stop() == 0
    with closing(sqlite3.connect(daemon.journal)) as journal, journal:
        journal.execute("UPDATE instances SET transport = 'standin'")
    daemon.start()
    assert Monitor(daemon, timeout=20).result() == "dead"
