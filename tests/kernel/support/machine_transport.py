# SPDX-License-Identifier: GPL-2.0-or-later
"""The transport to a guest of machine.py, by the file that is its RAM.

The tests map the file as a host maps a guest's pages (guest_modules/vsp_ram.c).
So the core's own code writes, and the daemon's own code reads, also while the
guest's kernel is dead, paused, or gone. Xen has grants and a notification to
the guest beyond this.
"""

from __future__ import annotations

import asyncio
import ctypes
import mmap
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from lab.xen.qmp import QmpError
from tests.kernel.support.machine import Machine
from vesper_monitor.guest import abi
from vesper_monitor.hypervisor.domain_state import DomainState
from vesper_monitor.hypervisor.transport import (
    CpuUse,
    Domain,
    DomainEvent,
    DomainReport,
    FrontendMissingError,
    LinkLostError,
    TransportError,
    VcpuState,
    VcpuUse,
)

__all__ = ["MachineLink", "MachineTransport"]

#: s between two looks at whether the guest has notified the host.
_POLL_S = 0.01

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
]  # fmt: skip
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_MAP_FIXED = 0x10


class FrameMapping:
    """Frames of the guest's RAM, mapped side by side."""

    def __init__(self, fd: int, frames: list[int], *, writable: bool) -> None:
        """:raises TransportError: they are not the guest's."""
        size = os.fstat(fd).st_size
        if any(not 0 < frame < size // abi.PAGE_SIZE for frame in frames):
            raise TransportError("frames beyond the guest's RAM")
        self._size = len(frames) * abi.PAGE_SIZE
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        anonymous = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self._base = _libc.mmap(None, self._size, 0, anonymous, -1, 0)
        for i, frame in enumerate(frames):
            at = self._base + i * abi.PAGE_SIZE
            flags = mmap.MAP_SHARED | _MAP_FIXED
            got = _libc.mmap(at, abi.PAGE_SIZE, protection, flags, fd, frame * abi.PAGE_SIZE)
            assert got == at, os.strerror(ctypes.get_errno())
        array = (ctypes.c_char * self._size).from_address(self._base)
        self._view = memoryview(array).cast("B")

    @property
    def view(self) -> memoryview:
        return self._view

    def close(self) -> None:
        if self._size:
            self._view.release()
            _libc.munmap(self._base, self._size)
            self._size = 0


class MachineLink:
    """See :class:`vesper_monitor.hypervisor.transport.Link`."""

    def __init__(self, domain: Domain, guest: Machine, cchan: int) -> None:
        self.domain = domain
        self._machine = guest
        self._fd = os.open(guest.ram, os.O_RDWR | os.O_CLOEXEC)
        self._cchan = FrameMapping(self._fd, [cchan], writable=True)
        self._maps = [self._cchan]
        self._notified: Callable[[], None] | None = None
        self._lost: Callable[[str], None] | None = None
        self._task = asyncio.get_running_loop().create_task(self._poll())

    @property
    def cchan(self) -> FrameMapping:
        return self._cchan

    def map_region(self, handle: int, pages: int, *, writable: bool = False) -> FrameMapping:
        directory = FrameMapping(self._fd, [handle], writable=False)
        listed = abi.XenDir.from_buffer_copy(directory.view)
        directory.close()
        if not 0 < pages <= min(listed.pages, abi.MAX_REGION_PAGES):
            raise TransportError(f"region {handle:#x} has {listed.pages} pages, not {pages}")
        mapping = FrameMapping(self._fd, list(listed.ref[:pages]), writable=writable)
        self._maps.append(mapping)
        return mapping

    def notify_guest(self) -> None:
        pass  # the guest polls

    def on_notify(self, callback: Callable[[], None] | None) -> None:
        self._notified = callback

    def on_lost(self, callback: Callable[[str], None] | None) -> None:
        self._lost = callback

    async def close(self, *, deactivate: bool) -> None:
        self._task.cancel()
        for mapping in self._maps:
            mapping.close()
        os.close(self._fd)

    async def _poll(self) -> None:
        seen = 0
        while True:
            size = (self._machine.directory / "notify").stat().st_size
            if size != seen and self._notified is not None:
                seen = size
                self._notified()
            if self._machine.process.poll() is not None and not self._machine.saved:
                if self._lost is not None:
                    self._lost("QEMU has gone")
                return
            await asyncio.sleep(_POLL_S)


class MachineTransport:
    """See :class:`vesper_monitor.hypervisor.transport.Transport`; one guest, ``vm1``."""

    name = "machine"

    def __init__(self, guest: Machine) -> None:
        self.machine = guest
        #: QEMU has been sent SIGSTOP
        self.stopped = False
        #: times that cpu_use() was called
        self.questions = 0
        self._threads: dict[int, int] = {}
        self._process: int | None = None  # theirs
        self.domain = Domain("vm1", 1, "00000000-0000-0000-0000-000000000001")

    @classmethod
    def explain_unusable(cls) -> str | None:
        return None

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    async def list_domains(self) -> list[Domain]:
        return [self.domain]

    async def find_domain(self, name: str) -> Domain | None:
        return self.domain if name == self.domain.name else None

    async def list_active_domains(self) -> list[Domain]:
        return [self.domain]

    async def report_domain(self, domain: Domain) -> DomainReport:
        if self.machine.saved:
            return DomainReport(DomainState.PAUSED)
        if self.machine.process.poll() is not None:
            return DomainReport(DomainState.GONE)
        try:
            answer = await asyncio.to_thread(self.machine.qmp, "query-status")
        except (QmpError, OSError) as error:
            raise TransportError(str(error)) from error
        assert isinstance(answer, dict)
        running = answer["status"] == "running"
        return DomainReport(DomainState.RUNNING if running else DomainState.PAUSED)

    async def cpu_use(self, domain: Domain) -> CpuUse:
        """Return the CPU time of QEMU's vCPU threads, from the host's kernel."""
        self.questions += 1
        if self.machine.saved:
            return CpuUse(DomainState.PAUSED, ())
        try:
            if self._process != self.machine.process.pid:
                await self._find_threads()
            # QEMU's timers are its main thread's; see kvm_transport/status_files.py.
            main_waits = self._stat(self.machine.process.pid)[0] == "R"
            vcpus = tuple(
                self._vcpu(cpu, thread, main_waits) for cpu, thread in self._threads.items()
            )
        except (QmpError, OSError) as error:
            raise TransportError(str(error)) from error
        if self.stopped:
            # QEMU cannot answer, and the host that stopped it is the one to ask.
            return CpuUse(DomainState.RUNNING, vcpus)
        return CpuUse((await self.report_domain(domain)).state, vcpus)

    async def _find_threads(self) -> None:
        pid = self.machine.process.pid
        answer = await asyncio.to_thread(self.machine.qmp, "query-cpus-fast")
        assert isinstance(answer, list)
        self._threads = {cpu["cpu-index"]: cpu["thread-id"] for cpu in answer}
        self._process = pid

    def _stat(self, thread: int) -> list[str]:
        """Return the fields of a thread's stat file (proc(5)) from the state on."""
        stat = Path(f"/proc/{self.machine.process.pid}/task/{thread}/stat").read_text()
        return stat.rpartition(") ")[2].split()

    def _vcpu(self, cpu: int, thread: int, main_waits: bool) -> VcpuUse:
        fields = self._stat(thread)
        ran = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        asleep = VcpuState.RUNNABLE if main_waits else VcpuState.BLOCKED
        states = {"R": VcpuState.RUNNING, "S": asleep}
        return VcpuUse(cpu, ran, states.get(fields[0], VcpuState.RUNNABLE))

    async def connect_domain(self, domain: Domain, timeout: float) -> MachineLink:  # noqa: ASYNC109
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if self.machine.process.poll() is not None:
                raise LinkLostError("QEMU has gone")
            # Notifications may come before: "NN\n4711\n"
            lines = self.machine.notified().split(b"\n")
            if len(lines) > 2:
                return MachineLink(domain, self.machine, int(lines[1]))
            await asyncio.sleep(_POLL_S)
        raise FrontendMissingError("vm1: no VESPER modules in the guest")

    async def deactivate_domain(self, domain: Domain) -> None: ...

    async def follow_events(self) -> AsyncIterator[DomainEvent]:
        await asyncio.Event().wait()
        yield DomainEvent(None)
