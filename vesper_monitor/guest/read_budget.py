# SPDX-License-Identifier: GPL-2.0-or-later
"""How much of the daemon's loop one guest may have: all for a moment, then a third."""

from __future__ import annotations

__all__ = ["BURST_S", "LEAST_PAUSE_S", "READING_SHARE", "ReadBudget"]

#: Of the loop's time, in the long run: a guest that writes or notifies without end
#: does not get all of it.
READING_SHARE = 1 / 3
#: s of reading that a guest has at once, if it was quiet before.
BURST_S = 0.06
#: s of the shortest pause: the loop cannot wait for less.
LEAST_PAUSE_S = 0.001


class ReadBudget:
    """Of one guest: a token bucket. Times are seconds of any monotonic clock."""

    def __init__(self) -> None:
        self._credit = BURST_S  # s of reading, at the time of
        self._at = 0.0

    def take_time(self, begin: float, end: float) -> None:
        """A round of reading is over."""
        self._credit = self._refill_budget(end) - (end - begin)
        self._at = end

    def pause_needed(self, now: float) -> float:
        """s to wait before the next round, if it were to begin now."""
        rest = -self._refill_budget(now) / READING_SHARE
        return rest if rest >= LEAST_PAUSE_S else 0.0

    def _refill_budget(self, now: float) -> float:
        return min(BURST_S, self._credit + READING_SHARE * (now - self._at))
