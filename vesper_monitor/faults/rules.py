# SPDX-License-Identifier: GPL-2.0-or-later
"""Which event is a fault of which instance, and how to say so in one sentence.

Pure functions over an event and the names of an instance's services.  No
event makes them raise: what is missing or of another type counts as absent.

A rule is a function; :data:`RULES` says which one judges the events of which
probe.  A rule language that replaces them has to give a :class:`Judge`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from vesper_monitor.guest.decode import Event

__all__ = ["RULES", "Judge", "Scope", "Verdict", "judge"]

#: The kernel cuts a task's name (TASK_COMM_LEN - 1).
COMM_MAX = 15


class Scope(enum.Enum):
    """What has failed."""

    SERVICE = "service"  #: the main process of a named service
    SYSTEM = "system"  #: the guest as a whole


@dataclass(frozen=True)
class Verdict:
    """An event that is a fault."""

    rule: str
    scope: Scope
    #: one sentence: what, who, by whom, "service" or "system"
    reason: str


#: Event and names of services to a verdict; None: no fault.
Judge = Callable[[Event, Collection[str]], Verdict | None]


def judge(event: Event, services: Collection[str]) -> Verdict | None:
    """Judge an event by the rules of its kind."""
    rule = RULES.get(event.event)
    return rule(event, services) if rule is not None else None


def send_signal(event: Event, services: Collection[str]) -> Verdict | None:
    """A signal that really kills the main process of a named service."""
    fields = event.fields
    comm = _text(fields, "leader_comm")
    if fields.get("fatal") is not True or not _is_main(
        comm, _text(fields, "parent_comm"), services
    ):
        return None
    what = f"{comm}[{_number(fields, 'tgid')}] killed by {_text(fields, 'signal') or 'a signal'}"
    address = fields.get("addr")
    if isinstance(address, int):
        what += f" at {address:#x}"
    return Verdict("send_signal", Scope.SERVICE, f"{what}{_sender(fields)} (service)")


def out_of_memory(event: Event, services: Collection[str]) -> Verdict | None:
    """The OOM killer took a process: always a fault."""
    fields = event.fields
    comm = _text(fields, "comm")
    main = _is_main(comm, _text(fields, "parent_comm"), services)
    scope = Scope.SERVICE if main else Scope.SYSTEM
    order = _number(fields, "order")
    where = _CONSTRAINTS.get(_text(fields, "constraint"), "for another reason")
    reason = (
        f"out of memory: {comm or 'a process'}[{_number(fields, 'pid')}] "
        f"({_number(fields, 'rss_kb')} kB) killed for "
        f"{_text(fields, 'asker_comm') or 'unknown'}[{_number(fields, 'asker_pid')}] "
        f"({'asked by sysrq' if order == -1 else f'order {order}'}, {where}, "
        f"{_number(fields, 'free_kb')} kB free) ({scope.value})"
    )
    return Verdict("out_of_memory", scope, reason)


def last_words(event: Event, services: Collection[str]) -> Verdict | None:
    """The kernel has panicked, or had an oops.

    After an oops the kernel has killed a task in the middle of its own code,
    with whatever locks it held: not to be relied on, even where it goes on.
    """
    kind = _text(event.fields, "kind")
    if kind not in ("panic", "oops"):
        return None
    message = _text(event.fields, "message") or "no message"
    return Verdict(f"kernel_{kind}", Scope.SYSTEM, f"kernel {kind}: {message} (system)")


def hang(event: Event, services: Collection[str]) -> Verdict | None:
    """The guest's kernel shows no life though it has the CPU."""
    if event.event != "hang":
        return None
    if event.fields.get("depth") == "scheduler":
        what = "no CPU runs normal threads"
    else:
        what = f"CPU {event.cpu} takes no interrupts"
    silent = event.fields.get("silent_s")
    how_long = f" for {silent:.1f} s" if isinstance(silent, (int, float)) else ""
    return Verdict("hang", Scope.SYSTEM, f"kernel hangs: {what}{how_long} (system)")


RULES: Mapping[str, Judge] = {
    "send_signal": send_signal,
    "out_of_memory": out_of_memory,
    "last_words": last_words,
    "hang": hang,
}

_CONSTRAINTS = {
    "system": "system-wide",
    "cpuset": "cpuset",
    "memory_policy": "memory policy",
    "cgroup": "memory cgroup",
}


def _is_main(comm: str, parent_comm: str, services: Collection[str]) -> bool:
    """The main process of a service has a parent that is not itself such a process."""
    return comm != parent_comm and any(comm == name[:COMM_MAX] for name in services if name)


def _sender(fields: Mapping[str, Any]) -> str:
    if fields.get("in_irq") is True:
        return ""
    if fields.get("from_kernel") is True:
        # A fault of the process's own has an address; SIGKILL by the kernel none.
        return "" if isinstance(fields.get("addr"), int) else " by the kernel"
    return (
        f" sent by {_text(fields, 'sender_comm') or 'unknown'}"
        f"[{_number(fields, 'sender_pid')}] uid {_number(fields, 'sender_uid')}"
    )


def _text(fields: Mapping[str, Any], key: str) -> str:
    value = fields.get(key)
    return value if isinstance(value, str) else ""


def _number(fields: Mapping[str, Any], key: str) -> int | str:
    value = fields.get(key)
    return value if isinstance(value, int) else "?"
