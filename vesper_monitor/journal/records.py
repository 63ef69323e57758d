# SPDX-License-Identifier: GPL-2.0-or-later
"""An activation of a resource and a fault, as the journal keeps them (docs/api.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vesper_monitor.guest.event import Event
from vesper_monitor.hypervisor.transport import Domain
from vesper_monitor.rules.fault_class import FaultClass, classify_fault

__all__ = [
    "END_RULE",
    "PANIC_RULE",
    "ActivationRecord",
    "EventKey",
    "Fault",
    "Wishes",
    "find_event_key",
    "key_of_event",
    "system_gone",
]

#: ``Fault.rule`` of the end of a domain that Pacemaker was told of.
END_RULE = "domain_ended"
#: ``Fault.rule`` of a panic.
PANIC_RULE = "kernel_panic"

#: Identifies a guest's record, also on another host: probe, event, CPU, sequence number, and
#: the guest's time in ns.
EventKey = tuple[str, str, int, int, int]


@dataclass(frozen=True)
class Wishes:
    """What a resource wishes of its watch: parameters of its agent.

    :ivar hang_timeout: s without a sign of life; 0: do not look; None: as configured.
    :ivar pause_timeout: s that it may be paused without a known reason; 0: no limit;
        None: as configured.
    :ivar fault_on: rules (vesper-rules(7)) before the default ones.
    :ivar boot_timeout: s that its guest may boot; 0: no limit; None: as configured.
    """

    probes: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    hang_timeout: float | None = None
    pause_timeout: float | None = None
    fault_on: str = ""
    boot_timeout: float | None = None


@dataclass(frozen=True)
class ActivationRecord:
    """One activation of a resource on this host: from its start or probe to its stop."""

    id: str
    resource: str
    vm: str
    uuid: str
    domid: int
    started: float  #: s, CLOCK_REALTIME
    wishes: Wishes = Wishes()
    monitored: bool = False  #: has had its first recurring monitor
    ended: float | None = None
    #: name of the transport on which it runs; empty: an earlier vesperd did not note it
    transport: str = ""

    @property
    def domain(self) -> Domain:
        """The domain that it was begun with."""
        return Domain(self.vm, self.domid, self.uuid)


@dataclass(frozen=True)
class Fault:
    """A fault of one activation; it ends with that, or when an operator clears it."""

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

    @classmethod
    def of_activation(
        cls,
        record: ActivationRecord,
        *,
        id: int,
        scope: str,
        rule: str,
        reason: str,
        event: dict[str, Any],
        seen: float,
        told: float | None = None,
        ended: float | None = None,
        ended_by: str | None = None,
    ) -> Fault:
        """Return a fault of an activation; the parameters are the attributes of these names."""
        return cls(
            id, record.resource, record.vm, record.uuid, record.domid, record.id, scope, rule,
            reason, event, seen, told, ended, ended_by,
        )  # fmt: skip

    @property
    def fault_class(self) -> FaultClass:
        """What has failed."""
        return classify_fault(self.rule, self.event)

    @property
    def event_key(self) -> EventKey | None:
        """What identifies the record in which it was found; None: in none of a guest."""
        return find_event_key(self.event)

    @property
    def label(self) -> str:
        """The fault's name, for people."""
        return f"fault {self.id}" if self.id > 0 else "fault (not written yet)"

    def to_json(self) -> dict[str, Any]:
        """Return the fault as in docs/api.md; a number that is not known yet is None."""
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


def key_of_event(event: Event) -> EventKey:
    """Return what identifies the record of an event."""
    return event.probe, event.event, event.cpu, event.seq, event.guest_ns


def find_event_key(event: Mapping[str, Any]) -> EventKey | None:
    """Return what identifies the record of an event.

    :param event: as in :attr:`Fault.event`.
    :returns: None: it was no record of a guest.
    """
    try:
        key = (
            str(event["probe"]), str(event["event"]), int(event["cpu"]), int(event["seq"]),
            int(event["guest_ns"]),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError):
        return None
    return key if key[4] else None


def system_gone(fault: Fault) -> bool:
    """Tell whether the guest cannot shut down any more after this fault.

    After an oops, with a full memory or a read-only file system it may still be able to,
    and have data to save; its time for that is bounded.
    """
    if fault.rule in (PANIC_RULE, "hang", "paused"):
        return True
    if fault.rule == "memory_failure":  # the hypervisor's; the guest's own probe survives it
        return fault.event.get("event") == "domain"
    fields = fault.event.get("fields")
    return fault.rule == "out_of_memory" and isinstance(fields, Mapping) and fields.get("pid") == 1
