# SPDX-License-Identifier: GPL-2.0-or-later
"""Many doorbells through one descriptor: each ring is heard, whoever else rings or fails."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter

import pytest

from kvm_transport.doorbells import (
    _LISTEN_PAUSE_S,
    _MAX_RINGS_PER_S,
    _MAX_RINGS_PER_TURN,
    Doorbells,
)
from tests.unit.support.standins import until


def test_each_guest_is_heard(caplog: pytest.LogCaptureFixture) -> None:
    """More than are heard in one turn; one fails, one rings without end, one is closed."""
    count = 3 * _MAX_RINGS_PER_TURN

    async def body() -> None:
        bells = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(count)]
        heard: Counter[int] = Counter()
        doorbells = Doorbells()

        def rung(number: int) -> None:
            heard[number] += 1
            if number == 0:
                raise ValueError("of this test")
            if number == 1:
                os.eventfd_write(bells[1], 1)  # without end
            if number == 2:
                doorbells.remove_doorbell(bells[3])

        os.eventfd_write(bells[5], 1)  # before anybody listens
        for number, bell in enumerate(bells):
            doorbells.add_doorbell(bell, lambda number=number: rung(number))  # type: ignore[misc]
        await until(lambda: heard[5] == 1, "the ring of before")
        others = [n for n in range(count) if n not in (1, 3)]
        for times in (1, 2):
            for number, bell in enumerate(bells):
                if number != 5 or times == 2:
                    os.eventfd_write(bell, 1)
            await until(lambda t=times: all(heard[n] >= t for n in others), "all")  # type: ignore[misc]
            assert {heard[n] for n in others} == {times}
        assert heard[1] > 2
        doorbells.remove_doorbell(bells[3])
        doorbells.close()
        doorbells.close()
        doorbells.remove_doorbell(bells[4])
        for bell in bells:
            os.close(bell)

    with caplog.at_level(logging.ERROR):
        asyncio.run(body())
    assert "ValueError: of this test" in caplog.text


def test_one_that_rings_without_end_is_heard_now_and_then() -> None:
    """And still after its last ring."""

    async def body() -> None:
        bell, heard = os.eventfd(0, os.EFD_NONBLOCK), 0
        doorbells = Doorbells()
        loop = asyncio.get_running_loop()

        def rung() -> None:
            nonlocal heard
            heard += 1

        doorbells.add_doorbell(bell, rung)
        begin = loop.time()
        while heard < 2 * _MAX_RINGS_PER_S:
            os.eventfd_write(bell, 1)
            await asyncio.sleep(0)
        # The second half every so often, or in the next second.
        assert loop.time() - begin > 0.9 * min(1.0, _MAX_RINGS_PER_S * _LISTEN_PAUSE_S)
        before = heard
        os.eventfd_write(bell, 1)
        await until(lambda: heard > before, "the last ring")
        await asyncio.sleep(10 * _LISTEN_PAUSE_S)
        before = heard
        await asyncio.sleep(10 * _LISTEN_PAUSE_S)
        assert heard == before  # no more than there were
        doorbells.close()
        os.close(bell)

    asyncio.run(body())
