# SPDX-License-Identifier: GPL-2.0-or-later
"""From the bytes of a relay record to an event with names and a sentence.

Whatever the bytes are, :func:`decode` returns an event and raises nothing:
text of the guest's is made printable, numbers without a name stay numbers.
"""

from __future__ import annotations

import ctypes
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from vesper_monitor.guest import abi

if TYPE_CHECKING:
    from vesper_monitor.guest.last_words import LastWords

__all__ = ["LOST", "UNKNOWN", "Event", "decode", "lost", "printable", "signal_name"]

#: ``Event.event`` where records were overwritten before they could be read.
LOST = "lost"
#: ``Event.event`` of a record of a type that this version does not know.
UNKNOWN = "unknown"

#: SQLite's and JSON readers' integers end here; a hostile guest's need not.
_MAX_TIME = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Event:
    """One record of a probe, decoded. docs/api.md tells what the keys mean."""

    vm: str
    domid: int
    probe: str
    event: str  #: "send_signal", "out_of_memory", "last_words", "lost" or "unknown"
    cpu: int
    seq: int  #: per probe and CPU; of "lost": the first that is missing
    guest_ns: int  #: guest's CLOCK_MONOTONIC; of "lost": of the next record
    received: float  #: s, host's CLOCK_REALTIME
    fields: dict[str, Any]
    text: str
    id: int | None = None  #: the journal's, once it is there
    #: of "last_words": stack and log, for the journal alone
    words: LastWords | None = None

    def to_json(self) -> dict[str, Any]:
        """As it goes over the socket and into the journal."""
        return {
            "id": self.id,
            "vm": self.vm,
            "domid": self.domid,
            "probe": self.probe,
            "event": self.event,
            "cpu": self.cpu,
            "seq": self.seq,
            "guest_ns": self.guest_ns,
            "received": self.received,
            "fields": self.fields,
            "text": self.text,
        }


def printable(raw: bytes) -> str:
    """A name from the guest, safe for a terminal, a log line and XML."""
    text = raw.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def signal_name(number: int) -> str:
    """``SIGSEGV``, ``SIGRTMIN+3``, or ``signal 99`` where it has no name."""
    # signal(7): the C library keeps 32 and 33 to itself and starts at 34, but
    # in the guest's kernel, whose words these are, SIGRTMIN is 32.
    if 32 <= number <= 64:
        return f"SIGRTMIN+{number - 32}" if number > 32 else "SIGRTMIN"
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def decode(data: bytes, *, vm: str, domid: int, probe: str, cpu: int, received: float) -> Event:
    """
    :param data: one record, from its ``struct vsp_record`` on; the reader has
        checked that it is at least that long.
    :param cpu: of the buffer it was found in (the record's own is the guest's
        word).
    """
    record = _parse(abi.Record, data)
    decoder = _DECODERS.get(record.event)
    if decoder is None:
        event = UNKNOWN
        fields: dict[str, Any] = {"type": record.event, "length": len(data)}
        text = f"record of unknown type {record.event} from probe {probe}"
    else:
        event, fields, text = decoder(data)
    return Event(
        vm=vm,
        domid=domid,
        probe=probe,
        event=event,
        cpu=cpu,
        seq=record.seq,
        guest_ns=min(record.time_ns, _MAX_TIME),
        received=received,
        fields=fields,
        text=text,
    )


def lost(
    count: int,
    *,
    vm: str,
    domid: int,
    probe: str,
    cpu: int,
    seq: int,
    guest_ns: int,
    received: float,
) -> Event:
    """The event that stands for ``count`` records nobody could read."""
    return Event(
        vm=vm,
        domid=domid,
        probe=probe,
        event=LOST,
        cpu=cpu,
        seq=seq,
        guest_ns=min(guest_ns, _MAX_TIME),
        received=received,
        fields={"count": count},
        text=f"{count} record{'s' if count != 1 else ''} of {probe} on CPU {cpu} lost: "
        "overwritten before they were read",
    )


_S = TypeVar("_S", bound=ctypes.Structure)


def _parse(struct: type[_S], data: bytes) -> _S:
    # A shorter record (an older probe's) reads as if zeros followed.
    return struct.from_buffer_copy(data.ljust(ctypes.sizeof(struct), b"\0"))


def _send_signal(data: bytes) -> tuple[str, dict[str, Any], str]:
    s = _parse(abi.SendSignal, data)
    flags = {
        "fatal": bool(s.flags & abi.SIG_FATAL),
        "from_kernel": bool(s.flags & abi.SIG_FROM_KERNEL),
        "group": bool(s.flags & abi.SIG_GROUP),
        "in_irq": bool(s.flags & abi.SIG_IN_IRQ),
        "traced": bool(s.flags & abi.SIG_TRACED),
    }
    fields: dict[str, Any] = {
        "sig": s.sig,
        "signal": signal_name(s.sig),
        "code": s.code,
        **flags,
        "addr": s.addr if s.flags & abi.SIG_ADDR else None,
        "sender_pid": s.sender_pid,
        "sender_tid": s.sender_tid,
        "sender_uid": s.sender_uid,
        "sender_comm": printable(s.sender_comm),
        "pid": s.pid,
        "tgid": s.tgid,
        "uid": s.uid,
        "comm": printable(s.comm),
        "leader_comm": printable(s.leader_comm),
        "parent_pid": s.parent_pid,
        "parent_comm": printable(s.parent_comm),
    }
    target = f"{fields['leader_comm']}[{s.tgid}]"
    if s.pid != s.tgid:
        target += f" thread {fields['comm']}[{s.pid}]"
    if flags["from_kernel"] or flags["in_irq"]:
        sender = "the kernel"
    else:
        sender = f"{fields['sender_comm']}[{s.sender_pid}] uid {s.sender_uid}"
    where = f" at {s.addr:#x}" if fields["addr"] is not None else ""
    verb = "kills" if flags["fatal"] else "sent to"
    return "send_signal", fields, f"{fields['signal']}{where} {verb} {target}, by {sender}"


_CONSTRAINTS = {
    abi.OomConstraint.SYSTEM: "system-wide",
    abi.OomConstraint.CPUSET: "in its cpuset",
    abi.OomConstraint.MEMORY_POLICY: "by memory policy",
    abi.OomConstraint.CGROUP: "in its cgroup",
}


def _out_of_memory(data: bytes) -> tuple[str, dict[str, Any], str]:
    o = _parse(abi.OutOfMemory, data)
    try:
        constraint = abi.OomConstraint(o.constraint)
        name, scope = constraint.name.lower(), _CONSTRAINTS[constraint]
    except ValueError:
        name = scope = f"constraint {o.constraint}"
    rss = o.anon_rss_kb + o.file_rss_kb + o.shmem_rss_kb
    fields: dict[str, Any] = {
        "asker_pid": o.asker_pid,
        "asker_comm": printable(o.asker_comm),
        "order": o.order,
        "constraint": name,
        "gfp_mask": o.gfp_mask,
        "cgroup_ino": o.cgroup_ino,
        "free_kb": o.free_kb,
        "total_kb": o.total_kb,
        "pid": o.pid,
        "uid": o.uid,
        "comm": printable(o.comm),
        "parent_pid": o.parent_pid,
        "parent_comm": printable(o.parent_comm),
        "oom_score_adj": o.oom_score_adj,
        "total_vm_kb": o.total_vm_kb,
        "rss_kb": rss,
        "anon_rss_kb": o.anon_rss_kb,
        "file_rss_kb": o.file_rss_kb,
        "shmem_rss_kb": o.shmem_rss_kb,
        "pgtables_kb": o.pgtables_kb,
    }
    text = (
        f"out of memory {scope}: kills {fields['comm']}[{o.pid}] ({rss} kB) "
        f"for {fields['asker_comm']}[{o.asker_pid}], order {o.order}, {o.free_kb} kB free"
    )
    return "out_of_memory", fields, text


_DECODERS: dict[int, Callable[[bytes], tuple[str, dict[str, Any], str]]] = {
    abi.EventType.SEND_SIGNAL: _send_signal,
    abi.EventType.OUT_OF_MEMORY: _out_of_memory,
}
