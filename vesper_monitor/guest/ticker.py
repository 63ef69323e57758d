# SPDX-License-Identifier: GPL-2.0-or-later
"""One timer for the periodic work of all guests; a thousand timers cost more.

The calls are spread over the period: all at once would hold up everything else.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

__all__ = ["SharedTicker"]

#: Parts of a period over which the calls are spread.
TICKS_PER_PERIOD = 20


class SharedTicker:
    """A periodic timer that is shared: it makes each added call once in a period.

    :param period_s: the period.
    """

    def __init__(self, period_s: float) -> None:
        self._tick_s = period_s / TICKS_PER_PERIOD
        # The calls of each part of the period, in their order.
        self._calls: list[dict[Callable[[float], None], None]] = [
            {} for _ in range(TICKS_PER_PERIOD)
        ]
        self._base = 0.0  # of the ticks, by the loop's clock
        self._at = 0  # the last tick at which any was called
        self._timer: asyncio.TimerHandle | None = None

    def add_call(self, call: Callable[[float], None]) -> None:
        """Make this call from now on, with the time (s of CLOCK_MONOTONIC). It must not raise."""
        if self._timer is None:
            self._base, self._at = asyncio.get_running_loop().time(), 0
        first = self._current_tick() + 1
        # The part with the fewest calls; of those the next one.
        tick = min(
            range(first, first + TICKS_PER_PERIOD), key=lambda tick: len(self._calls_of_tick(tick))
        )
        self._calls_of_tick(tick)[call] = None
        self._wait_for_tick()

    def remove_call(self, call: Callable[[float], None]) -> None:
        """Make this call no longer. Idempotent."""
        for calls in self._calls:
            calls.pop(call, None)
        if self._timer is not None:
            self._wait_for_tick()

    def _calls_of_tick(self, tick: int) -> dict[Callable[[float], None], None]:
        return self._calls[tick % TICKS_PER_PERIOD]

    def _current_tick(self) -> int:
        passed = asyncio.get_running_loop().time() - self._base
        return max(self._at, math.floor(passed / self._tick_s))

    def _wait_for_tick(self) -> None:
        """Set the timer to the next tick that has calls."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for tick in range(self._at + 1, self._at + 1 + TICKS_PER_PERIOD):
            if self._calls_of_tick(tick):
                due = self._base + tick * self._tick_s
                self._timer = asyncio.get_running_loop().call_at(due, self._run_tick, tick)
                return

    def _run_tick(self, tick: int) -> None:
        late = asyncio.get_running_loop().time() - self._base - tick * self._tick_s
        if late > TICKS_PER_PERIOD * self._tick_s:
            self._base += late  # missed periods are not made up for
        self._at = tick
        self._wait_for_tick()
        now = time.monotonic()
        for call in list(self._calls_of_tick(tick)):
            call(now)
