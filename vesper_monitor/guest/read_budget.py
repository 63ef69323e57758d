# SPDX-License-Identifier: GPL-2.0-or-later
"""The share of vesperd's loop that reading one guest may take: all at first, then a third."""

from __future__ import annotations

__all__ = ["BURST_S", "MIN_PAUSE_S", "READING_SHARE", "ReadBudget"]

#: Share of the loop's time that a guest gets in the long run, even if it writes or
#: notifies without end.
READING_SHARE = 1 / 3
#: s of reading without a pause that a guest gets after it was quiet.
BURST_S = 0.06
#: s: the shortest pause for which the loop can wait.
MIN_PAUSE_S = 0.001


class ReadBudget:
    """A token bucket for one guest. Times are seconds of any monotonic clock."""

    def __init__(self) -> None:
        self._credit = BURST_S  # s of reading, as of _at
        self._at = 0.0

    def take_time(self, begin: float, end: float) -> None:
        """Take the time of a round of reading from the budget."""
        self._credit = self._refill_budget(end) - (end - begin)
        self._at = end

    def pause_needed(self, now: float) -> float:
        """Return how many s to wait before the next round."""
        rest = -self._refill_budget(now) / READING_SHARE
        return rest if rest >= MIN_PAUSE_S else 0.0

    def _refill_budget(self, now: float) -> float:
        return min(BURST_S, self._credit + READING_SHARE * (now - self._at))
