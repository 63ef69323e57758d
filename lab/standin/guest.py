# SPDX-License-Identifier: GPL-2.0-or-later
"""The stand-in guest: a process that speaks the guest half of the ABI."""

from __future__ import annotations

import asyncio
import ctypes
import dataclasses
import errno
import os
import secrets
import signal
import time
import zlib

from lab.standin.image import PROBES, RELEASE, vermagic
from lab.standin.memory import CCHAN_PAGE, GuestMemory, RelayChannel
from lab.standin.place import Place
from vesper_monitor.guest import abi
from vesper_monitor.guest.modinfo import ModinfoError, modinfo

__all__ = ["StandinGuest"]

_EVENTS: dict[str, tuple[type[ctypes.Structure], abi.EventType]] = {
    "send_signal": (abi.SendSignal, abi.EventType.SEND_SIGNAL),
    "out_of_memory": (abi.OutOfMemory, abi.EventType.OUT_OF_MEMORY),
}
#: What an event has unless the command says otherwise.
_DEFAULTS: dict[str, dict[str, object]] = {
    "send_signal": {
        "sig": 11, "code": 1, "pid": 97, "tgid": 97, "parent_pid": 1, "parent_comm": "init",
        "comm": "httpd", "leader_comm": "httpd", "sender_pid": 80, "sender_tid": 80,
        "sender_comm": "sh",
    },
    "out_of_memory": {
        "pid": 97, "comm": "httpd", "parent_pid": 1, "parent_comm": "init", "asker_pid": 120,
        "asker_comm": "tail", "anon_rss_kb": 83412, "free_kb": 2048, "total_kb": 163840,
    },
}  # fmt: skip
_FLAGS = {
    "fatal": abi.SIG_FATAL,
    "from_kernel": abi.SIG_FROM_KERNEL,
    "group": abi.SIG_GROUP,
    "in_irq": abi.SIG_IN_IRQ,
    "traced": abi.SIG_TRACED,
}


class StandinGuest:
    """
    :param cmdline: see the package's docstring.
    """

    def __init__(self, name: str, cmdline: str = "") -> None:
        options = dict(word.split("=", 1) for word in cmdline.split() if "=" in word)
        self._vesper = options.get("lab.vesper", "yes") != "no"
        self._version = int(options.get("lab.version", abi.ABI_VERSION))
        self._release = options.get("lab.release", RELEASE)
        self._cpus = int(options.get("lab.cpus", 1))
        self._place = Place(name)
        self._record, self._lock = self._place.occupy()
        self._memory = GuestMemory(self._place.memory)
        self._boot_id = secrets.randbits(64)
        self._table_region = self._memory.alloc(1)
        self._table = abi.Table(magic=abi.TABLE_MAGIC, version=abi.ABI_VERSION)
        self._words_region = self._memory.alloc(abi.pages_for(ctypes.sizeof(abi.Words)))
        head = abi.Words(magic=abi.WORDS_MAGIC, version=abi.WORDS_VERSION)
        self._memory.at(self._words_region)[: ctypes.sizeof(head)] = bytes(head)
        size = ctypes.sizeof(abi.Life) + self._cpus * ctypes.sizeof(abi.LifeCpu)
        self._life_region = self._memory.alloc(abi.pages_for(size))
        self._life = "on"
        self._channels: dict[str, RelayChannel] = {}
        self._modules: set[str] = set()
        self._hidden: set[str] = set()  # loaded, but not in the channel table
        self._image: abi.Region | None = None
        self._generation = 0
        self._active = False
        self._host: asyncio.StreamWriter | None = None
        self._end = asyncio.Event()

    async def run(self) -> None:
        """Until SIGTERM, or ``tell NAME die``."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._end.set)
        self._write_table()
        living = asyncio.create_task(self._show_life())
        control = await asyncio.start_unix_server(self._serve_control, self._place.control)
        if self._vesper:
            await self._load_modules()
        await self._end.wait()
        living.cancel()
        control.close()

    async def _load_modules(self) -> None:
        await asyncio.start_unix_server(self._serve_host, self._place.link)

    # ------------------------------------------------------------- the link

    async def _serve_host(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Bytes are notifications (N); D from the host deactivates, R to it: ready."""
        if not self._active:
            self._active = True
            self._place.active.touch()
            page = abi.Cchan(magic=abi.CCHAN_MAGIC, version=self._version)
            self._cchan()[: ctypes.sizeof(page)] = bytes(page)
        self._host = writer
        writer.write(b"R")
        while data := await reader.read(256):
            if b"D" in data:
                self._active = False
                self._place.active.unlink(missing_ok=True)
                break
            while self._take_request():
                pass
        if self._host is writer:
            self._host = None
        writer.close()

    def _notify(self) -> None:
        if self._host is not None:
            self._host.write(b"N")

    def _cchan(self) -> memoryview:
        return self._memory.at(abi.Region(handle=CCHAN_PAGE, pages=1))

    # --------------------------------------------------------------- C-chan

    def _take_request(self) -> bool:
        view = self._cchan()
        to_guest = abi.offset(abi.Cchan, "to_guest")
        to_host = abi.offset(abi.Cchan, "to_host")
        page = abi.Cchan.from_buffer_copy(view)
        given = (page.to_host.prod - page.to_host.cons) & 0xFFFFFFFF
        if page.to_guest.prod == page.to_guest.cons or given >= abi.CCHAN_SLOTS:
            return False
        request = bytes(page.to_guest.slot[page.to_guest.cons % abi.CCHAN_SLOTS])
        abi.store_u32(view, to_guest + abi.offset(abi.CchanRing, "cons"), page.to_guest.cons + 1)
        reply = self._answer(request)
        slot = to_host + abi.offset(abi.CchanRing, "slot")
        slot += (page.to_host.prod % abi.CCHAN_SLOTS) * abi.MSG_SIZE
        view[slot : slot + len(reply)] = reply
        abi.store_u32(view, to_host + abi.offset(abi.CchanRing, "prod"), page.to_host.prod + 1)
        self._notify()
        return True

    def _answer(self, request: bytes) -> bytes:
        header = abi.MsgHdr.from_buffer_copy(request)
        reply: ctypes.Structure = abi.MsgResult()
        status = 0
        if header.type == abi.MsgType.HELLO:
            reply = abi.MsgHello(
                nr_cpus=self._cpus,
                table=self._table_region,
                boot_id=self._boot_id,
                release=self._release.encode(),
                vermagic=vermagic(self._release).encode(),
                words=self._words_region,
                life=self._life_region,
            )
        elif header.type == abi.MsgType.MEM_ALLOC:
            pages = abi.MsgMem.from_buffer_copy(request).region.pages
            try:
                self._image = self._memory.alloc(pages)
                reply = abi.MsgMem(region=self._image)
            except MemoryError:
                status = errno.ENOMEM
        elif header.type == abi.MsgType.MEM_FREE:
            self._image = None
        elif header.type == abi.MsgType.LOAD:
            status, text = self._load(abi.MsgLoad.from_buffer_copy(request))
            reply = abi.MsgResult(text=text.encode())
        elif header.type == abi.MsgType.UNLOAD:
            status = self._unload(abi.MsgUnload.from_buffer_copy(request).name.decode())
        else:
            status = errno.EOPNOTSUPP
        head = abi.MsgHdr(type=header.type, seq=header.seq, status=-status, version=self._version)
        return bytes(head) + bytes(reply)[ctypes.sizeof(head) :]

    def _load(self, request: abi.MsgLoad) -> tuple[int, str]:
        """Accepts what has the ELF form of a module for this kernel."""
        name = request.name.decode()
        if self._image is None or self._image.handle != request.region.handle:
            return errno.ENOENT, ""
        total = request.image_len + request.params_len
        data = bytes(self._memory.at(self._image)[:total])
        self._image = None
        if zlib.crc32(data) != request.crc32:
            return errno.EBADMSG, ""
        try:
            magic = modinfo(data[: request.image_len]).get("vermagic", "").strip()
        except ModinfoError:
            return errno.ENOEXEC, ""
        if magic != vermagic(self._release):
            return errno.ENOEXEC, f"{name}: version magic '{magic}' should be another"
        if name in self._modules:
            return errno.EEXIST, ""
        self._modules.add(name)
        if name in PROBES:
            self._generation += 1
            channel = RelayChannel(self._memory, name, self._cpus, self._generation)
            self._channels[name] = channel
            self._write_table()
        return 0, ""

    def _unload(self, name: str) -> int:
        if name not in self._modules:
            return errno.ENOENT
        self._modules.discard(name)
        self._channels.pop(name, None)
        self._write_table()
        return 0

    def _write_table(self) -> None:
        for i in range(abi.MAX_CHANNELS):
            self._table.channel[i] = abi.Channel()
        shown = [c for name, c in self._channels.items() if name not in self._hidden]
        for i, channel in enumerate(shown):
            self._table.channel[i] = channel.entry
        self._table.generation += 1
        data = bytes(self._table)
        self._memory.at(self._table_region)[: len(data)] = data
        self._notify()

    # -------------------------------------------------------------- control

    async def _serve_control(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while line := await reader.readline():
            try:
                answer = await self._obey(line.decode().split())
            except (KeyError, ValueError, AttributeError, TypeError) as error:
                answer = f"error {error!r}"
            writer.write(f"{answer}\n".encode())
            await writer.drain()
        writer.close()

    async def _obey(self, words: list[str]) -> str:
        """:returns: ``ok``, after an event with CLOCK_MONOTONIC (ns) just before it."""
        match words:
            case ["emit", probe, *pairs]:
                return self._emit(probe, dict(pair.split("=", 1) for pair in pairs))
            case ["words", kind, *message]:
                self._leave_words(abi.WordsKind[kind.upper()], " ".join(message))
                self._notify()
            case ["quiet", "words", kind, *message]:
                self._leave_words(abi.WordsKind[kind.upper()], " ".join(message))
            case ["asleep", "0" | "1" as asleep]:
                abi.store_u32(self._cchan(), abi.offset(abi.Cchan, "asleep"), int(asleep))
                self._notify()
            case ["life", "on" | "no-runs" | "off" as life]:
                self._life = life
            case ["cpu", "spin" | "starve" | "sleep" as what]:
                self._place.use_cpu(what)
            case ["state", state]:
                self._record = dataclasses.replace(self._record, state=state)
                self._place.write(self._record)
            case ["load-modules"]:
                await self._load_modules()
            case ["rmmod", name]:
                self._unload(name)
            case ["hide", name]:
                self._hidden.add(name)
                self._write_table()
            case ["show", name]:
                self._hidden.discard(name)
                self._write_table()
            case ["die"]:
                os.kill(os.getpid(), signal.SIGKILL)
            case _:
                return f"error unknown command {' '.join(words)}"
        return "ok"

    async def _show_life(self) -> None:
        """As probe_modules/core/life.c does; not while it is paused."""
        head = abi.Life(
            magic=abi.LIFE_MAGIC, version=abi.LIFE_VERSION, period_ms=abi.LIFE_PERIOD_MS,
            nr_cpus=self._cpus,
        )  # fmt: skip
        view = self._memory.at(self._life_region)
        view[: ctypes.sizeof(head)] = bytes(head)
        irqs = runs = 0
        while True:
            if self._record.state == "running" and self._life != "off":
                irqs += 1
                runs += self._life == "on"
            one = abi.LifeCpu(state=abi.LifeState.SHOWN, irqs=irqs, runs=runs)
            cpus = bytes(one) * self._cpus
            view[ctypes.sizeof(head) : ctypes.sizeof(head) + len(cpus)] = cpus
            await asyncio.sleep(abi.LIFE_PERIOD_MS / 1000)

    def _leave_words(self, kind: abi.WordsKind, message: str) -> None:
        start = abi.offset(abi.Words, "slot") + kind * ctypes.sizeof(abi.WordsSlot)
        view = self._memory.at(self._words_region)
        seq = abi.load_u32(view, start)
        log = f"[    1.000000] Kernel says: {message}\n".encode()
        slot = abi.WordsSlot(
            seq=seq + 2, log_len=len(log), time_ns=time.monotonic_ns(), pid=1, comm=b"init",
            message=message.encode(), stack=b"panic+0x1/0x2\n", log=log,
        )  # fmt: skip
        view[start : start + ctypes.sizeof(slot)] = bytes(slot)

    def _emit(self, probe: str, given: dict[str, str]) -> str:
        if probe not in self._channels:
            return f"error {probe} is not loaded"
        struct, event = _EVENTS[probe]
        count, cpu = int(given.pop("count", "1")), int(given.pop("cpu", "0"))
        values = dict(_DEFAULTS[probe])
        if "comm" in given:
            values["leader_comm"] = given["comm"]
        if "pid" in given:
            values["tgid"] = given["pid"]
        values.update({key: value for key, value in given.items() if key not in _FLAGS})
        record = struct()
        record.rec.event = event
        for key, value in values.items():
            if hasattr(struct, key):
                text = isinstance(getattr(record, key), bytes)
                setattr(record, key, str(value).encode()[:15] if text else int(str(value), 0))
        if probe == "send_signal":
            record.flags |= sum(bit for key, bit in _FLAGS.items() if given.get(key) == "1")
            record.flags |= abi.SIG_ADDR if "addr" in given else 0
        now = time.monotonic_ns()
        for _ in range(count):
            self._channels[probe].cpus[cpu].write(record, cpu, time.monotonic_ns())
        self._notify()
        return f"ok {now}"
