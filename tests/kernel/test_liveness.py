# SPDX-License-Identifier: GPL-2.0-or-later
"""Real kernels that hang, and real kernels that only look so, seen from outside."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import bench.watched
from bench.liveness import BENIGN_LOADS
from lab.session_listener import EventListener
from tests.kernel.support.loopback_guest import TestGuest
from tests.kernel.support.machine import Machine, machine
from tests.kernel.support.machine_transport import MachineTransport
from tests.unit.support.standins import until
from vesper_monitor.guest.control.images import ImageStore
from vesper_monitor.guest.event import Event
from vesper_monitor.guest.health.hang_detector import LifeState
from vesper_monitor.guest.health.heartbeat import HeartbeatReader, find_heartbeat_page
from vesper_monitor.guest.session import Session
from vesper_monitor.guest.session_state import SessionState

Boot = Callable[..., Any]

#: s, the default.
TIMEOUT_S = 5.0
SLOW_S = 30.0


class Watched(bench.watched.WatchedGuest):
    def __init__(self, guest: Machine) -> None:
        self.events: list[Event] = []
        self.guest = guest
        self.transport = MachineTransport(guest)
        self.session = Session(
            self.transport,
            self.transport.domain,
            ImageStore(Path("/nonexistent")),
            EventListener(self.events.extend, hang_timeout_s=TIMEOUT_S),
        )

    def life_state(self) -> LifeState:
        return self.session.heartbeat.state

    @property
    def hangs(self) -> list[dict[str, Any]]:
        return [event.fields for event in self.events if event.event == "hang"]

    def signs(self) -> list[tuple[int, int]]:
        guest = self.session.guest
        assert guest is not None
        reader = HeartbeatReader(guest.link, guest.hello.heartbeat_region, guest.hello.nr_cpus)
        try:
            return [(sign.irqs, sign.runs) for sign in reader.read_signs()]
        finally:
            reader.close()


@asynccontextmanager
async def watched(guest: Machine, *, answers: bool = True) -> AsyncIterator[Watched]:
    """:param answers: the guest; else it hangs already."""
    told = Watched(guest)
    task = asyncio.create_task(told.session.run_session())
    try:
        if answers:
            await until(lambda: told.session.state is SessionState.ACTIVE, "active", SLOW_S)
        yield told
    except AssertionError:
        print(guest.console)
        raise
    finally:
        await told.session.close_session(deactivate=False)
        await asyncio.wait_for(task, 10)


HOG = "echo {} >/proc/sys/kernel/sched_rt_runtime_us; vsp_host hog &"
#: Since Linux 6.12 a server of the scheduler leaves other tasks 5 %, whatever is said there.
NO_FAIR_SERVER = (
    "mount -t debugfs none /sys/kernel/debug; "
    "for server in /sys/kernel/debug/sched/fair_server/cpu*/runtime; do "
    "[ ! -e $server ] || echo 0 >$server; done; "
)


@pytest.mark.parametrize(
    ("cpus", "command", "depth"),
    [
        (2, "insmod /vsp_wedge.ko; echo irqs >/proc/vsp_wedge", "interrupts"),
        (2, "insmod /vsp_wedge.ko; echo timer >/proc/vsp_wedge", "interrupts"),
        (1, "insmod /vsp_wedge.ko; echo preempt >/proc/vsp_wedge", "scheduler"),
        (1, NO_FAIR_SERVER + HOG.format(-1), "scheduler"),
    ],
    ids=["interrupts off", "deadlock in a timer", "preemption off", "real-time task"],
)
def test_a_hang_is_found(
    test_guest: TestGuest, tmp_path: Path, cpus: int, command: str, depth: str
) -> None:
    async def body(guest: Machine) -> None:
        async with watched(guest) as told:
            guest.tell(command)
            await until(lambda: told.hangs, "a hang", SLOW_S + TIMEOUT_S)
            (hang,) = told.hangs
            assert hang["depth"] == depth
            assert TIMEOUT_S - 1.3 <= hang["silent_s"] <= 3 * TIMEOUT_S
            assert hang["ran_s"] >= TIMEOUT_S * 0.35

    with machine(test_guest.kernel, test_guest.files, tmp_path, cpus=cpus) as guest:
        asyncio.run(body(guest))


#: Which timers of the core run, and whether its threads do; in a shell of the guest's.
HEARTBEATS = """\
switches() {
	for process in /proc/[0-9]*; do
		case $(cat $process/comm) in vesper/*) grep ctxt_switches $process/status;; esac
	done
}
echo "timers $1: $(grep -c heartbeat_tick /proc/timer_list)"
before=$(switches)
sleep 2
[ "$before" = "$(switches)" ] && echo "threads $1: asleep" || echo "threads $1: awake"
"""


def test_heartbeats_from_activation_to_deactivation(run: Boot) -> None:
    """What is loaded and has no host costs nothing: no timer, no run of a thread."""
    result = run(
        "hello\n",
        setup="sh /heartbeats unasked; vsp_host </first; "
        "while grep -q heartbeat_tick /proc/timer_list; do sleep 0.1; done; sh /heartbeats after",
        files={
            "heartbeats": HEARTBEATS.encode(),
            "first": b"hello\nsh sh /heartbeats active\nreopen\nsh sh /heartbeats anew\n",
        },
    )
    for when, timers, threads in (
        ("unasked", "0", "asleep"),
        ("active", "2", "awake"),
        ("anew", "2", "awake"),
        ("after", "0", "asleep"),
    ):
        assert result.line(f"timers {when}:") == timers
        assert result.line(f"threads {when}:") == threads


def test_a_hang_while_no_vesperd_is_there_is_found(test_guest: TestGuest, tmp_path: Path) -> None:
    """The heartbeats go on without one; the next finds the hang, though nobody answers HELLO."""

    async def hang_alone(guest: Machine) -> None:
        link = await MachineTransport(guest).connect_domain(Watched(guest).session.domain, SLOW_S)
        reader = HeartbeatReader(link, *find_heartbeat_page(link))
        try:
            first = reader.read_signs()
            await until(lambda: reader.read_signs() != first, "a heartbeat", SLOW_S)
            guest.tell("insmod /vsp_wedge.ko; echo preempt >/proc/vsp_wedge")
            last = reader.read_signs()[0]

            def is_wedged() -> bool:
                nonlocal last
                now = reader.read_signs()[0]
                if now.runs != last.runs:
                    last = now
                return now.irqs - last.irqs > 5

            await until(is_wedged, "interrupts, and no thread", SLOW_S)
        finally:
            reader.close()
            await link.close(deactivate=False)

    async def body(guest: Machine) -> None:
        async with watched(guest):
            pass
        await hang_alone(guest)
        async with watched(guest, answers=False) as told:
            await until(lambda: told.hangs, "a hang", SLOW_S + TIMEOUT_S)
            assert [hang["depth"] for hang in told.hangs] == ["scheduler"]
            assert told.session.state is SessionState.CONNECTING

    with machine(test_guest.kernel, test_guest.files, tmp_path, cpus=1) as guest:
        asyncio.run(body(guest))


def test_what_only_looks_like_a_hang_is_none(test_guest: TestGuest, tmp_path: Path) -> None:
    """One guest after the other way to be silent, or slow, without being ill."""

    async def body(guest: Machine) -> None:
        async with watched(guest) as told:
            before = told.signs()
            assert len(before) == 2
            await asyncio.sleep(2 * TIMEOUT_S)  # idle, without a tick
            for (irqs, runs), (irqs_then, runs_then) in zip(told.signs(), before, strict=True):
                assert irqs > irqs_then
                assert runs > runs_then

            guest.qmp("stop")
            await asyncio.sleep(2 * TIMEOUT_S)
            assert told.life_state() is LifeState.DOUBTED
            guest.qmp("cont")
            await until(lambda: told.life_state() is LifeState.ALIVE, "alive", SLOW_S)

            # The host gives it no CPU, then a tenth.
            told.transport.stopped = True
            guest.process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(2 * TIMEOUT_S)
            for _ in range(round(3 * TIMEOUT_S)):
                guest.process.send_signal(signal.SIGCONT)
                await asyncio.sleep(0.1)
                guest.process.send_signal(signal.SIGSTOP)
                await asyncio.sleep(0.9)
            guest.process.send_signal(signal.SIGCONT)
            told.transport.stopped = False
            await until(lambda: told.life_state() is LifeState.ALIVE, "alive", SLOW_S)

            # Saved and restored; one of ten who want the same host CPU.
            for kind in ("save, restore", "10-fold overcommit"):
                await BENIGN_LOADS[kind](told)
                await until(lambda: told.life_state() is LifeState.ALIVE, "alive", SLOW_S)

            # It is busy: many processes, and a real-time task that leaves 5 %.
            guest.tell("for i in 1 2 3 4 5 6 7 8; do while :; do :; done & done")
            await asyncio.sleep(2 * TIMEOUT_S)
            guest.tell(HOG.format(950000))
            await asyncio.sleep(2 * TIMEOUT_S)
            guest.tell("killall vsp_host && echo hogged >/dev/console")
            await until(lambda: "hogged" in guest.console, "the end of the real-time task", SLOW_S)

            # A CPU goes and comes back.
            guest.tell("echo 0 >/sys/devices/system/cpu/cpu1/online")
            await until(lambda: len(told.signs()) == 1, "CPU 1 offline", SLOW_S)
            await asyncio.sleep(2 * TIMEOUT_S)
            guest.tell("echo 1 >/sys/devices/system/cpu/cpu1/online")
            await until(lambda: len(told.signs()) == 2, "CPU 1 online", SLOW_S)
            await asyncio.sleep(TIMEOUT_S)
            assert told.life_state() is LifeState.ALIVE
            assert told.events == []

    with machine(test_guest.kernel, test_guest.files, tmp_path) as guest:
        asyncio.run(body(guest))
