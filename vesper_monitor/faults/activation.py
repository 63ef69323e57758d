# SPDX-License-Identifier: GPL-2.0-or-later
"""One life of a resource, and what its monitors are told: the state machine.

Pure: it knows no loop and no clock; times are seconds of any monotonic clock.
vesper_monitor/faults/activations.py drives it.

::

    STARTED --monitor--> WAITING --its end--> GAP --monitor--> WAITING ...
    any state --stop, or another start--> ENDED

In each state but ENDED the instance may hold one fault.  Every monitor is
given it, until the instance ends or the operator clears it; one that is
deferred only when its time has come.

An instance of an earlier daemon's is given no fault before its domain was seen
alive: while no daemon was there, the resource may have got another.

In a live migration a fault that no monitor was told goes with the VM::

    HERE --hand_over()--> HANDED_OVER --its end--> ended by MIGRATION
      ^                        |
      +-- a monitor comes -----+    the domain has not left after all

A fault that was handed over is told by nobody here.  At the target it is a
fault of a new instance from the start.  It is told when the guest that has
arrived is known to be the one that had it (:meth:`Instance.doubt_fault`,
:meth:`Instance.guest_met`), or when that does not show in time.
Whether its guest is watched is not kept here.  Who watches it is asked each
time, so that an instance without a live session cannot be taken for a fine one.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from vesper_monitor.faults.watching import Watching
from vesper_monitor.hypervisor.transport import Cause, DomainReport, DomainState
from vesper_monitor.journal.records import PANIC_RULE, ActivationRecord, EventKey, Fault
from vesper_monitor.rules.rule_set import RuleSet

__all__ = ["MIGRATION", "ActivationState", "Answer", "ResourceActivation", "Result", "Waiter"]

#: s: a gap up to this long is not worth another way to Pacemaker.
SHORT_GAP_S = 1.0
#: s: a gap longer than that, beyond the interval, is none between two monitors.
LONG_GAP_S = 15.0
#: s for Pacemaker to act on an asynchronous failure.  A monitor that comes
#: meanwhile waits this long: told at once, it would count the failure twice.
MONITOR_HOLD_S = 10.0
#: What has ended a fault that has gone to another host with its VM.
MIGRATION = "migration"
#: s between two answers that are given early because of a change in how well
#: the guest is watched: a guest that toggles must not keep the host busy.
DEGRADED_AFTER_S = 10.0


class ActivationState(enum.Enum):
    STARTED = "started"  #: no recurring monitor yet
    WAITING = "waiting"  #: a monitor waits
    GAP = "gap"  #: between two monitors
    ENDED = "ended"


class Result(enum.Enum):
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
    #: it has ended by a panic that is a fault
    panicked: bool = False

    def to_json(self) -> dict[str, Any]:
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
    """One monitor that waits. ``wake`` is called when ``answer`` is there."""

    def __init__(self, wake: Callable[[], None] = lambda: None) -> None:
        self.answer: Answer | None = None
        self._wake = wake

    def give_answer(self, answer: Answer) -> None:
        if self.answer is None:
            self.answer = answer
            self._wake()


class ResourceActivation:
    """
    :param watching: asks how well its domain is watched now.
    :param rules: which events are faults; None: the default ones.
    :param restored: an earlier daemon has begun it.
    """

    def __init__(
        self,
        record: ActivationRecord,
        watching: Callable[[], Watching],
        *,
        fault: Fault | None = None,
        rules: RuleSet | None = None,
        restored: bool = False,
    ) -> None:
        self.record = record
        self._watching = watching
        self.rules = rules or RuleSet()
        self.state = ActivationState.STARTED
        #: found by a rule; given to monitors once it is in the journal
        self.fault = fault
        self.fault_recorded = fault is not None
        #: whether its domain runs is not known yet
        self.restored = restored
        #: an operator wants nothing reported but the domain's death
        self.paused = False
        #: rules that found a fault in this pause: one of each is enough
        self.rules_in_pause: set[str] = set()
        #: the node's name in the cluster, as the last monitor knew it
        self.node: str | None = None
        #: its guest has had too many faults: until when this one is not told, and why
        self.deferred_until: float | None = None
        self.deferred: str | None = None
        #: its VM has left by live migration, and its fault with it
        self.handed_over = False
        #: of the guest's core, as heard last; None: not heard yet
        self.boot_id: int | None = None
        #: the boot of the guest that had the fault which has come with it; None:
        #: no doubt that it is this one
        self.doubted_boot: int | None = None
        #: a record that the source of a migration has judged
        self.judged_at_source: EventKey | None = None
        #: which of the wishes that its agent has now cannot be fulfilled, and why
        self.refused: str | None = None
        #: Pacemaker may have a degraded monitor on record (an earlier daemon's, too)
        self.may_be_on_record = True
        #: a monitor was answered so that Pacemaker hears that all is well
        self.said_well = False
        self._waiters: set[Waiter] = set()
        #: the last answer's reason, if that was degraded; None: it was not
        self._degraded_told: str | None = None
        self._early_at: float | None = None
        self._dead: Answer | None = None
        #: the end of its domain, as an event; and when a monitor was first told of it (s,
        #: CLOCK_REALTIME)
        self.death: dict[str, Any] | None = None
        self.death_told: float | None = None
        #: it is in the list of faults
        self.death_recorded = False
        self._interval: float | None = None
        self._gap_since = 0.0
        self._injected_at: float | None = None

    # ------------------------------------------------------------ monitors

    def monitor_begins(
        self, waiter: Waiter, now: float, interval: float, first: bool | None = None
    ) -> None:
        """A recurring monitor asks. It is answered now (``waiter.answer``), or waits.

        :param interval: s, of the operation.
        :param first: whether the agent knows this to be the first recurring
            monitor after a start; None: decide here. Pacemaker waits for that one.
        """
        assert self.state is not ActivationState.ENDED
        if first is None:
            # Another interval is another operation, and Pacemaker waits for
            # its first run, too.
            first = not self.record.monitored or self._interval not in (None, interval)
        self._interval = interval
        self.handed_over = False  # Pacemaker has it run here
        self.record = replace(self.record, monitored=True)
        self.state = ActivationState.WAITING
        self._waiters.add(waiter)
        if (answer := self._find_immediate_answer(now)) is not None:
            waiter.give_answer(answer)
        elif first:
            waiter.give_answer(self.answer_at_timeout())

    def monitor_ends(self, waiter: Waiter, now: float, *, delivered: bool) -> None:
        """Its process has the answer, or went without (killed; a stop).

        :param delivered: the answer was written to the agent.
        """
        if waiter not in self._waiters:
            return
        self._waiters.discard(waiter)
        answer = waiter.answer
        if not delivered or (answer is not None and answer.result is Result.DEGRADED):
            # Undelivered: the agent has answered by itself, or was ended.
            self.may_be_on_record, self.said_well = True, False
        if delivered and answer is not None:
            if answer.result is Result.DEGRADED:
                self._degraded_told = answer.reason
            elif answer.result is Result.FINE:
                self._degraded_told = None
        if self.state is ActivationState.WAITING and not self._waiters:
            self.state = ActivationState.GAP
            self._gap_since = now

    def answer_at_timeout(self) -> Answer:
        """What a monitor is told whose time is up."""
        if (dead := self._dead_answer()) is not None:
            return dead
        watching = self._watching()
        if self.paused:
            # The domain's end is told in a pause, too: so somebody must look.
            return Answer(Result.FINE) if watching.followed else _degraded_answer(watching)
        if (fault := self._tellable) is not None:
            return _fault_answer(fault)
        if (lacking := self._explain_degraded(watching)) is not None:
            return Answer(Result.DEGRADED, lacking)
        return Answer(Result.FINE)

    def hold_until(self) -> float | None:
        """Until when a monitor waits because Pacemaker was told asynchronously."""
        return None if self._injected_at is None else self._injected_at + MONITOR_HOLD_S

    @property
    def waiting(self) -> bool:
        """A monitor waits and has no answer yet."""
        return any(waiter.answer is None for waiter in self._waiters)

    def is_unmonitored(self, now: float) -> bool:
        """It was monitored, and no monitor comes any more."""
        return (
            self.record.monitored
            and self.state in (ActivationState.STARTED, ActivationState.GAP)
            and now - self._gap_since > (self._interval or 0.0) + LONG_GAP_S
        )

    @property
    def is_well(self) -> bool:
        """A monitor waits, and there is nothing to say."""
        return (
            self.waiting
            and self._dead is None
            and self.fault is None
            and not self.paused
            and self.deferred is None
            and self.degraded is None
        )

    def say_well(self) -> None:
        """Answer the monitor that waits, which has nothing to say."""
        assert self.is_well
        self.said_well = True
        self._answer_all(Answer(Result.FINE))

    @property
    def degraded(self) -> str | None:
        """Why the guest is not watched, or not as its agent wants it."""
        return self._watching().lacking or self.refused

    @property
    def followed(self) -> bool:
        """Whether the end of its domain would be noticed."""
        return self._watching().followed

    @property
    def dead_reason(self) -> str | None:
        """Why it does not run any more."""
        return self._dead.reason if self._dead is not None else None

    @property
    def dead_cause(self) -> Cause | None:
        """What has ended its domain; None: that has not been seen to end."""
        return self._dead.cause if self._dead is not None else None

    # ------------------------------------------------------------ what happens

    def fault_found(self, fault: Fault) -> None:
        """A rule says so. Not told before :meth:`fault_is_recorded`."""
        assert self.fault is None and self.state is not ActivationState.ENDED
        self.fault = fault
        self.fault_recorded = False

    def fault_is_recorded(self, fault_id: int) -> None:
        """It is in the journal: whoever waits is told now."""
        if self.fault is None or self.fault.id != fault_id or self.state is ActivationState.ENDED:
            return
        self.fault_recorded = True
        self._tell_all()

    def defer_fault(self, why: str, until: float, now: float) -> None:
        """Its fault, that is not told yet, is to be told later.

        :param why: what monitors are told meanwhile.
        """
        assert self.fault is not None and self.fault.told is None
        self.deferred, self.deferred_until = why, until
        if not self.paused:
            self._answer_early(now)

    def end_deferral(self) -> None:
        """Its time has come."""
        self.deferred = self.deferred_until = None
        self._tell_all()

    def domain_seen(self) -> None:
        """Its domain runs."""
        if self.restored:
            self.restored = False
            self._tell_all()

    def set_paused(self, paused: bool) -> None:
        """Report nothing but the domain's death, or all again.

        A fault of before the pause is told after it; those in it are not held.
        """
        self.paused = paused
        self.rules_in_pause.clear()
        if not paused:
            self.rules.forget_counts()
        self._tell_all()

    def hand_over(self) -> Fault | None:
        """Its VM has left by live migration. May be called again.

        :returns: the fault that goes along, which is not told here any more; it
            may have been told before.
        """
        self.handed_over = True
        return self.fault

    def doubt_fault(self, boot_id: int | None) -> None:
        """Its fault has come with the VM.

        :param boot_id: of the guest that had it, if known.
        """
        self.doubted_boot = None if boot_id == self.boot_id else boot_id

    def guest_met(self, boot_id: int) -> bool:
        """Note which boot of the guest this is.

        :returns: whether the fault that has come with the VM is another boot's.
        """
        self.boot_id = boot_id
        if self.doubted_boot not in (None, boot_id):
            return True
        self.end_doubt()
        return False

    def end_doubt(self) -> None:
        """The fault that has come with the VM is taken for its own."""
        if self.doubted_boot is not None:
            self.doubted_boot = None
            self._tell_all()

    def fault_told(self, fault_id: int, now_real: float) -> Fault | None:
        """Pacemaker knows. :returns: the fault, if this is new for the journal."""
        # Meanwhile it may have been cleared, and another one found.
        if self.fault is None or self.fault.id != fault_id or self.fault.told is not None:
            return None
        self.fault = replace(self.fault, told=now_real)
        return self.fault

    def fault_injected(self, now: float) -> None:
        """Pacemaker is being told asynchronously."""
        self._injected_at = now

    def fault_cleared(self, now_real: float, by: str) -> Fault | None:
        """It is over. :returns: the fault as it is now, for the journal."""
        if self.fault is None:
            return None
        ended = replace(self.fault, ended=now_real, ended_by=by)
        self.fault = None
        self.fault_recorded = False
        self.deferred = self.deferred_until = None
        self.doubted_boot = None
        self._injected_at = None
        return ended

    def watch_changed(self, now: float) -> None:
        """The guest may be watched better or worse than before."""
        watching = self._watching()
        # What is not followed may be so for a moment: its monitor waits, see Instances.wait().
        if self.paused or not watching.followed:
            return
        if (self._explain_degraded(watching) is None) != (self._degraded_told is None):
            self._answer_early(now)

    def refuse_wishes(self, why: str | None) -> None:
        """The agent's present wishes cannot all be fulfilled; None: they can."""
        self.refused = why

    def domain_ended(self, report: DomainReport, reason: str) -> None:
        """The domain does not run any more. For good: another start is another instance."""
        panicked = self.fault is not None and self.fault.rule == PANIC_RULE
        self._dead = Answer(
            Result.DEAD, reason, state=report.state, cause=report.cause, panicked=panicked
        )
        self._answer_all(self._dead)

    def end_activation(self, now_real: float, by: str, why: str | None = None) -> Fault | None:
        """Stopped, or replaced.

        :param why: for monitors that still wait. None: their processes are
            being killed by Pacemaker, or were long ago.
        :returns: the fault that ends with it.
        """
        fault = self.fault_cleared(now_real, by)
        self.record = replace(self.record, ended=now_real)
        self._answer_all(Answer(Result.DEGRADED, why) if why else Answer(Result.FINE))
        self._waiters.clear()
        self.state = ActivationState.ENDED
        return fault

    def seconds_until_alarm(self, now: float, grace: float) -> float | None:
        """Seconds until Pacemaker is to be told without a monitor.

        :param grace: seconds by which a monitor may be late.
        :returns: None: there is no need.
        """
        if (
            self.state not in (ActivationState.STARTED, ActivationState.GAP)
            or self._tellable is None
            or self._tellable.told is not None
            or self._dead is not None
        ):
            return None
        if self.state is ActivationState.STARTED or self._interval is None:
            return grace  # Pacemaker is about to run the first one
        due = self._gap_since + self._interval
        if due - now > SHORT_GAP_S:
            return 0.0
        return max(0.0, due + grace - now)

    # ------------------------------------------------------------ inside

    @property
    def _tellable(self) -> Fault | None:
        """The fault, if it may be told now."""
        may = self.fault_recorded and not self.paused and not self.restored
        if self.handed_over or self.doubted_boot is not None:
            return None
        return self.fault if may and self.deferred is None else None

    def _explain_degraded(self, watching: Watching) -> str | None:
        """Why a monitor is told neither of a fault nor that all is well."""
        return self.deferred or watching.lacking or self.refused

    def _tell_all(self) -> None:
        if (fault := self._tellable) is not None:
            self._answer_all(_fault_answer(fault))

    def _dead_answer(self) -> Answer | None:
        """With the fault that Pacemaker knows already: to tell it otherwise were a second one."""
        told = self.fault is not None and self.fault.told is not None
        return replace(self._dead, fault=self.fault) if self._dead and told else self._dead

    def _find_immediate_answer(self, now: float) -> Answer | None:
        """What a monitor is told at once."""
        if (dead := self._dead_answer()) is not None:
            return dead
        if self.paused:
            return None
        if (fault := self._tellable) is not None:
            hold = self.hold_until()
            return None if hold is not None and now < hold else _fault_answer(fault)
        watching = self._watching()
        lacking = self._explain_degraded(watching) if watching.followed else self.deferred
        if lacking is not None and self._degraded_told is None and self._may_be_early(now):
            self._early_at = now
            return Answer(Result.DEGRADED, lacking)
        return None

    def _may_be_early(self, now: float) -> bool:
        return self._early_at is None or now - self._early_at >= DEGRADED_AFTER_S

    def _answer_early(self, now: float) -> None:
        if self._waiters and self._may_be_early(now):
            self._early_at = now
            self._answer_all(self.answer_at_timeout())

    def _answer_all(self, answer: Answer) -> None:
        for waiter in self._waiters:
            waiter.give_answer(answer)


def _fault_answer(fault: Fault) -> Answer:
    return Answer(Result.FAULT, fault.reason, fault=fault)


def _degraded_answer(watching: Watching) -> Answer:
    return Answer(Result.DEGRADED, watching.lacking)
