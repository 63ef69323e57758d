# SPDX-License-Identifier: GPL-2.0-or-later
"""The link to a guest whose half is written by hand, over a real holder."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvm_transport.doorbells import Doorbells
from kvm_transport.ivshmem_client import IvshmemClient
from kvm_transport.link import KvmLink, is_activated
from kvm_transport.memory import SharedMemory
from tests.unit.support.standins import until
from tests.unit.transports.support.ivshmem_servers import HolderProcess, StandinQemu, holder
from vesper_monitor.guest import abi
from vesper_monitor.hypervisor.transport import (
    Domain,
    FrontendMissingError,
    FrontendSilentError,
    LinkLostError,
    TransportError,
)

DOMAIN = Domain("vm1", 1, "00000000-0000-0000-0000-000000000001")
SIZE = 1 << 20
PAGE = abi.PAGE_SIZE


@pytest.fixture
def running(tmp_path: Path) -> Iterator[HolderProcess]:
    with holder(tmp_path, "--size", "1") as process:
        yield process


async def connect(running: HolderProcess, timeout: float = 20.0) -> KvmLink:  # noqa: ASYNC109
    holding = IvshmemClient(running.control)
    return await KvmLink.connect_guest(holding, os.getpid(), DOMAIN, timeout, Doorbells())


async def up(running: HolderProcess, qemu: StandinQemu, epoch: int = 1) -> KvmLink:
    """Connect, and answer for the guest."""
    task = asyncio.create_task(connect(running))
    old = qemu.head().wanted
    await until(lambda: qemu.head().wanted not in (0, old) or task.done(), "wanted")
    qemu.come_up(epoch)
    return await task


def with_link(
    running: HolderProcess, body: Callable[[StandinQemu, KvmLink], Awaitable[None]]
) -> None:
    async def run() -> None:
        qemu = StandinQemu(running.qemu)
        link = await up(running, qemu)
        try:
            await body(qemu, link)
        finally:
            await link.close(deactivate=False)
            qemu.close()

    asyncio.run(run())


def test_pages_are_shared_and_notifications_arrive(running: HolderProcess) -> None:
    async def body(qemu: StandinQemu, link: KvmLink) -> None:
        link.cchan.view[:4] = b"chan"
        assert bytes(qemu.view[PAGE : PAGE + 4]) == b"chan"
        qemu.view[8 * PAGE : 8 * PAGE + 4] = b"data"
        region = link.map_region(8 * PAGE, 2)
        assert bytes(region.view[:4]) == b"data"
        with pytest.raises(TypeError):
            region.view[0] = 1
        heard: list[None] = []
        link.on_notify(lambda: heard.append(None))
        qemu.ring()
        await until(lambda: heard, "notified")
        for again in (2, 3):  # though nobody reads the eventfd
            qemu.ring()
            await until(lambda again=again: len(heard) == again, "notified again")  # type: ignore[misc]
        qemu.rung()
        link.notify_guest()
        assert qemu.rung() == 1
        region.close()
        region.close()

    with_link(running, body)


def test_deactivating_waits_until_the_guest_is_idle(running: HolderProcess) -> None:
    async def body(qemu: StandinQemu, link: KvmLink) -> None:
        lost: list[str] = []
        link.on_lost(lost.append)
        task = asyncio.create_task(link.close(deactivate=True))
        await until(lambda: qemu.head().wanted == 0, "not wanted any more")
        qemu.set("state", abi.ShmState.IDLE)
        qemu.ring()
        await asyncio.wait_for(task, 10)
        await link.close(deactivate=True)
        assert lost == []
        assert not await is_activated(IvshmemClient(running.control), os.getpid(), DOMAIN)

    with_link(running, body)


def test_deactivate_works_without_a_link(running: HolderProcess) -> None:
    """What an earlier daemon has left, or one that never came to an understanding."""

    async def body(qemu: StandinQemu, link: KvmLink) -> None:
        await link.close(deactivate=False)
        ending = KvmLink.end_activation(
            IvshmemClient(running.control), os.getpid(), DOMAIN, Doorbells()
        )
        task = asyncio.create_task(ending)
        await until(lambda: qemu.head().wanted == 0, "not wanted any more")
        qemu.set("state", abi.ShmState.IDLE)
        qemu.ring()
        await asyncio.wait_for(task, 10)
        assert not await is_activated(IvshmemClient(running.control), os.getpid(), DOMAIN)

    with_link(running, body)


def test_the_next_daemon_takes_a_link_over(running: HolderProcess) -> None:
    """The guest's answer is asked for again: what lies there may be a dead kernel's."""

    async def body(qemu: StandinQemu, link: KvmLink) -> None:
        await link.close(deactivate=False)
        assert qemu.head().state == abi.ShmState.ACTIVE
        assert await is_activated(IvshmemClient(running.control), os.getpid(), DOMAIN)
        with pytest.raises(FrontendSilentError, match="load the modules") as silent:
            await connect(running, 0.5)
        assert silent.value.was_active
        second = await up(running, qemu)
        await second.close(deactivate=False)

    with_link(running, body)


@pytest.mark.parametrize(("field", "value"), [("state", 1), ("state", 0), ("epoch", 2)])
def test_the_guest_closes_or_starts_anew(running: HolderProcess, field: str, value: int) -> None:
    async def body(qemu: StandinQemu, link: KvmLink) -> None:
        lost: list[str] = []
        link.on_lost(lost.append)
        qemu.set(field, value)
        qemu.ring()
        await until(lambda: lost, "lost")
        assert lost == ["the guest has closed its VESPER device"]

    with_link(running, body)


def test_the_end_of_qemu_loses_the_link(running: HolderProcess) -> None:
    async def body(qemu: StandinQemu, link: KvmLink) -> None:
        lost: list[str] = []
        link.on_lost(lost.append)
        qemu.connection.close()
        await until(lambda: lost, "lost")
        assert "QEMU has ended" in lost[0]
        assert bytes(link.cchan.view[:1]) == b"\0"  # its memory can still be read

    with_link(running, body)


def test_the_end_of_qemu_ends_the_wait_for_its_guest(running: HolderProcess) -> None:
    async def body() -> None:
        qemu = StandinQemu(running.qemu)
        task = asyncio.create_task(connect(running))
        await until(lambda: qemu.head().wanted, "wanted")
        qemu.close()
        with pytest.raises(LinkLostError, match="QEMU has ended"):
            await task
        with pytest.raises(FrontendMissingError, match="has no VESPER device"):
            await connect(running, 0.1)
        task = asyncio.create_task(connect(running))
        await asyncio.sleep(0)
        second = StandinQemu(running.qemu)  # the device is plugged in
        await until(lambda: second.head().wanted, "wanted")
        second.come_up()
        link = await task
        await link.close(deactivate=False)
        second.close()

    asyncio.run(body())


def test_the_end_of_the_ivshmem_server_loses_no_link(running: HolderProcess) -> None:
    """The link does not need it."""

    async def body(qemu: StandinQemu, link: KvmLink) -> None:
        lost: list[str] = []
        heard: list[None] = []
        link.on_lost(lost.append)
        link.on_notify(lambda: heard.append(None))
        running.kill()
        with pytest.raises(TransportError, match="systemctl start vesper-ivshmem"):
            await connect(running)
        qemu.ring()
        await until(lambda: heard, "notified")
        assert lost == []

    with_link(running, body)


def test_a_request_that_a_migration_overwrites_is_made_again(running: HolderProcess) -> None:
    """What was asked for before the guest's memory arrived is asked for again."""

    async def body() -> None:
        qemu = StandinQemu(running.qemu)
        task = asyncio.create_task(connect(running))
        await until(lambda: qemu.head().wanted, "wanted")
        qemu.set("wanted", 99)
        await until(lambda: qemu.head().wanted != 99, "wanted again")
        qemu.come_up()
        link = await task
        await link.close(deactivate=False)
        qemu.close()

    asyncio.run(body())


def test_a_guest_that_cannot_share_is_an_error(running: HolderProcess) -> None:
    async def body() -> None:
        qemu = StandinQemu(running.qemu)
        task = asyncio.create_task(connect(running))
        await until(lambda: qemu.head().wanted, "wanted")
        qemu.set("answer", qemu.head().wanted)
        qemu.ring()
        with pytest.raises(TransportError, match="kernel log"):
            await task
        qemu.close()

    asyncio.run(body())


def sealed(size: int) -> int:
    descriptor = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    return descriptor


@given(
    st.integers(0, 1 << 64).map(lambda n: n & ~4095) | st.integers(0, 2 * SIZE),
    st.integers(-2, 2000),
)
def test_any_region_is_mapped_or_refused(offset: int, pages: int) -> None:
    """Either it lies in the memory behind the head, or it is refused."""
    descriptor = sealed(SIZE)
    memory = SharedMemory(descriptor)
    os.close(descriptor)
    try:
        region = memory.map_region(offset, pages, writable=False)
    except TransportError:
        pass
    else:
        assert pages > 0 and offset % PAGE == 0
        assert offset >= PAGE and offset + pages * PAGE <= SIZE
        assert len(region.view) == pages * PAGE
    memory.close()
    memory.close()


def test_regions_that_were_closed_are_forgotten() -> None:
    """A guest may have one after the other mapped."""
    memory = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.ftruncate(memory, SIZE)
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    shared = SharedMemory(memory)
    for _ in range(100):
        shared.map_region(PAGE, 1, writable=False).close()
    assert len(shared._regions) == 1  # the head
    shared.close()
    os.close(memory)


def test_memory_that_could_be_cut_short_is_refused() -> None:
    descriptor = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, SIZE)
    with pytest.raises(TransportError, match="sealed"):
        SharedMemory(descriptor)
    os.close(descriptor)
    small = sealed(PAGE)
    with pytest.raises(TransportError, match="bytes only"):
        SharedMemory(small)
    os.close(small)
