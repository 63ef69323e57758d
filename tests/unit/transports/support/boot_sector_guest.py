# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests of one boot sector on a host of the KVM lab, and the word to them."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from lab.kvm import KvmHost
from tests.unit.support.daemons import PROJECT
from vesper_monitor.client import Client

__all__ = ["BETWEEN", "Tiny", "boot_sector", "prepare"]

#: Of the host: disks, serial lines, definitions.
PLACE = "/run/tiny"
#: QEMU, and what is between it and libvirt.
BETWEEN = f"{PLACE}/between"

XML = """\
<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>16</memory>
  <os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>
  <features><acpi/></features>
  <on_crash>{on_crash}</on_crash>
  <devices>
    <emulator>{emulator}</emulator>
    <controller type='usb' model='none'/>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <source file='{place}/boot'/><target dev='sda' bus='sata'/><shareable/>
    </disk>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw' cache='none' error_policy='{errors}'/>
      <source file='{place}/full/{name}'/><target dev='sdb' bus='sata'/>
    </disk>
    <serial type='unix'><source mode='bind' path='{place}/{name}.serial'/></serial>
    <memballoon model='none'/>
    <panic model='isa'/>
    <watchdog model='ib700' action='{watchdog}'/>
  </devices>
</domain>
"""


def boot_sector(directory: Path) -> bytes:
    """tiny_guest.S, assembled."""
    source, out = PROJECT / "tests/unit/transports/support/tiny_guest.S", directory / "tiny_guest"
    subprocess.run(["gcc", "-c", source, "-o", f"{out}.o"], check=True, timeout=60)
    subprocess.run(["objcopy", "-O", "binary", f"{out}.o", out], check=True, timeout=60)
    return out.read_bytes()


def prepare(host: KvmHost, sector: bytes) -> None:
    """A folder for the disks, and a file system in it that is full."""
    host.put_file(f"{PLACE}/boot", sector.ljust(1 << 20, b"\0"))
    host.put_file(
        BETWEEN, (PROJECT / "tests/unit/transports/support/qmp_proxy.py").read_bytes(), mode=0o755
    )
    host.run_command(
        f"chmod 777 {PLACE} && mkdir {PLACE}/full && "
        f"mount -t tmpfs -o size=64k,mode=777 full {PLACE}/full && "
        f"{{ cat /dev/zero >{PLACE}/full/filler 2>/dev/null; true; }}",
        check=True,
    )


class Tiny:
    """One domain. ``tell()`` gives the guest letters, as of tiny_guest.S."""

    def __init__(
        self,
        host: KvmHost,
        name: str,
        *,
        on_crash: str = "destroy",
        errors: str = "stop",
        watchdog: str = "pause",
        emulator: str = "/usr/bin/qemu-system-x86_64",
    ) -> None:
        self.host = host
        self.name = name
        xml = XML.format(
            place=PLACE, name=name, on_crash=on_crash, errors=errors, watchdog=watchdog,
            emulator=emulator,
        )  # fmt: skip
        host.put_file(f"{PLACE}/{name}.xml", xml.encode())
        host.run_command(f"truncate -s 1M {PLACE}/full/{name} && chmod 666 {PLACE}/full/{name}")
        self.create()

    def create(self) -> None:
        self.host.run_command(f"virsh create {PLACE}/{self.name}.xml", check=True)
        end = time.monotonic() + 60
        while self.tell("x", answer=True) != b"x":
            assert time.monotonic() < end, f"{self.name} does not come up"

    def tell(self, letters: str, *, answer: bool = False) -> bytes:
        """
        :param answer: wait for one letter; none comes if the guest is not up.
        """
        with socket.socket(socket.AF_UNIX) as serial:
            serial.connect(str(self.host.node.host_path(f"{PLACE}/{self.name}.serial")))
            serial.settimeout(1.0)
            serial.sendall(letters.encode())
            try:
                return serial.recv(1) if answer else b""
            except TimeoutError:
                return b""

    def virsh(self, command: str) -> None:
        self.host.run_command(f"virsh {command} {self.name}", check=True)

    def says(self, event: str, **data: object) -> None:
        """What libvirt takes for an event of its QEMU's, which runs with :data:`BETWEEN`."""
        stamp = {"seconds": int(time.time()), "microseconds": 0}
        message = json.dumps({"event": event, "data": data, "timestamp": stamp})
        path = f"{PLACE}/{self.name}.events"
        self.host.run_command(
            f"cat >{path}", stdin=message.encode() + b"\r\n", timeout=20, check=True
        )

    def kill(self, signal: str = "KILL") -> None:
        """Its QEMU."""
        self.host.run_command(
            f"kill -{signal} $(cat /run/libvirt/qemu/{self.name}.pid)", check=True
        )

    # -- vesperd --------------------------------------------------------------

    @property
    def socket(self) -> str:
        return str(self.host.node.host_path("/run/vesper/vesperd.sock"))

    @property
    def resource(self) -> dict[str, Any]:
        """As an agent's requests name it."""
        return {"resource": self.name, "vm": self.name, "probes": [], "services": []}

    def watch(self) -> int:
        """A new instance begins, and the first monitor is through. :returns: its domain."""
        with Client(self.socket, timeout=60.0) as client:
            domid = int(client.call_vesperd("start", **self.resource)["domid"])
            first = client.call_vesperd(
                "wait", **self.resource, interval=1, timeout=10, node="node1", first=True
            )
        assert first["result"] == "fine", first
        return domid

    def events(self) -> list[str]:
        """What is said of it, in order."""
        with Client(self.socket, timeout=60.0) as client:
            answers = client.stream_answers("events", vm=self.name)
            return [answer["event"]["text"] for answer in answers if "event" in answer]
