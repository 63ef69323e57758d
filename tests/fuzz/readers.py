# SPDX-License-Identifier: GPL-2.0-or-later
"""The readers of what a guest writes, each as a function of any bytes.

A function returns whatever the bytes are; what it raises is a defect.  The
errors that a reader may raise, by its own word, are caught here by name.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
from collections.abc import Coroutine, Sequence
from typing import Any

from tests.fuzz.memory import DOMAIN, Input, Link, Mapping, unsteady
from vesper_monitor.faults.service_watch import ServiceWatch
from vesper_monitor.guest import abi
from vesper_monitor.guest.control.cchan import Cchan, CchanError, GuestRefusedError
from vesper_monitor.guest.control.commands import GuestControl
from vesper_monitor.guest.control.processes import find_processes
from vesper_monitor.guest.dynamic_probes.syntax import parse_definition
from vesper_monitor.guest.event import Event
from vesper_monitor.guest.health import crash_log
from vesper_monitor.guest.health.crash_log import CrashLogReader
from vesper_monitor.guest.health.hang_detector import HangDetector
from vesper_monitor.guest.health.heartbeat import HeartbeatReader
from vesper_monitor.guest.relay.channel import TableError
from vesper_monitor.guest.relay.collector import Collector
from vesper_monitor.guest.relay.decode import decode_records
from vesper_monitor.guest.relay.raw_stream import RawStream
from vesper_monitor.guest.relay.relay import READ_LIMIT_BYTES, ChannelShape, RawRecord, RelayReader
from vesper_monitor.hypervisor.transport import TransportError
from vesper_monitor.rules.rule_set import RuleSet

__all__ = ["cchan", "guest", "life", "points", "records", "relay", "words"]

_INDEX = ctypes.sizeof(abi.Index)
#: Bytes of the largest relay buffer here: that of the probes.
_BUFFER = 65536
_EMPTY = bytes(_BUFFER)
SERVICES = ("httpd", "b\\xff")
#: Rules that look at all that there is, besides the default ones.
RULES = (
    RuleSet(),
    RuleSet(
        'send_signal: sig in [9, 11] and comm == "httpd"; out_of_memory: any, 2 in 60s; '
        "block_error: any; net_link: any; lockup: any; die: any; probe_point: any; "
        'fs_error: any; memory_failure: any; hung_task: any; last_words: kind == "oops"'
    ),
)
POINTS = {
    point.name: point
    for point in (
        parse_definition("p:one do_exit a=%ax:s64 b=+0(%si):string c=%cx:char d=%dx:x32"),
        parse_definition("p:none do_exit"),
        parse_definition("t:two sched_switch $arg5 +0(+4($arg2)):string +8($arg2):string"),
    )
}
#: Characters of one exit reason; Pacemaker cuts longer ones, crm_mon does not.
MAX_REASON = 2000

loop = asyncio.new_event_loop()


def look(events: Sequence[Event]) -> None:
    """What is made of events: JSON, a sentence, a verdict."""
    for event in events[:20]:
        json.dumps(event.to_json())
        assert event.text.isprintable(), event.text
        for rules in RULES:
            verdict = rules.judge_event(event, SERVICES)
            if verdict is not None:
                assert verdict.reason.isprintable(), verdict.reason
                assert len(verdict.reason) <= MAX_REASON, len(verdict.reason)


def relay(data: bytes) -> None:
    """One buffer: its geometry, its index entry, its bytes, and what is written meanwhile."""
    given = Input(data)
    size, number = given.u16(), given.u8()
    writes = Input(given.take(given.u8() * 10))
    start = given.u64() if number & 0x80 else 0
    shape = ChannelShape(max(24, size % 2049 * 8), 2 + number % 3)
    index = memoryview(bytearray(given.take(_INDEX)))
    content = bytearray(_EMPTY)
    rest = given.rest()[:_BUFFER]
    content[: len(rest)] = rest
    buffer = memoryview(content)[: shape.pages * abi.PAGE_SIZE]
    reader = RelayReader(shape, next_seq=start & (1 << 63) - 1)
    with unsteady(writes, index, buffer):
        for _ in range(4):
            found, more = reader.read_new_records(index, buffer)
            assert sum(len(record.data) for record in found) <= 2 * READ_LIMIT_BYTES
            look(decode_records(found, vm="vm1", domid=7, probe="p", cpu=0, received=1.0))
            if not more:
                break
    assert reader.lost >= 0


def records(data: bytes) -> None:
    """One record, of every type."""
    given = Input(data)
    event, lost, seq = given.u16() % 32, given.u32(), given.u64() & (1 << 63) - 1
    record = RawRecord(seq, given.u64(), event, lost, given.rest())
    look(decode_records([record], vm="vm1", domid=7, probe="p", cpu=0, received=1.0))


def points(data: bytes) -> None:
    """One record of a probe that an operator has defined."""
    given = Input(data)
    which = sorted(POINTS)[given.u8() % len(POINTS)]
    content = bytearray(given.rest())
    if len(content) >= 40:  # else it is seldom this definition's
        at = abi.field_offset(abi.ProbePoint, "id")
        content[at : at + 4] = POINTS[which].id.to_bytes(4, "little")
        at = abi.field_offset(abi.ProbePoint, "n_args")
        content[at] = len(POINTS[which].values)
    record = RawRecord(1, 2, abi.EventType.PROBE_POINT, 0, bytes(content))
    look(
        decode_records(
            [record], vm="vm1", domid=7, probe=which, cpu=0, received=1.0, defined=POINTS
        )
    )


def words(data: bytes) -> None:
    """What a dying kernel leaves."""
    given = Input(data)
    writes = Input(given.take(given.u8() * 10))
    now = 0.0
    size = ctypes.sizeof(abi.Words)
    content = given.rest()[: size + abi.PAGE_SIZE]
    link = Link(bytes(abi.PAGE_SIZE) + content, Input(b""))
    region = abi.Region(handle=1, pages=abi.pages_for(size))
    try:
        reader = CrashLogReader(link, region, {abi.WordsKind.OOPS: 0}, lambda: now)
    except ValueError:
        return
    with unsteady(writes, link.map_region(1, region.pages).view):
        for final in (False, False, True):
            now += 3.0
            found = reader.read_new(final=final)
            assert len(found) <= len(abi.WordsKind)
            events = [crash_log.make_event(*w, domain=DOMAIN, received=1.0) for w in found]
            look(events)
            for event in events:
                assert event.crash_log is not None
                json.dumps([event.crash_log.stack, event.crash_log.log])
                assert len(event.crash_log.log) <= crash_log.MAX_LOG_CHARS
    reader.close()


def life(data: bytes) -> None:
    """Signs of life, looked at again and again."""
    given = Input(data)
    cpus = 1 + given.u16() % 64
    head = abi.Life(magic=abi.LIFE_MAGIC, version=abi.LIFE_VERSION, nr_cpus=cpus)
    link = Link(bytes(abi.PAGE_SIZE) + bytes(head), Input(b""))
    size = ctypes.sizeof(abi.Life) + cpus * ctypes.sizeof(abi.LifeCpu)
    region = abi.Region(handle=1 + given.u8() % 2, pages=given.u8() % 4)
    try:
        reader = HeartbeatReader(link, region, cpus)
    except (TransportError, ValueError):
        return
    live, now = HangDetector(), 0.0
    at = abi.PAGE_SIZE + ctypes.sizeof(abi.Life)
    while not given.empty and now < 32.0:
        piece = given.take(min(size, 256))
        link.memory[at : at + len(piece)] = piece
        now += given.u8() / 100
        live.note_signs(now, reader.read_signs())
        live.needs_cpu_use(now)
        live.find_hang(2.0)
    reader.close()


def _run(work: Coroutine[Any, Any, Any]) -> None:
    """What may come of a conversation with a guest."""
    with contextlib.suppress(CchanError, GuestRefusedError, TransportError, TableError):
        loop.run_until_complete(work)


async def _ask(link: Link, which: int) -> None:
    channel = Cchan(link)
    link.on_notify(channel.wake_up)
    link.on_lost(channel.abort_requests)
    link.notify_guest()  # its ring may be full: it must not wait for us
    for number in range(3):
        kind = (which >> 2 * number) % 5
        if kind == 0:
            await channel.request_hello()
        elif kind == 1:
            await channel.alloc_memory(3)
        elif kind == 2:
            assert (await channel.request_load("p", abi.Region(handle=1), 1, 1, 1)).isprintable()
        elif kind == 3:
            assert (await channel.request_unload("p")).isprintable()
        else:
            watch = ServiceWatch("vm1")
            watch.set_services(("httpd",), 0.0)
            watch.note_heard(1, 0.0)
            for now in (0.0, 1000.0):
                watch.note_answer(await find_processes(channel, watch.names), now)
            assert (watch.find_missing_service(1001.0) or "").isprintable()


def cchan(data: bytes) -> None:
    """Requests to a guest that answers anything, at any time."""
    given = Input(data)
    which, page = given.u8(), given.take(ctypes.sizeof(abi.Cchan))
    link = Link(page, given)
    _run(_ask(link, which))
    link.cchan.close()


async def _meet(link: Link) -> None:
    # Its ring may be full: it must not wait for us.
    loop.call_soon(Link.notify_guest, link)
    guest = await GuestControl.greet_guest(link)
    collector = Collector(DOMAIN, RawStream(), lambda: 1.0, {}, POINTS)
    try:
        collector.meet_boot(guest.hello.boot_id)
        collector.open_crash_log(link, guest.hello.crash_log_region)
        for _ in range(4):
            if guest.table.has_changed():
                entries = guest.read_table()
                for name, channel in list(collector.channels.items()):
                    if entries.get(name) != channel.entry:
                        collector.close_channel(name, for_good=False)
                for name, entry in entries.items():
                    if name not in collector.channels and entry.shape.pages <= 32:
                        with contextlib.suppress(TransportError):
                            collector.open_channel(link, entry)
            events, _more = collector.read_events()
            look(events)
            collector.read_positions()
            link.write()
    finally:
        collector.close_crash_log()
        for name in list(collector.channels):
            collector.close_channel(name, for_good=True)
        await guest.close_link(deactivate=False)


def guest(data: bytes) -> None:
    """All that a guest shares, as one image of its memory that it goes on writing to.

    It answers the first HELLO rightly, whatever its number, so that the rest is reached.
    """
    given = Input(data)
    content = given.take(given.u16() * 16)
    link = _Answering(content, given)
    before = Mapping.open
    _run(_meet(link))
    link.cchan.close()
    assert Mapping.open == before - 1, "a region stays mapped"


class _Answering(Link):
    """Copies the number and type of the request in the first slot to the first answer's."""

    def __init__(self, content: bytes, writes: Input) -> None:
        super().__init__(content, writes)
        self._answered = False

    def notify_guest(self) -> None:
        if self._answered:
            super().notify_guest()
            return
        self._answered = True
        rings = [abi.field_offset(abi.Cchan, name) for name in ("to_guest", "to_host")]
        prod, cons, slot = (abi.field_offset(abi.CchanRing, n) for n in ("prod", "cons", "slot"))
        view = memoryview(self.memory)
        number = (abi.load_u32(view, rings[0] + prod) - 1) % abi.CCHAN_SLOTS
        request = rings[0] + slot + number * abi.MSG_SIZE
        ours = abi.load_u32(view, rings[1] + cons)
        answer = rings[1] + slot + ours % abi.CCHAN_SLOTS * abi.MSG_SIZE
        head = abi.MsgHdr.from_buffer_copy(view[request : request + 16])
        found = abi.MsgHdr.from_buffer_copy(view[answer : answer + 16])
        reply = abi.MsgHdr(type=head.type, seq=head.seq, status=found.status, version=head.version)
        view[answer : answer + 16] = bytes(reply)
        abi.store_u32(view, rings[1] + prod, ours + 1)
        super().notify_guest()
        if self._notified is not None:
            self._notified()
