# SPDX-License-Identifier: GPL-2.0-or-later
"""A real guest kernel in QEMU, without a hypervisor's transport.

The host's end is a process in the guest itself (guest_modules/vsp_loopback.c,
vsp_host.c): it boots in seconds, needs no lab, and every line of the core and
of the probes is the real one.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lab import images
from tests.kernel.support.initrd import LOAD_MODULES, MOUNT_ALL, build_initrd
from tests.kernel.support.machine import RAM, cpu_model
from vesper_monitor.guest import abi
from vesper_monitor.guest.dynamic_probes.point import DynamicProbe
from vesper_monitor.guest.event import Event
from vesper_monitor.guest.relay import decode
from vesper_monitor.guest.relay.relay import RawRecord

__all__ = ["COMPLAINT", "Run", "TestGuest"]

#: A guest that is not done after this many seconds hangs.
TIMEOUT = 180

INIT = (
    MOUNT_ALL
    + "dmesg -n 8\n"
    + LOAD_MODULES
    + """\
insmod /vsp_loopback.ko
%s
vsp_host </script
echo "end: $?"
rmmod vsp_loopback && rmmod vesper && echo "unloaded"
echo o >/proc/sysrq-trigger
"""
)

#: Without a check of the timer, which fails where QEMU gets too little time.
CMDLINE = "console=ttyS0 quiet no_timer_check"

#: What the kernel says when something is wrong in it.
COMPLAINT = re.compile(
    r"^(?:\[[^\]]*\] )?(WARNING:|BUG:|Oops|general protection|INFO: task|kernel BUG)"
)


@dataclass
class Run:
    """What a guest has said until it powered itself off."""

    console: str
    said: list[str] = field(default_factory=list)  #: vsp_host's lines

    def line(self, start: str) -> str:
        """The one line of vsp_host's that begins so, without its beginning."""
        found = [line for line in self.said if line.startswith(start)]
        assert len(found) == 1, (start, self.said)
        return found[0][len(start) :].strip()

    def events(self, probe: str, point: DynamicProbe | None = None) -> list[Event]:
        """A probe's records, of all CPUs, by their times; of a point by its definition."""
        defined = {point.name: point} if point is not None else {}
        found = []
        for line in self.said:
            if line.startswith(f"record {probe} "):
                # The kernel's own line may come before the end of this one.
                _record, _probe, cpu, text = line.partition("[")[0].split()
                data = bytes.fromhex(text)
                head = abi.Record.from_buffer_copy(data)
                record = RawRecord(head.seq, head.time_ns, head.event, 0, data)
                found += decode.decode_records(
                    [record], vm="test", domid=1, probe=probe, cpu=int(cpu), received=0.0,
                    defined=defined,
                )  # fmt: skip
        return sorted(found, key=lambda event: event.guest_ns)


@dataclass(frozen=True)
class TestGuest:
    """A kernel, and the modules and programs that were built for it."""

    __test__ = False
    kernel: images.Kernel
    files: tuple[Path, ...]

    def run(
        self,
        script: str,
        directory: Path,
        *,
        setup: str = "",
        files: dict[str, bytes] | None = None,
        cpus: int = 2,
        modules: Sequence[str] = (),
        qemu: Sequence[str] = (),
    ) -> Run:
        """Boot, give vsp_host the script, power off.

        :param setup: shell commands before.
        :param files: more files in the root directory.
        :param modules: Debian's, by name, loaded first.
        :param qemu: more of QEMU's arguments.
        """
        initrd = directory / "initrd"
        more_files = {"script": script.encode(), **(files or {})}
        initrd.write_bytes(
            build_initrd(
                self.kernel, self.files, INIT % setup, modules=modules, more_files=more_files
            )
        )
        log = directory / "console"
        # KVM is not tried: where guests are nested it may start and then hang.
        command = [
            "qemu-system-x86_64", "-accel", "tcg", "-cpu", cpu_model(self.kernel.release),
            "-M", "q35",
            "-m", str(RAM >> 20), "-smp", str(cpus), "-nodefaults", "-nographic",
            "-no-reboot", "-serial", f"file:{log}", "-kernel", str(self.kernel.vmlinux),
            "-initrd", str(initrd),
            "-append", f"{CMDLINE} panic=-1 printk.devkmsg=on", *qemu,
        ]  # fmt: skip
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(command, stdin=subprocess.DEVNULL, timeout=TIMEOUT, check=True)
        console = log.read_text(errors="replace").replace("\r", "")
        complaints = [line for line in console.splitlines() if COMPLAINT.match(line)]
        assert not complaints, console
        assert "end: 0" in console, console
        said = [line for line in console.splitlines() if not line.startswith("[")]
        return Run(console, said)
