# SPDX-License-Identifier: GPL-2.0-or-later
"""VMs that are expected on this host: migrated live from another one, or restored.

The hypervisor knows of an arrival at once, Pacemaker's agent seconds later.
An expected VM is therefore watched from its arrival on.  Which of its events are
faults is known only when a resource activation begins on it: events before that
are kept, and judged then.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from vesper_monitor.guest.event import Event
from vesper_monitor.hypervisor.transport import Domain

__all__ = ["IncomingDomains"]

#: More expected VMs are a mistake of an agent.
_MAX_EXPECTED_VMS = 1000
#: Events that are kept of one domain that belongs to no resource yet.
MAX_UNCLAIMED_EVENTS = 2000


class IncomingDomains:
    """Expected VMs, and domains that have arrived and belong to no resource yet."""

    def __init__(self) -> None:
        self._probes: dict[str, tuple[str, ...]] = {}
        self._unclaimed: dict[tuple[str, int], list[Event]] = {}

    def note_expected(self, vm: str, probes: Iterable[str]) -> None:
        """Expect a VM, and probes in it; a later call for the VM replaces an earlier one."""
        self._probes.pop(vm, None)
        self._probes[vm] = tuple(probes)
        while len(self._probes) > _MAX_EXPECTED_VMS:
            del self._probes[next(iter(self._probes))]

    def forget_expected(self, vm: str) -> None:
        """Stop expecting a VM."""
        self._probes.pop(vm, None)

    def probes_wanted_for(self, vm: str) -> tuple[str, ...] | None:
        """Return the probes that are wanted in a VM; None: it is not expected."""
        return self._probes.get(vm)

    def note_arrival(self, domain: Domain) -> None:
        """Keep the events of a domain from now on: it belongs to no resource."""
        self._unclaimed[domain.key] = []

    def note_events(self, domain: Domain, events: Iterable[Event]) -> None:
        """Keep events of a domain if it belongs to no resource."""
        kept = self._unclaimed.get(domain.key)
        if kept is not None:
            kept += itertools.islice(events, max(0, MAX_UNCLAIMED_EVENTS - len(kept)))

    def claim_arrival(self, domain: Domain) -> list[Event]:
        """Stop keeping events of a domain: a resource owns it now, or it has left.

        :returns: the events since :meth:`note_arrival`, if it was called.
        """
        return self._unclaimed.pop(domain.key, [])
