# SPDX-License-Identifier: GPL-2.0-or-later
"""One timer for all."""

from __future__ import annotations

import asyncio

from tests.host.standins import until
from vesper_monitor.guest.beat import Beat


def test_all_are_called_together_until_they_leave() -> None:
    async def body() -> None:
        beat = Beat(0.01)
        heard: dict[str, list[float]] = {"a": [], "b": []}

        def leave(now: float) -> None:
            heard["b"].append(now)
            if len(heard["b"]) == 3:
                beat.remove(leave)
                beat.remove(leave)

        beat.add(heard["a"].append)
        beat.add(leave)
        await until(lambda: len(heard["a"]) >= 5, "five beats")
        assert heard["b"] == heard["a"][:3]
        beat.remove(heard["a"].append)
        told = len(heard["a"])
        await asyncio.sleep(0.05)
        assert len(heard["a"]) == told
        beat.add(leave)
        await asyncio.sleep(0.05)
        assert len(heard["b"]) > 3

    asyncio.run(asyncio.wait_for(body(), 20))
