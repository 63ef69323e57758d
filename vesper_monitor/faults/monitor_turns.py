# SPDX-License-Identifier: GPL-2.0-or-later
"""The recurring monitors of one activation: which of them wait, and when the next is due.

Pure: it knows no loop and no clock; times are seconds of any monotonic clock.

::

    STARTED --monitor--> WAITING --its end--> GAP --monitor--> WAITING ...
    any state --stop, or another start--> ENDED
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vesper_monitor.hypervisor.transport import Cause, DomainState
from vesper_monitor.journal.records import Fault

__all__ = ["ActivationState", "Answer", "MonitorTurns", "Result", "Waiter"]

#: s: a gap up to this long is not worth another way to Pacemaker.
SHORT_GAP_S = 1.0
#: s: a gap that exceeds the interval by more than this is none between two monitors.
LONG_GAP_S = 15.0
#: s between two answers that are given early because of a change in how well the guest
#: is watched: a guest that toggles must not keep the host busy.
EARLY_INTERVAL_S = 10.0


class ActivationState(enum.Enum):
    STARTED = "started"  #: no recurring monitor yet
    WAITING = "waiting"  #: a monitor waits
    GAP = "gap"  #: between two monitors
    ENDED = "ended"


class Result(enum.Enum):
    """What a monitor reports."""

    FINE = "fine"
    FAULT = "fault"
    DEAD = "dead"
    DEGRADED = "degraded"


@dataclass(frozen=True)
class Answer:
    """What a monitor is told."""

    result: Result
    reason: str | None = None
    fault: Fault | None = None
    state: DomainState | None = None
    #: of the state, if known
    cause: Cause | None = None
    #: the domain has ended by a panic that is a fault
    panicked: bool = False

    @classmethod
    def of_fault(cls, fault: Fault) -> Answer:
        """Return the answer that tells of a fault."""
        return cls(Result.FAULT, fault.reason, fault=fault)

    def to_json(self) -> dict[str, Any]:
        """Return the answer as in docs/api.md."""
        answer: dict[str, Any] = {"ok": True, "result": self.result.value}
        if self.reason is not None:
            answer["reason"] = self.reason
        if self.fault is not None:
            answer["fault"] = self.fault.to_json()
        if self.state is not None:
            answer["state"] = self.state.value
        if self.cause is not None:
            answer["cause"] = self.cause.value
        if self.panicked:
            answer["panicked"] = True
        return answer


class Waiter:
    """One monitor that waits. ``wake`` is called once ``answer`` is set."""

    def __init__(self, wake: Callable[[], None] = lambda: None) -> None:
        self.answer: Answer | None = None
        self._wake = wake

    def give_answer(self, answer: Answer) -> None:
        """Set the answer, unless there is one."""
        if self.answer is None:
            self.answer = answer
            self._wake()


class MonitorTurns:
    """
    :ivar state: of the activation.
    :ivar may_be_on_record: whether Pacemaker may have a degraded monitor on record (also of
        the time of an earlier vesperd).
    :ivar said_well: whether a monitor was answered so that Pacemaker hears that all is well.
    :ivar degraded_told: the last answer's reason, if that was degraded; None: it was not.
    """

    def __init__(self) -> None:
        self.state = ActivationState.STARTED
        self.may_be_on_record = True
        self.said_well = False
        self.degraded_told: str | None = None
        self._early_at: float | None = None
        self._waiters: set[Waiter] = set()
        self._interval: float | None = None
        self._gap_since = 0.0

    def begin_turn(self, waiter: Waiter, interval: float) -> bool:
        """Let a monitor wait.

        :param interval: s, of the operation.
        :returns: whether it is another operation than the last monitor's.
        """
        is_other = self._interval not in (None, interval)
        self._interval = interval
        self.state = ActivationState.WAITING
        self._waiters.add(waiter)
        return is_other

    def end_turn(self, waiter: Waiter, now: float, *, delivered: bool) -> None:
        """Note that a monitor's process has its answer, or has ended without one.

        :param delivered: whether the answer was written to the agent.
        """
        if waiter not in self._waiters:
            return
        self._waiters.discard(waiter)
        answer = waiter.answer
        is_degraded = answer is not None and answer.result is Result.DEGRADED
        if not delivered or is_degraded:
            # Undelivered: the agent has answered by itself, or was ended.
            self.may_be_on_record, self.said_well = True, False
        if delivered and answer is not None:
            if is_degraded:
                self.degraded_told = answer.reason
            elif answer.result is Result.FINE:
                self.degraded_told = None
        if self.state is ActivationState.WAITING and not self._waiters:
            self.state = ActivationState.GAP
            self._gap_since = now

    def take_early_turn(self, now: float) -> bool:
        """Tell whether an answer may be given early; if so, the next one may not for a while."""
        if self._early_at is not None and now - self._early_at < EARLY_INTERVAL_S:
            return False
        self._early_at = now
        return True

    def end_all(self, answer: Answer) -> None:
        """Answer the monitors that wait; the activation has ended."""
        self.answer_all(answer)
        self._waiters.clear()
        self.state = ActivationState.ENDED

    def answer_all(self, answer: Answer) -> None:
        """Answer the monitors that wait."""
        for waiter in self._waiters:
            waiter.give_answer(answer)

    @property
    def has_waiters(self) -> bool:
        """Whether a monitor's process runs, answered or not."""
        return bool(self._waiters)

    @property
    def waiting(self) -> bool:
        """Whether a monitor waits and has no answer yet."""
        return any(waiter.answer is None for waiter in self._waiters)

    @property
    def is_between(self) -> bool:
        """Whether no monitor waits, and the activation has not ended."""
        return self.state in (ActivationState.STARTED, ActivationState.GAP)

    def is_stalled(self, now: float) -> bool:
        """Tell whether the next monitor is long overdue."""
        due = self._gap_since + (self._interval or 0.0)
        return self.is_between and now - due > LONG_GAP_S

    def seconds_until_alarm(self, now: float, grace: float) -> float | None:
        """Return the seconds that are worth waiting for the next monitor; None: one waits.

        :param grace: s by which a monitor may be late.
        """
        if not self.is_between:
            return None
        if self.state is ActivationState.STARTED or self._interval is None:
            return grace  # Pacemaker is about to run the first one
        due = self._gap_since + self._interval
        if due - now > SHORT_GAP_S:
            return 0.0
        return max(0.0, due + grace - now)
