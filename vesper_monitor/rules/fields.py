# SPDX-License-Identifier: GPL-2.0-or-later
"""The fields of events that a fault rule may name, and the kinds of their values.

The fields of a probe's events are those of its record
(:mod:`vesper_monitor.guest.record_types`), read off it, so a new field or
probe is known here at once.  Some names are derived of them.
"""

from __future__ import annotations

import enum
import signal
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from typing import Any, TypeAlias

from vesper_monitor.guest.event import LOST, UNKNOWN, Event
from vesper_monitor.guest.printable import make_printable
from vesper_monitor.guest.process_origin import is_users_cgroup, is_users_login
from vesper_monitor.guest.record_types import RECORDS
from vesper_monitor.rules.fault_class import classify_event

__all__ = ["DERIVED", "FIELDS", "NEGATED", "TRUTHS", "Facts", "Kind", "Value", "comm_of",
           "has_elder", "is_believed", "is_main", "is_ordered", "probe_of",
           "process_comm"]  # fmt: skip

#: The kernel cuts a task's name (TASK_COMM_LEN - 1).
MAX_COMM_CHARS = 15

Value: TypeAlias = str | int | float | bool


class Kind(enum.Enum):
    """Of a value, as messages call it."""

    TEXT = "a text"
    NUMBER = "a number"
    TRUTH = "true or false"
    ANY = "anything"  #: a field of a probe that was not made here

    @staticmethod
    def kind_of(value: object) -> Kind:
        if isinstance(value, bool):
            return Kind.TRUTH
        if isinstance(value, (int, float)):
            return Kind.NUMBER
        return Kind.TEXT if isinstance(value, str) else Kind.ANY


#: Name → what it means.
DERIVED: Mapping[str, str] = {
    "main": "the process is the main process of one of the resource's services",
    "service": "the name of the service, of those of the resource, whose process it is",
    "believed": "nothing shows that the process is a user's own",
    "ordered": "init or the process's parent has asked it to end",
    "elder": "the process is younger than 5 s while an older main process of its name lives",
    "cpu": "the guest's CPU that the event was seen on",
    "class": "the class of the fault: memory, storage, network, kernel, service, host or operator",
}

#: Those of them that are true or false: the text says what it means that one is true.
TRUTHS = frozenset(("main", "believed", "ordered", "elder"))

#: Name → what it means that it is false.
NEGATED: Mapping[str, str] = {
    "believed": "something shows that the process is a user's own",
    "ordered": "neither init nor the process's parent has asked it to end",
    "elder": "no older main process of its name lives, if it is younger than 5 s",
}

#: Kinds of the fields that an empty record lacks.
_OPTIONAL = {
    "addr": Kind.NUMBER, "login_uid": Kind.NUMBER, "age_ms": Kind.NUMBER,
    "elder_pid": Kind.NUMBER,
}  # fmt: skip
#: Field → the name that is derived of it, and of others.
_DERIVED_OF = {"login_uid": "believed", "asked": "ordered", "elder_pid": "elder"}

_INIT_PID = 1
#: Those that ask a process to end.
_ASKING = frozenset((signal.SIGTERM, signal.SIGINT, signal.SIGQUIT))


def _field_kinds(values: Mapping[str, object]) -> dict[str, Kind]:
    found = {
        name: _OPTIONAL.get(name, Kind.TEXT) if value is None else Kind.kind_of(value)
        for name, value in values.items()
    }
    if "comm" in found and "parent_comm" in found:
        found |= {"main": Kind.TRUTH, "service": Kind.TEXT}
    found |= {name: Kind.TRUTH for field, name in _DERIVED_OF.items() if field in found}
    return found | {"cpu": Kind.NUMBER, "class": Kind.TEXT}


#: Probe, or what vesperd itself sees → its fields.
FIELDS: Mapping[str, Mapping[str, Kind]] = {
    **{record.event: _field_kinds(record.read_fields(b"")) for record in RECORDS.values()},
    "last_words": _field_kinds({"kind": "", "message": "", "pid": 0, "comm": "", "complete": True}),
    "domain": _field_kinds({"kind": "", "state": "", "cause": "", "why": "", "failure": True}),
    "hang": _field_kinds(
        {"depth": "", "silent_s": 0.0, "ran_s": 0.0, "stuck_s": 0.0, "timeout": 0.0}
    ),
}  # fmt: skip


def probe_of(event: Event) -> str | None:
    """Return the name under which rules judge an event; None: no rule does."""
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

    def get_value(self, name: str) -> Value | None:
        """Return a field's value; None: it is absent, or cannot be compared."""
        fields = self._event.fields
        value: Any
        if name not in DERIVED:
            value = fields.get(name)
        elif name == "main":
            value = is_main(fields, self._services)
        elif name == "service":
            value = _main_service(fields, self._services)
        elif name in _DECIDED:
            value = _DECIDED[name](fields)
        elif name == "class":  # unless a dynamic probe records a value of that name
            event = self._event
            value = fields.get(name, classify_event(event.event, event.probe, fields).value)
        else:
            value = self._event.cpu
        return value if isinstance(value, (str, int, float)) else None


def is_main(fields: Mapping[str, Any], services: Collection[str]) -> bool:
    """Tell whether a process is the main one of a service: its parent has another name."""
    service = _main_service(fields, services)
    return service is not None and process_comm(fields) != fields.get("parent_comm")


def is_believed(fields: Mapping[str, Any]) -> bool:
    """Return whether nothing shows that the process is a user's own."""
    return not (is_users_login(fields.get("login_uid")) or is_users_cgroup(fields.get("cgroup")))


def is_ordered(fields: Mapping[str, Any]) -> bool:
    """Return whether init or the process's parent has ended it in an orderly way.

    By a signal that asks for it, or, if the process was asked before, by SIGKILL.  The
    record of a process's end does not say who has sent its signal.
    """
    sig, asked = fields.get("sig"), fields.get("asked") is True
    if "sender_pid" not in fields:
        return asked and (sig in (0, signal.SIGKILL) or sig in _ASKING)
    if fields.get("from_kernel") is True or fields.get("in_irq") is True:
        return False
    sender = fields["sender_pid"]
    if sender != _INIT_PID and (not sender or sender != fields.get("parent_pid")):
        return False
    return sig in _ASKING or (sig == signal.SIGKILL and asked)


def has_elder(fields: Mapping[str, Any]) -> bool:
    """Return whether the process is young while an older one is the service."""
    elder = fields.get("elder_pid")
    return isinstance(elder, int) and elder > 0


_DECIDED: Mapping[str, Callable[[Mapping[str, Any]], bool]] = {
    "believed": is_believed, "ordered": is_ordered, "elder": has_elder,
}  # fmt: skip


@lru_cache(1024)
def comm_of(name: str) -> str:
    """Return a service's name as the fields have it: the kernel cuts it to 15 bytes."""
    return make_printable(name.encode("utf-8", "surrogateescape")[:MAX_COMM_CHARS])


def _main_service(fields: Mapping[str, Any], services: Collection[str]) -> str | None:
    comm = process_comm(fields)
    return next((name for name in services if name and comm == comm_of(name)), None)


def process_comm(fields: Mapping[str, Any]) -> object:
    """Return the name of the process; a thread may have another one."""
    return fields.get("leader_comm", fields.get("comm"))
