# SPDX-License-Identifier: GPL-2.0-or-later
"""What is remembered of an instance and of a fault (docs/api.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vesper_monitor.rules.fault_class import FaultClass, classify_fault

__all__ = ["ActivationRecord", "Fault", "system_gone"]


@dataclass(frozen=True)
class ActivationRecord:
    """One life of a resource on this host."""

    id: str
    resource: str
    vm: str
    uuid: str
    domid: int
    started: float  #: s, CLOCK_REALTIME
    probes: tuple[str, ...]
    services: tuple[str, ...]
    monitored: bool = False  #: has had its first recurring monitor
    ended: float | None = None
    #: s without a sign of life; 0: not watched; None: as vesperd's configuration says
    hang_timeout: float | None = None
    #: s that it may be paused and nobody says why; 0: for ever; None: likewise
    pause_timeout: float | None = None
    #: name of the transport on which it runs; empty: an earlier vesperd did not note it
    transport: str = ""
    fault_on: str = ""  #: rules (vesper-rules(7)) before the default ones
    #: s that its guest may boot; 0: for ever; None: as vesperd's configuration says
    boot_timeout: float | None = None


@dataclass(frozen=True)
class Fault:
    """Belongs to one instance, and ends with it or by the operator's word."""

    id: int  #: the journal's; negative: it has none yet
    resource: str
    vm: str
    uuid: str
    domid: int
    instance: str
    scope: str  #: "service" or "system"
    rule: str
    reason: str
    event: dict[str, Any]
    seen: float  #: s, CLOCK_REALTIME: by vesperd
    told: float | None = None  #: to Pacemaker, for the first time
    ended: float | None = None
    ended_by: str | None = None

    @property
    def fault_class(self) -> FaultClass:
        """What has failed."""
        return classify_fault(self.rule, self.event)

    @property
    def label(self) -> str:
        """Name it for people."""
        return f"fault {self.id}" if self.id > 0 else "fault (not written yet)"

    def to_json(self) -> dict[str, Any]:
        """As docs/api.md has it: what is not numbered yet has no number."""
        event, number = self.event, self.event.get("id")
        if isinstance(number, int) and number <= 0:
            event = {**event, "id": None}
        return {
            "id": self.id if self.id > 0 else None,
            "resource": self.resource,
            "vm": self.vm,
            "uuid": self.uuid,
            "domid": self.domid,
            "instance": self.instance,
            "class": self.fault_class.value,
            "scope": self.scope,
            "rule": self.rule,
            "reason": self.reason,
            "event": event,
            "seen": self.seen,
            "told": self.told,
            "ended": self.ended,
            "ended_by": self.ended_by,
        }


def system_gone(fault: Fault) -> bool:
    """Whether the guest cannot shut down any more after this fault.

    Where it may be able to (after an oops, on a full memory, with a file system
    that takes no writes), it may have data to save; the time for that is bounded.
    """
    if fault.rule in ("kernel_panic", "hang", "paused"):
        return True
    if fault.rule == "memory_failure":  # the hypervisor's; the guest's own probe survives it
        return fault.event.get("event") == "domain"
    fields = fault.event.get("fields")
    return fault.rule == "out_of_memory" and isinstance(fields, Mapping) and fields.get("pid") == 1
