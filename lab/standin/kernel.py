# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest half of the ABI in Python: C-chan, relay channels, signs of life, crash log.

It depends on no process and no hypervisor.  Its owner gives it memory, notifies the host,
and calls it when the host has notified it.
"""

from __future__ import annotations

import ctypes
import errno
import secrets
import time
import zlib
from collections.abc import Callable

from lab.standin.image import PROBES, RELEASE, make_vermagic
from lab.standin.memory import GuestMemory, RelayChannel
from vesper_monitor.guest import abi
from vesper_monitor.guest.control.modinfo import ModinfoError, read_modinfo

__all__ = ["StandinKernel"]

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
#: Of whose process it is, which is unknown unless the command says it.
_WHO = {"login_uid": abi.WHO_LOGIN_UID, "cgroup": abi.WHO_CGROUP}
_FLAGS = {
    "fatal": abi.SIG_FATAL,
    "from_kernel": abi.SIG_FROM_KERNEL,
    "group": abi.SIG_GROUP,
    "in_irq": abi.SIG_IN_IRQ,
    "traced": abi.SIG_TRACED,
}


class StandinKernel:
    """
    :param notify: the host.
    :param version: of the protocol, that it says it speaks.
    """

    def __init__(
        self,
        memory: GuestMemory,
        notify: Callable[[], None],
        *,
        cpus: int = 1,
        release: str = RELEASE,
        version: int = abi.ABI_VERSION,
    ) -> None:
        self._memory = memory
        self._notify = notify
        self._cpus = cpus
        self._release = release
        self._version = version
        self._boot_id = secrets.randbits(64)
        #: the page of C-chan
        self.cchan = memory.allocate_pages(1)
        self._table_region = memory.allocate_pages(1)
        self._table = abi.Table(magic=abi.TABLE_MAGIC, version=abi.ABI_VERSION)
        self._words_region = memory.allocate_pages(abi.pages_for(ctypes.sizeof(abi.Words)))
        head = abi.Words(magic=abi.WORDS_MAGIC, version=abi.WORDS_VERSION)
        memory.view_region(self._words_region)[: ctypes.sizeof(head)] = bytes(head)
        size = ctypes.sizeof(abi.Life) + cpus * ctypes.sizeof(abi.LifeCpu)
        self._life_region = memory.allocate_pages(abi.pages_for(size))
        life = abi.Life(
            magic=abi.LIFE_MAGIC, version=abi.LIFE_VERSION, period_ms=abi.LIFE_PERIOD_MS,
            nr_cpus=cpus,
        )  # fmt: skip
        memory.view_region(self._life_region)[: ctypes.sizeof(life)] = bytes(life)
        self._irqs = self._runs = 0
        self._channels: dict[str, RelayChannel] = {}
        self._modules: set[str] = set()
        self._hidden: set[str] = set()  # loaded, but not in the channel table
        self._image: abi.Region | None = None
        self._generation = 0
        #: main processes by name: pid and age in s; None: it cannot be asked, as an older core
        self.processes: dict[str, tuple[int, float]] | None = None
        self.uptime_s = 0.0
        self._write_table()

    def open_cchan(self) -> None:
        """Open the C-chan, because the host activates the guest."""
        page = abi.Cchan(
            magic=abi.CCHAN_MAGIC, version=self._version, life=self._life_region, nr_cpus=self._cpus
        )
        self._memory.view_region(self.cchan)[: ctypes.sizeof(page)] = bytes(page)

    def fall_asleep(self, asleep: bool) -> None:
        """It is about to be suspended by its hypervisor, or goes on."""
        view = self._memory.view_region(self.cchan)
        abi.store_u32(view, abi.field_offset(abi.Cchan, "asleep"), int(asleep))
        self._notify()

    def hide_channel(self, name: str, hidden: bool) -> None:
        """Take a channel out of the table, or put it in again."""
        (self._hidden.add if hidden else self._hidden.discard)(name)
        self._write_table()

    def show_sign_of_life(self, *, runs: bool = True) -> None:
        """Give one sign of life, as the core does every :data:`abi.LIFE_PERIOD_MS`.

        :param runs: the scheduler is alive, too.
        """
        self._irqs += 1
        self._runs += runs
        one = abi.LifeCpu(state=abi.LifeState.SHOWN, irqs=self._irqs, runs=self._runs)
        start = ctypes.sizeof(abi.Life)
        cpus = bytes(one) * self._cpus
        self._memory.view_region(self._life_region)[start : start + len(cpus)] = cpus

    # --------------------------------------------------------------- C-chan

    def take_request(self) -> bool:
        """Answer one, if there is one and room for the answer."""
        view = self._memory.view_region(self.cchan)
        to_guest = abi.field_offset(abi.Cchan, "to_guest")
        to_host = abi.field_offset(abi.Cchan, "to_host")
        page = abi.Cchan.from_buffer_copy(view)
        given = (page.to_host.prod - page.to_host.cons) & 0xFFFFFFFF
        if page.to_guest.prod == page.to_guest.cons or given >= abi.CCHAN_SLOTS:
            return False
        request = bytes(page.to_guest.slot[page.to_guest.cons % abi.CCHAN_SLOTS])
        abi.store_u32(
            view, to_guest + abi.field_offset(abi.CchanRing, "cons"), page.to_guest.cons + 1
        )
        reply = self._answer_request(request)
        slot = to_host + abi.field_offset(abi.CchanRing, "slot")
        slot += (page.to_host.prod % abi.CCHAN_SLOTS) * abi.MSG_SIZE
        view[slot : slot + len(reply)] = reply
        abi.store_u32(
            view, to_host + abi.field_offset(abi.CchanRing, "prod"), page.to_host.prod + 1
        )
        self._notify()
        return True

    def _answer_request(self, request: bytes) -> bytes:
        header = abi.MsgHdr.from_buffer_copy(request)
        reply: ctypes.Structure = abi.MsgResult()
        status = 0
        if header.type == abi.MsgType.HELLO:
            reply = abi.MsgHello(
                nr_cpus=self._cpus,
                table=self._table_region,
                boot_id=self._boot_id,
                release=self._release.encode(),
                vermagic=make_vermagic(self._release).encode(),
                words=self._words_region,
                life=self._life_region,
            )
        elif header.type == abi.MsgType.MEM_ALLOC:
            pages = abi.MsgMem.from_buffer_copy(request).region.pages
            try:
                self._image = self._memory.allocate_pages(pages)
                reply = abi.MsgMem(region=self._image)
            except MemoryError:
                status = errno.ENOMEM
        elif header.type == abi.MsgType.MEM_FREE:
            self._image = None
        elif header.type == abi.MsgType.LOAD:
            status, text = self._load_module(abi.MsgLoad.from_buffer_copy(request))
            reply = abi.MsgResult(text=text.encode())
        elif header.type == abi.MsgType.UNLOAD:
            status = self.unload_module(abi.MsgUnload.from_buffer_copy(request).name.decode())
        elif header.type == abi.MsgType.PROCESSES and self.processes is not None:
            reply = self._find_processes(abi.MsgProcesses.from_buffer_copy(request))
        else:
            status = errno.EOPNOTSUPP
        head = abi.MsgHdr(type=header.type, seq=header.seq, status=-status, version=self._version)
        return bytes(head) + bytes(reply)[ctypes.sizeof(head) :]

    def _find_processes(self, reply: abi.MsgProcesses) -> abi.MsgProcesses:
        reply.uptime_ms = int(self.uptime_s * 1000)
        for process in reply.process:
            pid, age_s = (self.processes or {}).get(process.name.decode(), (0, 0.0))
            process.pid, process.age_ms = pid, int(age_s * 1000)
        return reply

    def _load_module(self, request: abi.MsgLoad) -> tuple[int, str]:
        """Accept a file that has the ELF form of a module for this kernel."""
        name = request.name.decode()
        if self._image is None or self._image.handle != request.region.handle:
            return errno.ENOENT, ""
        total = request.image_len + request.params_len
        data = bytes(self._memory.view_region(self._image)[:total])
        self._image = None
        if zlib.crc32(data) != request.crc32:
            return errno.EBADMSG, ""
        try:
            magic = read_modinfo(data[: request.image_len]).get("vermagic", "").strip()
        except ModinfoError:
            return errno.ENOEXEC, ""
        if magic != make_vermagic(self._release):
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

    def unload_module(self, name: str) -> int:
        """:returns: errno."""
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
        self._memory.view_region(self._table_region)[: len(data)] = data
        self._notify()

    # --------------------------------------------------------------- events

    def leave_words(self, kind: abi.WordsKind, message: str) -> None:
        start = abi.field_offset(abi.Words, "slot") + kind * ctypes.sizeof(abi.WordsSlot)
        view = self._memory.view_region(self._words_region)
        seq = abi.load_u32(view, start)
        log = f"[    1.000000] Kernel says: {message}\n".encode()
        slot = abi.WordsSlot(
            seq=seq + 2, log_len=len(log), time_ns=time.monotonic_ns(), pid=1, comm=b"init",
            message=message.encode(), stack=b"panic+0x1/0x2\n", log=log,
        )  # fmt: skip
        view[start : start + ctypes.sizeof(slot)] = bytes(slot)

    def emit_event(self, probe: str, given: dict[str, str]) -> str:
        """:returns: ``ok`` and CLOCK_MONOTONIC (ns) just before it, or an error."""
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
            if key in _WHO:
                record.who.known |= _WHO[key]
                number = key == "login_uid"
                setattr(record.who, key, int(str(value), 0) if number else str(value).encode())
            elif hasattr(struct, key):
                text = isinstance(getattr(record, key), bytes)
                setattr(record, key, str(value).encode()[:15] if text else int(str(value), 0))
        if probe == "send_signal":
            record.flags |= sum(bit for key, bit in _FLAGS.items() if given.get(key) == "1")
            record.flags |= abi.SIG_ADDR if "addr" in given else 0
        now = time.monotonic_ns()
        for _ in range(count):
            self._channels[probe].cpus[cpu].write_record(record, cpu, time.monotonic_ns())
        self._notify()
        return f"ok {now}"
