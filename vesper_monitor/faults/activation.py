# SPDX-License-Identifier: GPL-2.0-or-later
"""One activation of a resource, and what its monitors are told: the state machine.

Pure: it knows no loop and no clock; times are seconds of any monotonic clock.
vesper_monitor/faults/activations.py drives it.  Its states are those of its monitors
(vesper_monitor/faults/monitor_turns.py).

In each state but ENDED the activation may hold one fault.  Each monitor is told it, until
the activation ends or an operator clears it; one that is deferred, from its time on.

An activation of an earlier vesperd tells no fault before its domain was seen alive.

In a live migration a fault that no monitor was told goes with the VM::

    HERE --hand_over()--> HANDED_OVER --its end--> ended by MIGRATION
      ^                        |
      +-- a monitor begins ----+    the domain has not left after all

A fault that was handed over is not told here any more.  At the target a new activation
holds it from the start.  It is told once the guest there is known to be the one that
had it (:meth:`ResourceActivation.guest_met`), or after a while.

Whether the guest is watched is not kept here, but asked each time.  So an activation
without a live session never counts as fine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from vesper_monitor.faults.monitor_turns import (
    ActivationState,
    Answer,
    MonitorTurns,
    Result,
    Waiter,
)
from vesper_monitor.faults.watching import Watching
from vesper_monitor.hypervisor.transport import Cause, DomainReport
from vesper_monitor.journal.records import PANIC_RULE, ActivationRecord, EventKey, Fault
from vesper_monitor.rules.rule_set import RuleSet

__all__ = ["MIGRATION", "ActivationState", "Answer", "ResourceActivation", "Result", "Waiter"]

#: s for Pacemaker to act on an asynchronous failure.  A monitor that begins meanwhile
#: waits this long: answered at once, it would count the failure twice.
MONITOR_HOLD_S = 10.0
#: What has ended a fault that has gone to another host with its VM.
MIGRATION = "migration"


class ResourceActivation:
    """
    :param watching: asks how well its domain is watched now.
    :param rules: which events are faults; None: the default ones.
    :param restored: an earlier vesperd has begun it.
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
        self.turns = MonitorTurns()
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
        #: the boot of the guest whose fault came along with it; None: it is this one
        self.doubted_boot: int | None = None
        #: a record that the source of a migration has judged
        self.judged_at_source: EventKey | None = None
        #: which of the wishes that its agent has now cannot be fulfilled, and why
        self.refused: str | None = None
        self._dead: Answer | None = None
        #: the end of its domain, as an event
        self.death: dict[str, Any] | None = None
        #: when a monitor was first told of it, s, CLOCK_REALTIME
        self.death_told: float | None = None
        #: it is in the list of faults
        self.death_recorded = False
        self._injected_at: float | None = None

    # ------------------------------------------------------------ monitors

    def monitor_begins(
        self, waiter: Waiter, now: float, interval: float, first: bool | None = None
    ) -> None:
        """Answer a recurring monitor now (``waiter.answer``), or let it wait.

        :param interval: s, of the operation.
        :param first: whether the agent knows this to be the first recurring
            monitor after a start; None: decide here. Pacemaker waits for that one.
        """
        assert self.state is not ActivationState.ENDED
        is_other = self.turns.begin_turn(waiter, interval)
        if first is None:  # Pacemaker waits for the first run of each operation
            first = not self.record.monitored or is_other
        self.handed_over = False  # Pacemaker has it run here
        self.record = replace(self.record, monitored=True)
        if (answer := self._find_immediate_answer(now)) is not None:
            waiter.give_answer(answer)
        elif first:
            waiter.give_answer(self.answer_at_timeout())

    def monitor_ends(self, waiter: Waiter, now: float, *, delivered: bool) -> None:
        """Note that a monitor's process has its answer, or has ended without one.

        :param delivered: the answer was written to the agent.
        """
        self.turns.end_turn(waiter, now, delivered=delivered)

    def answer_at_timeout(self) -> Answer:
        """Return the answer for a monitor whose time is up."""
        if (dead := self._dead_answer()) is not None:
            return dead
        watching = self._watching()
        if self.paused:
            # The domain's end is told in a pause, too: so somebody must look.
            fine = Answer(Result.FINE)
            return fine if watching.followed else Answer(Result.DEGRADED, watching.lacking)
        if (fault := self._tellable) is not None:
            return Answer.of_fault(fault)
        if (lacking := self._explain_degraded(watching)) is not None:
            return Answer(Result.DEGRADED, lacking)
        return Answer(Result.FINE)

    def hold_until(self) -> float | None:
        """Return until when a monitor waits since Pacemaker was told asynchronously."""
        return None if self._injected_at is None else self._injected_at + MONITOR_HOLD_S

    @property
    def state(self) -> ActivationState:
        """Whether a monitor waits, and whether the activation has ended."""
        return self.turns.state

    @property
    def waiting(self) -> bool:
        """Whether a monitor waits and has no answer yet."""
        return self.turns.waiting

    def is_unmonitored(self, now: float) -> bool:
        """Tell whether it was monitored, and Pacemaker runs no monitor any more."""
        return self.record.monitored and self.turns.is_stalled(now)

    @property
    def is_well(self) -> bool:
        """Whether a monitor waits and has nothing to report."""
        return (
            self.waiting
            and self._dead is None
            and self.fault is None
            and not self.paused
            and self.deferred is None
            and self.degraded is None
        )

    def say_well(self) -> None:
        """Answer the monitor that waits: all is well."""
        assert self.is_well
        self.turns.said_well = True
        self.turns.answer_all(Answer(Result.FINE))

    @property
    def degraded(self) -> str | None:
        """Why the guest is not watched, or not as its agent wishes; None: it is."""
        return self._watching().lacking or self.refused

    @property
    def followed(self) -> bool:
        """Whether the end of its domain would be noticed."""
        return self._watching().followed

    @property
    def dead_reason(self) -> str | None:
        """Why its domain does not run any more; None: it does, as far as known."""
        return self._dead.reason if self._dead is not None else None

    @property
    def dead_cause(self) -> Cause | None:
        """The cause of its domain's end; None: no end was seen."""
        return self._dead.cause if self._dead is not None else None

    # ------------------------------------------------------------ what happens

    def fault_found(self, fault: Fault) -> None:
        """Hold a fault that a rule has found; it is told from :meth:`fault_is_recorded` on."""
        assert self.fault is None and self.state is not ActivationState.ENDED
        self.fault = fault
        self.fault_recorded = False

    def fault_is_recorded(self, fault_id: int) -> None:
        """Tell the monitors that wait: the fault is in the journal."""
        if self.fault is None or self.fault.id != fault_id or self.state is ActivationState.ENDED:
            return
        self.fault_recorded = True
        self._tell_all()

    def defer_fault(self, why: str, until: float, now: float) -> None:
        """Tell the fault, which nobody was told yet, at a later time.

        :param why: what monitors are told meanwhile.
        """
        assert self.fault is not None and self.fault.told is None
        self.deferred, self.deferred_until = why, until
        if not self.paused:
            self._answer_early(now)

    def end_deferral(self) -> None:
        """Tell the deferred fault from now on."""
        self.deferred = self.deferred_until = None
        self._tell_all()

    def domain_seen(self) -> None:
        """Note that its domain runs."""
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
        """Note that its VM has left by live migration. Idempotent.

        :returns: the fault that goes along, which is not told here any more; it
            may have been told before.
        """
        self.handed_over = True
        return self.fault

    def doubt_fault(self, boot_id: int | None) -> None:
        """Tell the fault, which came along with the VM, only once its guest is known.

        :param boot_id: of the guest that had the fault, if known.
        """
        self.doubted_boot = None if boot_id == self.boot_id else boot_id

    def guest_met(self, boot_id: int) -> bool:
        """Note which boot of the guest this is.

        :returns: whether the fault that came along with the VM is another boot's.
        """
        self.boot_id = boot_id
        if self.doubted_boot not in (None, boot_id):
            return True
        self.end_doubt()
        return False

    def end_doubt(self) -> None:
        """Take the fault that came along with the VM for this guest's."""
        if self.doubted_boot is not None:
            self.doubted_boot = None
            self._tell_all()

    def fault_told(self, fault_id: int, now_real: float) -> Fault | None:
        """Note that Pacemaker knows a fault. :returns: the fault, if the journal needs that."""
        # Meanwhile it may have been cleared, and another one found.
        if self.fault is None or self.fault.id != fault_id or self.fault.told is not None:
            return None
        self.fault = replace(self.fault, told=now_real)
        return self.fault

    def fault_injected(self, now: float) -> None:
        """Note that Pacemaker is being told asynchronously."""
        self._injected_at = now

    def fault_cleared(self, now_real: float, by: str) -> Fault | None:
        """End the fault. :returns: the fault as it is now, for the journal."""
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
        """Note that the guest may be watched better or worse than before."""
        watching = self._watching()
        # It may be followed again in a moment, so its monitor waits: see serve_monitor().
        if self.paused or not watching.followed:
            return
        if (self._explain_degraded(watching) is None) != (self.turns.degraded_told is None):
            self._answer_early(now)

    def refuse_wishes(self, why: str | None) -> None:
        """Note which of the agent's present wishes cannot be fulfilled; None: all can."""
        self.refused = why

    def domain_ended(self, report: DomainReport, reason: str) -> None:
        """Note that the domain does not run any more; another start is another activation."""
        panicked = self.fault is not None and self.fault.rule == PANIC_RULE
        self._dead = Answer(
            Result.DEAD, reason, state=report.state, cause=report.cause, panicked=panicked
        )
        self.turns.answer_all(self._dead)

    def end_activation(self, now_real: float, by: str, why: str | None = None) -> Fault | None:
        """End the activation: its resource was stopped, or has another one.

        :param why: for monitors that still wait. None: Pacemaker is killing their
            processes, or did so long ago.
        :returns: the fault that ends with it.
        """
        fault = self.fault_cleared(now_real, by)
        self.record = replace(self.record, ended=now_real)
        self.turns.end_all(Answer(Result.DEGRADED, why) if why else Answer(Result.FINE))
        return fault

    def seconds_until_alarm(self, now: float, grace: float) -> float | None:
        """Return the seconds until Pacemaker is to be told without a monitor.

        :param grace: s by which a monitor may be late.
        :returns: None: there is no need.
        """
        fault = self._tellable
        if fault is None or fault.told is not None or self._dead is not None:
            return None
        return self.turns.seconds_until_alarm(now, grace)

    # ------------------------------------------------------------ inside

    @property
    def _tellable(self) -> Fault | None:
        """The fault that may be told now; None: there is none."""
        may = self.fault_recorded and not self.paused and not self.restored
        if self.handed_over or self.doubted_boot is not None:
            return None
        return self.fault if may and self.deferred is None else None

    def _explain_degraded(self, watching: Watching) -> str | None:
        """Return why a monitor reports neither a fault nor that all is well."""
        return self.deferred or watching.lacking or self.refused

    def _tell_all(self) -> None:
        if (fault := self._tellable) is not None:
            self.turns.answer_all(Answer.of_fault(fault))

    def _dead_answer(self) -> Answer | None:
        """Return the answer for a domain that has ended; None: it runs.

        The fault already reported is attached: a different result would be counted as a
        second failure.
        """
        told = self.fault is not None and self.fault.told is not None
        return replace(self._dead, fault=self.fault) if self._dead and told else self._dead

    def _find_immediate_answer(self, now: float) -> Answer | None:
        """Return what a monitor is told at once; None: it waits."""
        if (dead := self._dead_answer()) is not None:
            return dead
        if self.paused:
            return None
        if (fault := self._tellable) is not None:
            hold = self.hold_until()
            return None if hold is not None and now < hold else Answer.of_fault(fault)
        watching = self._watching()
        lacking = self._explain_degraded(watching) if watching.followed else self.deferred
        if lacking is None or self.turns.degraded_told is not None:
            return None
        return Answer(Result.DEGRADED, lacking) if self.turns.take_early_turn(now) else None

    def _answer_early(self, now: float) -> None:
        if self.turns.has_waiters and self.turns.take_early_turn(now):
            self.turns.answer_all(self.answer_at_timeout())
