# SPDX-License-Identifier: GPL-2.0-or-later
"""A monitor that waits: served until there is something to tell, or its time is up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from vesper_monitor.faults.activation import (
    ActivationState,
    Answer,
    ResourceActivation,
    Result,
    Waiter,
)
from vesper_monitor.faults.fault_reports import FaultReports

__all__ = ["Deliver", "serve_monitor"]

#: Hands an answer to the agent; raises if that is gone.
Deliver = Callable[[Answer], Awaitable[None]]

#: s that a monitor waits for its domain to be watched, until it is told that it is not.
UNWATCHED_WAIT_S = 10.0


async def serve_monitor(
    activation: ResourceActivation,
    reports: FaultReports,
    *,
    interval: float,
    timeout: float,  # noqa: ASYNC109 - an answer, not an error
    first: bool | None,
    deliver: Deliver,
    on_first: Callable[[], None],
) -> None:
    """Serve one monitor.

    The call may also be cancelled while it waits: the agent was killed.

    :param timeout: s, after which it is answered in any case.
    :param on_first: called if this is the activation's first monitor.
    """
    if activation.state is ActivationState.ENDED:  # while the request was prepared
        vm = activation.record.vm
        await deliver(Answer(Result.DEGRADED, f"{vm}: its resource was stopped or begun anew"))
        return
    awake = asyncio.Event()
    waiter = Waiter(awake.set)
    clock = asyncio.get_running_loop().time
    start = clock()
    was_monitored = activation.record.monitored
    activation.monitor_begins(waiter, start, interval, first)
    if not was_monitored:
        on_first()
    reports.alarms.reset_alarm(activation)
    delivered = False
    try:
        end = start + timeout
        hold = activation.hold_until()
        if hold is not None:
            end = min(end, max(hold, start))
        while waiter.answer is None and (left := end - clock()) > 0:
            try:
                async with asyncio.timeout(min(left, UNWATCHED_WAIT_S)):
                    await awake.wait()
            except TimeoutError:
                if not activation.followed:
                    break
        answer = waiter.answer or activation.answer_at_timeout()
        waiter.answer = answer
        await deliver(answer)
        delivered = True
        if answer.result is Result.FAULT and answer.fault is not None:
            reports.fault_told(activation, answer.fault)
        elif answer.result is Result.DEAD:
            reports.death_told(activation)
    finally:
        activation.monitor_ends(waiter, clock(), delivered=delivered)
        reports.alarms.reset_alarm(activation)
