# SPDX-License-Identifier: GPL-2.0-or-later
"""A real guest kernel in QEMU, watched from outside, and the transport to it.

QEMU keeps the guest's RAM in a file, which the tests map as a host maps a
guest's pages (guest_modules/vsp_ram.c). So the core's own code writes, and
the daemon's own code reads, also while the guest's kernel is dead, paused, or
gone. What Xen has and this has not: grants, and a notification to the guest.
"""

from __future__ import annotations

import asyncio
import ctypes
import mmap
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lab import images
from lab.xen.qmp import Qmp, QmpError
from tests.kernel.support.initrd import LOAD_MODULES, MOUNT_ALL, build_initrd
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

__all__ = [
    "RAM",
    "Machine",
    "MachineTransport",
    "cpu_model",
    "machine",
    "restored",
    "takes_new_cpus",
]

#: bytes. The OOM killer has to come soon; KASAN takes an eighth and more.
RAM = (512 if os.environ.get("VESPER_KERNEL") == "debug" else 256) << 20
#: s for a guest to boot: emulated, on a busy machine.
BOOT = 120.0
_POLL = 0.01

def cpu_model(release: str) -> str:
    """QEMU's.

    Linux 6.12 crashes in its slab allocator about half the time with this instruction as
    QEMU 7.2 emulates it.
    """
    return "max" if release.startswith(("5.10.", "6.1.")) else "max,-cx16"


def takes_new_cpus(release: str) -> bool:
    """Whether a CPU can be plugged in.

    Linux after 6.1 takes none where it sees none of the hypervisors that it knows, of which
    QEMU's emulation is not ("plus 0 hotplug CPUs" in its log).
    """
    return release.startswith(("5.10.", "6.1."))


INIT = (
    MOUNT_ALL
    + LOAD_MODULES
    + """\
insmod /%s.ko
# Opened first: what comes before that is lost.
exec 3</dev/ttyS1
echo "the guest is up"
# Commands come in lines, as long as there is somebody to run them.  As an
# argument of "command" one that fails (no memory to fork) does not end the shell.
while read -r line <&3; do command eval "$line"; done
"""
)


class Machine:
    """A QEMU. ``tell()`` gives the guest's shell a line.

    :ivar saved: the guest is in a file, and no QEMU runs.
    """

    def __init__(self, directory: Path, command: Sequence[str | Path], ram: Path) -> None:
        self.directory = directory
        self.command = command
        self.ram = ram
        self.saved = False
        self._shell = socket.socket(socket.AF_UNIX)
        for file in ("console", "notify"):
            (directory / file).touch()
        self.process: subprocess.Popen[bytes]

    def start(self, *more: str) -> None:
        """:param more: of QEMU's arguments."""
        self.process = subprocess.Popen(
            [*self.command, *more], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )

    @property
    def console(self) -> str:
        return (self.directory / "console").read_text(errors="replace").replace("\r", "")

    def connect(self) -> None:
        """To the guest's shell."""
        end = time.monotonic() + BOOT
        self._shell.close()
        while True:
            self._shell = socket.socket(socket.AF_UNIX)
            try:
                self._shell.connect(str(self.directory / "shell"))
                return
            except (FileNotFoundError, ConnectionRefusedError):
                self._shell.close()
                assert time.monotonic() < end and self.process.poll() is None
                time.sleep(0.02)

    def wait_said(self, line: str, limit: float = BOOT) -> None:
        """Until the guest's console has it."""
        end = time.monotonic() + limit
        while f"{line}\n" not in self.console:
            assert time.monotonic() < end and self.process.poll() is None, self.console
            time.sleep(0.1)

    def tell(self, line: str) -> None:
        self._shell.send(line.encode() + b"\n")

    def qmp(self, word: str, **arguments: object) -> object:
        with Qmp(self.directory / "qmp") as connection:
            return connection.execute_command(word, **arguments)

    def save(self, path: Path) -> None:
        """Stop the guest and write it into a file; QEMU ends."""
        with Qmp(self.directory / "qmp") as connection:
            connection.execute_command("stop")
            self.saved = True
            connection.save_machine(path, timeout=BOOT)
        self.process.kill()
        self.process.wait(10)

    def restore(self, path: Path) -> None:
        """Go on with what was saved: by :meth:`save`, of this guest or one like it."""
        for file in ("shell", "qmp"):
            (self.directory / file).unlink(missing_ok=True)
        self.start("-incoming", f"exec:cat '{path}'")
        with Qmp(self.directory / "qmp") as connection:
            connection.wait_status("running", "paused", timeout=BOOT)
            connection.execute_command("cont")
        self.connect()
        self.saved = False

    def notified(self) -> bytes:
        return (self.directory / "notify").read_bytes()

    def close(self) -> None:
        self._shell.close()
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait(10)
        self.ram.unlink(missing_ok=True)


def _command(
    kernel: images.Kernel,
    directory: Path,
    ram: Path,
    smp: str,
    cmdline: str,
    counted: bool,
) -> list[str | Path]:
    # The vCPUs' threads are their own: their CPU time tells what they do.
    accel = ["tcg", "-icount", "shift=0"] if counted else ["tcg,thread=multi"]
    return [
        "qemu-system-x86_64", "-accel", *accel, "-cpu", cpu_model(kernel.release),
        "-M", "q35,memory-backend=ram", "-m", f"{ram.stat().st_size >> 20}", "-smp", smp,
        "-object", f"memory-backend-file,id=ram,size={ram.stat().st_size},mem-path={ram},share=on",
        "-nodefaults", "-nographic", "-no-reboot",
        "-chardev", f"socket,id=shell,path={directory / 'shell'},server=on,wait=off",
        "-chardev", f"file,id=console,path={directory / 'console'},append=on",
        "-serial", "chardev:console", "-serial", "chardev:shell",
        "-chardev", f"file,id=notify,path={directory / 'notify'},append=on",
        "-device", "isa-debugcon,iobase=0xe9,chardev=notify",
        "-qmp", f"unix:{directory / 'qmp'},server=on,wait=off",
        "-kernel", kernel.vmlinux, "-initrd", directory / "initrd",
        "-append", f"console=ttyS0 quiet no_timer_check {cmdline}",
    ]  # fmt: skip


@contextmanager
def machine(
    kernel: images.Kernel,
    files: Sequence[Path],
    directory: Path,
    *,
    cpus: int = 2,
    max_cpus: int | None = None,
    cmdline: str = "",
    memory: int = RAM,
    modules: Sequence[str] = (),
    frontend: str = "vsp_ram",
    qemu: Sequence[str] = (),
    counted: bool = False,
    init: str = INIT,
) -> Iterator[Machine]:
    """Boot a guest that has the core and a frontend loaded.

    :param files: modules and programs, as of the fixture ``test_guest``.
    :param max_cpus: with those that can be plugged in later.
    :param modules: Debian's, by name, loaded first.
    :param frontend: name of its module.
    :param qemu: more of QEMU's arguments.
    :param counted: its clock goes by the instructions that it executes: one is 1 ns.
    :param init: PID 1's script, with a place for the frontend's name.
    """
    initrd = build_initrd(kernel, files, init % frontend, modules=modules)
    (directory / "initrd").write_bytes(initrd)
    smp = f"{cpus},maxcpus={max_cpus or cpus}"
    with _ram(memory) as ram:
        command = _command(kernel, directory, ram, smp, cmdline, counted)
        found = Machine(directory, [*command, *qemu], ram)
        found.start()
        try:
            found.connect()
            found.wait_said("the guest is up")
            yield found
        finally:
            found.close()


@contextmanager
def restored(original: Machine, saved: Path, directory: Path) -> Iterator[Machine]:
    """Another guest that goes on where one was saved, in a second instead of a boot."""
    for file in ("initrd", "notify"):
        shutil.copy(original.directory / file, directory)
    with _ram(original.ram.stat().st_size) as ram:
        command = [
            str(word)
            .replace(str(original.directory), str(directory))
            .replace(str(original.ram), str(ram))
            for word in original.command
        ]
        found = Machine(directory, command, ram)
        try:
            found.restore(saved)
            yield found
        finally:
            found.close()


@contextmanager
def _ram(size: int) -> Iterator[Path]:
    descriptor, name = tempfile.mkstemp(prefix="vesper-test-", dir="/dev/shm")
    os.truncate(descriptor, size)
    os.close(descriptor)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
]  # fmt: skip
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_MAP_FIXED = 0x10


class FrameMapping:
    """Frames of the guest's RAM, side by side."""

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
            await asyncio.sleep(_POLL)


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
        """QEMU's threads are the CPUs: what the host's kernel says of them."""
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
        """proc(5), from the state on."""
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
            await asyncio.sleep(_POLL)
        raise FrontendMissingError("vm1: no VESPER modules in the guest")

    async def deactivate_domain(self, domain: Domain) -> None: ...

    async def follow_events(self) -> AsyncIterator[DomainEvent]:
        await asyncio.Event().wait()
        yield DomainEvent(None)
