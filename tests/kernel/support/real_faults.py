# SPDX-License-Identifier: GPL-2.0-or-later
"""What each probe is for, brought about in a guest of any kernel with Debian's modules alone.

Of lockup no fault: that takes a module that locks up (test_probes.py).
"""

from __future__ import annotations

import subprocess
from functools import partial
from pathlib import Path

from tests.kernel.support.features import finds_processes
from tests.kernel.support.ivshmem import SLOW, KvmMachine, Watch
from tests.unit.support.standins import until

__all__ = ["MODULES", "devices", "panic", "prepare", "reload", "see_all"]

#: Size of a disk in MB; which gets which name is chance.
FILE_SYSTEMS = {"ext4": 32, "xfs": 300, "btrfs": 128}
DISKS = {"sda", "sdb", "sdc"}
#: Of Debian; not all are modules in each flavour.
MODULES = ("virtio_pci", "virtio_scsi", "sd_mod", "virtio_net", "ext4", "xfs", "btrfs")

PREPARE = (
    "echo 0 >/proc/sys/kernel/hung_task_warnings; echo 1 >/proc/sys/kernel/hung_task_timeout_secs; "
    "for fs in ext4 xfs btrfs; do mkdir /$fs; for disk in sda sdb sdc; do "
    "mount -t $fs /dev/$disk /$fs && echo old >/$fs/file && break; done; done; "
    "ip link set eth0 up; sync; echo prepared >/dev/console"
)
FAULTS = (
    "sh -c 'kill -SEGV $$'; tail /dev/zero",
    "sh -c 'sleep 2; exit 3'",
    "fsfreeze --freeze /ext4; tee /ext4/new </dev/null & sleep 6; fsfreeze --unfreeze /ext4; wait",
    "ip link set eth0 down",
    "for disk in sda sdb sdc; do echo offline >/sys/block/$disk/device/state; done; "
    "for fs in ext4 xfs btrfs; do echo new >>/$fs/file; sync; done",
    "echo 0x8000000 >/sys/devices/system/memory/hard_offline_page",
)


def devices(directory: Path) -> list[str]:
    """QEMU's arguments; what the guest writes to its disks is thrown away."""
    arguments = [
        "-netdev", "user,id=net,restrict=on", "-device", "virtio-net-pci,netdev=net",
        "-device", "virtio-scsi-pci",
    ]  # fmt: skip
    for fstype, megabytes in FILE_SYSTEMS.items():
        path = directory / fstype
        with path.open("wb") as file:
            file.truncate(megabytes << 20)
        subprocess.run([f"mkfs.{fstype}", "-q", path], check=True, capture_output=True, timeout=60)
        arguments += [
            "-drive", f"file={path},format=raw,snapshot=on,if=none,id={fstype}",
            "-device", f"scsi-hd,drive={fstype}",
        ]  # fmt: skip
    return arguments


async def prepare(guest: KvmMachine) -> None:
    """File systems and a network device, before the probes are there."""
    guest.machine.tell(PREPARE)
    await until(lambda: "prepared" in guest.machine.console, "prepared", SLOW)


async def see_all(guest: KvmMachine, seen: Watch, probes: list[str]) -> None:
    """Each fault, with its cause; the guest has lost its disks then."""
    await finds_processes(guest, seen)
    for line in FAULTS:
        guest.machine.tell(line)
    await seen.see(lambda: seen.of("out_of_memory", comm="tail"), "OOM")
    await seen.see(lambda: seen.of("send_signal", signal="SIGSEGV", comm="sh"), "SIGSEGV")
    await seen.see(lambda: seen.of("process_exit", comm="sh", status=3), "exit")
    await seen.see(lambda: seen.of("hung_task", comm="tee"), "hung task")
    await seen.see(lambda: seen.of("net_link", device="eth0", change="down"), "device down")
    for fstype in FILE_SYSTEMS:
        fields = {"fstype": fstype, "mount": f"/{fstype}", "error": "EIO"}
        await seen.see(partial(seen.of, "fs_error", **fields), str(fields))
    for event in ("block_error", "fs_error"):
        assert {found.fields["disk"] for found in seen.of(event)} == DISKS
    if "memory_failure" in probes:
        await seen.see(lambda: seen.of("memory_failure", pfn=0x8000), "memory failure")
    assert not seen.of("lost")


async def reload(guest: KvmMachine) -> None:
    """All modules go, the core and the frontend come back; there is no session."""
    guest.machine.tell(
        "rmmod vesper_ivshmem && rmmod vesper && ! grep vesper /proc/iomem && insmod /vesper.ko && "
        "insmod /vesper_ivshmem.ko && echo reloaded >/dev/console"
    )
    await until(lambda: "reloaded" in guest.machine.console, "reloaded", SLOW)


async def panic(guest: KvmMachine, seen: Watch) -> None:
    """The last thing that the guest does."""
    await seen.collecting("die")
    guest.machine.tell("echo c >/proc/sysrq-trigger")
    await seen.see(lambda: seen.of("die", kind="panic"), "panic")
    await seen.see(lambda: seen.of("last_words", kind="panic"), "last words")
    (words,) = seen.of("last_words", kind="panic")
    assert "sysrq triggered crash" in words.text
