# SPDX-License-Identifier: GPL-2.0-or-later
"""Real kernels that hang, and real kernels that only look so, seen from outside."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bench.liveness import CALM
from tests.guest.machine import Machine, MachineTransport, machine
from tests.host.standins import until
from vesper_monitor.guest.decode import Event
from vesper_monitor.guest.images import ImageStore
from vesper_monitor.guest.life import LifeReader
from vesper_monitor.guest.liveness import LifeState
from vesper_monitor.guest.session import Session, SessionState

#: s, the default.
TIMEOUT = 5.0
SLOW = 30.0


class Watched:
    def __init__(self, guest: Machine) -> None:
        self.events: list[Event] = []
        self.guest = guest
        self.transport = MachineTransport(guest)
        self.session = Session(
            self.transport,
            self.transport.domain,
            ImageStore(Path("/nonexistent")),
            lambda _, found: self.events.extend(found),
            lambda _: None,
            hang_timeout=lambda: TIMEOUT,
        )

    @property
    def hangs(self) -> list[dict[str, Any]]:
        return [event.fields for event in self.events if event.event == "hang"]

    def signs(self) -> list[tuple[int, int]]:
        guest = self.session._guest
        assert guest is not None
        reader = LifeReader(guest.link, guest.hello.life, guest.hello.nr_cpus)
        try:
            return [(sign.irqs, sign.runs) for sign in reader.read()]
        finally:
            reader.close()


@asynccontextmanager
async def watched(guest: Machine) -> AsyncIterator[Watched]:
    told = Watched(guest)
    task = asyncio.create_task(told.session.run())
    try:
        await until(lambda: told.session.state is SessionState.ACTIVE, "active", SLOW)
        yield told
    except AssertionError:
        print(guest.console)
        raise
    finally:
        await told.session.close(deactivate=False)
        await asyncio.wait_for(task, 10)


HOG = "echo {} >/proc/sys/kernel/sched_rt_runtime_us; vsp_host hog &"


@pytest.mark.parametrize(
    ("cpus", "command", "depth"),
    [
        (2, "insmod /vsp_wedge.ko; echo irqs >/proc/vsp_wedge", "interrupts"),
        (2, "insmod /vsp_wedge.ko; echo timer >/proc/vsp_wedge", "interrupts"),
        (1, "insmod /vsp_wedge.ko; echo preempt >/proc/vsp_wedge", "scheduler"),
        (1, HOG.format(-1), "scheduler"),
    ],
    ids=["interrupts off", "deadlock in a timer", "preemption off", "real-time task"],
)
def test_hang(test_guest: Any, tmp_path: Path, cpus: int, command: str, depth: str) -> None:
    async def body(guest: Machine) -> None:
        async with watched(guest) as told:
            guest.tell(command)
            await until(lambda: told.hangs, "a hang", SLOW + TIMEOUT)
            (hang,) = told.hangs
            assert hang["depth"] == depth
            assert TIMEOUT - 1.3 <= hang["silent_s"] <= 3 * TIMEOUT
            assert hang["ran_s"] >= TIMEOUT * 0.35

    with machine(test_guest.kernel, test_guest.files, tmp_path, cpus=cpus) as guest:
        asyncio.run(body(guest))


def test_no_hang(test_guest: Any, tmp_path: Path) -> None:
    """One guest after the other way to be silent, or slow, without being ill."""

    async def body(guest: Machine) -> None:
        async with watched(guest) as told:
            before = told.signs()
            assert len(before) == 2
            await asyncio.sleep(2 * TIMEOUT)  # idle, without a tick
            for (irqs, runs), (irqs_then, runs_then) in zip(told.signs(), before, strict=True):
                assert irqs > irqs_then
                assert runs > runs_then

            guest.qmp("stop")
            await asyncio.sleep(2 * TIMEOUT)
            assert told.session._life.state is LifeState.DOUBTED
            guest.qmp("cont")
            await until(lambda: told.session._life.state is LifeState.ALIVE, "alive", SLOW)

            # The host gives it no CPU, then a tenth.
            told.transport.stopped = True
            guest.process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(2 * TIMEOUT)
            for _ in range(round(3 * TIMEOUT)):
                guest.process.send_signal(signal.SIGCONT)
                await asyncio.sleep(0.1)
                guest.process.send_signal(signal.SIGSTOP)
                await asyncio.sleep(0.9)
            guest.process.send_signal(signal.SIGCONT)
            told.transport.stopped = False
            await until(lambda: told.session._life.state is LifeState.ALIVE, "alive", SLOW)

            # Saved and restored; one of ten who want the same host CPU.
            for kind in ("save, restore", "10-fold overcommit"):
                await CALM[kind](told)
                await until(lambda: told.session._life.state is LifeState.ALIVE, "alive", SLOW)

            # It is busy: many processes, and a real-time task that leaves 5 %.
            guest.tell("for i in 1 2 3 4 5 6 7 8; do while :; do :; done & done")
            await asyncio.sleep(2 * TIMEOUT)
            guest.tell(HOG.format(950000))
            await asyncio.sleep(2 * TIMEOUT)
            guest.tell("killall vsp_host && echo hogged >/dev/console")
            await until(lambda: "hogged" in guest.console, "the end of the real-time task", SLOW)

            # A CPU goes and comes back.
            guest.tell("echo 0 >/sys/devices/system/cpu/cpu1/online")
            await until(lambda: len(told.signs()) == 1, "CPU 1 offline", SLOW)
            await asyncio.sleep(2 * TIMEOUT)
            guest.tell("echo 1 >/sys/devices/system/cpu/cpu1/online")
            await until(lambda: len(told.signs()) == 2, "CPU 1 online", SLOW)
            await asyncio.sleep(TIMEOUT)
            assert told.session._life.state is LifeState.ALIVE
            assert told.events == []

    with machine(test_guest.kernel, test_guest.files, tmp_path) as guest:
        asyncio.run(body(guest))
