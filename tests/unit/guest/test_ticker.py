# SPDX-License-Identifier: GPL-2.0-or-later
"""One timer for all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine

from tests.unit.support.standins import until
from vesper_monitor.guest.ticker import TICKS_PER_PERIOD, SharedTicker


def run(body: Callable[[], Coroutine[object, object, None]]) -> None:
    asyncio.run(asyncio.wait_for(body(), 20))


def test_each_is_called_until_it_leaves() -> None:
    async def body() -> None:
        beat = SharedTicker(0.01)
        stays: list[float] = []
        leaves: list[float] = []

        def leave(now: float) -> None:
            leaves.append(now)
            if len(leaves) == 3:
                beat.remove_call(leave)
                beat.remove_call(leave)

        beat.add_call(stays.append)
        beat.add_call(leave)
        await until(lambda: len(stays) >= 5, "five beats")
        assert len(leaves) == 3
        beat.remove_call(stays.append)
        told = len(stays)
        await asyncio.sleep(0.05)
        assert len(stays) == told
        beat.add_call(leave)
        await until(lambda: len(leaves) > 3, "back")

    run(body)


def test_one_in_each_period_and_spread_over_it() -> None:
    """Whoever comes when."""

    async def body() -> None:
        beat = SharedTicker(0.4)
        heard: list[list[float]] = [[] for _ in range(4 * TICKS_PER_PERIOD)]
        for times in heard:
            beat.add_call(times.append)
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.4)
        begin = time.monotonic()
        await until(lambda: len(heard[0]) >= 6, "six beats")
        counts = [sum(at > begin for at in times) for times in heard]
        assert max(counts) - min(counts) <= 1
        moments: dict[float, int] = {}
        for times in heard:
            moments[times[-1]] = moments.get(times[-1], 0) + 1
        assert len(moments) >= TICKS_PER_PERIOD / 2  # a busy machine's loop takes some together
        assert max(moments.values()) <= 8

    run(body)


def test_what_was_missed_is_not_made_up_for() -> None:
    async def body() -> None:
        beat = SharedTicker(0.05)
        heard: list[float] = []
        beat.add_call(heard.append)
        await until(lambda: heard, "the first")
        told = len(heard)
        time.sleep(1.0)  # noqa: ASYNC251, the loop stands still
        await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        assert told + 1 <= len(heard) <= told + 3

    run(body)


def test_alone_it_wakes_nobody_in_between() -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        beat = SharedTicker(0.2)
        heard: list[float] = []
        beat.add_call(heard.append)
        made: list[float] = []
        real = loop.call_at

        def call_at(when: float, *rest: object, **more: object) -> asyncio.TimerHandle:
            made.append(when)
            return real(when, *rest, **more)  # type: ignore[arg-type]

        loop.call_at = call_at  # type: ignore[method-assign]
        await asyncio.sleep(0.7)
        loop.call_at = real  # type: ignore[method-assign]
        beats = len(heard)
        assert beats <= len(made) - 1 <= beats + 1

    run(body)
