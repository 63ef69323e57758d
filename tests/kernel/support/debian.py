# SPDX-License-Identifier: GPL-2.0-or-later
"""A real Debian guest with systemd under a whole vesperd: root's shell in it, and a login."""

from __future__ import annotations

import re
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lab.images import Kernel, debian_guest
from lab.images.probes import FRONTENDS
from tests.kernel.support.initrd import LOAD_MODULES, MOUNT_ALL
from tests.kernel.support.ivshmem import PROBES
from tests.kernel.support.machine import Machine, machine
from tests.kernel.support.neighbours import DOMAIN_STATUS, Vesperd
from tests.unit.transports.support.ivshmem_servers import run_ivshmem_server
from vesper_monitor.guest.event import Event

__all__ = ["VM", "Debian", "Login", "debian"]

VM = "debian"
#: s for whatever a command does, in an emulated guest on a busy machine.
SLOW = 90.0
MEMORY = 512 << 20

_EVENT_KEYS = (
    "vm", "domid", "probe", "event", "cpu", "seq", "guest_ns", "received", "fields", "text",
)  # fmt: skip

INIT = (
    MOUNT_ALL
    + LOAD_MODULES
    + """\
insmod /%s.ko
until [ -e /dev/vda ]; do sleep 0.1; done
mount -t ext4 /dev/vda /root
for place in dev proc sys; do mount --move /$place /root/$place; done
exec switch_root /root /sbin/init
"""
)


class Login:
    """A terminal on which a user has logged in, with a password, by PAM."""

    def __init__(self, path: Path) -> None:
        self._line = socket.socket(socket.AF_UNIX)
        self._line.connect(str(path))
        self._said = ""
        self._number = 0
        self._line.sendall(b"\n")
        self._wait("login: $")
        self._line.sendall(debian_guest.USER.encode() + b"\n")
        self._wait("Password: $")
        self._line.sendall(debian_guest.PASSWORD.encode() + b"\n")
        self._wait(r"\$ $")

    def run(self, command: str, limit: float = SLOW) -> str:
        """:returns: what it has said, its own echo left out."""
        self._number += 1
        # The terminal echoes what is typed: the end must look otherwise.
        self._line.sendall(f"{command}; echo end-$((40+2))-{self._number}\n".encode())
        said = self._wait(rf"end-42-{self._number}\n.*\$ $", limit)
        return said.partition("\n")[2].rpartition(f"end-42-{self._number}")[0]

    def close(self) -> None:
        self._line.close()

    def _wait(self, pattern: str, limit: float = SLOW) -> str:
        end = time.monotonic() + limit
        while not re.search(pattern, self._said, re.DOTALL):
            self._line.settimeout(max(0.01, end - time.monotonic()))
            try:
                data = self._line.recv(4096)
            except TimeoutError:
                raise AssertionError(f"no {pattern!r} within {limit:.0f} s: {self._said}") from None
            self._said += data.decode(errors="replace").replace("\r", "")
        said, self._said = self._said, ""
        return said


class Debian:
    """The guest, and what watches it."""

    def __init__(self, guest: Machine, vesperd: Vesperd, login: Path) -> None:
        self.machine = guest
        self.vesperd = vesperd
        self._login = login
        self._number = 0

    def root(self, command: str, limit: float = SLOW) -> str:
        """Run a command in root's shell, which no login has begun. :returns: what it has said."""
        self._number += 1
        begin, end = f"begin {self._number}", f"end {self._number}"
        self.machine.tell(f"echo {begin}; {command}; echo {end}")
        self.machine.wait_said(end, limit)
        return self.machine.console.partition(f"{begin}\n")[2].partition(f"{end}\n")[0]

    def log_in(self) -> Login:
        return Login(self._login)

    @property
    def faults(self) -> list[str]:
        """All that Pacemaker would have been told of, oldest first."""
        return [fault["reason"] for fault in self.vesperd.call("faults", vm=VM)["faults"]]

    @property
    def events(self) -> list[Event]:
        """All that vesperd has on record of it, oldest first."""
        told = self.vesperd.events(VM)
        return [Event(**{key: event[key] for key in _EVENT_KEYS}) for event in told]

    def monitor(self, limit: float) -> tuple[str, str | None]:
        """Wait as a monitor does. :returns: its result and the reason."""
        answer = self.vesperd.call(
            "wait", resource=f"r-{VM}", vm=VM, interval=1, timeout=limit, node="node1", first=False,
        )  # fmt: skip
        return answer["result"], answer.get("reason")


@contextmanager
def debian(kernel: Kernel, files: tuple[Path, ...], directory: Path) -> Iterator[Debian]:
    """Boot it. vesperd is not asked to watch it yet.

    :param files: modules, as of the fixture ``test_guest``.
    """
    store = directory / "probes" / kernel.release
    store.mkdir(parents=True)
    for path in files:
        if path.stem in PROBES:
            (store / path.name).write_bytes(path.read_bytes())
    guest_files = [path for path in files if path.stem in {"vesper", *FRONTENDS}]
    folder = directory / VM
    folder.mkdir()
    login = folder / "login"
    qemu = (
        "-pidfile", str(directory / f"{VM}.pid"),
        "-chardev", f"socket,path={directory}/qemu.sock,id=vesper",
        "-device", "ivshmem-doorbell,chardev=vesper,vectors=1,master=on",
        "-drive", f"file={debian_guest.guest_disk()},format=raw,snapshot=on,if=none,id=disk",
        "-device", "virtio-blk-pci,drive=disk",
        "-chardev", f"socket,id=login,path={login},server=on,wait=off",
        "-serial", "chardev:login",
    )  # fmt: skip
    with ExitStack() as stack:
        stack.enter_context(run_ivshmem_server(directory))
        guest = stack.enter_context(
            machine(
                kernel, guest_files, folder, memory=MEMORY, modules=debian_guest.BOOT_MODULES,
                frontend="vesper_ivshmem", init=INIT, cmdline="rw", qemu=qemu,
            )
        )  # fmt: skip
        (directory / f"{VM}.xml").write_text(
            DOMAIN_STATUS.format(pid=guest.process.pid, name=VM, uuid=uuid.uuid4())
        )
        vesperd = Vesperd(directory)
        try:
            yield Debian(guest, vesperd, login)
        except BaseException:
            print(vesperd.log.read_text()[-5000:])
            print(guest.console[-5000:])
            raise
        finally:
            status = vesperd.end()
        assert status == 0, f"vesperd: exit status {status}"
