# SPDX-License-Identifier: GPL-2.0-or-later
"""Core, frontend and every probe in the kernels of three Debian releases.

Two flavours, with one CPU and with two: the link over the real device, each
probe's real fault, signs of life, CPUs that go and come (one of them plugged
in), a point, the modules gone and come back, a panic.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import pytest

from lab import images
from lab.images.releases import FLAVOURS, RELEASES, Release, release_kernel
from tests.guest import real_faults
from tests.guest.conftest import COMPLAINT
from tests.guest.features import POINT, cpus_go_and_come, point, shows_life
from tests.guest.ivshmem import PROBES, KvmMachine, Watch, kvm_machine, watch

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


async def features(guest: KvmMachine, seen: Watch, version: str, cpus: int) -> None:
    """All that is no probe; the probes are there."""
    await shows_life(seen)
    if cpus == 2:
        await cpus_go_and_come(guest, seen, plugged_in=version not in NO_PLUGGING)
    await point(guest, seen)


async def try_all(guest: KvmMachine, probes: list[str], version: str, cpus: int) -> None:
    await real_faults.prepare(guest)
    async with watch(guest, points=[POINT]) as seen:
        await seen.collecting(*probes)
        await real_faults.see_all(guest, seen, probes)
        await features(guest, seen, version, cpus)
        await seen.collecting("send_signal")
        await seen.session.set_probes({})
        await seen.see(lambda: not seen.session.probes, "all unloaded")
        await seen.session.close(deactivate=True)
    await real_faults.reload(guest)
    async with watch(guest) as seen:
        await real_faults.panic(guest, seen)


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
        cpu=CPU.get(release.version, "max"), cmdline=f"maxcpus={cpus} panic=0",
        modules=real_faults.MODULES, qemu=real_faults.devices(directory),
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
