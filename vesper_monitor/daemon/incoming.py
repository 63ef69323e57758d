# SPDX-License-Identifier: GPL-2.0-or-later
"""VMs that may come to this host by themselves: live from another one, or restored.

The hypervisor knows of an arrival at once, Pacemaker's agent seconds later.
So what is expected is watched from its arrival on.  Nobody has said then what
is a fault there: the events until the resource's instance begins are judged
when it does.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from vesper_monitor.guest.event import Event
from vesper_monitor.hypervisor.transport import Domain

__all__ = ["IncomingDomains"]

#: VMs; more is a mistake of whoever expects them.
_MAX_EXPECTED_VMS = 1000
#: Events of one that has come and belongs to no resource yet.
MAX_EVENTS = 2000


class IncomingDomains:
    """What is expected, and what has come and belongs to no resource yet."""

    def __init__(self) -> None:
        self._probes: dict[str, tuple[str, ...]] = {}
        self._unclaimed: dict[tuple[str, int], list[Event]] = {}

    def note_expected(self, vm: str, probes: Iterable[str]) -> None:
        """A VM may come; the last one to say so knows best what is wanted there."""
        self._probes.pop(vm, None)
        self._probes[vm] = tuple(probes)
        while len(self._probes) > _MAX_EXPECTED_VMS:
            del self._probes[next(iter(self._probes))]

    def forget_expected(self, vm: str) -> None:
        """It is not expected any more."""
        self._probes.pop(vm, None)

    def probes_wanted_for(self, vm: str) -> tuple[str, ...] | None:
        """The probes that are wanted there; None: it is not expected."""
        return self._probes.get(vm)

    def has_come(self, domain: Domain) -> None:
        """It is watched from now on, and belongs to no resource."""
        self._unclaimed[domain.uuid, domain.domid] = []

    def note_events(self, domain: Domain, events: Iterable[Event]) -> None:
        """Keep what a domain says that belongs to no resource yet."""
        kept = self._unclaimed.get((domain.uuid, domain.domid))
        if kept is not None:
            kept += itertools.islice(events, max(0, MAX_EVENTS - len(kept)))

    def claim_arrival(self, domain: Domain) -> list[Event]:
        """A resource's instance begins, or the domain has gone.

        :returns: events since :meth:`has_come`, if it belonged to no resource since.
        """
        return self._unclaimed.pop((domain.uuid, domain.domid), [])
