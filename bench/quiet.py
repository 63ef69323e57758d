# SPDX-License-Identifier: GPL-2.0-or-later
"""``python3 -m bench.quiet``: a guest under heavy normal use, with all probes, raises no fault.

A Debian guest compiles, packs, makes and fills file systems, serves, forks,
sends signals (bench/quiet_load), all at once on two CPUs. Every probe is
loaded, and points of a user's; signs of life are watched with the default
``hang_timeout``. What the probes tell is decoded and judged as vesperd does
it, for the services that run in there. Ends with 1 if there was a fault, if a
record was lost, or if the load did not run.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from bench.watched import HANG_TIMEOUT_S, watch_guest
from lab import images
from lab.images import store
from lab.images.workbench import build_workbench
from lab.progress import note_progress
from tests.kernel.support.build import build
from tests.kernel.support.machine import Machine, machine
from vesper_monitor.guest.control.images import ImageStore
from vesper_monitor.guest.dynamic_probes.syntax import parse_definition
from vesper_monitor.guest.event import Event
from vesper_monitor.guest.session_state import ProbeState, ProbeStatus
from vesper_monitor.knowledge.probes import PROBES
from vesper_monitor.rules.rule_set import judge_by_defaults

__all__ = ["main"]

HERE = Path(__file__).parent
SERVICES = ("httpd", "service")
GUEST_MEMORY_BYTES = 1536 << 20
MODULES = ("virtio_pci", "virtio_blk", "ext4", "loop", "xfs", "btrfs", "veth")
#: s for all probes to be loaded, on a busy machine.
PROBE_LOAD_LIMIT_S = 300.0
#: Kinds of load in bench/quiet_load.
LOADS = ("compile", "archive", "ext4", "xfs", "btrfs", "network", "processes", "memory")
#: A user's, where much passes: a function, its return, a tracepoint.
DYNAMIC_PROBES = {
    point.name: point
    for point in map(
        parse_definition,
        (
            "p:opens do_sys_openat2 dfd=$arg1:s32 path=+0($arg2):ustring max 3/s",
            "r:fails do_sys_openat2 $retval:s64 comm=$comm if arg1 < 0 max 3/s",
            "t:signals signal_generate sig=$arg1:s32 result=$arg5:s32 if sig == 17 max 3/s",
        ),
    )
}
#: Records in a second, on average, that are bounded.
MAX_RECORDS_PER_S = 100.0

START = (
    "mkdir -p /root; mount -t ext4 /dev/vda /root; mount -t devtmpfs dev /root/dev; "
    "mount -t proc proc /root/proc; mount -t sysfs sys /root/sys; "
    "mkdir -p /root/load/compile; tar -xf /bin/sources.tar -C /root/load/compile; "
    "cp /bin/quiet_load /root/load/; chroot /root /load/quiet_load &"
)


class Report:
    """What the probes have told."""

    def __init__(self) -> None:
        self.events: Counter[str] = Counter()
        self.faults: list[str] = []

    def record_events(self, events: list[Event]) -> None:
        for event in events:
            self.events[event.event] += 1
            verdict = judge_by_defaults(event, SERVICES)
            if verdict is not None:
                self.faults.append(verdict.reason)
                note_progress(f"FAULT: {verdict.reason}")


def _read_load_rounds(guest: Machine) -> dict[str, int]:
    """Rounds of each kind of load."""
    done = dict.fromkeys(LOADS, 0)
    for line in guest.console.splitlines():
        words = line.split()
        if len(words) == 3 and words[0] == "done" and words[1] in done:
            done[words[1]] = int(words[2])
        elif line.startswith("failed "):
            raise RuntimeError(f"the load does not run: {line}")
    return done


async def _watch_guest(guest: Machine, probes: ImageStore, seconds: float) -> bool:
    """:returns: whether all is well."""
    report = Report()
    async with watch_guest(
        guest, report.record_events, images=probes, points=DYNAMIC_PROBES
    ) as told:
        wanted = (PROBES.keys() - {"probe_point"}) | DYNAMIC_PROBES.keys()
        await told.session.set_probes(dict.fromkeys(wanted, ""))
        end = time.monotonic() + PROBE_LOAD_LIMIT_S
        while any(
            status.state is not ProbeState.COLLECTING for status in told.session.probes.values()
        ):
            if time.monotonic() > end:
                raise RuntimeError(f"not all probes are loaded: {told.session.probes}")
            await asyncio.sleep(0.2)
        note_progress(f"collecting: {', '.join(told.session.probes)}")
        guest.tell(START)
        start = time.monotonic()
        next_note = start + 60
        while (now := time.monotonic()) < start + seconds:
            await asyncio.sleep(1)
            done = _read_load_rounds(guest)
            if now >= next_note:
                next_note += 60
                note_progress(f"{(now - start) / 60:.0f} min: {report.events.total()} events, "
                     f"{len(report.faults)} faults; rounds of load: {done}")  # fmt: skip
        return _print_result(report, told.session.probes, _read_load_rounds(guest), seconds)


def _print_result(
    report: Report, probes: Mapping[str, ProbeStatus], done: Mapping[str, int], seconds: float
) -> bool:
    """The result. :returns: whether it is as wanted."""
    lost = sum(status.lost for status in probes.values())
    total = report.events.total()
    kinds = ", ".join(f"{name} {count}" for name, count in report.events.most_common())
    print(f"{seconds / 60:.0f} minutes, hang_timeout {HANG_TIMEOUT_S:.0f} s, probes: "
          f"{', '.join(probes)}")  # fmt: skip
    print("rounds of load: " + ", ".join(f"{name} {count}" for name, count in done.items()))
    print(f"events: {total} ({total / seconds:.2f} a second): {kinds}")
    print(f"records lost: {lost}")
    print(f"faults: {len(report.faults)}" + "".join(f"\n  {text}" for text in report.faults))
    return (
        not report.faults
        and not lost
        and all(done.values())
        and total / seconds <= MAX_RECORDS_PER_S
    )


def _run_benchmark(minutes: float, directory: Path) -> bool:
    kernel = images.kernel_of_tree()
    files = build(kernel)
    probes = directory / "images" / kernel.release
    probes.mkdir(parents=True)
    for path in files:
        if path.stem in PROBES:
            shutil.copy(path, probes)
    sources = directory / "sources.tar"
    store.run_build_command(["tar", "-cf", sources, "--exclude=build",
                             "-C", HERE.parent, "probe_modules",
               "xen_transport/guest"], timeout=60)  # fmt: skip
    disk = build_workbench(kernel)
    guest_files = [path for path in files if path.stem not in PROBES]
    with machine(
        kernel, [*guest_files, sources, HERE / "quiet_load"], directory,
        memory=GUEST_MEMORY_BYTES, modules=MODULES,
        qemu=("-drive", f"file={disk},if=virtio,format=raw,snapshot=on"),
    ) as guest:  # fmt: skip
        note_progress("the guest is up")
        try:
            return asyncio.run(_watch_guest(guest, ImageStore(directory / "images"), minutes * 60))
        except RuntimeError:
            print(guest.console[-5000:], file=sys.stderr)
            raise


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m bench.quiet", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vesper-quiet-") as directory:
        return 0 if _run_benchmark(arguments.minutes, Path(directory)) else 1


if __name__ == "__main__":
    sys.exit(main())
