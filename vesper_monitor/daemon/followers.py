# SPDX-License-Identifier: GPL-2.0-or-later
"""Who follows the events: a bounded queue each, so that a slow one harms nobody."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable

from vesper_monitor.guest.event import Event

__all__ = ["Follower", "Followers"]

#: Events that wait for one follower.
MAX_WAITING_EVENTS = 2000


class Follower:
    """One client that follows."""

    def __init__(self, vm: str | None) -> None:
        self._vm = vm
        self._queue: deque[Event] = deque()
        self._there = asyncio.Event()
        self._dropped = 0

    def put_events(self, events: Iterable[Event]) -> None:
        """Queue events, or count them as dropped."""
        for event in events:
            if self._vm is not None and event.vm != self._vm:
                continue
            if len(self._queue) >= MAX_WAITING_EVENTS:
                self._dropped += 1
            else:
                self._queue.append(event)
            self._there.set()

    async def take_events(self) -> tuple[list[Event], int]:
        """What came since the last call, and how many did not fit after those."""
        await self._there.wait()
        self._there.clear()
        events, dropped = list(self._queue), self._dropped
        self._queue.clear()
        self._dropped = 0
        return events, dropped


class Followers:
    """All of them."""

    def __init__(self) -> None:
        self._all: set[Follower] = set()

    def add_follower(self, vm: str | None) -> Follower:
        follower = Follower(vm)
        self._all.add(follower)
        return follower

    def remove_follower(self, follower: Follower) -> None:
        self._all.discard(follower)

    def put_events(self, events: list[Event]) -> None:
        for follower in self._all:
            follower.put_events(events)
