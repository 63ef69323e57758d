# SPDX-License-Identifier: GPL-2.0-or-later
"""Xen as a transport: domains, and how a guest is activated."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from weakref import WeakSet

from vesper_monitor.hypervisor.domain_state import DomainState
from vesper_monitor.hypervisor.transport import (
    Cause,
    CpuUse,
    Domain,
    DomainEvent,
    DomainReport,
    FrontendSilentError,
    LinkLostError,
)
from xen_transport import xl_log
from xen_transport.device import BACKENDS, Device, XenbusState
from xen_transport.link import XenLink
from xen_transport.toolstack import DomainList
from xen_transport.xenstore import XenStore, XenStoreError

__all__ = ["XenTransport"]

_READY_STATES = (XenbusState.INITIALISED, XenbusState.CONNECTED)
#: Of domains that have gone since they were seen suspended, some are remembered.
_MAX_SUSPENDED_DOMAINS = 256
#: s for xl to note why a domain has ended.
_END_REASON_LIMIT_S = 1.0
_CLOSED_STATES = (XenbusState.CLOSING, XenbusState.CLOSED, XenbusState.UNKNOWN)


class XenTransport:
    """See :class:`vesper_monitor.hypervisor.transport.Transport`."""

    name = "xen"
    watches_arrivals = True

    def __init__(self) -> None:
        self._store = XenStore()
        self._list = DomainList()
        self._links: WeakSet[XenLink] = WeakSet()
        self._queues: set[asyncio.Queue[DomainEvent]] = set()
        self._sweeping: asyncio.Task[None] | None = None
        #: domains that were last seen suspended
        self._suspended: set[int] = set()

    @classmethod
    def explain_unusable(cls) -> str | None:
        """Whether this is a control domain, by /proc/xen/capabilities."""
        try:
            with open("/proc/xen/capabilities") as file:
                if "control_d" in file.read():
                    return None
        except OSError:
            if not os.path.isdir("/proc/xen"):
                return "this kernel does not run on Xen"
            return "/proc/xen is not mounted (mount -t xenfs none /proc/xen)"
        return "this is a guest of Xen, not its control domain (dom0)"

    async def start(self) -> None:
        self._store = XenStore()
        await self._store.start()
        # These fire once at the start, too: then the sweep is of use as well.
        for path in ("@introduceDomain", "@releaseDomain"):
            await self._store.watch_path(path, self._handle_domain_change)

    async def stop(self) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
        await self._store.stop()

    async def list_domains(self) -> list[Domain]:
        found = []
        for word in await self._store.list_nodes("/local/domain"):
            if word.isdecimal() and word != "0":
                domain = await self._read_domain(int(word))
                if domain is not None:
                    found.append(domain)
        return found

    async def find_domain(self, name: str) -> Domain | None:
        # Of several with one name (one may still be dying) the youngest.
        found = [domain for domain in await self.list_domains() if domain.name == name]
        return max(found, key=lambda domain: domain.domid, default=None)

    async def report_domain(self, domain: Domain) -> DomainReport:
        reports = await self._list.list_reports()
        report = reports.get(domain.domid, DomainReport(DomainState.GONE))
        if report.state in (DomainState.DYING, DomainState.GONE):
            ending = await self._find_ending(domain)
            if ending is not None:
                return DomainReport(report.state, *ending)
            if domain.domid in self._suspended:
                return replace(report, why="it had suspended itself, to be saved or migrated")
            return report
        self._suspended.discard(domain.domid)
        if report.state is DomainState.PAUSED and report.cause is Cause.ASKED:
            if len(self._suspended) >= _MAX_SUSPENDED_DOMAINS:
                self._suspended.remove(min(self._suspended))
            self._suspended.add(domain.domid)
        return report

    async def _find_ending(self, domain: Domain) -> xl_log.Ending | None:
        """xl learns of it when we do."""
        end = asyncio.get_running_loop().time() + _END_REASON_LIMIT_S
        while True:
            text = await xl_log.read_log_tail_in_time(domain.name)
            ending = xl_log.parse_ending(text, domain.domid)
            if ending is not None or not xl_log.is_followed_by_xl(text, domain.domid):
                return ending
            if asyncio.get_running_loop().time() > end:
                return None
            await asyncio.sleep(0.1)

    async def cpu_use(self, domain: Domain) -> CpuUse:
        return await self._list.cpu_use(domain.domid)

    async def list_active_domains(self) -> list[Domain]:
        found = []
        for word in await self._store.list_nodes(BACKENDS):
            domain = await self._read_domain(int(word)) if word.isdecimal() else None
            if domain is None:
                continue
            state = await self._make_device_of(domain).backend_state()
            if state in (XenbusState.INIT_WAIT, XenbusState.CONNECTED):
                found.append(domain)
        return found

    async def connect_domain(self, domain: Domain, timeout: float) -> XenLink:  # noqa: ASYNC109
        """The device's states tell what there is to do, whoever was here before."""
        device = self._make_device_of(domain)
        if await self._read_domain(domain.domid) != domain:
            raise LinkLostError(f"{domain.name}: domain {domain.domid} has gone")
        backend, frontend = await device.backend_state(), await device.frontend_state()
        if (
            backend not in (XenbusState.INIT_WAIT, XenbusState.CONNECTED)
            or frontend in _CLOSED_STATES
        ):
            await device.create_nodes()
        try:
            async with asyncio.timeout(timeout):
                await self._wait_for_frontend(domain, device)
        except TimeoutError:
            raise FrontendSilentError(
                f"{domain.name}: no answer from VESPER in the guest's kernel; load the modules "
                "vesper and vesper_xen there"
            ) from None
        link = XenLink(self._store, device, domain, await device.read_published())
        try:
            if await device.backend_state() is not XenbusState.CONNECTED:
                await device.set_backend(XenbusState.CONNECTED)
            await link.follow_frontend()
        except BaseException:
            await link.close(deactivate=False)
            raise
        self._links.add(link)
        return link

    async def deactivate_domain(self, domain: Domain) -> None:
        device = self._make_device_of(domain)
        if await self._read_domain(domain.domid) != domain:
            return  # what it left goes with the next sweep
        if await device.backend_state() is not XenbusState.UNKNOWN:
            await device.remove_device()

    async def follow_events(self) -> AsyncIterator[DomainEvent]:
        queue: asyncio.Queue[DomainEvent] = asyncio.Queue(16)
        self._queues.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._queues.discard(queue)

    # ---------------------------------------------------------------- helpers

    def _make_device_of(self, domain: Domain) -> Device:
        return Device(self._store, domain.domid, domain.name)

    async def _read_domain(self, domid: int) -> Domain | None:
        name = await self._store.read_node(f"/local/domain/{domid}/name")
        path = await self._store.read_node(f"/local/domain/{domid}/vm")  # /vm/UUID
        if name is None or path is None:
            return None
        # While it comes from another host (tools/xl/xl_migrate.c).
        return Domain(name.removesuffix("--incoming"), domid, path.rpartition("/")[2])

    async def _wait_for_frontend(self, domain: Domain, device: Device) -> None:
        async with self._watch_for_change(device.frontend_state_path) as changed:
            while True:
                changed.clear()
                state = await device.frontend_state()
                if state in _READY_STATES:
                    return
                if state is XenbusState.UNKNOWN and await self._read_domain(domain.domid) != domain:
                    raise LinkLostError(f"{domain.name}: domain {domain.domid} has gone")
                await changed.wait()

    @asynccontextmanager
    async def _watch_for_change(self, path: str) -> AsyncIterator[asyncio.Event]:
        changed = asyncio.Event()
        token = await self._store.watch_path(path, changed.set)
        try:
            yield changed
        finally:
            await self._store.unwatch_path(token)

    def _handle_domain_change(self) -> None:
        for queue in self._queues:
            if not queue.full():  # those in there say the same
                queue.put_nowait(DomainEvent(None))
        for link in list(self._links):
            link.check_frontend()
        if self._sweeping is None or self._sweeping.done():
            self._sweeping = asyncio.ensure_future(self._sweep_dead_devices())

    async def _sweep_dead_devices(self) -> None:
        """Remove what dead domains have left of their devices."""
        try:
            for word in await self._store.list_nodes(BACKENDS):
                if word.isdecimal() and await self._read_domain(int(word)) is None:
                    await self._store.remove_node(f"{BACKENDS}/{word}")
        except XenStoreError:
            pass  # the next change sweeps again
