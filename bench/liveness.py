# SPDX-License-Identifier: GPL-2.0-or-later
"""``python3 -m bench.liveness``: how soon a hang is found, and what only looks like one.

Guests with a real kernel, watched by vesperd's own session. First each kind of
hang, again and again: the time from the command that brings it about to the
event. Then rounds of what is no hang, in several guests at once, on host CPUs
that they share: paused, stopped with SIGSTOP, saved and restored, ten times
as many runnable threads as CPUs, scheduled only when nobody else wants to run,
fully loaded. Each round lasts twice ``hang_timeout`` or more. Ends with 1 on
any false alarm, or if a hang was not found.

A guest boots once and is saved; every other goes on from there.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from bench.watched import HANG_TIMEOUT_S, WatchedGuest, watch_guest
from lab import images
from lab.progress import note_progress
from tests.kernel.support.build import build
from tests.kernel.support.machine import Machine, machine, restored
from vesper_monitor.guest.event import Event
from vesper_monitor.guest.health.hang_detector import LifeState

__all__ = ["main"]

#: s for a hang to be found, or for signs of life to come back, on a busy machine.
RECOVERY_LIMIT_S = 120.0
#: s of a round, at least.
ROUND_S = 2 * HANG_TIMEOUT_S
#: A host CPU's runnable threads, of which the guest is one.
OVERCOMMIT_FACTOR = 10

HOG = "echo {} >/proc/sys/kernel/sched_rt_runtime_us; vsp_host hog &"

#: Name, CPUs of the guest, command.
HANGS = (
    ("interrupts off", 2, "echo irqs >/proc/vsp_wedge"),
    ("deadlock in the timer path", 2, "echo timer >/proc/vsp_wedge"),
    ("preemption off", 1, "echo preempt >/proc/vsp_wedge"),
    ("real-time task", 1, HOG.format(-1)),
)

FULL_LOAD = 'for i in 1 2 3 4 5 6 7 8; do while :; do :; done & load="$load $!"; done'
NO_LOAD = "kill $load; wait $load; load="


# ------------------------------------------------------------ the guests


class SavedGuest:
    """A guest that has booted, to be gone on with."""

    def __init__(self, original: Machine, path: Path) -> None:
        self.original = original
        self.path = path

    @asynccontextmanager
    async def resume_guest(self) -> AsyncIterator[Machine]:
        with tempfile.TemporaryDirectory(prefix="vesper-liveness-") as name:
            context = restored(self.original, self.path, Path(name))
            guest = await asyncio.to_thread(context.__enter__)
            try:
                yield guest
            finally:
                context.__exit__(None, None, None)


@contextmanager
def _save_booted_guest(
    kernel: images.Kernel, files: tuple[Path, ...], directory: Path, cpus: int
) -> Iterator[SavedGuest]:
    directory.mkdir()
    with machine(kernel, files, directory, cpus=cpus) as guest:
        guest.tell("insmod /vsp_wedge.ko; echo ready >/dev/console")
        guest.wait_said("ready")
        guest.save(directory / "saved")
        yield SavedGuest(guest, directory / "saved")


# ------------------------------------------------------------------ hangs


async def _time_one_hang(saved: SavedGuest, command: str) -> tuple[float, Event]:
    """:returns: s from the command to the event."""
    found: asyncio.Queue[Event] = asyncio.Queue()

    def collect_hangs(events: list[Event]) -> None:
        for event in events:
            if event.event == "hang":
                found.put_nowait(event)

    async with saved.resume_guest() as guest, watch_guest(guest, collect_hangs):
        await asyncio.sleep(random.uniform(1.0, 2.0))  # anywhere between two signs
        start = time.monotonic()
        guest.tell(command)
        event = await asyncio.wait_for(found.get(), RECOVERY_LIMIT_S)
        return time.monotonic() - start, event


async def _time_all_hangs(saved: dict[int, SavedGuest], rounds: int) -> bool:
    good = True
    print(f"hangs: s from the command to the event, hang_timeout {HANG_TIMEOUT_S:.0f} s")
    for name, cpus, command in HANGS:
        times = []
        for _ in range(rounds):
            try:
                seconds, _event = await _time_one_hang(saved[cpus], command)
                times.append(seconds)
            except TimeoutError:
                good = False
        print(f"  {name:28} {_format_spread(times)}   found {len(times)} of {rounds}", flush=True)
    return good


def _format_spread(times: list[float]) -> str:
    if not times:
        return "-"
    return (f"min {min(times):5.2f}  median {statistics.median(times):5.2f}  "
            f"max {max(times):5.2f}")  # fmt: skip


# ------------------------------------------------------- what is no hang


async def _wait_until_alive(told: WatchedGuest, since: list[int], kind: str) -> None:
    """Until the guest has shown signs since, and none is missing."""
    end = time.monotonic() + RECOVERY_LIMIT_S
    while told.session.heartbeat.state is not LifeState.ALIVE or told.read_counters() == since:
        if time.monotonic() > end:
            raise RuntimeError(
                f"{kind}: the guest has not come back: {told.session.state}, "
                f"{told.session.heartbeat.state}, {since} then, {told.read_counters()} now, "
                f"{await told.transport.cpu_use(told.transport.domain)}\n"
                f"{told.guest.console[-2000:]}"
            )
        await asyncio.sleep(0.1)


async def _pause_and_continue(told: WatchedGuest) -> None:
    await asyncio.to_thread(told.guest.qmp, "stop")
    await asyncio.sleep(ROUND_S)
    await asyncio.to_thread(told.guest.qmp, "cont")


async def _stop_by_signal(told: WatchedGuest) -> None:
    """As a host that gives the guest no CPU, and then a twentieth of one."""
    told.transport.stopped = True
    told.guest.process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(ROUND_S)
    for _ in range(round(ROUND_S)):
        told.guest.process.send_signal(signal.SIGCONT)
        await asyncio.sleep(0.05)
        told.guest.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(0.95)
    told.guest.process.send_signal(signal.SIGCONT)
    told.transport.stopped = False


async def _save_and_restore(told: WatchedGuest) -> None:
    path = told.guest.directory / "saved"
    await asyncio.to_thread(told.guest.save, path)
    await asyncio.sleep(ROUND_S)
    await asyncio.to_thread(told.guest.restore, path)
    path.unlink()


@contextmanager
def _keep_cpus_busy(count: int, cpus: set[int]) -> Iterator[None]:
    """So many busy processes on those CPUs of the host."""
    hogs = [
        subprocess.Popen(
            ["taskset", "-c", ",".join(map(str, cpus)), "sh", "-c", "while :; do :; done"]
        )
        for _ in range(count)
    ]
    try:
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


async def _overcommit_host(told: WatchedGuest) -> None:
    """All on one host CPU, with nine busy processes for each of the guest's CPUs.

    The guest is idle at first, then busy, too.
    """
    everywhere = os.sched_getaffinity(0)
    cpu = random.choice(sorted(everywhere))
    with _keep_cpus_busy((OVERCOMMIT_FACTOR - 1) * 2, {cpu}):
        _pin_threads(told.guest, {cpu})
        await asyncio.sleep(ROUND_S)
        told.guest.tell(FULL_LOAD)
        await asyncio.sleep(ROUND_S)
    _pin_threads(told.guest, everywhere)
    told.guest.tell(NO_LOAD)


async def _schedule_as_idle(told: WatchedGuest) -> None:
    """Runs only when nobody else wants to, on a host whose CPUs are wanted all the time.

    The guest is idle at first, then busy, too.
    """
    cpus = os.sched_getaffinity(0)
    with _keep_cpus_busy(len(cpus), cpus):
        _set_scheduling(told.guest, os.SCHED_IDLE)
        await asyncio.sleep(ROUND_S)
        told.guest.tell(FULL_LOAD)
        await asyncio.sleep(ROUND_S)
    _set_scheduling(told.guest, os.sched_getscheduler(0))
    told.guest.tell(NO_LOAD)


async def _load_guest_fully(told: WatchedGuest) -> None:
    """Busy processes on all of its CPUs, then a real-time task that leaves 5 %."""
    told.guest.tell(FULL_LOAD)
    await asyncio.sleep(ROUND_S)
    told.guest.tell(HOG.format(950000))
    await asyncio.sleep(ROUND_S)
    told.guest.tell("killall vsp_host; " + NO_LOAD)


def _pin_threads(guest: Machine, cpus: set[int]) -> None:
    for thread in _list_threads(guest):
        with contextlib.suppress(ProcessLookupError):  # QEMU's workers come and go
            os.sched_setaffinity(thread, cpus)


def _set_scheduling(guest: Machine, policy: int) -> None:
    for thread in _list_threads(guest):
        with contextlib.suppress(ProcessLookupError):
            os.sched_setscheduler(thread, policy, os.sched_param(0))


def _list_threads(guest: Machine) -> list[int]:
    return [int(path.name) for path in Path(f"/proc/{guest.process.pid}/task").iterdir()]


BENIGN_LOADS: dict[str, Callable[[WatchedGuest], Awaitable[None]]] = {
    "pause": _pause_and_continue,
    "stop (SIGSTOP)": _stop_by_signal,
    "save, restore": _save_and_restore,
    f"{OVERCOMMIT_FACTOR}-fold overcommit": _overcommit_host,
    "idle scheduling class": _schedule_as_idle,
    "full load": _load_guest_fully,
}


async def _run_calm_rounds(saved: dict[int, SavedGuest], rounds: int, guests: int) -> bool:
    kinds = iter(list(itertools.islice(itertools.cycle(BENIGN_LOADS), rounds)))
    done: Counter[str] = Counter()
    alarms: Counter[str] = Counter()
    asked: Counter[str] = Counter()

    async def run_rounds_in_guest(number: int) -> None:
        events: list[Event] = []
        async with (
            saved[1 + number % 2].resume_guest() as guest,
            watch_guest(guest, events.extend) as told,
        ):
            for kind in kinds:
                signs = told.read_counters()
                questions = told.transport.questions
                await BENIGN_LOADS[kind](told)
                await _wait_until_alive(told, signs, kind)
                done[kind] += 1
                asked[kind] += told.transport.questions - questions
                for event in events:
                    alarms[kind] += event.event == "hang"
                    note_progress(f"{kind}: {event.event}: {event.text} {event.fields}")
                events.clear()
                if done.total() % 20 == 0:
                    note_progress(f"{done.total()} rounds, {alarms.total()} false alarms")

    await asyncio.gather(*(run_rounds_in_guest(number) for number in range(guests)))
    print(f"no hangs: {done.total()} rounds in {guests} guests at once, of 1 and 2 CPUs, on "
          f"{len(os.sched_getaffinity(0))} host CPUs")  # fmt: skip
    for kind in BENIGN_LOADS:
        print(f"  {kind:28} {done[kind]:4} rounds, hypervisor asked {asked[kind]:5} times, "
              f"false alarms {alarms[kind]}")  # fmt: skip
    print(f"false alarms: {alarms.total()}", flush=True)
    return not alarms.total()


async def _run_benchmark(
    saved: dict[int, SavedGuest], rounds: int, hangs: int, guests: int
) -> bool:
    found = await _time_all_hangs(saved, hangs) if hangs else True
    return (await _run_calm_rounds(saved, rounds, guests) if rounds else True) and found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m bench.liveness", description=__doc__)
    parser.add_argument("--rounds", type=int, default=200, help="of what is no hang (200)")
    parser.add_argument("--hangs", type=int, default=20, help="of each kind (20)")
    parser.add_argument("--guests", type=int, default=4, help="at once (4)")
    arguments = parser.parse_args()
    kernel = images.kernel_of_tree()
    with tempfile.TemporaryDirectory(prefix="vesper-liveness-") as name:
        directory = Path(name)
        files = build(kernel)
        with (
            _save_booted_guest(kernel, files, directory / "1", 1) as one,
            _save_booted_guest(kernel, files, directory / "2", 2) as two,
        ):
            good = asyncio.run(
                _run_benchmark(
                    {1: one, 2: two}, arguments.rounds, arguments.hangs, arguments.guests
                )
            )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
