# SPDX-License-Identifier: GPL-2.0-or-later
"""Limits how much of the event loop's time the group of readers gets.

Work for the group is done in short turns, one at a time.  After each turn comes
a rest in proportion to the time it took.  At least three quarters of the time
are thus left to guests, monitors and root, however many readers there are.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable

__all__ = ["Share", "Turn"]

_log = logging.getLogger(__name__)

#: s of rest for each second that a turn took.
REST_PER_TURN_S = 3.0
#: Longest rest, in s: a machine that stood still must not shut the group out.
MAX_REST_S = 1.0
#: s after which a turn ends by itself: a client that waits for a hypervisor needs no turn.
TURN_LIMIT_S = 0.25


class Turn:
    """One turn, from the grant to its end."""

    def __init__(self, share: Share) -> None:
        self._share: Share | None = share
        self._began = time.monotonic(), time.thread_time()
        self._more = 0.0
        self._limit = asyncio.get_running_loop().call_later(TURN_LIMIT_S, self.end_turn)

    @property
    def is_over(self) -> bool:
        """Whether it was ended, or has ended by itself."""
        return self._share is None

    def add_cpu_time(self, seconds: float) -> None:
        """Add CPU seconds that another process has spent on it."""
        self._more += seconds

    def end_turn(self) -> None:
        """End the turn. Idempotent."""
        if self._share is None:
            return
        share, self._share = self._share, None
        self._limit.cancel()
        wall, cpu = time.monotonic() - self._began[0], time.thread_time() - self._began[1]
        share._note_turn_end(min(wall, cpu + self._more))


class Share:
    """Grants turns in the order in which they are asked for."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[Turn]] = deque()
        self._work: Callable[[], None] | None = None
        self._work_was_last = False
        self._busy = False
        self._free_at = 0.0  # by the loop's clock
        self._timer: asyncio.TimerHandle | None = None

    async def take_turn(self) -> Turn:
        """Wait for a turn, and return it. The caller ends it."""
        granted: asyncio.Future[Turn] = asyncio.get_running_loop().create_future()
        self._waiting.append(granted)
        self._grant_next()
        try:
            return await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                granted.result().end_turn()
            raise

    def call_in_turn(self, work: Callable[[], None]) -> None:
        """Call a short function in a turn of its own: every second turn, if others wait.

        At most one function waits at a time.
        """
        self._work = work
        self._grant_next()

    def _grant_next(self) -> None:
        while not self._busy:
            while self._waiting and self._waiting[0].done():
                self._waiting.popleft()  # cancelled meanwhile
            if self._work is None and not self._waiting:
                return
            loop = asyncio.get_running_loop()
            if loop.time() < self._free_at:
                if self._timer is None:
                    self._timer = loop.call_at(self._free_at, self._end_rest)
                return
            self._busy = True
            turn = Turn(self)
            if self._work is not None and not (self._work_was_last and self._waiting):
                work, self._work, self._work_was_last = self._work, None, True
                try:
                    work()
                except Exception:  # must not harm the next turn
                    _log.exception("internal error while serving the group of readers")
                turn.end_turn()
            else:
                self._work_was_last = False
                self._waiting.popleft().set_result(turn)

    def _end_rest(self) -> None:
        self._timer = None
        self._grant_next()

    def _note_turn_end(self, taken: float) -> None:
        self._busy = False
        rest = min(REST_PER_TURN_S * taken, MAX_REST_S)
        self._free_at = asyncio.get_running_loop().time() + rest
        if self._waiting or self._work is not None:
            self._grant_next()
