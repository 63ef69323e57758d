# SPDX-License-Identifier: GPL-2.0-or-later
"""Core, frontend and every probe in a guest of any kernel.

The link over the real device, each probe's real fault, signs of life, CPUs that go and come (one
of them plugged in), a point, the modules gone and come back, a panic.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from lab.images import Modules
from lab.images.kernel import Kernel
from lab.images.probes import FRONTENDS
from tests.kernel.support import real_faults
from tests.kernel.support.features import (
    POINT,
    cpus_go_and_come,
    point,
    sees_deep_cgroups,
    shows_life,
)
from tests.kernel.support.ivshmem import PROBES, KvmMachine, Watch, kvm_machine, watch
from tests.kernel.support.loopback_guest import COMPLAINT
from tests.kernel.support.machine import takes_new_cpus
from vesper_monitor.guest.dynamic_probes.point import DynamicProbe
from vesper_monitor.guest.dynamic_probes.program import IMAGE
from vesper_monitor.guest.session_state import ProbeState

__all__ = ["missing_modules", "try_kernel"]

#: Probes that depend on how the kernel is configured.
CONFIGURED = {"hung_task", "lockup", "memory_failure"}


def missing_modules(modules: Modules) -> str:
    """Return which modules should have been built and were not; empty if none."""
    built = {path.stem for path in modules.probes} | set(modules.frontends)
    missing = {*PROBES, IMAGE, *FRONTENDS} - built - CONFIGURED
    return f"not built: {', '.join(sorted(missing))}" if missing else ""


async def _features(guest: KvmMachine, seen: Watch, cpus: int, plugged_in: bool) -> None:
    """Try all features beside the probes, which are loaded."""
    await shows_life(seen)
    if cpus > 1:
        await cpus_go_and_come(guest, seen, plugged_in=plugged_in)
    await sees_deep_cgroups(guest, seen)
    await point(guest, seen)


async def _is_refused(seen: Watch, refused: DynamicProbe) -> None:
    await seen.session.set_probes({refused.name: ""})
    await seen.wait_until(
        lambda: seen.session.probes[refused.name].state is ProbeState.FAILED, "a point refused"
    )


async def _try_all(
    guest: KvmMachine,
    probes: list[str],
    cpus: int,
    plugged_in: bool,
    refused: Sequence[DynamicProbe],
) -> None:
    await real_faults.prepare(guest)
    async with watch(guest, points=[POINT, *refused]) as seen:
        await seen.wait_collecting(*probes)
        await real_faults.see_all(guest, seen, probes)
        await _features(guest, seen, cpus, plugged_in)
        for each in refused:
            await _is_refused(seen, each)
        await seen.wait_collecting("send_signal")
        await seen.session.set_probes({})
        await seen.wait_until(lambda: not seen.session.probes, "all unloaded")
        await seen.session.close_session(deactivate=True)
    await real_faults.reload(guest)
    async with watch(guest) as seen:
        await real_faults.panic(guest, seen)


def try_kernel(
    kernel: Kernel,
    modules: Modules,
    cpus: int,
    directory: Path,
    refused: Sequence[DynamicProbe] = (),
) -> str:
    """Boot it and try all of it.

    :param directory: is made.
    :param refused: points that the guest's kernel does not take.
    :returns: what is wrong, or nothing.
    """
    directory.mkdir()
    files = (*modules.guest_modules("vesper_ivshmem"), *modules.probes)
    probes = sorted(set(PROBES) & {path.stem for path in modules.probes})
    plugged_in = takes_new_cpus(kernel.release)
    # Where no CPU can be plugged in, one is there that is not started at boot.
    there = cpus if plugged_in or cpus == 1 else cpus + 1
    console = ""
    try:
        with kvm_machine(
            kernel, files, directory, cpus=there, max_cpus=cpus + 1,
            cmdline=f"maxcpus={cpus} panic=0", modules=real_faults.MODULES,
            qemu=real_faults.devices(directory),
        ) as guest:  # fmt: skip
            asyncio.run(_try_all(guest, probes, cpus, plugged_in, refused))
            console = guest.machine.console
    except AssertionError as error:
        return f"{error}"[-3000:]
    return "\n".join(line for line in console.splitlines() if COMPLAINT.match(line))
