# SPDX-License-Identifier: GPL-2.0-or-later
"""Numbers of faults, also of those found before the journal could be read.

Such a fault has a negative number.  Once the journal's last number is known, it gets
the next positive one, and so does its event.
"""

from __future__ import annotations

from dataclasses import replace

from vesper_monitor.journal.records import Fault

__all__ = ["FaultNumbers"]


class FaultNumbers:
    """
    :param is_known: whether the journal's last number is known; until then numbers are
        negative.
    """

    def __init__(self, is_known: bool) -> None:
        self.is_known = is_known
        self._last_fault_id = 0
        #: by provisional (negative) number
        self._numbers: dict[int, int] = {}
        #: the journal's last event when it was read; None: not known yet
        self._first_event_id: int | None = None

    def begin_after(self, last_fault_id: int) -> None:
        """Go on after the journal's last number, if numbers are given already."""
        if self.is_known:
            self._last_fault_id = last_fault_id

    def take_number(self) -> int:
        """Return the number of the next fault."""
        self._last_fault_id += 1 if self.is_known else -1
        return self._last_fault_id

    def set_number(self, provisional: int, number: int) -> None:
        """Give a fault that was found before the number that the journal has for it."""
        self._numbers[provisional] = number

    def number_found(self, last_fault_id: int, last_event_id: int) -> None:
        """Number the faults that were found before, after the journal's last ones."""
        self._first_event_id = last_event_id
        found, self._last_fault_id = -self._last_fault_id, last_fault_id
        if self.is_known:
            return
        self.is_known = True
        for provisional in range(1, found + 1):
            if -provisional not in self._numbers:
                self._last_fault_id += 1
                self._numbers[-provisional] = self._last_fault_id

    def number_of(self, fault_id: int) -> int:
        """Return a fault's present number."""
        return self._numbers.get(fault_id, fault_id)

    def number_fault(self, fault: Fault) -> Fault:
        """Return a fault with its present number and that of its event."""
        event = fault.event
        provisional = event.get("id")
        if isinstance(provisional, int) and provisional < 0 and self._first_event_id is not None:
            event = {**event, "id": self._first_event_id - provisional}
        return replace(fault, id=self.number_of(fault.id), event=event)
