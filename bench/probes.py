# SPDX-License-Identifier: GPL-2.0-or-later
"""``python3 -m bench.probes``: what one hit of each probe costs, against ftrace and bpftrace.

One guest, with a host that reads. Each place in the kernel at which a probe is
gets passed thousands of times (tests/guest_modules/vsp_fire.c: really, by its
own driver, or called with a real argument and made to return at once), in
turn: bare, with our probe, with an event of ftrace, with a program of
bpftrace that prints. All three take the same values, as near as each can. What
is told is the median of the rounds, less the bare passage of the same round,
in ns per hit, and the range. Ends with 1 if a probe costs more than the
cheaper of the two others.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.points import POINTS, Point
from bench.watched import WatchedGuest, watch_guest
from lab import images
from lab.images.workbench import build_workbench
from lab.progress import note_progress
from tests.kernel.support.build import build
from tests.kernel.support.machine import Machine, machine
from vesper_monitor.guest.control.images import ImageStore
from vesper_monitor.guest.dynamic_probes.point import DynamicProbe as Definition
from vesper_monitor.guest.dynamic_probes.program import IMAGE
from vesper_monitor.guest.dynamic_probes.syntax import parse_definition
from vesper_monitor.guest.session_state import ProbeState
from vesper_monitor.knowledge.probes import PROBES

__all__ = ["main"]

MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "ext4", "xfs", "btrfs")
#: s for one command, on a busy machine.
COMMAND_LIMIT_S = 600.0
#: Hits at a time, of which the median is taken: most of them undisturbed.
BURST_HITS = 50
BURSTS_PER_ROUND = 60
#: Part of the hits that must have been recorded.
MIN_RECORDED_SHARE = 0.5
TRACING = "/sys/kernel/tracing"

SETUP = (
    "mkdir -p /root; mount -t ext4 /dev/vda /root; mount -t devtmpfs dev /root/dev; "
    "mount -t proc proc /root/proc; mount -t sysfs sys /root/sys; "
    "mount -t tracefs tracefs /sys/kernel/tracing; mount -t debugfs debugfs /sys/kernel/debug; "
    "mount -t tracefs tracefs /root/sys/kernel/tracing; "
    "mount -t debugfs debugfs /root/sys/kernel/debug; "
    "ip link set eth0 up; insmod /vsp_fire.ko; cd /root/usr/share; trap '' USR1"
)


@dataclass
class Cost:
    """ns per hit more than bare, a value for each round."""

    vesper: list[float]
    ftrace: list[float]
    bpftrace: list[float]

    def ratio_to_cheaper(self) -> float:
        """To the cheaper of the two."""
        return statistics.median(self.vesper) / min(
            statistics.median(self.ftrace), statistics.median(self.bpftrace)
        )


class Shell:
    """The guest's; one command at a time."""

    def __init__(self, guest: Machine) -> None:
        self.guest = guest
        self._count = 0

    async def run_command(self, command: str) -> list[str]:
        """:returns: the lines that it wrote."""
        self._count += 1
        mark = f"mark {self._count}"
        self.guest.tell(f"echo begin {mark}; {{ {command}; }} 2>&1; echo end {mark}")
        end = time.monotonic() + COMMAND_LIMIT_S
        while f"\nend {mark}\n" not in (said := self.guest.console):
            if time.monotonic() > end or self.guest.process.poll() is not None:
                raise RuntimeError(f"the guest does not do: {command}\n{said[-2000:]}")
            await asyncio.sleep(0.02)
        text = said.partition(f"begin {mark}\n")[2].partition(f"end {mark}\n")[0]
        return text.splitlines()

    async def time_one_hit(self, point: str) -> float:
        """:returns: ns per hit."""
        lines = await self.run_command(
            f"for i in $(seq {BURSTS_PER_ROUND}); do echo {point} {BURST_HITS} >/proc/vsp_fire; "
            'read -r line </proc/vsp_fire; echo "$line"; done'
        )
        times = [int(line.split()[3]) / BURST_HITS for line in lines if line.startswith("fired ")]
        if len(times) != BURSTS_PER_ROUND:
            raise RuntimeError(f"{point}: {lines}")
        return statistics.median(times)


# ------------------------------------------------------- the three tools


async def _measure_vesper(
    told: WatchedGuest,
    shell: Shell,
    point: Point,
    own: dict[str, Definition],
    offsets: Mapping[str, int],
) -> float:
    """:param own: the points that the session knows."""
    probe, params = point.probe, point.params
    if probe == IMAGE:
        definition = parse_definition(point.make_definition(offsets))
        probe, params = definition.name, ""
        own[probe] = definition
    await told.session.set_probes({probe: params})
    await _wait_for_probe_state(told, probe, ProbeState.COLLECTING)
    before = told.session.probes[probe].records
    cost = await shell.time_one_hit(point.name)
    await asyncio.sleep(0.5)
    status = told.session.probes[probe]
    if status.records + status.lost - before < BURST_HITS * BURSTS_PER_ROUND * MIN_RECORDED_SHARE:
        raise RuntimeError(f"{probe}: {status.records - before} records, lost {status.lost}")
    await told.session.set_probes({})
    end = time.monotonic() + COMMAND_LIMIT_S
    while probe in told.session._reader.channels:
        if time.monotonic() > end:
            raise RuntimeError(f"{probe} is not unloaded")
        await asyncio.sleep(0.05)
    return cost


async def _wait_for_probe_state(told: WatchedGuest, probe: str, state: ProbeState) -> None:
    end = time.monotonic() + COMMAND_LIMIT_S
    while (status := told.session.probes.get(probe)) is None or status.state is not state:
        if time.monotonic() > end:
            raise RuntimeError(f"{probe}: {status}")
        await asyncio.sleep(0.05)


async def _measure_ftrace(shell: Shell, point: Point, offsets: Mapping[str, int]) -> float:
    event, enable = point.ftrace_event(offsets)
    if event:
        said = await shell.run_command(f"echo '{event}' >>{TRACING}/kprobe_events")
        if said:
            raise RuntimeError(
                f"{event}: {said}; {await shell.run_command(f'cat {TRACING}/error_log')}"
            )
    try:
        await shell.run_command(f"echo >{TRACING}/trace; echo 1 >{TRACING}/events/{enable}/enable")
        cost = await shell.time_one_hit(point.name)
        (hits,) = await shell.run_command(f"grep -c ' {enable.partition('/')[2]}:' {TRACING}/trace")
        if int(hits) < BURST_HITS * BURSTS_PER_ROUND * MIN_RECORDED_SHARE:
            raise RuntimeError(f"{point.name}: ftrace has recorded {hits}")
    finally:
        await shell.run_command(f"echo 0 >{TRACING}/events/{enable}/enable")
        if event:
            await shell.run_command(f"echo >{TRACING}/kprobe_events")
    return cost


async def _measure_bpftrace(shell: Shell, point: Point, offsets: Mapping[str, int]) -> float:
    program = 'BEGIN { printf("ready\\n"); } ' + point.bpftrace_program(offsets)
    out = "/root/tmp/bpftrace"
    # printf: the shell's echo knows escapes, which are bpftrace's.
    await shell.run_command(f"printf %s '{program}' >/root/tmp/program; rm -f {out}; "
                    f"chroot /root bpftrace /tmp/program >{out} 2>&1 & true")  # fmt: skip
    try:
        end = time.monotonic() + COMMAND_LIMIT_S
        while "ready" not in (said := await shell.run_command(f"head -n 5 {out}")):
            if time.monotonic() > end or any("ERROR" in line for line in said):
                raise RuntimeError(f"bpftrace: {program}: {said}")
            await asyncio.sleep(0.5)
        await asyncio.sleep(1)
        cost = await shell.time_one_hit(point.name)
        (hits,) = await shell.run_command(f"sleep 1; wc -l <{out}")
        if int(hits) < BURST_HITS * BURSTS_PER_ROUND * MIN_RECORDED_SHARE:
            raise RuntimeError(f"{point.name}: bpftrace has printed {hits} lines")
    finally:
        await shell.run_command("killall -INT bpftrace; for i in $(seq 100); do "
                        "pidof bpftrace >/dev/null || break; sleep 0.1; done; "
                        "killall -KILL bpftrace 2>/dev/null; true")  # fmt: skip
    return cost


# ---------------------------------------------------------------- rounds


async def _measure_points(guest: Machine, store: ImageStore, rounds: int, only: set[str]
                   ) -> dict[Point, Cost]:  # fmt: skip
    shell = Shell(guest)
    costs: dict[Point, Cost] = {}
    own: dict[str, Definition] = {}
    async with watch_guest(guest, lambda _: None, images=store, points=own) as told:
        said = await shell.run_command(SETUP)
        lines = await shell.run_command("cat /proc/vsp_fire")
        offsets = {
            found[1]: int(found[2])
            for line in lines
            if (found := re.fullmatch(r"offset (\S+) (\d+)", line))
        }
        if not offsets:
            raise RuntimeError(f"vsp_fire: {said} {lines}")
        points = [point for point in POINTS if not only or point.probe in only]
        for number in range(rounds):
            for point in points:
                cost = costs.setdefault(point, Cost([], [], []))
                ways: list[tuple[list[float], Callable[[], Awaitable[float]]]] = [
                    (cost.vesper, partial(_measure_vesper, told, shell, point, own, offsets)),
                    (cost.ftrace, partial(_measure_ftrace, shell, point, offsets)),
                    (cost.bpftrace, partial(_measure_bpftrace, shell, point, offsets)),
                ]
                random.shuffle(ways)
                for values, measure in ways:
                    bare = await shell.time_one_hit(point.name)
                    values.append(await measure() - bare)
                note_progress(f"round {number + 1}: {point.probe} at {point.name}: "
                              f"bare {bare:.0f}, "
                     f"+{cost.vesper[-1]:.0f} vesper, +{cost.ftrace[-1]:.0f} ftrace, "
                     f"+{cost.bpftrace[-1]:.0f} bpftrace")  # fmt: skip
    return costs


def _print_costs(costs: Mapping[Point, Cost]) -> bool:
    """:returns: whether no probe costs more than the cheaper of the others."""
    print(f"ns per hit more than the bare passage: median (least to most) of the rounds, "
          f"each the median of {BURSTS_PER_ROUND} times {BURST_HITS} hits; "
          "emulated CPU")  # fmt: skip
    print("| probe | at | driven by | VESPER | ftrace | bpftrace | VESPER / cheaper |")
    print("|---|---|---|---|---|---|---|")
    for point, cost in costs.items():
        cells = [
            f"{statistics.median(values):.0f} ({min(values):.0f} to {max(values):.0f})"
            for values in (cost.vesper, cost.ftrace, cost.bpftrace)
        ]
        print(f"| {point.probe} | {point.name} | {point.driven} | {' | '.join(cells)} "
              f"| {cost.ratio_to_cheaper():.2f} |")  # fmt: skip
    missing = sorted(set(PROBES) - {point.probe for point in POINTS})
    if missing:
        print(f"not measured: {', '.join(missing)}")
    return all(cost.ratio_to_cheaper() <= 1.0 for cost in costs.values())


def _run_benchmark(rounds: int, only: set[str], directory: Path) -> bool:
    kernel = images.kernel_of_tree()
    files = build(kernel)
    probes = directory / "images" / kernel.release
    probes.mkdir(parents=True)
    for path in files:
        if path.stem in PROBES:
            shutil.copy(path, probes)
    guest_files = [path for path in files if path.stem not in PROBES]
    with machine(
        kernel, guest_files, directory, memory=1 << 30, modules=MODULES,
        qemu=("-drive", f"file={build_workbench(kernel)},if=virtio,format=raw,snapshot=on",
              "-netdev", "user,id=user0,restrict=on",
              "-device", "virtio-net-pci,netdev=user0"),
    ) as guest:  # fmt: skip
        note_progress("the guest is up")
        costs = asyncio.run(_measure_points(guest, ImageStore(directory / "images"), rounds, only))
    return _print_costs(costs)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m bench.probes", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("probe", nargs="*", help="only these (all)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vesper-probes-") as directory:
        return 0 if _run_benchmark(arguments.rounds, set(arguments.probe), Path(directory)) else 1


if __name__ == "__main__":
    sys.exit(main())
