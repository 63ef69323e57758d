# SPDX-License-Identifier: GPL-2.0-or-later
"""Describes the records of each probe: names, values, and a sentence.

:data:`RECORDS` has one entry per ``enum vsp_event``. The fields of an event have
the names of the structure in ``vesper_abi.h``. Text is made printable, each flag
becomes a boolean, and other numbers stay as they are unless the entry converts them.
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import unpack

from vesper_monitor.guest import abi
from vesper_monitor.guest.printable import device_name, errno_name, signal_name
from vesper_monitor.guest.process_origin import is_users_cgroup, is_users_login
from vesper_monitor.guest.record_layout import Fields, RecordType, name_values

__all__ = ["RECORDS"]


def _describe_omitted(f: Fields) -> str:
    """Return the remark on records that the probe's rate limit has left out."""
    return f" ({f['left_out']} more before it)" if f["left_out"] else ""


# ------------------------------------------------------- whose a process is


def _finish_who(f: Fields) -> None:
    """Set to None what the record lacks or its kernel cannot know."""
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
    """Return the remark that a user has started the process; empty: none has, or unknown."""
    if is_users_login(f.get("login_uid")):
        return f" (of login uid {f['login_uid']})"
    return f" (in {f['cgroup']})" if is_users_cgroup(f.get("cgroup")) else ""


# ------------------------------------------------------------ send_signal


def _finish_send_signal(f: Fields) -> None:
    _finish_who(f)
    f["signal"] = signal_name(f["sig"])
    if not f.pop("has_addr"):
        f["addr"] = None


def _describe_send_signal(f: Fields) -> str:
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
    owner, omitted = _describe_owner(f), _describe_omitted(f)
    return f"{f['signal']}{where} {verb} {target}{owner}, by {sender}{omitted}"


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


def _describe_out_of_memory(f: Fields) -> str:
    scope = _CONSTRAINTS.get(f["constraint"], f["constraint"])
    return (
        f"out of memory {scope}: kills {f['comm']}[{f['pid']}]{_describe_owner(f)} "
        f"({f['rss_kb']} kB) "
        f"for {f['asker_comm']}[{f['asker_pid']}], order {f['order']}, {f['free_kb']} kB free"
        f"{_describe_omitted(f)}"
    )


# ----------------------------------------------------------- process_exit


def _finish_process_exit(f: Fields) -> None:
    age = f["age_ms"]  # each record of process_exit has it
    _finish_who(f)
    f["age_ms"] = age
    f["signal"] = signal_name(f["sig"]) if f["sig"] else None


def _describe_process_exit(f: Fields) -> str:
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
    return f"{who} {how} after {f['age_ms'] / 1000:.1f} s, child of {parent}{_describe_omitted(f)}"


# -------------------------------------------------------------- hung_task


def _describe_hung_task(f: Fields) -> str:
    who = f"{f['leader_comm']}[{f['tgid']}]"
    if f["pid"] != f["tgid"]:
        who += f" thread {f['comm']}[{f['pid']}]"
    return f"{who} hangs in uninterruptible sleep for {f['waited_s']} s"


# ------------------------------------------------------------ block_error


def _describe_block_error(f: Fields) -> str:
    return (
        f"{f['error']} on {f['disk'] or f['dev']}: {f['op']} of {f['bytes']} bytes "
        f"at sector {f['sector']}{_describe_omitted(f)}"
    )


# --------------------------------------------------------------- fs_error


def _finish_fs_error(f: Fields) -> None:
    if not f["disk"]:
        f["dev"] = f["disk"] = None
    f["mount"] = f["mount"] or None


def _describe_fs_error(f: Fields) -> str:
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
    "removed": "was removed",
    "address_lost": "has lost its last address",
    "address_back": "has an address again:",
}


def _format_ipv4(octets: bytes) -> str | None:
    return ".".join(str(octet) for octet in octets) if any(octets) else None


def _describe_net_link(f: Fields) -> str:
    address = f" {f['address']}" if f["address"] else ""
    return f"network device {f['device']} {_NET_CHANGES.get(f['change'], f['change'])}{address}"


# --------------------------------------------------------- memory_failure


def _describe_memory_failure(f: Fields) -> str:
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


def _describe_probe_point(f: Fields) -> str:
    values = "".join(f" {value:#x}" for value in f["value"])
    return f"{f['comm']}[{f['pid']}] at a dynamic probe that is not defined here:{values}"


# ------------------------------------------------------------------ table

RECORDS: Mapping[int, RecordType] = {
    abi.EventType.SEND_SIGNAL: RecordType(
        "send_signal",
        abi.SendSignal,
        _describe_send_signal,
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
        _describe_out_of_memory,
        values={"constraint": name_values(abi.OomConstraint, "constraint")},
        finish=_finish_out_of_memory,
    ),
    abi.EventType.PROCESS_EXIT: RecordType(
        "process_exit",
        abi.ProcessExit,
        _describe_process_exit,
        flags={abi.EXIT_CORE: "core", abi.EXIT_OOM: "oom", abi.EXIT_ASKED: "asked"},
        finish=_finish_process_exit,
    ),
    abi.EventType.HUNG_TASK: RecordType(
        "hung_task", abi.HungTask, _describe_hung_task, finish=_finish_who
    ),
    abi.EventType.BLOCK_ERROR: RecordType(
        "block_error",
        abi.BlockError,
        _describe_block_error,
        values={
            "dev": device_name,
            "op": name_values(abi.BlockOp, "operation"),
            "error": errno_name,
        },
    ),
    abi.EventType.FS_ERROR: RecordType(
        "fs_error",
        abi.FsError,
        _describe_fs_error,
        values={"dev": device_name, "error": errno_name},
        finish=_finish_fs_error,
    ),
    abi.EventType.NET_LINK: RecordType(
        "net_link",
        abi.NetLink,
        _describe_net_link,
        values={"change": name_values(abi.NetChange, "change"), "address": _format_ipv4},
    ),
    abi.EventType.MEMORY_FAILURE: RecordType(
        "memory_failure",
        abi.MemoryFailure,
        _describe_memory_failure,
        values={"result": name_values(abi.MfResult, "result")},
    ),
    abi.EventType.LOCKUP: RecordType(
        "lockup",
        abi.Lockup,
        _describe_lockup,
        values={"kind": name_values(abi.LockupKind, "kind")},
    ),
    abi.EventType.DIE: RecordType(
        "die", abi.Die, _describe_die, values={"kind": name_values(abi.DieKind, "kind")}
    ),
    # If it is defined here, vesper_monitor/guest/dynamic_probes/record.py reads it.
    abi.EventType.PROBE_POINT: RecordType(
        "probe_point",
        abi.ProbePoint,
        _describe_probe_point,
        values={"value": _split_words},
        finish=_finish_probe_point,
    ),
}
