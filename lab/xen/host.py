# SPDX-License-Identifier: GPL-2.0-or-later
"""One emulated host: a QEMU machine that runs Xen, and the channel into its dom0."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from lab import images
from lab.host import Host, LabError
from lab.xen import disk
from lab.xen.accelerator import Accelerator
from lab.xen.channel import Channel
from lab.xen.qmp import Qmp, QmpError

__all__ = ["HOSTS", "Identity", "XenHost", "find_free_port"]

XEN = (
    "dom0_mem=512M,max:512M dom0_max_vcpus=1 com1=115200,8n1 console=com1 "
    "loglvl=info guest_loglvl=info noreboot bootscrub=0"
)
DOM0 = (
    "console=hvc0 earlyprintk=xen loglevel=6 mitigations=off nokaslr quiet audit=0 apparmor=0 "
    "cryptomgr.notests rcupdate.rcu_expedited=1 tsc=reliable"
)


@dataclass(frozen=True)
class Identity:
    """The names, addresses and keys that differ between the two hosts."""

    key: str  #: a, b
    name: str
    ip: str
    mac: str


HOSTS = (
    Identity("a", "host-a", "10.77.0.1", "52:54:00:78:00:01"),
    Identity("b", "host-b", "10.77.0.2", "52:54:00:78:00:02"),
)


def find_free_port() -> int:
    """Return a TCP port of 127.0.0.1 that is free at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class XenHost(Channel, Host):
    """One host. Create it, :meth:`start_machine` it, :meth:`wait_ready`.

    All its files are in the lab's state directory; QEMU dies with the thread
    that has called :meth:`start_machine`.
    """

    def __init__(self, identity: Identity, state: Path, port: int) -> None:
        super().__init__(identity.name, port)
        self.identity = identity
        self.port = port
        self.state = state
        self.ip = identity.ip
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def serial_log(self) -> Path:
        """What Xen and dom0's kernel have said."""
        return self.state / f"{self.name}.serial"

    @property
    def qmp_socket(self) -> Path:
        return self.state / f"{self.name}.qmp"

    def _share_link_path(self, key: str) -> Path:
        return self.state / f"link-{key}"

    def start_machine(
        self,
        *,
        drive: str,
        accelerator: Accelerator,
        cluster: bool,
        incoming: Path | None = None,
    ) -> None:
        """Start the machine; it has not booted when this returns.

        :param drive: QEMU's options of its disk.
        :param incoming: saved memory to go on with instead of booting; the
            machine is then stopped, see :meth:`resume_machine`.
        """
        me = self.identity
        (other,) = (host for host in HOSTS if host.key != me.key)
        kernel = images.kernel_of_tree()
        arguments = (
            f"{DOM0} lab.name={me.name} lab.ip={me.ip} lab.cluster={'yes' if cluster else 'no'}"
        )
        initrd = f"{kernel.vmlinux} {arguments.replace(',', ',,')},{disk.build_dom0_initrd(kernel)}"
        for path in (self.qmp_socket, self._share_link_path(me.key)):
            path.unlink(missing_ok=True)
        link = (
            f"dgram,id=n1,local.type=unix,local.path={self._share_link_path(me.key)},"
            f"remote.type=unix,remote.path={self._share_link_path(other.key)}"
        )
        command = [
            *("setpriv", "--pdeathsig", "KILL", "--"),
            *("qemu-system-x86_64", "-name", f"vesper-lab-{me.name}"),
            *("-accel", accelerator[0], "-cpu", accelerator[1]),
            *("-machine", "q35", "-smp", "1", "-m", "1G"),
            *("-nodefaults", "-no-user-config", "-display", "none", "-vga", "none"),
            *("-kernel", str(disk.extract_xen()), "-append", XEN, "-initrd", initrd),
            *("-drive", f"{drive},if=none,id=d0", "-device", "virtio-blk-pci,drive=d0"),
            *("-netdev", f"user,id=n0,restrict=on,hostfwd=tcp:127.0.0.1:{self.port}-:22"),
            *("-device", "virtio-net-pci,netdev=n0"),
            *("-netdev", link, "-device", f"virtio-net-pci,netdev=n1,mac={me.mac}"),
            *("-chardev", f"file,id=s0,path={self.serial_log},append=on", "-serial", "chardev:s0"),
            *("-qmp", f"unix:{self.qmp_socket},server=on,wait=off"),
        ]
        if incoming:
            command += ["-incoming", f"exec:cat '{incoming}'", "-S"]
        with (self.state / f"{self.name}.qemu").open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        (self.state / f"{self.name}.pid").write_text(f"{self._process.pid}\n")

    def open_qmp(self) -> Qmp:
        """Talk to QEMU.

        :raises LabError: the machine is not running, with QEMU's last words.
        """
        try:
            return Qmp(self.qmp_socket, timeout=20 if self.is_running() else 0.1)
        except QmpError as error:
            raise LabError(f"{error}\n{self.read_console_tail()}") from error

    def is_running(self) -> bool:
        """Return whether the machine has power."""
        if self._process:
            return self._process.poll() is None
        try:
            pid = int((self.state / f"{self.name}.pid").read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            return False
        return str(self.qmp_socket).encode() in command

    def resume_machine(self, *, timeout: float = 60.0) -> None:
        """Let a machine whose memory was loaded go on."""
        with self.open_qmp() as qmp:
            qmp.wait_status("paused", "postmigrate", timeout=timeout)
            qmp.execute_command("cont")

    def wait_ready(self, timeout: float = 240.0) -> None:
        """Wait until dom0 can be talked to.

        :raises LabError: with the end of what its serial line has said.
        """
        deadline = time.monotonic() + timeout
        while not self.is_connected():
            if not self.is_running():
                raise LabError(f"{self.name}: QEMU has ended\n{self.read_console_tail()}")
            if time.monotonic() > deadline:
                raise LabError(
                    f"{self.name}: no answer within {timeout:.0f} s\n{self.read_console_tail()}"
                )
            time.sleep(0.3)

    def read_console_tail(self, lines: int = 25) -> str:
        """Return the end of the serial line's log, and of QEMU's own."""
        words = []
        for path in (self.serial_log, self.state / f"{self.name}.qemu"):
            try:
                text = path.read_bytes().decode(errors="replace")
            except OSError:
                continue
            if text.strip():
                words.append(f"--- {path}\n" + "\n".join(text.splitlines()[-lines:]))
        return "\n".join(words)

    def power_off(self) -> None:
        """Cut its power."""
        if self._process:
            self._process.kill()
            self._process.wait(timeout=30)
        else:
            with self.open_qmp() as qmp:
                try:
                    qmp.execute_command("quit")
                except QmpError:
                    pass  # it has quit before it could say so

    def set_network_link(self, up: bool) -> None:
        """Plug the cluster's link in, or pull it out."""
        with self.open_qmp() as qmp:
            qmp.execute_command("set_link", name="n1", up=up)

    def close(self) -> None:
        """End QEMU, if this object has started it."""
        if self._process and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(timeout=30)
