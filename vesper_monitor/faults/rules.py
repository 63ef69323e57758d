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

from vesper_monitor.faults.fault import Fault
from vesper_monitor.guest.decode import Event

__all__ = ["RULES", "Judge", "Scope", "Verdict", "judge", "system_gone"]

#: The kernel cuts a task's name (TASK_COMM_LEN - 1).
COMM_MAX = 15

#: A process of a service's name that ends earlier is taken for another command (ms).
SERVICE_AGE_MS = 5000


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


def system_gone(fault: Fault) -> bool:
    """Whether the guest cannot shut down any more after this fault.

    Where it may be able to (after an oops, on a full memory, with a file system
    that takes no writes), it may have data to save; the time for that is bounded.
    """
    if fault.rule in ("kernel_panic", "hang"):
        return True
    fields = fault.event.get("fields")
    return fault.rule == "out_of_memory" and isinstance(fields, Mapping) and fields.get("pid") == 1


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


def process_exit(event: Event, services: Collection[str]) -> Verdict | None:
    """The main process of a named service has ended, other than by its own will.

    Status 0 is no fault: a daemon's first process ends so once it has forked,
    and a service that was asked to stop.  Nor is the end of a process younger
    than :data:`SERVICE_AGE_MS`: a check of the configuration has the same name.
    """
    fields = event.fields
    comm, age = _text(fields, "comm"), fields.get("age_ms")
    if not _is_main(comm, _text(fields, "parent_comm"), services):
        return None
    if not isinstance(age, int) or age < SERVICE_AGE_MS:
        return None
    signal, status = _text(fields, "signal"), fields.get("status")
    if signal:
        how = f"killed by {signal}"
    elif isinstance(status, int) and status:
        how = f"exited with status {status}"
    else:
        return None
    reason = f"{comm}[{_number(fields, 'pid')}] {how} after {age // 1000} s (service)"
    return Verdict("process_exit", Scope.SERVICE, reason)


def hung_task(event: Event, services: Collection[str]) -> Verdict | None:
    """The main process of a named service does not get on, and cannot be killed."""
    fields = event.fields
    comm = _text(fields, "leader_comm")
    if not _is_main(comm, _text(fields, "parent_comm"), services):
        return None
    reason = (
        f"{comm}[{_number(fields, 'tgid')}] hangs in the kernel for "
        f"{_number(fields, 'waited_s')} s (service)"
    )
    return Verdict("hung_task", Scope.SERVICE, reason)


def filesystem(event: Event, services: Collection[str]) -> Verdict | None:
    """A file system takes no more writes, unless somebody asked for that."""
    fields = event.fields
    if fields.get("error") == "ESHUTDOWN":
        return None
    disk = _text(fields, "disk")
    reason = (
        f"{_text(fields, 'fstype') or 'a'} file system{f' on {disk}' if disk else ''} "
        f"takes no more writes: {_text(fields, 'error') or 'error'} (system)"
    )
    return Verdict("filesystem", Scope.SYSTEM, reason)


def memory_failure(event: Event, services: Collection[str]) -> Verdict | None:
    """A page is lost, and the kernel could not do without it.

    Where it could ("recovered"), a process that had data in it is killed: its
    signal is told by others.
    """
    fields = event.fields
    result = _text(fields, "result")
    if result not in ("ignored", "failed"):
        return None
    reason = f"memory failure in a {_text(fields, 'type') or 'page'}: {result} (system)"
    return Verdict("memory_failure", Scope.SYSTEM, reason)


def never(event: Event, services: Collection[str]) -> Verdict | None:
    """An event to look at; no fault by itself."""
    return None


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
    if event.fields.get("depth") == "scheduler":
        what = "no CPU runs normal threads"
    else:
        what = f"CPU {event.cpu} takes no interrupts"
    silent = event.fields.get("silent_s")
    how_long = f" for {silent:.1f} s" if isinstance(silent, (int, float)) else ""
    return Verdict("hang", Scope.SYSTEM, f"kernel hangs: {what}{how_long} (system)")


#: By the name of the event. Why each is a fault or not: docs/probes.md.
RULES: Mapping[str, Judge] = {
    "send_signal": send_signal,
    "out_of_memory": out_of_memory,
    "process_exit": process_exit,
    "hung_task": hung_task,
    "block_error": never,
    "filesystem": filesystem,
    "net_link": never,
    "memory_failure": memory_failure,
    "lockup": never,
    "die": never,  # last_words is the fault
    "probe_point": never,
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
