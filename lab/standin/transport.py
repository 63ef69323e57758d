# SPDX-License-Identifier: GPL-2.0-or-later
"""The transport to stand-in guests: a shared file and a Unix socket."""

from __future__ import annotations

import asyncio
import mmap
import os
import socket
from collections.abc import AsyncIterator, Callable

from lab.standin import registry
from lab.standin.memory import CCHAN_PAGE
from lab.standin.registry import Place
from vesper_monitor.guest import abi
from vesper_monitor.hypervisor.domain_state import DomainState
from vesper_monitor.hypervisor.transport import (
    CpuUse,
    Domain,
    DomainEvent,
    DomainReport,
    FrontendSilentError,
    LinkLostError,
    Notice,
    TransportError,
    VcpuState,
    VcpuUse,
)

__all__ = ["StandinLink", "StandinMapping", "StandinTransport"]

_POLL_INTERVAL_S = 0.1
#: s
_CLOSE_TIMEOUT_S = 3.0
#: More CPUs than a stand-in guest has.
_CPUS = 16
_VCPU_STATES = {
    "spin": VcpuState.RUNNING,
    "starve": VcpuState.RUNNABLE,
    "sleep": VcpuState.BLOCKED,
}


class StandinMapping:
    """Pages of the guest's file."""

    def __init__(
        self, fd: int, page: int, pages: int, maps: set[StandinMapping], *, writable: bool
    ) -> None:
        """:param maps: all that are not closed."""
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        self._map = mmap.mmap(
            fd, pages * abi.PAGE_SIZE, mmap.MAP_SHARED, protection, offset=page * abi.PAGE_SIZE
        )
        self._view = memoryview(self._map)
        self._maps = maps
        maps.add(self)

    @property
    def view(self) -> memoryview:
        return self._view

    def close(self) -> None:
        self._view.release()
        self._map.close()
        self._maps.discard(self)


class StandinLink:
    """One activated stand-in guest."""

    def __init__(self, domain: Domain, sock: socket.socket) -> None:
        self.domain = domain
        self._sock = sock
        self._fd = os.open(Place(domain.name).memory, os.O_RDWR | os.O_CLOEXEC)
        self._maps: set[StandinMapping] = set()
        self._cchan = StandinMapping(self._fd, CCHAN_PAGE, 1, self._maps, writable=True)
        self._notified: Callable[[], None] | None = None
        self._lost: Callable[[str], None] | None = None
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock, self._handle_readable)

    @property
    def cchan(self) -> StandinMapping:
        return self._cchan

    def map_region(self, handle: int, pages: int, *, writable: bool = False) -> StandinMapping:
        size = os.fstat(self._fd).st_size // abi.PAGE_SIZE
        if not 0 < pages <= abi.MAX_REGION_PAGES or not 0 < handle <= size - pages:
            raise TransportError(
                f"{self.domain.name}: the guest has not shared region {handle:#x}, {pages} pages"
            )
        return StandinMapping(self._fd, handle, pages, self._maps, writable=writable)

    def notify_guest(self) -> None:
        try:
            self._sock.send(b"N")
        except OSError:
            pass  # full: it has not read the last one; closed: _readable() tells

    def on_notify(self, callback: Callable[[], None] | None) -> None:
        self._notified = callback

    def on_lost(self, callback: Callable[[str], None] | None) -> None:
        self._lost = callback

    async def close(self, *, deactivate: bool) -> None:
        self._loop.remove_reader(self._sock)
        if deactivate:
            try:
                self._sock.send(b"D")
            except OSError:
                pass
        self._sock.close()
        for mapping in list(self._maps):
            mapping.close()
        os.close(self._fd)

    def _handle_readable(self) -> None:
        try:
            data = self._sock.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            if self._notified is not None:
                self._notified()
            return
        self._loop.remove_reader(self._sock)
        if self._lost is not None:
            self._lost("the guest has gone")


class StandinTransport:
    """See :class:`vesper_monitor.hypervisor.transport.Transport`."""

    name = "standin"
    watches_arrivals = True

    def __init__(self) -> None:
        self._watched: dict[int, int] = {}  # domid → pidfd
        self._queues: set[asyncio.Queue[DomainEvent]] = set()
        self._task: asyncio.Task[None] | None = None

    @classmethod
    def explain_unusable(cls) -> str | None:
        if "VESPER_STANDIN_DIR" in os.environ:
            return None
        return "VESPER_STANDIN_DIR is not set"

    async def start(self) -> None:
        registry.base_directory().mkdir(parents=True, exist_ok=True)
        self._task = asyncio.create_task(self._look_at_domains())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for domid in list(self._watched):
            self._unwatch_process(domid)

    async def list_domains(self) -> list[Domain]:
        found = [await self.find_domain(name) for name in registry.list_domain_names()]
        return [domain for domain in found if domain is not None]

    async def find_domain(self, name: str) -> Domain | None:
        record = Place(name).read_record()
        if record is None:
            return None
        # Not only in _look(): whoever knows of a domain must learn of its death.
        self._watch_process(record.domid, record.pid)
        return Domain(record.name, record.domid, record.uuid)

    async def report_domain(self, domain: Domain) -> DomainReport:
        record = Place(domain.name).read_record()
        if record is None or record.uuid != domain.uuid:
            return DomainReport(DomainState.GONE)
        return DomainReport(DomainState(record.state))

    async def cpu_use(self, domain: Domain) -> CpuUse:
        ran, what = Place(domain.name).read_cpu_state()
        vcpus = tuple(VcpuUse(cpu, ran, _VCPU_STATES[what]) for cpu in range(_CPUS))
        return CpuUse((await self.report_domain(domain)).state, vcpus)

    async def list_active_domains(self) -> list[Domain]:
        return [d for d in await self.list_domains() if Place(d.name).active.exists()]

    async def connect_domain(self, domain: Domain, timeout: float) -> StandinLink:  # noqa: ASYNC109
        try:
            async with asyncio.timeout(timeout):
                while True:
                    if (await self.report_domain(domain)).state is DomainState.GONE:
                        raise LinkLostError(f"{domain.name}: the domain has gone")
                    sock = await self._try_connect(domain)
                    if sock is not None:
                        return StandinLink(domain, sock)
                    await asyncio.sleep(_POLL_INTERVAL_S)
        except TimeoutError:
            raise FrontendSilentError(
                f"{domain.name}: no VESPER modules in the guest (load vesper and vesper_xen there)"
            ) from None

    async def deactivate_domain(self, domain: Domain) -> None:
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                sock = await self._try_connect(domain)
        except TimeoutError:
            raise TransportError(f"{domain.name}: the guest has not let go") from None
        if sock is not None:
            await StandinLink(domain, sock).close(deactivate=True)

    async def follow_events(self) -> AsyncIterator[DomainEvent]:
        queue: asyncio.Queue[DomainEvent] = asyncio.Queue()
        self._queues.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._queues.discard(queue)

    async def _try_connect(self, domain: Domain) -> socket.socket | None:
        loop = asyncio.get_running_loop()
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        try:
            await loop.sock_connect(sock, str(Place(domain.name).link))
            if await loop.sock_recv(sock, 1) == b"R":
                return sock
        except OSError:
            pass
        except BaseException:
            sock.close()
            raise
        sock.close()
        return None

    async def _look_at_domains(self) -> None:
        """New domains by looking, deaths by pidfd, states by looking."""
        states: dict[int, str] = {}
        resets: dict[int, int] = {}
        while True:
            for name in registry.list_domain_names():
                record = Place(name).read_record()
                if record is None:
                    continue
                if states.get(record.domid) != record.state:
                    states[record.domid] = record.state
                    self._watch_process(record.domid, record.pid)
                    self._tell_notice(record.domid)
                if resets.setdefault(record.domid, record.resets) != record.resets:
                    resets[record.domid] = record.resets
                    self._tell_notice(
                        record.domid, Notice("reboot", "the guest reboots", reset=True)
                    )
            await asyncio.sleep(_POLL_INTERVAL_S)

    def _watch_process(self, domid: int, pid: int) -> None:
        if domid in self._watched:
            return
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        self._watched[domid] = pidfd
        asyncio.get_running_loop().add_reader(pidfd, self._handle_death, domid)

    def _unwatch_process(self, domid: int) -> None:
        pidfd = self._watched.pop(domid)
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)

    def _handle_death(self, domid: int) -> None:
        self._unwatch_process(domid)
        self._tell_notice(domid)

    def _tell_notice(self, domid: int, notice: Notice | None = None) -> None:
        for queue in self._queues:
            queue.put_nowait(DomainEvent(domid, notice))
