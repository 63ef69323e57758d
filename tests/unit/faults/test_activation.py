# SPDX-License-Identifier: GPL-2.0-or-later
"""One life of a resource: what its monitors are told, in whatever order things happen."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from vesper_monitor.faults.activation import (
    MONITOR_HOLD_S,
    ActivationState,
    ResourceActivation,
    Result,
    Waiter,
)
from vesper_monitor.faults.monitor_turns import EARLY_INTERVAL_S, LONG_GAP_S
from vesper_monitor.faults.watching import Watching
from vesper_monitor.hypervisor.transport import Cause, DomainReport, DomainState
from vesper_monitor.journal.records import PANIC_RULE, ActivationRecord, Fault, Wishes

RECORD = ActivationRecord("r/u/1/1", "r", "vm1", "u", 1, 1.0, Wishes(("send_signal",), ("httpd",)))


def fault(number: int = 1) -> Fault:
    return Fault(number, "r", "vm1", "u", 1, RECORD.id, "service", "x", f"why {number}", {}, 1.0)


class Watched:
    """Whoever watches the domain."""

    def __init__(self) -> None:
        self.followed = True
        self.lacking: str | None = None

    def __call__(self) -> Watching:
        return Watching(self.followed, self.lacking)


def make(record: ActivationRecord = RECORD, **more: Any) -> ResourceActivation:
    """On a domain that is well watched."""
    return ResourceActivation(record, Watched(), **more)


def watch_changes(instance: ResourceActivation, lacking: str | None, now: float) -> None:
    watched = instance._watching
    assert isinstance(watched, Watched)
    watched.lacking = lacking
    instance.watch_changed(now)


def monitored(interval: float = 1.0) -> ResourceActivation:
    """After its first monitor."""
    instance = make()
    waiter = Waiter()
    instance.monitor_begins(waiter, 0.0, interval)
    assert waiter.answer is not None
    assert waiter.answer.result is Result.FINE
    instance.monitor_ends(waiter, 0.0, delivered=True)
    return instance


def begin(instance: ResourceActivation, now: float, interval: float = 1.0) -> Waiter:
    waiter = Waiter()
    instance.monitor_begins(waiter, now, interval)
    return waiter


def result(waiter: Waiter) -> Result | None:
    return waiter.answer.result if waiter.answer is not None else None


def test_a_panic_that_is_a_fault_is_said_with_the_end_of_the_domain() -> None:
    """The toolstack may restart the domain; the fault need not be told yet."""
    for name, panicked in ((PANIC_RULE, True), ("x", False)):
        instance = monitored()
        instance.fault_found(dataclasses.replace(fault(), rule=name))
        instance.domain_ended(DomainReport(DomainState.CRASHED, Cause.FAILURE), "it crashed")
        waiter = begin(instance, 1.0)
        assert waiter.answer is not None
        assert waiter.answer.to_json().get("panicked", False) is panicked


def test_the_first_monitor_returns_at_once_the_second_waits() -> None:
    instance = monitored()
    assert result(begin(instance, 1.0)) is None
    assert instance.waiting


def test_a_monitor_with_another_interval_is_a_first_one() -> None:
    instance = monitored(interval=1.0)
    assert result(begin(instance, 1.0, interval=10.0)) is Result.FINE


def test_an_instance_from_the_journal_has_had_its_first_monitor() -> None:
    instance = make(dataclasses.replace(RECORD, monitored=True))
    assert result(begin(instance, 0.0)) is None


def test_an_earlier_daemons_fault_is_told_when_the_domain_was_seen() -> None:
    record = dataclasses.replace(RECORD, monitored=True)
    cases: tuple[tuple[Callable[[ResourceActivation], object], Result], ...] = (
        (lambda i: i.domain_seen(), Result.FAULT),
        (lambda i: i.domain_ended(DomainReport(DomainState.GONE), "gone"), Result.DEAD),
    )
    for seen, expected in cases:
        instance = make(record, fault=fault(), restored=True)
        assert instance.seconds_until_alarm(0.0, grace=10.0) is None
        waiter = begin(instance, 0.0)
        assert waiter.answer is None
        seen(instance)
        assert result(waiter) is expected


def test_a_fault_is_told_when_it_is_recorded_and_to_every_monitor_after() -> None:
    instance = monitored()
    waiter = begin(instance, 1.0)
    instance.fault_found(fault())
    assert waiter.answer is None
    instance.fault_is_recorded(1)
    assert result(waiter) is Result.FAULT
    assert instance.fault_told(2, 5.0) is None  # another one
    assert instance.fault_told(1, 5.0) is not None
    assert instance.fault_told(1, 6.0) is None
    instance.monitor_ends(waiter, 1.1, delivered=True)
    assert result(begin(instance, 2.0)) is Result.FAULT


def test_a_fault_in_a_short_gap_waits_for_the_next_monitor() -> None:
    instance = monitored(interval=1.0)
    instance.fault_found(fault())
    instance.fault_is_recorded(1)
    assert instance.seconds_until_alarm(0.5, grace=10.0) == 10.5
    waiter = begin(instance, 1.0)
    assert result(waiter) is Result.FAULT
    assert instance.seconds_until_alarm(1.0, grace=10.0) is None


def test_a_fault_in_a_long_gap_is_told_without_a_monitor() -> None:
    instance = monitored(interval=10.0)
    instance.fault_found(fault())
    assert instance.seconds_until_alarm(1.0, grace=10.0) is None  # not in the journal yet
    instance.fault_is_recorded(1)
    assert instance.seconds_until_alarm(1.0, grace=10.0) == 0.0
    assert instance.seconds_until_alarm(9.5, grace=10.0) == 10.5  # a monitor is about to come


def test_it_is_unmonitored_when_no_monitor_comes_for_long() -> None:
    instance = monitored(interval=10.0)
    assert not instance.is_unmonitored(10.0 + LONG_GAP_S)
    assert instance.is_unmonitored(10.1 + LONG_GAP_S)
    waiter = begin(instance, 1000.0, interval=10.0)
    assert not instance.is_unmonitored(2000.0)
    instance.monitor_ends(waiter, 2000.0, delivered=False)
    assert not instance.is_unmonitored(2010.0)
    instance.end_activation(2010.0, "stop")
    assert not instance.is_unmonitored(9999.0)


def test_before_its_first_monitor_nobody_is_missed() -> None:
    assert not make().is_unmonitored(9999.0)
    assert make(dataclasses.replace(RECORD, monitored=True)).is_unmonitored(9999.0)


def test_a_monitor_that_comes_while_pacemaker_acts_is_kept_waiting() -> None:
    instance = monitored(interval=10.0)
    instance.fault_found(fault())
    instance.fault_is_recorded(1)
    instance.fault_injected(1.0)
    waiter = begin(instance, 2.0, interval=10.0)
    assert waiter.answer is None  # told now, the fault would count twice
    assert instance.hold_until() == 1.0 + MONITOR_HOLD_S
    assert instance.answer_at_timeout().result is Result.FAULT


def test_degraded_is_told_once_at_once_then_at_the_end_of_each_wait() -> None:
    instance = monitored()
    waiter = begin(instance, 1.0)
    watch_changes(instance, "no modules", 2.0)
    assert result(waiter) is Result.DEGRADED
    instance.monitor_ends(waiter, 2.0, delivered=True)
    waiter = begin(instance, 3.0)
    assert waiter.answer is None
    assert instance.answer_at_timeout().result is Result.DEGRADED
    watch_changes(instance, None, 3.0 + EARLY_INTERVAL_S)
    assert result(waiter) is Result.FINE


def test_a_guest_that_toggles_does_not_keep_the_host_busy() -> None:
    instance = monitored()
    early = 0
    for tenth in range(1000):
        now = 1.0 + tenth / 10
        waiter = begin(instance, now)
        watch_changes(instance, "bad" if tenth % 2 else None, now)
        early += waiter.answer is not None
        waiter.answer = waiter.answer or instance.answer_at_timeout()
        instance.monitor_ends(waiter, now, delivered=True)
    assert 0 < early <= 1 + 100 / EARLY_INTERVAL_S


def test_a_dead_domain_is_told_at_once() -> None:
    instance = monitored()
    waiter = begin(instance, 1.0)
    instance.domain_ended(DomainReport(DomainState.CRASHED, Cause.FAILURE), "it crashed")
    assert waiter.answer is not None
    assert waiter.answer.to_json() == {
        "ok": True, "result": "dead", "reason": "it crashed", "state": "crashed",
        "cause": "failure",
    }  # fmt: skip


def test_the_death_that_follows_a_told_fault_brings_it_along() -> None:
    """Pacemaker counts another exit code as another failure."""
    instance = monitored()
    instance.fault_found(fault())
    instance.fault_is_recorded(1)
    instance.domain_ended(DomainReport(DomainState.GONE), "gone")
    assert instance.answer_at_timeout().fault is None
    told = instance.fault_told(1, 2.0)
    answer = begin(instance, 3.0).answer
    assert answer is not None
    assert (answer.result, answer.reason, answer.fault) == (Result.DEAD, "gone", told)
    assert instance.answer_at_timeout().fault == told


def test_what_was_handed_over_is_told_by_nobody_here_until_a_monitor_comes() -> None:
    instance = monitored()
    instance.fault_found(fault())
    instance.fault_is_recorded(1)
    assert instance.seconds_until_alarm(5.0, grace=10.0) is not None
    assert instance.hand_over() == fault()
    assert instance.seconds_until_alarm(5.0, grace=10.0) is None
    assert instance.answer_at_timeout().result is Result.FINE
    assert result(begin(instance, 6.0)) is Result.FAULT  # it runs here after all
    assert instance.hand_over() == fault()
    ended = instance.end_activation(7.0, "stop")
    assert ended is not None


def test_one_that_has_come_along_is_told_when_the_guest_is_known() -> None:
    for heard, expected in ((5, Result.FAULT), (6, None)):
        instance = monitored()
        instance.fault_found(fault())
        instance.doubt_fault(5)
        instance.fault_is_recorded(1)
        waiter = begin(instance, 1.0)
        assert waiter.answer is None
        assert instance.guest_met(heard) is (heard == 6)
        assert result(waiter) is expected
    instance.end_doubt()
    assert result(waiter) is Result.FAULT
    instance = monitored()
    instance.guest_met(5)
    instance.fault_found(fault())
    instance.doubt_fault(5)
    instance.fault_is_recorded(1)
    assert result(begin(instance, 1.0)) is Result.FAULT


class Life(RuleBasedStateMachine):
    """Faults, monitors, stops and starts in any order; what must never happen does not."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.lives = 0
        self.faults = 0
        self.waiters: list[Waiter] = []
        self.born: dict[int, int] = {}  # fault to life
        self.begin_life()

    def begin_life(self) -> None:
        self.lives += 1
        record = dataclasses.replace(RECORD, id=str(self.lives))
        self.instance = make(record)
        self.first = True
        self.cleared = False
        self.waiters = []

    @rule(seconds=st.floats(0.0, 30.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(interval=st.sampled_from([1.0, 10.0]))
    def monitor_begins(self, interval: float) -> None:
        waiter = begin(self.instance, self.now, interval)
        fault = self.instance.fault
        if self.instance.deferred is not None:
            assert result(waiter) in (None, Result.DEGRADED)
        elif fault is not None and self.instance.fault_recorded:
            hold = self.instance.hold_until()
            assert result(waiter) is Result.FAULT or (hold is not None and self.now < hold)
        elif self.first:
            assert waiter.answer is not None
        self.first = False
        self.waiters.append(waiter)

    @precondition(lambda self: self.waiters)
    @rule(delivered=st.booleans())
    def monitor_ends(self, delivered: bool) -> None:
        waiter = self.waiters.pop(0)
        if delivered:
            waiter.answer = waiter.answer or self.instance.answer_at_timeout()
            if (answered := waiter.answer.fault) is not None:
                assert self.born[answered.id] == self.lives
                held = self.instance.fault
                told = self.instance.fault_told(answered.id, self.now)
                if held is not None and held.id == answered.id:
                    assert self.instance.deferred is None
                else:  # cleared meanwhile: what has come since is not told by that
                    assert told is None
        self.instance.monitor_ends(waiter, self.now, delivered=delivered)

    @precondition(lambda self: self.instance.fault is None)
    @rule(recorded=st.booleans())
    def fault_found(self, recorded: bool) -> None:
        self.faults += 1
        self.born[self.faults] = self.lives
        self.instance.fault_found(fault(self.faults))
        if recorded:
            self.fault_is_recorded()

    @precondition(lambda self: self.instance.fault and not self.instance.fault_recorded)
    @rule(seconds=st.floats(0.0, 30.0))
    def it_is_one_too_many(self, seconds: float) -> None:
        self.instance.defer_fault("too many", self.now + seconds, self.now)

    @precondition(lambda self: self.instance.deferred is not None)
    @rule()
    def its_time_has_come(self) -> None:
        assert self.instance.deferred_until is not None
        self.now = max(self.now, self.instance.deferred_until)
        self.instance.end_deferral()

    @rule()
    def fault_is_recorded(self) -> None:
        self.instance.fault_is_recorded(self.faults)

    @rule()
    def late_record_of_an_earlier_fault(self) -> None:
        before = self.instance.fault_recorded
        self.instance.fault_is_recorded(self.faults - 1)
        assert self.instance.fault_recorded == before

    @precondition(lambda self: self.instance.seconds_until_alarm(self.now, 5.0) is not None)
    @rule(taken=st.booleans())
    def pacemaker_is_told(self, taken: bool) -> None:
        assert not self.instance.waiting
        self.instance.fault_injected(self.now)
        if taken:
            assert self.instance.fault_told(self.faults, self.now) is not None

    @rule()
    def clear(self) -> None:
        had = self.instance.fault
        ended = self.instance.fault_cleared(self.now, "operator")
        assert (ended is None) == (had is None)

    @rule(degraded=st.sampled_from([None, "a", "b"]))
    def watch_changes(self, degraded: str | None) -> None:
        watch_changes(self.instance, degraded, self.now)

    @rule()
    def stop_and_start(self) -> None:
        held = self.instance.fault
        waiters = self.waiters
        ended = self.instance.end_activation(self.now, "stop")
        assert (ended and ended.id) == (held and held.id)
        assert self.instance.state is ActivationState.ENDED
        assert all(waiter.answer is not None for waiter in waiters)
        assert self.instance.seconds_until_alarm(self.now, 0.0) is None
        self.begin_life()

    @invariant()
    def no_one_waits_for_a_fault_that_is_there(self) -> None:
        if self.instance.fault is not None and self.instance.fault_recorded:
            if self.instance.deferred is not None:
                return
            assert not self.instance.waiting or self.instance.hold_until() is not None

    @invariant()
    def a_fault_is_never_forgotten(self) -> None:
        fault = self.instance.fault
        if fault is None or not self.instance.fault_recorded or fault.told is not None:
            return
        if self.instance.deferred is not None:
            assert self.instance.deferred_until is not None
            assert self.instance.seconds_until_alarm(self.now, 5.0) is None
            return
        # Either a monitor is about to be told, or Pacemaker will be.
        assert self.instance.state is ActivationState.WAITING or (
            self.instance.seconds_until_alarm(self.now, 5.0) is not None
        )


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
