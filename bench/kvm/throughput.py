# SPDX-License-Identifier: GPL-2.0-or-later
"""Records per second that a session reads and turns into events.

The guests are stand-ins (writer.c): processes that write into real shared
memory, of a real holder, over real links; each with one CPU's buffer.  Sessions
are those of the daemon, all in one process on one loop; what comes after them
(rules, journal) is not part of it.  Writers and sessions share this machine's
CPUs, so a busy machine loses records that an idle one would not.
"""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from kvm_transport.doorbells import Doorbells
from kvm_transport.ivshmem_client import IvshmemClient
from kvm_transport.link import KvmLink
from lab.images import store
from lab.session_listener import EventListener
from tests.unit.support.standins import until
from tests.unit.transports.support.ivshmem_servers import holder
from vesper_monitor.guest.control.images import ImageStore
from vesper_monitor.guest.event import Event
from vesper_monitor.guest.session import Session
from vesper_monitor.hypervisor.domain_state import DomainState
from vesper_monitor.hypervisor.transport import Domain, DomainEvent, DomainReport

__all__ = ["measure_all_loads"]

HERE = Path(__file__).parent


@dataclass
class Load:
    guests: int
    rate: float  #: records per second, of all guests together; 0: as many as they can
    buffer_kb: int  #: of each guest
    words: bool  #: events are made into fields and words, as for rules and journal


LOADS = (
    Load(1, 50_000, 64, True),
    Load(1, 50_000, 2048, True),
    Load(16, 50_000, 64, True),
    Load(1, 0, 2048, False),
    Load(1, 0, 2048, True),
    Load(16, 0, 2048, True),
)


@dataclass
class Result:
    load: Load
    written: int
    read: int
    lost: int
    seconds: float
    cpu: float  #: s of the process with the sessions

    @property
    def table_row(self) -> str:
        rate = f"{self.load.rate:.0f}/s" if self.load.rate else "all it can"
        per_core = self.read / self.cpu if self.cpu else 0.0
        return (
            f"{self.load.guests:6}{rate:>12}{self.load.buffer_kb:>8} KB"
            f"{'words' if self.load.words else 'read':>7}"
            f"{self.written / self.seconds:12.0f}{self.read / self.seconds:12.0f}"
            f"{self.lost:10}{self.cpu / self.seconds:9.0%}{per_core:14.0f}"
        )


class WriterTransport:
    """The stand-ins as domains; see :class:`vesper_monitor.hypervisor.transport.Transport`."""

    name = "bench"

    def __init__(self, control: str) -> None:
        self.holder = IvshmemClient(control)

    @classmethod
    def explain_unusable(cls) -> str | None:
        return None

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    async def list_domains(self) -> list[Domain]:
        return []

    async def find_domain(self, name: str) -> Domain | None:
        return None

    async def list_active_domains(self) -> list[Domain]:
        return []

    async def report_domain(self, domain: Domain) -> DomainReport:
        return DomainReport(DomainState.RUNNING)

    async def connect_domain(self, domain: Domain, timeout: float) -> KvmLink:  # noqa: ASYNC109
        return await KvmLink.connect_guest(self.holder, domain.domid, domain, timeout, Doorbells())

    async def deactivate_domain(self, domain: Domain) -> None: ...

    async def follow_events(self) -> AsyncIterator[DomainEvent]:
        await asyncio.Event().wait()
        yield DomainEvent(None)


class Guest:
    """One stand-in and its session."""

    def __init__(self, transport: WriterTransport, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.read = self.lost = 0
        self.words = True
        domain = Domain(f"vm{process.pid}", process.pid, f"{process.pid}")
        self.session = Session(
            transport, domain, ImageStore(Path("/nonexistent")), EventListener(self._count_events)
        )

    def _count_events(self, events: list[Event]) -> None:
        for event in events:
            if event.event == "lost":
                self.lost += event.fields["count"]
            else:
                self.read += 1
                if self.words:
                    _ = event.text

    async def write_records(self, rate: float, seconds: float) -> int:
        """:returns: records written."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{rate} {seconds}\n".encode())
        return int(await self.process.stdout.readline())


@asynccontextmanager
async def _open_stand_in(
    transport: WriterTransport, program: Path, socket: str, buffer_kb: int
) -> AsyncIterator[Guest]:
    process = await asyncio.create_subprocess_exec(
        program, socket, str(buffer_kb << 8), "4",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        guest = Guest(transport, process)
        task = asyncio.create_task(guest.session.run_session())
        try:
            await until(lambda: guest.session.probes, "the stand-in's channel", 30)
            yield guest
        finally:
            await guest.session.close_session(deactivate=False)
            await task
    finally:
        process.kill()
        await process.wait()


def _read_cpu_time() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def _measure_load(
    load: Load, transport: WriterTransport, program: Path, socket: str, seconds: float
) -> Result:
    async with AsyncExitStack() as stack:
        guests = [
            await stack.enter_async_context(
                _open_stand_in(transport, program, socket, load.buffer_kb)
            )
            for _ in range(load.guests)
        ]
        for guest in guests:
            guest.words = load.words
        start, cpu = time.monotonic(), _read_cpu_time()
        each = load.rate / load.guests
        written = sum(
            await asyncio.gather(*(guest.write_records(each, seconds) for guest in guests))
        )
        taken, cpu = time.monotonic() - start, _read_cpu_time() - cpu
        await asyncio.sleep(0.5)  # the rest, which the figures of time leave out
        read, lost = sum(guest.read for guest in guests), sum(guest.lost for guest in guests)
        return Result(load, written, read, lost, taken, cpu)


def measure_all_loads(directory: Path, seconds: float) -> list[dict[str, object]]:
    """One result for each load."""
    directory.mkdir()
    program = directory / "writer"
    store.run_build_command(
        ["gcc", "-O2", "-Wall", "-Wextra", "-o", program, HERE / "writer.c"], timeout=60
    )
    results = []
    with holder(directory) as process:
        transport = WriterTransport(process.control)
        print(
            f"{'guests':>6}{'wanted':>12}{'buffer':>11}{'':7}{'written/s':>12}{'read/s':>12}"
            f"{'lost':>10}{'CPU':>9}{'read/s of CPU':>14}"
        )
        for load in LOADS:
            result = asyncio.run(_measure_load(load, transport, program, process.qemu, seconds))
            print(result.table_row, flush=True)
            results.append(asdict(result))
    return results
