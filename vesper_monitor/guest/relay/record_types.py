# SPDX-License-Identifier: GPL-2.0-or-later
"""What is in the records of each probe: names, values, and a sentence.

:data:`RECORDS` has one entry per ``enum vsp_event``.  The fields of an event
are those of the structure in ``vesper_abi.h``, by the same names: text is made
printable, ``flags`` become one truth value each, the rest stays the number it
is unless the entry says otherwise.
"""

from __future__ import annotations

import ctypes
import enum
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from struct import Struct, unpack
from typing import Any

from vesper_monitor.guest import abi
from vesper_monitor.guest.printable import device_name, errno_name, make_printable, signal_name
from vesper_monitor.guest.process_origin import is_users_cgroup, is_users_login

__all__ = ["RECORDS", "RecordType"]

Fields = dict[str, Any]

#: Of the fields that are numbers; the others are bytes.
_FORMATS: Mapping[Any, str] = {
    ctypes.c_uint16: "H",
    ctypes.c_uint32: "I",
    ctypes.c_int32: "i",
    ctypes.c_int64: "q",
    ctypes.c_uint64: "Q",
}


def _no_text(_fields: Fields) -> None:
    pass


def _flatten_fields(struct: type[ctypes.Structure]) -> Iterator[tuple[str, Any]]:
    """Names and kinds of its fields, and of those of a structure within it."""
    for name, kind, *_bits in struct._fields_:
        if kind is abi.Who:
            yield from _flatten_fields(kind)
        else:
            yield name, kind


@dataclass(frozen=True)
class RecordType:
    """How to read one type of record.

    :ivar event: name of the event.
    :ivar struct: of :mod:`vesper_monitor.guest.abi`.
    :ivar text: the sentence, of the finished fields.
    :ivar flags: bit of the field ``flags`` → name of the truth value.
    :ivar values: name of a field → what is shown in place of its number.
    :ivar finish: adds and removes fields.
    """

    event: str
    struct: type[ctypes.Structure]
    text: Callable[[Fields], str]
    flags: Mapping[int, str] = field(default_factory=dict)
    values: Mapping[str, Callable[[Any], object]] = field(default_factory=dict)
    finish: Callable[[Fields], None] = _no_text

    @cached_property
    def _layout(self) -> tuple[Struct, list[tuple[str, Callable[[Any], object] | None]]]:
        """How to unpack it, and of each field its name and what to make of it."""
        layout = "<"
        fields: list[tuple[str, Callable[[Any], object] | None]] = []
        for name, kind in _flatten_fields(self.struct):
            if kind is abi.Record or name.startswith("reserved"):
                layout += f"{ctypes.sizeof(kind)}x"
                continue
            layout += _FORMATS.get(kind) or f"{ctypes.sizeof(kind)}s"
            is_name = getattr(kind, "_type_", None) is ctypes.c_char
            fields.append((name, make_printable if is_name else self.values.get(name)))
        return Struct(layout), fields

    def read_fields(self, data: bytes) -> Fields:
        """The fields of any bytes whatever."""
        layout, names = self._layout
        # A shorter record (an older probe's) reads as if zeros followed.
        values = layout.unpack_from(data.ljust(layout.size, b"\0"))
        fields: Fields = {}
        for (name, shown), value in zip(names, values, strict=True):
            if name == "flags":
                for bit, flag in self.flags.items():
                    fields[flag] = bool(value & bit)
            else:
                fields[name] = value if shown is None else shown(value)
        self.finish(fields)
        return fields


def _name_values(values: type[enum.IntEnum], what: str) -> Callable[[int], str]:
    """The name of a value; of one that is unknown ``what`` and its number."""

    def name(number: int) -> str:
        try:
            return values(number).name.lower()
        except ValueError:
            return f"{what} {number}"

    return name


def _more(f: Fields) -> str:
    """What is said of records that were left out."""
    return f" ({f['left_out']} more before it)" if f["left_out"] else ""


# ------------------------------------------------------- whose a process is


def _finish_who(f: Fields) -> None:
    """What the record does not have, or its kernel cannot know, is None."""
    known = f.pop("known")
    for bit, name in _WHO.items():
        if name in f and not known & bit:
            f[name] = None
    if f.get("elder_pid") == 0:
        f["elder_pid"] = None


_WHO = {
    abi.WHO_LOGIN_UID: "login_uid",
    abi.WHO_CGROUP: "cgroup",
    abi.WHO_AGE: "age_ms",
    abi.WHO_ELDER: "elder_pid",
}


def _describe_owner(f: Fields) -> str:
    """What is said of a user's own process: that it is one."""
    if is_users_login(f.get("login_uid")):
        return f" (of login uid {f['login_uid']})"
    return f" (in {f['cgroup']})" if is_users_cgroup(f.get("cgroup")) else ""


# ------------------------------------------------------------ send_signal


def _finish_send_signal(f: Fields) -> None:
    _finish_who(f)
    f["signal"] = signal_name(f["sig"])
    if not f.pop("has_addr"):
        f["addr"] = None


def _send_signal(f: Fields) -> str:
    target = f"{f['leader_comm']}[{f['tgid']}]"
    if f["pid"] != f["tgid"]:
        target += f" thread {f['comm']}[{f['pid']}]"
    if f["from_kernel"] or f["in_irq"]:
        sender = "the kernel"
    elif f["sender_pid"] == f["tgid"] != 0:
        own = f["sender_comm"] == f["leader_comm"]
        sender = "itself" if own else f"its thread {f['sender_comm']}[{f['sender_tid']}]"
    else:
        sender = f"{f['sender_comm']}[{f['sender_pid']}] uid {f['sender_uid']}"
    where = f" at {f['addr']:#x}" if f["addr"] is not None else ""
    verb = "kills" if f["fatal"] else "sent to"
    return f"{f['signal']}{where} {verb} {target}{_describe_owner(f)}, by {sender}{_more(f)}"


# ---------------------------------------------------------- out_of_memory

_CONSTRAINTS = {
    "system": "system-wide",
    "cpuset": "in its cpuset",
    "memory_policy": "by memory policy",
    "cgroup": "in its cgroup",
}


def _finish_out_of_memory(f: Fields) -> None:
    _finish_who(f)
    f["rss_kb"] = f["anon_rss_kb"] + f["file_rss_kb"] + f["shmem_rss_kb"]


def _out_of_memory(f: Fields) -> str:
    scope = _CONSTRAINTS.get(f["constraint"], f["constraint"])
    return (
        f"out of memory {scope}: kills {f['comm']}[{f['pid']}]{_describe_owner(f)} "
        f"({f['rss_kb']} kB) "
        f"for {f['asker_comm']}[{f['asker_pid']}], order {f['order']}, {f['free_kb']} kB free"
        f"{_more(f)}"
    )


# ----------------------------------------------------------- process_exit


def _finish_process_exit(f: Fields) -> None:
    age = f["age_ms"]  # which every record of it has
    _finish_who(f)
    f["age_ms"] = age
    f["signal"] = signal_name(f["sig"]) if f["sig"] else None


def _process_exit(f: Fields) -> str:
    who = f"{f['comm']}[{f['pid']}]{_describe_owner(f)}"
    if f["signal"] is None:
        how = f"exited with status {f['status']}"
    else:
        how = f"killed by {f['signal']}"
        if f["oom"]:
            how += " for lack of memory"
        elif f["core"]:
            how += ", core dumped"
    parent = f"{f['parent_comm']}[{f['parent_pid']}]"
    return f"{who} {how} after {f['age_ms'] / 1000:.1f} s, child of {parent}{_more(f)}"


# -------------------------------------------------------------- hung_task


def _hung_task(f: Fields) -> str:
    who = f"{f['leader_comm']}[{f['tgid']}]"
    if f["pid"] != f["tgid"]:
        who += f" thread {f['comm']}[{f['pid']}]"
    return f"{who} hangs in uninterruptible sleep for {f['waited_s']} s"


# ------------------------------------------------------------ block_error


def _block_error(f: Fields) -> str:
    return (
        f"{f['error']} on {f['disk'] or f['dev']}: {f['op']} of {f['bytes']} bytes "
        f"at sector {f['sector']}{_more(f)}"
    )


# --------------------------------------------------------------- fs_error


def _finish_fs_error(f: Fields) -> None:
    if not f["disk"]:
        f["dev"] = f["disk"] = None
    f["mount"] = f["mount"] or None


def _fs_error(f: Fields) -> str:
    disk = f" on {f['disk']}" if f["disk"] else ""
    disk += f" at {f['mount']}" if f["mount"] else ""
    line = f":{f['line']}" if f["line"] else ""
    where = f" in {f['where']}{line}" if f["where"] else ""
    what = "shut down as asked" if f["error"] == "ESHUTDOWN" else "takes no more writes"
    return f"{f['fstype']} file system{disk} {what}: {f['error']}{where}"


# --------------------------------------------------------------- net_link

_NET_CHANGES = {
    "link_lost": "has lost its link",
    "link_back": "has its link again",
    "down": "was taken down",
    "up": "was brought up",
    "removed": "has gone",
    "address_lost": "has lost its last address",
    "address_back": "has an address again:",
}


def _format_ipv4(octets: bytes) -> str | None:
    return ".".join(str(octet) for octet in octets) if any(octets) else None


def _net_link(f: Fields) -> str:
    address = f" {f['address']}" if f["address"] else ""
    return f"network device {f['device']} {_NET_CHANGES.get(f['change'], f['change'])}{address}"


# --------------------------------------------------------- memory_failure


def _memory_failure(f: Fields) -> str:
    return f"memory failure in page {f['pfn']:#x} ({f['type'] or 'unknown'}): {f['result']}"


# ----------------------------------------------------------------- lockup


def _describe_lockup(f: Fields) -> str:
    who = f" in {f['comm']}[{f['pid']}]" if f["comm"] else ""
    what = "is stuck" if f["kind"] == "soft" else "holds up RCU"
    return f"CPU {f['cpu']} {what}{who}"


# -------------------------------------------------------------------- die


def _describe_die(f: Fields) -> str:
    who = f"{f['comm']}[{f['pid']}]"
    if f["kind"] != "oops":
        return f"kernel {f['kind']} in {who}: {f['str']}"
    return f"kernel oops in {who} at {f['symbol']}: {f['str']}"


# ------------------------------------------------------------ probe_point


def _split_words(data: bytes) -> list[int]:
    return list(unpack(f"<{len(data) // 8}Q", data))


def _finish_probe_point(f: Fields) -> None:
    f["value"] = f["value"][: f.pop("n_args")]


def _probe_point(f: Fields) -> str:
    values = "".join(f" {value:#x}" for value in f["value"])
    return f"{f['comm']}[{f['pid']}] at a point that is not defined here any more:{values}"


# ------------------------------------------------------------------ table

RECORDS: Mapping[int, RecordType] = {
    abi.EventType.SEND_SIGNAL: RecordType(
        "send_signal",
        abi.SendSignal,
        _send_signal,
        flags={
            abi.SIG_FATAL: "fatal",
            abi.SIG_FROM_KERNEL: "from_kernel",
            abi.SIG_GROUP: "group",
            abi.SIG_ADDR: "has_addr",
            abi.SIG_IN_IRQ: "in_irq",
            abi.SIG_TRACED: "traced",
            abi.SIG_ASKED: "asked",
        },
        finish=_finish_send_signal,
    ),
    abi.EventType.OUT_OF_MEMORY: RecordType(
        "out_of_memory",
        abi.OutOfMemory,
        _out_of_memory,
        values={"constraint": _name_values(abi.OomConstraint, "constraint")},
        finish=_finish_out_of_memory,
    ),
    abi.EventType.PROCESS_EXIT: RecordType(
        "process_exit",
        abi.ProcessExit,
        _process_exit,
        flags={abi.EXIT_CORE: "core", abi.EXIT_OOM: "oom", abi.EXIT_ASKED: "asked"},
        finish=_finish_process_exit,
    ),
    abi.EventType.HUNG_TASK: RecordType("hung_task", abi.HungTask, _hung_task, finish=_finish_who),
    abi.EventType.BLOCK_ERROR: RecordType(
        "block_error",
        abi.BlockError,
        _block_error,
        values={
            "dev": device_name,
            "op": _name_values(abi.BlockOp, "operation"),
            "error": errno_name,
        },
    ),
    abi.EventType.FS_ERROR: RecordType(
        "fs_error",
        abi.FsError,
        _fs_error,
        values={"dev": device_name, "error": errno_name},
        finish=_finish_fs_error,
    ),
    abi.EventType.NET_LINK: RecordType(
        "net_link",
        abi.NetLink,
        _net_link,
        values={"change": _name_values(abi.NetChange, "change"), "address": _format_ipv4},
    ),
    abi.EventType.MEMORY_FAILURE: RecordType(
        "memory_failure",
        abi.MemoryFailure,
        _memory_failure,
        values={"result": _name_values(abi.MfResult, "result")},
    ),
    abi.EventType.LOCKUP: RecordType(
        "lockup",
        abi.Lockup,
        _describe_lockup,
        values={"kind": _name_values(abi.LockupKind, "kind")},
    ),
    abi.EventType.DIE: RecordType(
        "die", abi.Die, _describe_die, values={"kind": _name_values(abi.DieKind, "kind")}
    ),
    # By its definition: vesper_monitor/guest/dynamic_probes/record.py.
    abi.EventType.PROBE_POINT: RecordType(
        "probe_point",
        abi.ProbePoint,
        _probe_point,
        values={"value": _split_words},
        finish=_finish_probe_point,
    ),
}
