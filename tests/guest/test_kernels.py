# SPDX-License-Identifier: GPL-2.0-or-later
"""Core, frontend and every probe in the kernels of three Debian releases.

Two flavours, with one CPU and with two: the link over the real device, each
probe's real fault, the modules gone and come back, a panic.
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
from tests.guest.ivshmem import PROBES, KvmMachine, kvm_machine, watch

#: Linux 6.12 crashes in its slab allocator about half the time with this
#: instruction as QEMU 7.2 emulates it.
CPU = {"6.12": "max,-cx16"}

#: Probes that depend on how the kernel is configured.
CONFIGURED = {"hung_task", "lockup", "memory_failure"}

#: Guests that run at the same time.
AT_ONCE = 2


async def try_all(guest: KvmMachine, probes: list[str]) -> None:
    await real_faults.prepare(guest)
    async with watch(guest) as seen:
        await seen.collecting(*probes)
        await real_faults.see_all(guest, seen, probes)
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
    with kvm_machine(
        kernel, files, directory, cpus=cpus, cpu=CPU.get(release.version, "max"),
        cmdline="panic=0", modules=real_faults.MODULES, qemu=real_faults.devices(directory),
    ) as guest:  # fmt: skip
        try:
            asyncio.run(try_all(guest, sorted(set(PROBES) - missing)))
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
