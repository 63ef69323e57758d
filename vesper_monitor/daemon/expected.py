# SPDX-License-Identifier: GPL-2.0-or-later
"""VMs that may come to this host by themselves: live from another one, or restored.

The hypervisor knows of an arrival at once, Pacemaker's agent seconds later.
So what is expected is watched from its arrival on.  Nobody has said then what
is a fault there: the events until the resource's instance begins are judged
when it does.
"""

from __future__ import annotations

from collections.abc import Iterable

from vesper_monitor.transport import Domain

__all__ = ["Expected"]

#: VMs; more is a mistake of whoever expects them.
_MAX = 1000


class Expected:
    """What is expected, and what has come and belongs to no resource yet."""

    def __init__(self) -> None:
        self._probes: dict[str, tuple[str, ...]] = {}
        self._unclaimed: dict[tuple[str, int], int] = {}

    def note(self, vm: str, probes: Iterable[str]) -> None:
        """A VM may come; the last one to say so knows best what is wanted there."""
        self._probes.pop(vm, None)
        self._probes[vm] = tuple(probes)
        while len(self._probes) > _MAX:
            del self._probes[next(iter(self._probes))]

    def forget(self, vm: str) -> None:
        """It is not expected any more."""
        self._probes.pop(vm, None)

    def of(self, vm: str) -> tuple[str, ...] | None:
        """The probes that are wanted there; None: it is not expected."""
        return self._probes.get(vm)

    def has_come(self, domain: Domain, last_event: int) -> None:
        """It is watched from now on.

        :param last_event: id of the last one before.
        """
        self._unclaimed[domain.uuid, domain.domid] = last_event

    def number(self, last_event: int) -> None:
        """Number what came before the journal could be read.

        :param last_event: id of the journal's last one.
        """
        for domain, event in self._unclaimed.items():
            self._unclaimed[domain] = last_event - event

    def claim(self, domain: Domain) -> int | None:
        """A resource's instance begins, or the domain has gone.

        :returns: what :meth:`has_come` was told; None: it was not, or has been claimed.
        """
        return self._unclaimed.pop((domain.uuid, domain.domid), None)
