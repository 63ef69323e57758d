# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that faults again and again: never more failovers than allowed, none forgotten."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.faults.test_activation import begin, fault, monitored, result
from tests.unit.support.daemons import RESOURCE, DaemonProcess, Monitor, serve
from tests.unit.support.standins import GuestProcess, guest
from vesper_monitor.faults.activation import ResourceActivation, Result
from vesper_monitor.faults.failover_limit import FLAPPING_FAULTS, WINDOW_S, FailoverLimit

MOST = 4


@given(
    st.integers(1, 5),
    st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 2 * WINDOW_S)), max_size=60),
)
def test_in_no_window_are_there_more_than_allowed(
    most: int, faults: list[tuple[str, float]]
) -> None:
    """Each fault is told, and none later than the rate demands."""
    rate = FailoverLimit(most)
    told: dict[str, list[float]] = {"a": [], "b": []}
    now = 1e9
    for vm, pause in faults:
        now += pause
        at = rate.next_allowed_time(vm, now)
        assert now <= at <= now + WINDOW_S
        if at > now:
            assert len([t for t in told[vm] if t > now - WINDOW_S]) == most
        now = at  # its turn has come
        assert rate.next_allowed_time(vm, now) == now
        rate.note_told(vm, now)
        told[vm].append(now)
        assert len([t for t in told[vm] if t > now - WINDOW_S]) <= most


def test_what_two_resources_make_of_one_event_is_one_fault() -> None:
    rate = FailoverLimit(2)
    for event in (1, 1, 2, 2):
        assert rate.next_allowed_time("vm1", 1e9 + event, event) == 1e9 + event
        rate.note_told("vm1", 1e9 + event, event)
    assert rate.next_allowed_time("vm1", 1e9 + 3, 3) > 1e9 + 3
    assert "3rd" in rate.describe_flapping("vm1", 1e9 + 3)


@given(st.lists(st.floats(-1e6, 1e6), min_size=MOST, max_size=40), st.floats(-1e6, 1e6))
def test_whatever_the_clock_does_a_fault_waits_an_hour_at_most(
    steps: list[float], step: float
) -> None:
    rate, now = FailoverLimit(MOST), 1e9
    for change in steps:
        now += change
        rate.note_told("vm1", now)
    now += step
    assert rate.next_allowed_time("vm1", now) <= now + WINDOW_S
    assert isinstance(rate.describe_flapping("vm1", now), str)


def test_a_guest_flaps_from_its_third_fault_on() -> None:
    rate = FailoverLimit(100)
    said = []
    for minute in (0, 4, 10, 11, 60.2, 200):
        said.append(rate.describe_flapping("vm1", 60.0 * minute))
        rate.note_told("vm1", 60.0 * minute)
    assert FLAPPING_FAULTS == 3
    assert said == [
        "", "", "flapping: 3rd fault in 10 min", "flapping: 4th fault in 11 min",
        "flapping: 4th fault in 56 min", "",
    ]  # fmt: skip
    assert rate.describe_flapping("other", 660.0) == ""


def test_of_vms_that_are_no_more_nothing_is_kept() -> None:
    rate = FailoverLimit(MOST)
    for number in range(1000):
        rate.note_told(f"vm{number}", 60.0 * number)
    assert len(rate._told) <= WINDOW_S / 60


# -- one instance ---------------------------------------------------------------


def test_a_fault_that_is_deferred_is_shown_and_then_told() -> None:
    instance = monitored()
    waiter = begin(instance, 1.0)
    instance.fault_found(fault())
    instance.defer_fault("later", 100.0, 1.0)
    instance.fault_is_recorded(1)
    assert waiter.answer is not None
    assert (waiter.answer.result, waiter.answer.reason) == (Result.DEGRADED, "later")
    instance.monitor_ends(waiter, 1.1, delivered=True)
    assert instance.seconds_until_alarm(50.0, grace=10.0) is None  # nor without a monitor
    waiter = begin(instance, 2.0)
    assert waiter.answer is None
    assert instance.answer_at_timeout().result is Result.DEGRADED
    instance.end_deferral()
    assert result(waiter) is Result.FAULT


def test_the_end_of_a_deferred_fault_ends_the_deferral() -> None:
    ends: tuple[Callable[[ResourceActivation], object], ...] = (
        lambda i: i.fault_cleared(5.0, "operator"),
        lambda i: i.end_activation(5.0, "stop"),
    )
    for end in ends:
        instance = monitored()
        instance.fault_found(fault())
        instance.defer_fault("later", 100.0, 1.0)
        instance.fault_is_recorded(1)
        end(instance)
        assert instance.deferred is None
        assert instance.deferred_until is None
        assert instance.answer_at_timeout().result is Result.FINE


# -- vesperd --------------------------------------------------------------------


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DaemonProcess]:
    monkeypatch.setenv("VESPER_STANDIN_DIR", str(tmp_path / "domains"))
    yield from serve(DaemonProcess(tmp_path, f"max_failovers = {MOST}"))


def wait_for(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


@contextmanager
def life(daemon: DaemonProcess) -> Iterator[Monitor]:
    """The resource and its guest are started once more, and the guest faults at once.

    :returns: the monitor that waits for it.
    """
    with guest() as vm:
        yield _faulty(daemon, vm)


def _faulty(daemon: DaemonProcess, vm: GuestProcess) -> Monitor:
    daemon.call("start", **RESOURCE)
    assert Monitor(daemon).result() == "fine"

    def loaded() -> bool:
        row = daemon.call("status")["vms"][-1]
        return [probe["state"] for probe in row["probes"]].count("collecting") == 2

    wait_for(loaded, "its probes")
    monitor = Monitor(daemon)
    wait_for(lambda: bool(daemon.call("status")["vms"][-1]["waiting"]), "the monitor")
    asyncio.run(
        vm.tell("emit", "send_signal", "sig=11", "comm=httpd", "leader_comm=httpd", "fatal=1")
    )
    return monitor


def test_a_guest_that_faults_after_each_start_is_deferred(daemon: DaemonProcess) -> None:
    """Told, and named, as often as is allowed; then shown; also by the next vesperd."""
    reasons = []
    for _ in range(MOST):
        with life(daemon) as monitor:
            assert monitor.result() == "fault"
            reasons.append(monitor.answer["reason"])
            daemon.call("stop", resource="r1", vm="vm1")
    assert ["flapping" in reason for reason in reasons] == [False, False, True, True]
    assert reasons[3].endswith("(service); flapping: 4th fault in 1 min")

    with life(daemon) as monitor:
        assert monitor.result() == "degraded"
        assert "max_failovers" in monitor.answer["reason"]
        assert "vesper faults clear r1" in monitor.answer["reason"]
        daemon.stop()
        daemon.start()
        wait_for(lambda: _deferred(daemon) is not None, "the deferred fault")
        assert "deferred: " in daemon.vesper("status").stdout
        last = json.loads(daemon.vesper("faults", "--json").stdout)[-1]
        assert (last["told"], last["ended"]) == (None, None)
        assert " held " in daemon.vesper("faults").stdout.splitlines()[-1]
        assert Monitor(daemon, timeout=0.5).result() == "degraded"

        # An hour later.
        daemon.stop()
        with sqlite3.connect(daemon.journal) as journal:
            journal.execute("UPDATE faults SET told = told - ? WHERE id = 1", (WINDOW_S,))
        journal.close()
        daemon.start()
        waiting = Monitor(daemon)
        assert waiting.result() == "fault"
        assert waiting.answer["fault"]["id"] == last["id"]
        assert daemon.vesper("faults", "clear", "r1").returncode == 0
        assert _deferred(daemon) is None


def _deferred(daemon: DaemonProcess) -> str | None:
    vms = daemon.call("status")["vms"]
    return str(vms[0]["deferred"]) if vms and vms[0]["deferred"] else None
