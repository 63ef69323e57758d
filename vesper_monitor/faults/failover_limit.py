# SPDX-License-Identifier: GPL-2.0-or-later
"""Limit how many failovers a guest can cause in an hour.

Faults come from the guest's own kernel, which may be broken or hostile.  From its third
fault in an hour on a guest flaps, and the reason says so.  After as many faults as the
administrator allows, the next one is told when the first of them is an hour old.

Pure: it knows no clock.  Times are seconds of CLOCK_REALTIME, like the journal's.
"""

from __future__ import annotations

from collections import deque

__all__ = ["FLAPPING_FAULTS", "WINDOW_S", "FailoverLimit"]

#: s in which faults are counted.
WINDOW_S = 3600.0
#: The fault in a window with which a guest begins to flap.
FLAPPING_FAULTS = 3


class FailoverLimit:
    """The faults of each VM of this host that were told.

    :param most: faults of one VM that are told in any :data:`WINDOW_S` seconds.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        #: when the last ones were told, oldest first
        self._told: dict[str, deque[float]] = {}
        #: the event of the one that was told last
        self._event: dict[str, int] = {}

    def note_told(self, vm: str, at: float, event: int | None = None) -> None:
        """Note that a fault of a VM is told.

        :param event: its number; the faults of several resources in one event count once.
        """
        if event is not None:
            if self._event.get(vm) == event and vm in self._told:
                return
            self._event[vm] = event
        for name, times in list(self._told.items()):  # VMs come and go
            if times[-1] <= at - WINDOW_S:
                del self._told[name]
                self._event.pop(name, None)
        sorted_times = sorted([*self._told.get(vm, ()), at])  # the journal may be read late
        self._told[vm] = deque(sorted_times, maxlen=self.most)

    def next_allowed_time(self, vm: str, now: float, event: int | None = None) -> float:
        """Return when the next one may be told: now, or at most :data:`WINDOW_S` later.

        :param event: as of :meth:`note_told`.
        """
        times = self._told.get(vm)
        same = event is not None and self._event.get(vm) == event
        if times is None or len(times) < self.most or same:
            return now
        # The clock may have been set since.
        return max(now, min(times[0], now) + WINDOW_S)

    def describe_flapping(self, vm: str, now: float) -> str:
        """Return what a VM's next fault says about its flapping; empty: it does not flap."""
        times = [at for at in self._told.get(vm, ()) if now - WINDOW_S < at <= now]
        number = len(times) + 1
        if number < FLAPPING_FAULTS:
            return ""
        minutes = max(1, round((now - times[0]) / 60))
        return f"flapping: {_ordinal_number(number)} fault in {minutes} min"


def _ordinal_number(number: int) -> str:
    teens = number % 100 in (11, 12, 13)
    return f"{number}{'th' if teens else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"
