# SPDX-License-Identifier: GPL-2.0-or-later
"""``python3 -m bench.slowdown``: how much slower a guest is with every probe than with none.

One guest, one boot, the real device and a host that reads. Each load of
tests/guest_modules/vsp_busy.c runs with and without the probes, twice in a
round, with, without, without, with, and in the next the other way round:

- forks: fork, exec and wait, as a shell does;
- service: a server and its worker that tell each other by a signal, with some work for each;
- pingpong: the same without any work, which nobody does.

What counts is what the guest executes: an instruction is a ns of its clock
(QEMU's icount), so that what else runs on this machine has no part in it. With
--cpu-time it is the CPU time of QEMU's thread for the guest's one CPU, which
has: caches are shared. Told are the medians, and the median of the rounds'
ratios with an interval that has 95 % of its bootstrap. Ends with 1 if that
median is more than 3 % for one of the first two.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lab import images
from lab.progress import note_progress
from tests.kernel.support.build import build
from tests.kernel.support.features import said
from tests.kernel.support.ivshmem import PROBES, KvmMachine, Watch, kvm_machine, watch

__all__ = ["main"]

#: How often, so that each takes about a second when emulated.
LOAD_COUNTS = {"forks": 250, "service": 3000, "pingpong": 15000}
#: Part of it that is done before: the emulator translates anew what probes have patched.
WARM_UP_SHARE = 0.5
MAX_SLOWDOWN = 0.03


@dataclass
class Times:
    """ns for one of what the load does, by round."""

    on: list[float] = field(default_factory=list)
    off: list[float] = field(default_factory=list)

    @property
    def slowdown_ratios(self) -> list[float]:
        return [on / off for on, off in zip(self.on, self.off, strict=True)]


def _bootstrap_interval(values: Sequence[float]) -> tuple[float, float]:
    """Of the median, 95 %, by bootstrap."""
    rng, samples, part = random.Random(1), 5000, 0.95
    medians = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(samples))
    out = (1 - part) / 2
    return medians[int(samples * out)], medians[int(samples * (1 - out)) - 1]


class Load:
    """One of :data:`LOAD_COUNTS`, in the guest."""

    def __init__(self, guest: KvmMachine, name: str, *, counted: bool) -> None:
        self.guest, self.name, self.counted = guest, name, counted
        self._runs = 0

    async def measure_one_run(self) -> float:
        """:returns: ns for one."""
        count = LOAD_COUNTS[self.name]
        await self._run_load_in_guest(int(count * WARM_UP_SHARE))
        begin = self._vcpu_thread_ns()
        await self._run_load_in_guest(count)
        return (self._guest_clock_ns() if self.counted else self._vcpu_thread_ns() - begin) / count

    async def _run_load_in_guest(self, count: int) -> None:
        self._runs += 1
        self.guest.machine.tell(f"vsp_busy {self.name} {count}")
        await said(self.guest, f"{self.name} run {self._runs}")

    def _guest_clock_ns(self) -> int:
        """By the guest's clock."""
        pattern = rf"^{self.name} \d+ done in (\d+)$"
        return int(re.findall(pattern, self.guest.machine.console, re.MULTILINE)[-1])

    def _vcpu_thread_ns(self) -> int:
        """As the host's kernel counts it."""
        pid = self.guest.machine.process.pid
        return sum(
            int(Path(f"/proc/{pid}/task/{cpu['thread-id']}/schedstat").read_text().split()[0])
            for cpu in self.guest.qmp.execute_command("query-cpus-fast")
        )


async def _measure_slowdown(
    guest: KvmMachine, probes: Sequence[str], rounds: int, *, counted: bool
) -> dict[str, Times]:
    loads = {name: Load(guest, name, counted=counted) for name in LOAD_COUNTS}
    times = {name: Times() for name in LOAD_COUNTS}
    async with watch(guest) as seen:
        seen.on_events = lambda _: None
        for number in range(rounds):
            # Both ways round in a round: what comes first is not the same to either.
            found: dict[str, tuple[list[float], list[float]]] = {
                name: ([], []) for name in LOAD_COUNTS
            }
            for loaded in (True, False, False, True) if number % 2 else (False, True, True, False):
                await _load_probes(seen, probes if loaded else ())
                for name, load in loads.items():
                    found[name][loaded].append(await load.measure_one_run())
            for name, (off, on) in found.items():
                times[name].off.append(sum(off) / 2)
                times[name].on.append(sum(on) / 2)
            note_progress(
                f"round {number + 1}: "
                + ", ".join(
                    f"{name} {each.slowdown_ratios[-1] - 1:+.1%}" for name, each in times.items()
                )
            )
    return times


async def _load_probes(seen: Watch, probes: Sequence[str]) -> None:
    await seen.collecting(*probes)
    if not probes:
        await seen.see(lambda: not seen.session._reader.channels, "all unloaded")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m bench.slowdown", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--cpu-time", action="store_true", help="in place of instructions")
    parser.add_argument("probe", nargs="*", help="only these (all)")
    arguments = parser.parse_args()
    counted = not arguments.cpu_time
    kernel = images.kernel_of_tree()
    with (
        tempfile.TemporaryDirectory(prefix="vesper-slowdown-") as directory,
        kvm_machine(kernel, build(kernel), Path(directory), cpus=1, counted=counted) as guest,
    ):
        wanted = arguments.probe or PROBES
        times = asyncio.run(_measure_slowdown(guest, wanted, arguments.rounds, counted=counted))
    print("CPU time" if arguments.cpu_time else "1 ns: an instruction")
    print("| load | without | with | slower by, median | 95 % of it | rounds |")
    print("|---|---|---|---|---|---|")
    for load, each in times.items():
        low, high = _bootstrap_interval(each.slowdown_ratios)
        print(
            f"| {load} | {statistics.median(each.off) / 1e3:.1f} µs "
            f"| {statistics.median(each.on) / 1e3:.1f} µs "
            f"| {statistics.median(each.slowdown_ratios) - 1:+.1%} "
            f"| {low - 1:+.1%} to {high - 1:+.1%} | {arguments.rounds} |"
        )
    worst = max(statistics.median(times[load].slowdown_ratios) for load in ("forks", "service"))
    return 0 if worst <= 1 + MAX_SLOWDOWN else 1


if __name__ == "__main__":
    sys.exit(main())
