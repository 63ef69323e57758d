# SPDX-License-Identifier: GPL-2.0-or-later
"""What the fuzzer begins with: pages of a real guest's (capture.py), and requests by hand."""

from __future__ import annotations

import ctypes
import json
import struct
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from lab.standin.image import RELEASE, make_vermagic
from tests.fuzz.memory import PAGES
from vesper_monitor.guest import abi

__all__ = ["CAPTURED", "seeds"]

CAPTURED = Path(__file__).parent / "captured"
CHANNELS = ("send_signal", "out_of_memory", "process_exit")
#: Of the real probes' buffers (probe_modules/core/probe.c).
SUBBUF_SIZE = 16384


def _captured(name: str) -> bytes:
    return (CAPTURED / name).read_bytes()


def _records(buffer: bytes) -> Iterator[bytes]:
    at = 0
    while at + ctypes.sizeof(abi.Record) <= len(buffer):
        length = abi.Record.from_buffer_copy(buffer, at).len
        if not length:
            return
        yield buffer[at : at + length].ljust(length, b"\0")
        at += length


def _relay() -> Iterator[bytes]:
    for name in CHANNELS:
        index = _captured(f"index-{name}").ljust(ctypes.sizeof(abi.Index), b"\0")
        buffer = _captured(f"buffer-{name}")
        for writes in (b"", struct.pack("<HQ", 0, 400) + struct.pack("<HQ", 0, 1 << 20)):
            head = struct.pack("<HBB", SUBBUF_SIZE // 8, 2, len(writes) // 10)
            yield head + writes + index + buffer


def _one_record() -> Iterator[bytes]:
    for name in CHANNELS:
        for record in list(_records(_captured(f"buffer-{name}")))[:3]:
            head = abi.Record.from_buffer_copy(record)
            yield struct.pack("<HIQQ", head.event, 0, head.seq, head.time_ns) + record
    for event in abi.EventType:
        yield struct.pack("<HIQQ", event, 2, 5, 6) + bytes(range(1, 128)) * 3


def _points() -> Iterator[bytes]:
    for which in range(3):
        yield bytes([which]) + bytes(ctypes.sizeof(abi.ProbePoint))
        yield bytes([which]) + b"a\0\xff" * 150


def _words() -> Iterator[bytes]:
    words = _captured("words")
    yield b"\0" + words
    seq = abi.field_offset(abi.Words, "slot") // 8
    yield b"\2" + struct.pack("<HQ", seq, 3) + struct.pack("<HQ", seq, 4) + words


def _life() -> Iterator[bytes]:
    yield struct.pack("<HBB", 1, 0, 1) + _captured("life")[ctypes.sizeof(abi.Life) :]


def _hello() -> abi.MsgHello:
    return abi.MsgHello(
        nr_cpus=1,
        table=abi.Region(handle=1, pages=1),
        words=abi.Region(handle=2, pages=16),
        life=abi.Region(handle=18, pages=1),
        boot_id=77,
        release=RELEASE.encode(),
        vermagic=make_vermagic().encode(),
    )


def _cchan() -> Iterator[bytes]:
    page = _captured("cchan").ljust(ctypes.sizeof(abi.Cchan), b"\0")
    answer = bytes(_hello())
    to_host = abi.field_offset(abi.Cchan, "to_host")
    slot = to_host + abi.field_offset(abi.CchanRing, "slot")
    prod = abi.load_u32(memoryview(bytearray(page)), to_host)
    reply = struct.pack("<IH", slot + prod % abi.CCHAN_SLOTS * abi.MSG_SIZE, len(answer)) + answer
    told = struct.pack("<IHI", to_host, 4, prod + 1)
    for which in (0, 1, 2, 3):
        yield bytes([which]) + page + reply + told


def _guest() -> Iterator[bytes]:
    """The captured pages put together, as one guest with one CPU and one channel."""
    memory = bytearray(PAGES * abi.PAGE_SIZE)

    def put(page: int, data: bytes) -> None:
        memory[page * abi.PAGE_SIZE : page * abi.PAGE_SIZE + len(data)] = data

    name = "send_signal"
    fresh = abi.Cchan(magic=abi.CCHAN_MAGIC, version=abi.ABI_VERSION)
    put(0, bytes(fresh))
    slot = abi.field_offset(abi.Cchan, "to_host") + abi.field_offset(abi.CchanRing, "slot")
    memory[slot : slot + ctypes.sizeof(abi.MsgHello)] = bytes(_hello())
    table = abi.Table.from_buffer_copy(_captured("table").ljust(ctypes.sizeof(abi.Table), b"\0"))
    entry = next(one for one in table.channel if one.modname == name.encode())
    entry.nr_cpus, entry.index.handle = 1, 19
    for number in range(abi.MAX_CHANNELS):
        table.channel[number] = abi.Channel() if number else entry
    put(1, bytes(table))
    put(2, _captured("words"))
    put(18, _captured("life"))
    entry_size = ctypes.sizeof(abi.Index)
    index = abi.Index.from_buffer_copy(_captured(f"index-{name}").ljust(entry_size, b"\0"))
    index.buffer.handle = 20
    put(19, bytes(index))
    put(20, _captured(f"buffer-{name}"))
    content = bytes(memory[: 40 * abi.PAGE_SIZE])
    yield struct.pack("<H", len(content) // 16) + content
    moved = struct.pack("<IHQ", 19 * abi.PAGE_SIZE, 8, 1 << 14)
    gone = struct.pack("<IHI", abi.PAGE_SIZE + abi.field_offset(abi.Table, "generation"), 4, 99)
    yield struct.pack("<H", len(content) // 16) + content + moved + gone


def _region() -> Iterator[bytes]:
    yield struct.pack("<QIH", 1, 16, 5) + struct.pack("<II", 16, 0) + bytes(range(64))


def _xenstore() -> Iterator[bytes]:
    for words in (("3", "8", "17"), ("", "-1", "99999999999"), ("4\0", "²", "0x8")):
        yield b"".join(bytes([len(w.encode("latin-1"))]) + w.encode("latin-1") for w in words) * 3


XL_LIST = """\
Name                                        ID   Mem VCPUs\tState\tTime(s)
Domain-0                                     0   512     1     r-----      52.7
vm1                                          7   160     1     -b----       3.1
vm 2                                        12   160     2     ---sc-       0.1
"""
VCPU_LIST = """\
Name                                ID  VCPU   CPU State   Time(s) Affinity (Hard / Soft)
vm1                                  7     0    0   -b-       3.1  all / all
vm1                                  7     1    -   --p       0.0  all / all
"""
STATUS_FILE = (
    "<domstatus state='paused' reason='ioerror' pid='4711'>"
    "<domain type='kvm'><name>vm1</name><uuid>1</uuid></domain></domstatus>"
)
REQUESTS: tuple[dict[str, object], ...] = (
    {"op": "hello"},
    {"op": "status"},
    {"op": "start", "resource": "r1", "vm": "vm1", "probes": ["send_signal"], "services": ["a"]},
    {"op": "start", "resource": "r", "vm": "vm1", "fault_on": "send_signal: sig in [9], 2 in 1h"},
    {"op": "wait", "resource": "r1", "vm": "vm1", "interval": 1, "timeout": 20, "node": "node1"},
    {"op": "wait", "resource": "r2", "vm": "vm1", "interval": 1, "timeout": 0, "first": True},
    {"op": "change", "resource": "r1", "vm": "vm1", "hang_timeout": 5, "boot_timeout": 300},
    {"op": "change", "resource": "r1", "vm": "vm1", "probes": [], "hang_timeout": 5},
    {"op": "change", "resource": "r1", "vm": "vm1", "domain": "1", "services": 5},
    {"op": "alive", "resource": "r1", "vm": "vm1", "domain": "1"},
    {"op": "life", "vm": "vm1", "domain": "1"},
    {"op": "stop", "resource": "r1", "vm": "vm1"},
    {"op": "stop", "resource": "r2", "vm": "vm1", "domain": "u"},
    {"op": "state", "vm": "vm1"},
    {"op": "events", "vm": "vm1", "limit": 5, "since": 0},
    {"op": "events", "follow": True},
    {"op": "faults", "vm": "vm1", "limit": 5},
    {"op": "fault", "id": 1},
    {"op": "clear", "resource": "r1"},
    {"op": "clear", "id": 5},
    {"op": "pause", "vm": "vm1", "for": 60, "reason": "b"},
    {"op": "resume", "vm": "vm1"},
    {"op": "add", "vm": "vm1", "definition": "p:x do_exit a=%ax"},
    {"op": "load", "vm": "vm1", "probe": "p", "params": "a=1"},
    {"op": "unload", "vm": "vm1", "probe": "p"},
    {"op": "activate", "vm": "vm1", "probes": ["p"]},
    {"op": "deactivate", "vm": "vm1"},
    {"op": "relay", "vm": "vm1", "probe": "send_signal", "cpu": 0},
)


def _socket() -> Iterator[bytes]:
    lines = [json.dumps(request).encode() for request in REQUESTS]
    for line in lines:
        yield b"\1" + line
        yield b"\0" + line
    for first, second in pairwise(lines):
        yield b"\1" + first + b"\n" + second


def _group() -> Iterator[bytes]:
    lines = [json.dumps(request).encode() + b"\n" for request in REQUESTS]
    for line in lines:
        yield b"\0" + line
        yield b"\1" + struct.pack("<H", len(line) // 2) + line  # in two pieces
    yield b"\0" + b"".join(lines)
    yield b"\0" + lines[0][:-1]  # half a line
    yield b"\0" + b"x" * 66_000 + b"\n" + lines[0]


def _texts() -> Iterator[bytes]:
    for number, text in enumerate(("日本→".encode(), b"\xfc\xff", b"\xd8\0", b"a/b\n", b"\0")):
        for root in (0, 1):
            for which in range(len(REQUESTS)):
                field = bytes([0, number, len(text)]) + text
                yield bytes([root, which, 2]) + field * 4


def _ivshmem_server() -> Iterator[bytes]:
    for text in (
        b"ping\nlist\nwatch\nattach 4711\n",
        b'{"ok": true, "vms": [{"pid": 4711, "since": 1.5}]}\n',
        b'{"lost": "gone"}\n',
        b'{"ok": false, "error": "x"}',
    ):
        yield b"\1" + struct.pack("<H", len(text)) + text
        yield b"\1" + text


def _tools() -> Iterator[bytes]:
    for text in (XL_LIST, VCPU_LIST, STATUS_FILE):
        yield text.encode()


#: By target.
_SEEDS = {
    "relay": _relay, "records": _one_record, "points": _points, "words": _words, "life": _life,
    "cchan": _cchan, "guest": _guest, "region": _region, "xenstore": _xenstore, "tools": _tools,
    "ivshmem_server": _ivshmem_server, "socket": _socket, "group": _group, "texts": _texts,
}  # fmt: skip


def seeds(target: str) -> list[bytes]:
    """Inputs of a target that reach its depths."""
    return list(_SEEDS[target]())
