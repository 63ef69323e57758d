# SPDX-License-Identifier: GPL-2.0-or-later
"""How much of the daemon's loop one guest may have: all for a while, then a quarter."""

from __future__ import annotations

__all__ = ["FULL_SPEED_ROUNDS", "Pace"]

#: Rounds of reading in a row at full speed; then each is followed by a pause so
#: many times as long as it took: a guest that writes or notifies without end gets
#: a quarter of the daemon, not all of it.
FULL_SPEED_ROUNDS, PAUSE = 256, 3.0


class Pace:
    """Of one guest. Rounds are in a row if between two of them the guest leaves
    no pause as long as the first. Times are seconds of any monotonic clock."""

    def __init__(self) -> None:
        self._rounds = 0
        self._began = self._ended = self._taken = 0.0

    def begin(self, now: float) -> None:
        """A round begins."""
        if now - self._ended >= self._taken:
            self._rounds = 0
        self._began = now

    def end(self, now: float) -> None:
        """It is over."""
        self._ended, self._taken = now, now - self._began
        self._rounds += 1

    def pause(self, now: float) -> float:
        """s to wait before the next round, if it were to begin now."""
        pause = PAUSE * self._taken
        return pause if self._rounds >= FULL_SPEED_ROUNDS and now - self._ended < pause else 0.0

    def waited(self, now: float) -> None:
        """:meth:`pause` is over; it is not the guest that has left it."""
        self._ended = now
