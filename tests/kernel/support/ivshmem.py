# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest on QEMU with VESPER's device: real frontend, real holder, real session."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from kvm_transport.doorbells import Doorbells
from kvm_transport.ivshmem_client import IvshmemClient
from kvm_transport.link import KvmLink
from lab import images
from lab.images.probes import FRONTENDS
from lab.session_listener import EventListener
from lab.xen.qmp import Qmp, QmpError
from tests.kernel.support.machine import Machine, MachineTransport, machine
from tests.unit.support.standins import until
from tests.unit.transports.support.ivshmem_servers import HolderProcess, holder
from vesper_monitor.guest.control.images import ImageStore
from vesper_monitor.guest.dynamic_probes.point import DynamicProbe
from vesper_monitor.guest.dynamic_probes.program import IMAGE
from vesper_monitor.guest.event import Event
from vesper_monitor.guest.relay.positions import Position
from vesper_monitor.guest.session import Session
from vesper_monitor.guest.session_listener import SessionSettings
from vesper_monitor.guest.session_state import ProbeState, SessionState
from vesper_monitor.hypervisor.domain_state import DomainState
from vesper_monitor.hypervisor.transport import Domain, DomainReport
from vesper_monitor.knowledge import probes

__all__ = ["SLOW", "KvmMachine", "Watch", "kvm_machine", "watch"]

#: s for a kernel under emulation to do what was asked for, on a busy machine.
SLOW = 60.0

#: Those that need no definition (as a point does).
PROBES = tuple(sorted(set(probes.PROBES) - {IMAGE}))


class KvmMachine(MachineTransport):
    """The machine as a transport."""

    def __init__(self, guest: Machine, process: HolderProcess, store: Path) -> None:
        super().__init__(guest)
        self.holder = process
        self.store = store
        self.qmp = Qmp(guest.directory / "qmp")

    async def report_domain(self, domain: Domain) -> DomainReport:
        running = self.machine.process.poll() is None
        return DomainReport(DomainState.RUNNING if running else DomainState.GONE)

    async def connect_domain(self, domain: Domain, timeout: float) -> KvmLink:  # type: ignore[override]  # noqa: ASYNC109
        holder, pid = IvshmemClient(self.holder.control), self.machine.process.pid
        return await KvmLink.connect_guest(holder, pid, domain, timeout, Doorbells())

    async def deactivate_domain(self, domain: Domain) -> None:
        holder, pid = IvshmemClient(self.holder.control), self.machine.process.pid
        await KvmLink.end_activation(holder, pid, domain, Doorbells())

    def run_state(self) -> str:
        """QEMU's word for it."""
        return str(self.qmp.execute_command("query-status")["status"])

    def plug_in_cpu(self) -> None:
        """The next one that there is room for."""
        slots = self.qmp.execute_command("query-hotpluggable-cpus")
        free = [slot for slot in slots if "qom-path" not in slot]
        slot = min(free, key=lambda slot: slot["props"]["core-id"])
        self.qmp.execute_command("device_add", driver=slot["type"], id="cpu", **slot["props"])

    def unplug(self) -> None:
        """Ask the guest to let go of the device; the next is connected already.

        Without irqfd, QEMU 7.2 leaves the handler of a device's eventfd behind
        (watch_vector_notifier(), hw/misc/ivshmem.c) and calls it for whatever
        gets the same descriptor's number: so nothing is opened in between.
        """
        address = {"type": "unix", "data": {"path": self.holder.qemu}}
        backend = {"type": "socket", "data": {"addr": address, "server": False}}
        self.qmp.execute_command("chardev-add", id="next", backend=backend)
        self.qmp.execute_command("device_del", id="ivshmem0")

    def unplugged(self) -> bool:
        """Whether the guest has let go; then the connection is ended, too."""
        try:
            self.qmp.execute_command("chardev-remove", id="vesper")
        except QmpError:
            return False
        return True

    def plug_in(self) -> None:
        self.qmp.execute_command(
            "device_add",
            driver="ivshmem-doorbell",
            id="ivshmem1",
            bus="port0",
            chardev="next",
            vectors=1,
            master=True,
        )


@contextmanager
def kvm_machine(
    kernel: images.Kernel,
    files: tuple[Path, ...],
    directory: Path,
    *,
    cpus: int = 2,
    max_cpus: int | None = None,
    cmdline: str = "",
    modules: Sequence[str] = (),
    more: Sequence[str] = (),
    qemu: Sequence[str] = (),
    counted: bool = False,
) -> Iterator[KvmMachine]:
    """
    :param modules: Debian's, by name, loaded first.
    :param more: modules that go into the guest, too.
    :param qemu: more of QEMU's arguments.
    :param counted: see :func:`machine`.
    :param files: modules and programs; those that are probes do not go into
        the guest.
    """
    store = directory / "probes" / kernel.release
    store.mkdir(parents=True)
    for path in files:
        if path.stem in (*PROBES, IMAGE):
            (store / path.name).write_bytes(path.read_bytes())
    arguments = [
        "-device", "pcie-root-port,id=port0,chassis=1",
        "-chardev", f"socket,path={directory}/qemu.sock,id=vesper",
        "-device", "ivshmem-doorbell,id=ivshmem0,bus=port0,chardev=vesper,vectors=1,master=on",
        *qemu,
    ]  # fmt: skip
    needed = {"vesper", *FRONTENDS, *more}
    guest_files = tuple(p for p in files if p.suffix != ".ko" or p.stem in needed)
    with (
        holder(directory) as process,
        machine(
            kernel, guest_files, directory, cpus=cpus, max_cpus=max_cpus, cmdline=cmdline,
            modules=modules, frontend="vesper_ivshmem", qemu=arguments, counted=counted,
        ) as guest,
    ):  # fmt: skip
        found = KvmMachine(guest, process, store.parent)
        try:
            yield found
        finally:
            found.qmp.close()


class Watch:
    """A session, and what it has seen."""

    def __init__(
        self, guest: KvmMachine, resume_from: Mapping[Position, int], points: Sequence[DynamicProbe]
    ) -> None:
        self.events: list[Event] = []
        self.states: list[SessionState] = []
        #: gets the events as they come
        self.on_events: Callable[[list[Event]], None] = self.events.extend
        self.session = Session(
            guest,
            guest.domain,
            ImageStore(guest.store),
            EventListener(
                lambda found: self.on_events(found),
                note_change=lambda: self.states.append(self.session.state),
            ),
            SessionSettings(
                dynamic_probes={point.name: point for point in points}, resume_from=resume_from
            ),
        )

    async def collecting(self, *probes: str) -> None:
        """Want these probes, and wait until they are there."""
        await self.session.set_probes(dict.fromkeys(probes, ""))
        await until(
            lambda: (
                {
                    name
                    for name, status in self.session.probes.items()
                    if status.state is ProbeState.COLLECTING
                }
                == set(probes)
            ),
            f"collecting {probes}",
            SLOW,
        )

    def of(self, event: str, **fields: object) -> list[Event]:
        return [
            found
            for found in self.events
            if found.event == event and fields.items() <= found.fields.items()
        ]

    async def see(self, what: Callable[[], object], text: str) -> None:
        await until(what, text, SLOW)


@asynccontextmanager
async def watch(
    guest: KvmMachine,
    resume_from: Mapping[Position, int] | None = None,
    *,
    points: Sequence[DynamicProbe] = (),
    deactivate: bool = False,
) -> AsyncIterator[Watch]:
    """:param points: that may be loaded by their names."""
    watching = Watch(guest, resume_from or {}, points)
    session = watching.session
    task = asyncio.create_task(session.run_session())
    try:
        await until(lambda: session.state is SessionState.ACTIVE, "active", SLOW)
        yield watching
    except BaseException:
        print(guest.machine.console)
        print(session.state, *session.probes.values(), sep="\n")
        raise
    finally:
        await session.close_session(deactivate=deactivate)
        await asyncio.wait_for(task, SLOW)
