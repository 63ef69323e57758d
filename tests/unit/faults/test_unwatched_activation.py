# SPDX-License-Identifier: GPL-2.0-or-later
"""An activation whose domain nobody watches: its monitors are not told that all is well."""

from __future__ import annotations

from tests.unit.faults.test_activation import (
    begin,
    fault,
    make,
    monitored,
    result,
    watch_changes,
)
from vesper_monitor.faults.activation import ResourceActivation, Result
from vesper_monitor.faults.monitor_turns import EARLY_INTERVAL_S
from vesper_monitor.faults.watching import Watching


def unwatched() -> ResourceActivation:
    """After its first monitor; then nobody watches its domain."""
    instance = monitored()
    instance._watching = lambda: Watching(False, "transport x: not up")
    return instance


def test_an_unwatched_domain_is_never_fine() -> None:
    instance = unwatched()
    waiter = begin(instance, 1.0)
    assert waiter.answer is None  # it may be watched in a moment
    assert instance.answer_at_timeout().result is Result.DEGRADED
    assert instance.answer_at_timeout().reason == "transport x: not up"
    # Nor in a pause: its end is told then, too.
    instance.set_paused(True)
    assert instance.answer_at_timeout().result is Result.DEGRADED
    assert instance.degraded == "transport x: not up"


def test_a_first_monitor_of_an_unwatched_domain_is_degraded_at_once() -> None:
    instance = unwatched()
    assert result(begin(instance, 1.0, interval=10.0)) is Result.DEGRADED


def test_when_it_is_watched_again_that_is_said() -> None:
    instance = unwatched()
    waiter = begin(instance, 1.0)
    waiter.answer = instance.answer_at_timeout()
    instance.monitor_ends(waiter, 11.0, delivered=True)
    waiter = begin(instance, 12.0)
    instance._watching = lambda: Watching(True, None)
    instance.watch_changed(12.0)
    assert result(waiter) is Result.FINE


def test_a_moment_without_a_watch_is_not_told() -> None:
    """As while vesperd is restarted."""
    instance = unwatched()
    waiter = begin(instance, 1.0)
    instance.watch_changed(1.1)
    instance._watching = lambda: Watching(True, None)
    instance.watch_changed(1.2)
    assert waiter.answer is None


def test_a_wish_that_cannot_be_fulfilled_is_degraded_while_it_is_wished() -> None:
    instance = monitored()
    instance.refuse_wishes("fault_on: wrong")
    waiter = begin(instance, 1.0)
    assert result(waiter) is Result.DEGRADED
    instance.monitor_ends(waiter, 1.0, delivered=True)
    waiter = begin(instance, 2.0)
    assert waiter.answer is None
    instance.refuse_wishes(None)
    instance.watch_changed(2.0 + EARLY_INTERVAL_S)
    assert result(waiter) is Result.FINE


def test_whoever_waits_for_what_was_ended_by_hand_is_told() -> None:
    instance = monitored()
    waiter = begin(instance, 1.0)
    instance.end_activation(1.0, "deactivate", "ended by hand")
    assert waiter.answer is not None
    assert (waiter.answer.result, waiter.answer.reason) == (Result.DEGRADED, "ended by hand")


def test_a_fault_is_told_whether_it_is_watched_or_not() -> None:
    instance = make(fault=fault())
    watch_changes(instance, "no modules", 1.0)
    assert result(begin(instance, 2.0)) is Result.FAULT
