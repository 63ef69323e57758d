# SPDX-License-Identifier: GPL-2.0-or-later
"""A fault that goes with its VM to another host, when that is migrated live.

The source's vesperd packs it (:func:`pack_fault`), the OCF agents carry it, the
target's vesperd unpacks it (:func:`unpack_fault`) and tells it to its own monitors.
Parts of it come from a guest, so both sides bound all of it here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from vesper_monitor.journal.records import ActivationRecord, EventKey, Fault, find_event_key
from vesper_monitor.rules.reasons import Scope

__all__ = [
    "CarriedFault",
    "boot_of_fault",
    "pack_fault",
    "unpack_fault",
]

#: Bytes of a packed fault as JSON in ASCII. The agents keep it in a node
#: attribute and in a file, in base64.
MAX_PACKED_BYTES = 2800
#: Characters of its texts.
MAX_REASON_CHARS = 500
MAX_RULE_CHARS = 100
MAX_NAME_CHARS = 255
#: Of the event, if the whole is too long.
MAX_EVENT_TEXT_CHARS = 200


@dataclass(frozen=True)
class CarriedFault:
    """A fault as it arrives at the target."""

    uuid: str  #: of its domain, which stays the same in a migration
    boot_id: int | None  #: of the guest's core; None: the source did not know it
    node: str  #: of the cluster, from which it comes
    fault_id: int  #: on that node
    scope: str
    rule: str
    reason: str
    event: dict[str, Any]
    seen: float  #: s, CLOCK_REALTIME of the source
    told: bool  #: Pacemaker knows it already

    def to_fault(self, fault_id: int, record: ActivationRecord) -> Fault:
        """Return the fault of an activation here.

        :param fault_id: on this host.
        """
        origin = {"node": self.node, "fault": self.fault_id, "boot_id": self.boot_id}
        event = {**self.event, "carried": origin}
        return Fault.of_activation(
            record, id=fault_id, scope=self.scope, rule=self.rule, reason=self.reason,
            event=event, seen=self.seen,
        )  # fmt: skip

    @property
    def event_key(self) -> EventKey | None:
        """Of the record that it was found in; None: it was found in none."""
        return find_event_key(self.event)


def boot_of_fault(fault: Fault) -> int | None:
    """Return the boot of the guest whose fault came along with its VM, if known."""
    origin = fault.event.get("carried")
    boot_id = origin.get("boot_id") if isinstance(origin, dict) else None
    return boot_id if type(boot_id) is int else None


def pack_fault(fault: Fault, boot_id: int | None, node: str | None) -> dict[str, Any]:
    """Pack a fault for the way, in at most :data:`MAX_PACKED_BYTES` bytes of JSON in ASCII.

    :param boot_id: of the guest's core.
    :param node: this node's name in the cluster, if known.
    """
    # The event's number is this host's.
    event = {key: value for key, value in fault.event.items() if key not in ("id", "carried")}
    packed: dict[str, Any] = {
        "uuid": fault.uuid[:MAX_NAME_CHARS],
        "boot_id": boot_id,
        "node": (node or "")[:MAX_NAME_CHARS],
        "fault": max(fault.id, 0),
        "scope": fault.scope,
        "rule": fault.rule[:MAX_RULE_CHARS],
        "reason": fault.reason[:MAX_REASON_CHARS],
        "event": event,
        "seen": fault.seen,
        "told": fault.told is not None,
    }
    if _packed_size(packed) > MAX_PACKED_BYTES:
        text = str(event.get("text", ""))[:MAX_EVENT_TEXT_CHARS]
        names = ("probe", "event", "cpu", "seq", "guest_ns", "received")
        short = {name: event[name] for name in names if name in event}
        packed["event"] = {**short, "fields": {}, "text": text}
    if _packed_size(packed) > MAX_PACKED_BYTES:
        packed["event"] = {}
    while _packed_size(packed) > MAX_PACKED_BYTES and packed["reason"]:
        packed["reason"] = packed["reason"][: len(packed["reason"]) // 2]
    return packed


def unpack_fault(packed: object) -> CarriedFault:
    """Unpack a fault that :func:`pack_fault` has packed.

    :raises ValueError: it is none.
    """
    if not isinstance(packed, dict) or _packed_size(packed) > MAX_PACKED_BYTES:
        raise ValueError("it is no object, or too long")
    boot_id, event = packed.get("boot_id"), packed.get("event")
    if boot_id is not None and (type(boot_id) is not int or not 0 <= boot_id < 1 << 64):
        raise ValueError(f"'boot_id': {boot_id!r}")
    if not isinstance(event, dict):
        raise ValueError("'event' is no object")
    if packed.get("scope") not in {scope.value for scope in Scope}:
        raise ValueError("'scope' is none that is known")
    if type(packed.get("fault")) is not int or type(packed.get("told")) is not bool:
        raise ValueError("'fault' or 'told'")
    seen = packed.get("seen")
    if isinstance(seen, bool) or not isinstance(seen, (int, float)) or not 0 <= seen < 1e11:
        raise ValueError("'seen'")
    return CarriedFault(
        uuid=_text_field(packed, "uuid", MAX_NAME_CHARS),
        boot_id=boot_id,
        node=_text_field(packed, "node", MAX_NAME_CHARS),
        fault_id=packed["fault"],
        scope=packed["scope"],
        rule=_text_field(packed, "rule", MAX_RULE_CHARS),
        reason=_text_field(packed, "reason", MAX_REASON_CHARS),
        event=event,
        seen=float(seen),
        told=packed["told"],
    )


def _packed_size(packed: dict[str, Any]) -> int:
    try:
        return len(json.dumps(packed, separators=(",", ":")))
    except (TypeError, ValueError, RecursionError):
        raise ValueError("it is no JSON") from None


def _text_field(packed: dict[str, Any], key: str, most: int) -> str:
    value = packed.get(key)
    if not isinstance(value, str) or len(value) > most:
        raise ValueError(f"'{key}' is no text of at most {most} characters")
    return "".join(c if c.isprintable() else " " for c in value)
