# SPDX-License-Identifier: GPL-2.0-or-later
"""Core, frontend and every probe in the kernels of three Debian releases.

Two flavours, with one CPU and with two: the link over the real device; each
probe's real fault, but for lockup, which takes a module that locks up
(test_probes.py); signs of life; CPUs that go and come (one of them plugged in);
a point. In the end the guest with one CPU panics and leaves its last words;
that with two gets rid of all modules.
"""

from __future__ import annotations

import asyncio
import subprocess
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import pytest

from lab import images
from lab.images.releases import FLAVOURS, RELEASES, Release, release_kernel
from tests.guest.conftest import COMPLAINT
from tests.guest.features import POINT, cpus_go_and_come, last_words, point, shows_life
from tests.guest.ivshmem import PROBES, SLOW, KvmMachine, Watch, kvm_machine, watch
from tests.host.standins import until

#: Linux 6.12 crashes in its slab allocator about half the time with this
#: instruction as QEMU 7.2 emulates it.
CPU = {"6.12": "max,-cx16"}

#: Takes no CPU that is plugged in where it sees none of the hypervisors that it
#: knows, of which QEMU's emulation is not ("plus 0 hotplug CPUs" in its log).
NO_PLUGGING = {"6.12"}

#: Probes that depend on how the kernel is configured.
CONFIGURED = {"hung_task", "lockup", "memory_failure"}

#: Guests that run at the same time.
AT_ONCE = 2

#: Size of a disk in MB; which gets which name is chance.
FILE_SYSTEMS = {"ext4": 32, "xfs": 300, "btrfs": 128}
DISKS = {"sda", "sdb", "sdc"}
#: Of Debian; not all are modules in each flavour.
MODULES = ("virtio_pci", "virtio_scsi", "sd_mod", "virtio_net", "ext4", "xfs", "btrfs")

PREPARE = (
    "echo 0 >/proc/sys/kernel/hung_task_warnings; echo 1 >/proc/sys/kernel/hung_task_timeout_secs; "
    "for fs in ext4 xfs btrfs; do mkdir /$fs; for disk in sda sdb sdc; do "
    "mount -t $fs /dev/$disk /$fs && echo old >/$fs/file && break; done; done"
    "; ip link set eth0 up; sync; echo prepared >/dev/console"
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


async def features(guest: KvmMachine, seen: Watch, version: str, cpus: int) -> None:
    """All that is no probe; the probes are there."""
    await shows_life(seen)
    if cpus == 2:
        await cpus_go_and_come(guest, seen, plugged_in=version not in NO_PLUGGING)
    await point(guest, seen)


def disks(directory: Path) -> list[str]:
    """QEMU's arguments; what guests write to them is thrown away."""
    arguments = ["-device", "virtio-scsi-pci"]
    for fstype, megabytes in FILE_SYSTEMS.items():
        path = directory / fstype
        if not path.exists():
            with path.open("wb") as file:
                file.truncate(megabytes << 20)
            subprocess.run(
                [f"mkfs.{fstype}", "-q", path], check=True, capture_output=True, timeout=60
            )
        arguments += [
            "-drive", f"file={path},format=raw,snapshot=on,if=none,id={fstype}",
            "-device", f"scsi-hd,drive={fstype}",
        ]  # fmt: skip
    return arguments


async def try_all(guest: KvmMachine, probes: list[str], version: str, cpus: int) -> None:
    machine = guest.machine
    machine.tell(PREPARE)
    await until(lambda: "prepared" in machine.console, "prepared", SLOW)
    async with watch(guest, points=[POINT]) as seen:
        await seen.collecting(*probes)
        for line in FAULTS:
            machine.tell(line)
        await seen.see(lambda: seen.of("out_of_memory", comm="tail"), "OOM")
        await seen.see(lambda: seen.of("send_signal", signal="SIGSEGV", comm="sh"), "SIGSEGV")
        await seen.see(lambda: seen.of("process_exit", comm="sh", status=3), "exit")
        await seen.see(lambda: seen.of("hung_task", comm="tee"), "hung task")
        await seen.see(lambda: seen.of("net_link", device="eth0", change="down"), "device down")
        for fstype in FILE_SYSTEMS:
            fields = {"fstype": fstype, "mount": f"/{fstype}", "error": "EIO"}
            await seen.see(lambda fields=fields: seen.of("fs_error", **fields), str(fields))
        for event in ("block_error", "fs_error"):
            assert {found.fields["disk"] for found in seen.of(event)} == DISKS
        if "memory_failure" in probes:
            await seen.see(lambda: seen.of("memory_failure", pfn=0x8000), "memory failure")
        assert not seen.of("lost")
        await features(guest, seen, version, cpus)
        await seen.collecting("die")
        if cpus == 1:
            await last_words(guest, seen)
            await seen.see(lambda: seen.of("die", kind="panic"), "panic")
            return
        await seen.session.set_probes({})
        await seen.see(lambda: not seen.session.probes, "all unloaded")
        await seen.session.close(deactivate=True)
    machine.tell("rmmod vesper_ivshmem && rmmod vesper && echo unloaded >/dev/console")
    await until(lambda: "unloaded" in machine.console, "unloaded", SLOW)


def run(release: Release, flavour: str, cpus: int, directory: Path) -> str | None:
    """What is wrong, if anything is."""
    kernel = release_kernel(release, flavour)
    modules = images.modules(kernel)
    missing = set(PROBES) - {path.stem for path in modules.probes}
    if missing - CONFIGURED:
        return f"{kernel.release}: no {', '.join(missing)}"
    files = (*modules.guest("vesper_ivshmem"), *modules.probes)
    directory.mkdir()
    there = cpus + (release.version in NO_PLUGGING)
    with kvm_machine(
        kernel, files, directory, cpus=there, max_cpus=cpus + 1,
        cpu=CPU.get(release.version, "max"),
        cmdline=f"maxcpus={cpus} panic=0", modules=MODULES,
        qemu=[*disks(directory), "-netdev", "user,id=net,restrict=on",
              "-device", "virtio-net-pci,netdev=net"],
    ) as guest:  # fmt: skip
        try:
            wanted = sorted(set(PROBES) - missing)
            asyncio.run(try_all(guest, wanted, release.version, cpus))
        except AssertionError as error:
            return f"{kernel.release}, {cpus} CPUs: {error}"
        console = guest.machine.console
    complaints = [line for line in console.splitlines() if COMPLAINT.match(line)]
    return f"{kernel.release}, {cpus} CPUs: {complaints}" if complaints else None


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.version)
def test_kernel(release: Release, tmp_path: Path) -> None:
    with ThreadPoolExecutor(AT_ONCE) as executor:
        started = [
            executor.submit(run, release, flavour, cpus, tmp_path / f"{flavour[0]}{cpus}")
            for flavour, cpus in product(FLAVOURS, (1, 2))
        ]
        wrong = [what for future in started if (what := future.result()) is not None]
    assert not wrong
