# SPDX-License-Identifier: GPL-2.0-or-later
"""What a fault rule may ask of an event: the names, and of which kind their values are.

The fields of a probe's events are those of its record
(:mod:`vesper_monitor.guest.records`), read off it, so that a new field or
probe is known here without a word.  Some names are derived of them.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping
from typing import Any, TypeAlias

from vesper_monitor.guest.decode import LOST, UNKNOWN, Event
from vesper_monitor.guest.records import RECORDS

__all__ = ["DERIVED", "FIELDS", "Facts", "Kind", "Value", "is_main", "probe_of"]

#: The kernel cuts a task's name (TASK_COMM_LEN - 1).
COMM_MAX = 15

Value: TypeAlias = str | int | float | bool


class Kind(enum.Enum):
    """Of a value, as messages call it."""

    TEXT = "a text"
    NUMBER = "a number"
    TRUTH = "true or false"
    ANY = "anything"  #: a field of a probe that was not made here

    @staticmethod
    def of(value: object) -> Kind:
        if isinstance(value, bool):
            return Kind.TRUTH
        if isinstance(value, (int, float)):
            return Kind.NUMBER
        return Kind.TEXT if isinstance(value, str) else Kind.ANY


#: Name → what it means.
DERIVED: Mapping[str, str] = {
    "main": "the process is the main process of one of the resource's services",
    "service": "the name of the service, of those of the resource, whose process it is",
    "cpu": "the guest's CPU that the event was seen on",
}

#: Kinds of the fields that may be missing, of which an empty record does not tell.
_OPTIONAL = {"addr": Kind.NUMBER}


def _fields(values: Mapping[str, object]) -> dict[str, Kind]:
    found = {
        name: _OPTIONAL.get(name, Kind.TEXT) if value is None else Kind.of(value)
        for name, value in values.items()
    }
    if "comm" in found and "parent_comm" in found:
        found |= {"main": Kind.TRUTH, "service": Kind.TEXT}
    return found | {"cpu": Kind.NUMBER}


#: Probe, or what vesperd itself sees → its fields.
FIELDS: Mapping[str, Mapping[str, Kind]] = {
    **{record.event: _fields(record.read(b"")) for record in RECORDS.values()},
    "last_words": _fields({"kind": "", "message": "", "pid": 0, "comm": "", "complete": True}),
    "domain": _fields({"kind": "", "state": "", "cause": "", "why": "", "failure": True}),
    "hang": _fields(
        {"depth": "", "silent_s": 0.0, "ran_s": 0.0, "stuck_s": 0.0, "timeout": 0.0}
    ),
}  # fmt: skip


def probe_of(event: Event) -> str | None:
    """The name under which a rule judges this event; None: no rule does."""
    if event.event in FIELDS:
        return event.event
    return None if event.event in (LOST, UNKNOWN) else event.probe


class Facts:
    """An event, as a rule sees it.

    :param services: names of the resource's services.
    """

    def __init__(self, event: Event, services: Collection[str]) -> None:
        self._event = event
        self._services = services

    def get(self, name: str) -> Value | None:
        """A value, or None: absent, or nothing that can be compared."""
        fields = self._event.fields
        value: Any
        if name not in DERIVED:
            value = fields.get(name)
        elif name == "main":
            value = is_main(fields, self._services)
        elif name == "service":
            value = _service(fields, self._services)
        else:
            value = self._event.cpu
        return value if isinstance(value, (str, int, float)) else None


def is_main(fields: Mapping[str, Any], services: Collection[str]) -> bool:
    """The main process of a service has a parent that is not itself such a process."""
    return _service(fields, services) is not None and _comm(fields) != fields.get("parent_comm")


def _service(fields: Mapping[str, Any], services: Collection[str]) -> str | None:
    comm = _comm(fields)
    return next((name for name in services if name and comm == name[:COMM_MAX]), None)


def _comm(fields: Mapping[str, Any]) -> object:
    """Of the process: a thread may call itself otherwise."""
    return fields.get("leader_comm", fields.get("comm"))
