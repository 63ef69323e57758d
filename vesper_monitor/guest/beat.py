# SPDX-License-Identifier: GPL-2.0-or-later
"""One timer for what is done for each guest again and again; a thousand timers cost more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

__all__ = ["Beat"]


class Beat:
    """Calls all that are on it together.

    :param period: s from one beat to the next.
    """

    def __init__(self, period: float) -> None:
        self._period = period
        self._calls: dict[Callable[[float], None], None] = {}  # in their order
        self._timer: asyncio.TimerHandle | None = None

    def add(self, call: Callable[[float], None]) -> None:
        """Call it at each beat with the time, s of CLOCK_MONOTONIC. It must not raise."""
        self._calls[call] = None
        if self._timer is None:
            self._wait()

    def remove(self, call: Callable[[float], None]) -> None:
        """May be called twice."""
        self._calls.pop(call, None)
        if not self._calls and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._period, self._turn)

    def _turn(self) -> None:
        self._wait()
        now = time.monotonic()
        for call in list(self._calls):
            call(now)
