# SPDX-License-Identifier: GPL-2.0-or-later
"""A fault goes with its VM: two real vesperds, and one stand-in guest that moves between them."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.support.daemons import RESOURCE, DaemonProcess, Monitor, serve, wait_collecting
from tests.unit.support.standins import GuestProcess

SEGV = ("emit", "send_signal", "sig=11", "comm=httpd", "fatal=1", "addr=0")
#: Two kills of a worker are a fault.
COUNTED = {**RESOURCE, "fault_on": "send_signal: default; send_signal: sig == 10, 2 in 60s"}


def host(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DaemonProcess]:
    folder.mkdir()
    monkeypatch.setenv("VESPER_STANDIN_DIR", str(folder / "domains"))
    # No Pacemaker is told without a monitor here.
    yield from serve(DaemonProcess(folder, "activate_timeout = 0.5\nmonitor_grace = 60"))


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DaemonProcess]:
    yield from host(tmp_path / "target", monkeypatch)


@pytest.fixture
def source(
    target: DaemonProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[DaemonProcess]:
    yield from host(tmp_path / "source", monkeypatch)


class Guest(GuestProcess):
    def say(self, *words: str) -> None:
        answer = asyncio.run(self.tell(*words))
        assert answer.startswith("ok"), answer

    def go(self, daemon: DaemonProcess) -> None:
        asyncio.run(self.migrate(daemon.directory / "domains"))


@pytest.fixture
def guest(source: DaemonProcess) -> Iterator[Guest]:
    """Watched at the source; a monitor of it was there, and is cancelled."""
    guest = Guest("vm1")
    try:
        source.call("start", **COUNTED)
        wait_collecting(source, 2)
        assert Monitor(source, **COUNTED).result() == "fine"
        yield guest
    finally:
        guest.kill()


def held(daemon: DaemonProcess) -> list[dict[str, Any]]:
    return [fault for fault in daemon.call("faults")["faults"] if fault["ended"] is None]


def wait_for(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, f"not within 20 s: {what}"
        time.sleep(0.02)


def hand_over(source: DaemonProcess) -> dict[str, Any] | None:
    """As migrate_to does, when the toolstack has migrated it."""
    answer = source.call("hand_over", resource="r1", vm="vm1", timeout=5)
    carried: dict[str, Any] | None = answer["carried"]
    return carried


def arrive(source: DaemonProcess, target: DaemonProcess, carried: dict[str, Any] | None) -> None:
    """As migrate_from does; then the source is stopped."""
    target.call("start", **COUNTED, carried=carried)
    source.call("stop", resource="r1", vm="vm1")
    wait_collecting(target, 2)


def told_once(daemon: DaemonProcess) -> str:
    """The reason with which the monitors there fail, of the one fault that is told."""
    first = Monitor(daemon, **COUNTED)
    assert first.result() == "fault"
    assert Monitor(daemon, **COUNTED).result() == "fault"
    (fault,) = held(daemon)
    assert fault["told"] is not None
    return str(first.answer["reason"])


def fine(daemon: DaemonProcess) -> None:
    """The first monitor, and one that waits."""
    assert Monitor(daemon, **COUNTED).result() == "fine"
    assert Monitor(daemon, **COUNTED, timeout=0.3).result() == "fine"


def test_a_fault_goes_along_with_its_vm(
    source: DaemonProcess, target: DaemonProcess, guest: Guest
) -> None:
    guest.say(*SEGV)
    wait_for(lambda: held(source), "the fault")
    guest.go(target)
    carried = hand_over(source)
    assert carried is not None
    assert carried == hand_over(source), "its answer may have got lost"
    arrive(source, target, carried)
    assert told_once(target).startswith("httpd[97] killed by SIGSEGV")
    (old,) = source.call("faults")["faults"]
    (new,) = target.call("faults")["faults"]
    assert (old["told"], old["ended_by"]) == (None, "migration")
    assert (new["seen"], new["reason"]) == (old["seen"], old["reason"])
    assert new["event"]["carried"]["fault"] == old["id"]
    # It ends with its instance, as any.
    target.call("stop", resource="r1", vm="vm1")
    assert target.call("faults")["faults"][0]["ended_by"] == "stop"


def test_a_fault_of_a_count_goes_along(
    source: DaemonProcess, target: DaemonProcess, guest: Guest
) -> None:
    for _ in range(2):
        guest.say("emit", "send_signal", "sig=10", "comm=worker", "fatal=1", "addr=0")
    wait_for(lambda: held(source), "the fault")
    guest.go(target)
    arrive(source, target, hand_over(source))
    assert "2 within 60" in told_once(target) or "SIGUSR1" in told_once(target)


def test_records_that_the_source_has_not_read_are_the_targets(
    source: DaemonProcess, target: DaemonProcess, guest: Guest
) -> None:
    guest.go(target)
    guest.say(*SEGV)
    assert hand_over(source) is None
    arrive(source, target, None)
    wait_for(lambda: held(target), "the fault")
    assert told_once(target).startswith("httpd[97] killed by SIGSEGV")


def test_one_that_pacemaker_knows_is_not_told_again(
    source: DaemonProcess, target: DaemonProcess, guest: Guest
) -> None:
    guest.say(*SEGV)
    assert Monitor(source, **COUNTED).result() == "fault"
    guest.go(target)
    carried = hand_over(source)
    assert carried is not None
    assert carried["told"] is True
    arrive(source, target, carried)
    fine(target)


@pytest.mark.parametrize("what", ["cleared", "none"])
def test_without_a_fault_nothing_goes_along(
    source: DaemonProcess, target: DaemonProcess, guest: Guest, what: str
) -> None:
    if what == "cleared":
        guest.say(*SEGV)
        wait_for(lambda: held(source), "the fault")
        source.call("clear", resource="r1")
    guest.go(target)
    assert hand_over(source) is None
    arrive(source, target, None)
    fine(target)


def test_a_migration_that_failed_leaves_the_fault(
    source: DaemonProcess, target: DaemonProcess, guest: Guest
) -> None:
    """Also if its agent has asked for it."""
    guest.say(*SEGV)
    wait_for(lambda: held(source), "the fault")
    assert hand_over(source) is not None
    assert told_once(source).startswith("httpd[97] killed by SIGSEGV")


@pytest.mark.parametrize("when", ["before it leaves", "when it has left"])
def test_the_death_of_vesperd_at_the_source_loses_no_fault(
    source: DaemonProcess, target: DaemonProcess, guest: Guest, when: str
) -> None:
    guest.say(*SEGV)
    wait_for(lambda: held(source), "the fault")
    source.stop(signal.SIGKILL)
    if when == "before it leaves":
        source.start()
        wait_collecting(source, 2)
    guest.go(target)
    if when == "when it has left":
        source.start()
    arrive(source, target, hand_over(source))
    assert told_once(target).startswith("httpd[97] killed by SIGSEGV")


@pytest.mark.parametrize("taken", [False, True], ids=["before", "after"])
def test_the_death_of_vesperd_at_the_target_loses_no_fault(
    source: DaemonProcess, target: DaemonProcess, guest: Guest, taken: bool
) -> None:
    """Then a monitor has it along."""
    guest.say(*SEGV)
    wait_for(lambda: held(source), "the fault")
    guest.go(target)
    carried = hand_over(source)
    if taken:
        arrive(source, target, carried)
    target.stop(signal.SIGKILL)
    target.start()
    wait_for(
        lambda: Monitor(target, **COUNTED, carried=carried, timeout=0.3).result() == "fault",
        "that it is told",
    )
    assert told_once(target).startswith("httpd[97] killed by SIGSEGV")
    # The answer to that one may have got lost.
    target.call("clear", resource="r1")
    assert Monitor(target, **COUNTED, carried=carried, timeout=0.3).result() == "fine"


def test_a_fault_that_does_not_fit_is_not_taken_over(
    source: DaemonProcess, target: DaemonProcess, guest: Guest
) -> None:
    """Of another boot of the guest; of another VM; of one that was told here; no fault at all."""
    guest.say(*SEGV)
    wait_for(lambda: held(source), "the fault")
    guest.go(target)
    carried = hand_over(source)
    assert carried is not None
    for other in (
        {**carried, "boot_id": 7},
        {**carried, "uuid": "another"},
        {**carried, "scope": "all"},
        {**carried, "event": {"text": "x" * 5000}},
    ):
        arrive(source, target, other)
        fine(target)
    arrive(source, target, carried)
    told_once(target)
    arrive(source, target, carried)
    fine(target)


def test_a_fault_goes_there_and_back_before_any_monitor(
    source: DaemonProcess, target: DaemonProcess, guest: Guest
) -> None:
    guest.say(*SEGV)
    wait_for(lambda: held(source), "the fault")
    guest.go(target)
    arrive(source, target, hand_over(source))
    guest.go(source)
    arrive(target, source, hand_over(target))
    assert told_once(source).startswith("httpd[97] killed by SIGSEGV")
    assert [f["ended_by"] for f in target.call("faults")["faults"]] == ["migration"]
