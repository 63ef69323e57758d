# SPDX-License-Identifier: GPL-2.0-or-later
"""A real guest kernel in QEMU, whose RAM is a file that tests can map.

See machine_transport.py, which reads it.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lab import images
from lab.xen.qmp import Qmp
from tests.kernel.support.initrd import LOAD_MODULES, MOUNT_ALL, build_initrd

__all__ = [
    "RAM_BYTES",
    "Machine",
    "cpu_model",
    "machine",
    "restored",
    "takes_new_cpus",
]

#: bytes. The OOM killer has to come soon; KASAN takes an eighth and more.
RAM_BYTES = (512 if os.environ.get("VESPER_KERNEL") == "debug" else 256) << 20
#: s for a guest to boot: emulated, on a busy machine.
BOOT_LIMIT_S = 120.0


def cpu_model(release: str) -> str:
    """Return the name of QEMU's CPU model for a kernel release.

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
    """A QEMU process and its guest. ``tell()`` gives the guest's shell a line.

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
        """Start QEMU.

        :param more: of QEMU's arguments.
        """
        self.process = subprocess.Popen(
            [*self.command, *more], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )

    @property
    def console(self) -> str:
        return (self.directory / "console").read_text(errors="replace").replace("\r", "")

    def connect(self) -> None:
        """Connect to the guest's shell."""
        end = time.monotonic() + BOOT_LIMIT_S
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

    def wait_said(self, line: str, limit: float = BOOT_LIMIT_S) -> None:
        """Wait until the guest's console has this line."""
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
            connection.save_machine(path, timeout=BOOT_LIMIT_S)
        self.process.kill()
        self.process.wait(10)

    def restore(self, path: Path) -> None:
        """Continue what :meth:`save` has saved, of this guest or one like it."""
        for file in ("shell", "qmp"):
            (self.directory / file).unlink(missing_ok=True)
        self.start("-incoming", f"exec:cat '{path}'")
        with Qmp(self.directory / "qmp") as connection:
            connection.wait_status("running", "paused", timeout=BOOT_LIMIT_S)
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
    memory: int = RAM_BYTES,
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
    """Run another guest that continues a saved one, which takes a second instead of a boot."""
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
