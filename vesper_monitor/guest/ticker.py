# SPDX-License-Identifier: GPL-2.0-or-later
"""One timer for what is done for each guest again and again; a thousand timers cost more.

They are not called all at once, for that would be a pause for everything else.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

__all__ = ["SharedTicker"]

#: Moments of a period at which some are called, if there are that many.
TICKS_PER_PERIOD = 20


class SharedTicker:
    """Calls each that is on it once in a period.

    :param period: s.
    """

    def __init__(self, period: float) -> None:
        self._tick = period / TICKS_PER_PERIOD
        # Each part's, in their order.
        self._calls: list[dict[Callable[[float], None], None]] = [
            {} for _ in range(TICKS_PER_PERIOD)
        ]
        self._base = 0.0  # of the ticks, by the loop's clock
        self._at = 0  # the last tick at which any was called
        self._timer: asyncio.TimerHandle | None = None

    def add_call(self, call: Callable[[float], None]) -> None:
        """Call it from now on with the time, s of CLOCK_MONOTONIC. It must not raise."""
        if self._timer is None:
            self._base, self._at = asyncio.get_running_loop().time(), 0
        first = self._current_tick() + 1
        # Where the fewest are; of those the next.
        tick = min(
            range(first, first + TICKS_PER_PERIOD), key=lambda tick: len(self._calls_of_tick(tick))
        )
        self._calls_of_tick(tick)[call] = None
        self._wait_for_tick()

    def remove_call(self, call: Callable[[float], None]) -> None:
        """May be called twice."""
        for calls in self._calls:
            calls.pop(call, None)
        if self._timer is not None:
            self._wait_for_tick()

    def _calls_of_tick(self, tick: int) -> dict[Callable[[float], None], None]:
        return self._calls[tick % TICKS_PER_PERIOD]

    def _current_tick(self) -> int:
        passed = asyncio.get_running_loop().time() - self._base
        return max(self._at, math.floor(passed / self._tick))

    def _wait_for_tick(self) -> None:
        """For the next tick at which there is anyone to call."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for tick in range(self._at + 1, self._at + 1 + TICKS_PER_PERIOD):
            if self._calls_of_tick(tick):
                due = self._base + tick * self._tick
                self._timer = asyncio.get_running_loop().call_at(due, self._run_tick, tick)
                return

    def _run_tick(self, tick: int) -> None:
        late = asyncio.get_running_loop().time() - self._base - tick * self._tick
        if late > TICKS_PER_PERIOD * self._tick:
            self._base += late  # rounds that were missed are not made up for
        self._at = tick
        self._wait_for_tick()
        now = time.monotonic()
        for call in list(self._calls_of_tick(tick)):
            call(now)
