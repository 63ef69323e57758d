# SPDX-License-Identifier: GPL-2.0-or-later
"""Alarms: Pacemaker is told of a fault where no monitor waits for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from vesper_monitor.faults.activation import ActivationState, ResourceActivation
from vesper_monitor.faults.fault_numbers import FaultNumbers
from vesper_monitor.journal.records import Fault

__all__ = ["AlarmListener", "Alarms", "ReportFailure"]

_log = logging.getLogger(__name__)

#: Faults of which Pacemaker is told at the same time without a monitor: its tools
#: take a second of CPU, and many VMs may have faults at once.
MAX_REPORTS_AT_ONCE = 4

#: :func:`vesper_monitor.pacemaker.commands.report_failure`
ReportFailure = Callable[[str, str | None, Callable[[], bool], Callable[[], None]], Awaitable[bool]]


class AlarmListener(Protocol):
    """What an alarm calls."""

    def fault_told(self, activation: ResourceActivation, fault: Fault) -> None:
        """Note that Pacemaker knows the fault now."""

    def deferral_over(self, activation: ResourceActivation) -> None:
        """Note that the time until which the fault was deferred is over."""


class Alarms:
    """One timer of each activation that has something to tell.

    :param grace: s by which a monitor may be late before Pacemaker is told without it.
    """

    def __init__(
        self,
        report_failure: ReportFailure,
        grace: float,
        numbers: FaultNumbers,
        listener: AlarmListener,
    ) -> None:
        self._report_failure = report_failure
        self._grace = grace
        self._numbers = numbers
        self._listener = listener
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._reports: dict[str, asyncio.Task[None]] = {}
        self._room = asyncio.Semaphore(MAX_REPORTS_AT_ONCE)
        #: faults that Pacemaker did not take; they wait for a monitor
        self._given_up: set[int] = set()

    def reset_alarm(self, activation: ResourceActivation) -> None:
        """Set the alarm as the activation's present state needs it, or cancel it."""
        key = activation.record.id
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
        loop = asyncio.get_running_loop()
        if activation.deferred_until is not None:
            wait = max(0.0, activation.deferred_until - loop.time())
            over = self._listener.deferral_over
            self._timers[key] = loop.call_later(wait, over, activation)
            return
        patience = activation.seconds_until_alarm(loop.time(), self._grace)
        if patience is None or key in self._reports:
            return
        if activation.fault is not None and activation.fault.id in self._given_up:
            return
        self._timers[key] = loop.call_later(patience, self._begin_report, activation)

    async def wait_for_report(self, activation: ResourceActivation, limit: float) -> None:
        """Return once no report of this activation is under way, or ``limit`` s later."""
        report = self._reports.get(activation.record.id)
        if report is not None:
            await asyncio.wait({report}, timeout=limit)

    async def close(self) -> None:
        """Cancel all alarms and reports."""
        for timer in self._timers.values():
            timer.cancel()
        reports = list(self._reports.values())
        for task in reports:
            task.cancel()
        await asyncio.gather(*reports, return_exceptions=True)

    def _begin_report(self, activation: ResourceActivation) -> None:
        key = activation.record.id
        self._timers.pop(key, None)
        task = asyncio.get_running_loop().create_task(self.tell_pacemaker(activation))
        self._reports[key] = task
        task.add_done_callback(lambda _: self._reports.pop(key, None))

    async def tell_pacemaker(self, activation: ResourceActivation) -> None:
        """Tell Pacemaker of an activation's fault."""
        fault = activation.fault
        if fault is None:
            return

        def is_wanted() -> bool:
            # A monitor that began meanwhile is the better way.
            held = activation.fault
            return (
                activation.state is not ActivationState.ENDED
                and held is not None
                and held.id == self._numbers.number_of(fault.id)
                and held.told is None
                and not activation.waiting
                and not activation.handed_over
            )

        def injecting() -> None:
            activation.fault_injected(asyncio.get_running_loop().time())

        _log.info("%s: no monitor waits; telling Pacemaker of %s", fault.resource, fault.label)
        try:
            async with self._room:
                is_told = await self._report_failure(
                    fault.resource, activation.node, is_wanted, injecting
                )
            if is_told:
                self._listener.fault_told(activation, fault)
            elif is_wanted():
                self._given_up.add(fault.id)
        except Exception:
            _log.exception("%s: internal error while telling Pacemaker", fault.resource)
