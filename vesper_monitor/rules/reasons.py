# SPDX-License-Identifier: GPL-2.0-or-later
"""The reason of a fault: what has failed, in one sentence.

There is one function for each event whose sentence differs from its own text.  No event
makes them raise: a field that is missing or of another type is left out.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from vesper_monitor.guest.event import Event
from vesper_monitor.rules.fields import has_elder, is_believed, is_main

__all__ = ["Scope", "Verdict", "make_verdict"]


#: Where memory was short, and the system had some: the limit is that of one part of it.
OOM_LIMITS = ("cgroup", "cpuset", "memory_policy")


class Scope(enum.Enum):
    """What has failed."""

    SERVICE = "service"  #: the main process of a named service
    SYSTEM = "system"  #: the guest as a whole
    PROCESS = "process"  #: one of its processes that is no service's main process


@dataclass(frozen=True)
class Verdict:
    """An event that is a fault."""

    rule: str
    scope: Scope
    #: one sentence: what failed, by whom, and the scope. Pacemaker keeps 128 bytes, so
    #: numbers that matter less are in brackets, which shorten_reason() of
    #: vesper_monitor/ocf/fast_common.py leaves out
    reason: str


def make_verdict(name: str, event: Event, services: Collection[str], lead: str = "") -> Verdict:
    """Return the verdict on an event that a rule calls a fault.

    :param name: of the probe, as the rule has it.
    :param lead: the beginning of the sentence.
    """
    fields = event.fields
    scope = _find_scope(name, fields, services)
    say = _SENTENCES.get(name)
    sentence = (say(event) if say is not None else "") or event.text
    if name == "last_words":
        name = f"kernel_{_text_field(fields, 'kind') or 'words'}"
    elif name == "domain":
        name = _text_field(fields, "kind") or "hypervisor"
    return Verdict(name, scope, f"{lead}{sentence} ({scope.value})")


def _find_scope(name: str, fields: Mapping[str, Any], services: Collection[str]) -> Scope:
    is_service = is_main(fields, services)
    if name == "out_of_memory":  # without a rule that says so, a name alone is not the service
        is_service = is_service and is_believed(fields) and not has_elder(fields)
    if is_service:
        return Scope.SERVICE
    if name in ("send_signal", "process_exit", "hung_task"):
        return Scope.PROCESS
    if name == "out_of_memory" and fields.get("constraint") in OOM_LIMITS:
        return Scope.PROCESS  # the system has memory
    return Scope.SYSTEM


def _send_signal(event: Event) -> str:
    fields = event.fields
    if fields.get("fatal") is not True:
        return ""
    comm = _text_field(fields, "leader_comm")
    what = f"{comm}[{_number_field(fields, 'tgid')}] killed by "
    what += _text_field(fields, "signal") or "a signal"
    address = fields.get("addr")
    if isinstance(address, int):
        what += f" at {address:#x}"
    return what + _describe_sender(fields)


def _out_of_memory(event: Event) -> str:
    fields = event.fields
    order = _number_field(fields, "order")
    where = _CONSTRAINTS.get(_text_field(fields, "constraint"), "for another reason")
    return (
        f"out of memory: {_text_field(fields, 'comm') or 'a process'}"
        f"[{_number_field(fields, 'pid')}] "
        f"({_number_field(fields, 'rss_kb')} kB) killed for "
        f"{_text_field(fields, 'asker_comm') or 'unknown'}"
        f"[{_number_field(fields, 'asker_pid')}], {where} "
        f"({'asked by sysrq' if order == -1 else f'order {order}'}, "
        f"{_number_field(fields, 'free_kb')} kB free)"
    )


def _process_exit(event: Event) -> str:
    fields = event.fields
    signal, age = _text_field(fields, "signal"), fields.get("age_ms")
    how = (
        f"killed by {signal}" if signal else f"exited with status {_number_field(fields, 'status')}"
    )
    after = f" after {age // 1000} s" if isinstance(age, int) else ""
    return f"{_text_field(fields, 'comm')}[{_number_field(fields, 'pid')}] {how}{after}"


def _hung_task(event: Event) -> str:
    fields = event.fields
    return (
        f"{_text_field(fields, 'leader_comm')}[{_number_field(fields, 'tgid')}] "
        f"hangs in the kernel for "
        f"{_number_field(fields, 'waited_s')} s"
    )


def _fs_error(event: Event) -> str:
    fields = event.fields
    disk, mount, error = (_text_field(fields, key) for key in ("disk", "mount", "error"))
    if error == "ESHUTDOWN":
        return ""
    return (
        f"{_text_field(fields, 'fstype') or 'a'} file system{f' on {disk}' if disk else ''}"
        f"{f' at {mount}' if mount else ''} takes no more writes: {error or 'error'}"
    )


def _memory_failure(event: Event) -> str:
    kind, result = _text_field(event.fields, "type"), _text_field(event.fields, "result")
    return f"memory failure in a {kind or 'page'}: {result}" if result else ""


def _last_words(event: Event) -> str:
    kind = _text_field(event.fields, "kind")
    message = _text_field(event.fields, "message") or "no message"
    return f"kernel {kind}: {message}" if kind else ""


def _describe_hang(event: Event) -> str:
    if event.fields.get("depth") == "scheduler":
        what = "no CPU runs normal threads"
    else:
        what = f"CPU {event.cpu} takes no interrupts"
    silent = event.fields.get("silent_s")
    how_long = f" for {silent:.1f} s" if isinstance(silent, (int, float)) else ""
    return f"kernel hangs: {what}{how_long}"


_SENTENCES: Mapping[str, Callable[[Event], str]] = {
    "send_signal": _send_signal,
    "out_of_memory": _out_of_memory,
    "process_exit": _process_exit,
    "hung_task": _hung_task,
    "fs_error": _fs_error,
    "memory_failure": _memory_failure,
    "last_words": _last_words,
    "hang": _describe_hang,
}

_CONSTRAINTS = {
    "system": "system-wide",
    "cpuset": "cpuset",
    "memory_policy": "memory policy",
    "cgroup": "memory cgroup",
}


def _describe_sender(fields: Mapping[str, Any]) -> str:
    if fields.get("in_irq") is True:
        return ""
    if fields.get("from_kernel") is True:
        # A fault of the process's own has an address; SIGKILL by the kernel none.
        return "" if isinstance(fields.get("addr"), int) else " by the kernel"
    comm, sender = _text_field(fields, "leader_comm"), _text_field(fields, "sender_comm")
    if fields.get("sender_pid") == fields.get("tgid") != 0:
        return " raised by itself" + (f", thread {sender}" if sender != comm else "")
    return (
        f" sent by {sender or 'unknown'}"
        f"[{_number_field(fields, 'sender_pid')}] uid {_number_field(fields, 'sender_uid')}"
    )


def _text_field(fields: Mapping[str, Any], key: str) -> str:
    value = fields.get(key)
    return value if isinstance(value, str) else ""


def _number_field(fields: Mapping[str, Any], key: str) -> int | str:
    value = fields.get(key)
    return value if isinstance(value, int) else "?"
