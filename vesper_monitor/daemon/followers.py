# SPDX-License-Identifier: GPL-2.0-or-later
"""Clients that follow events. Each has a bounded queue, so a slow one harms nobody."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable

from vesper_monitor.guest.event import Event

__all__ = ["Follower", "Followers"]

#: Events that wait for one follower.
MAX_WAITING_EVENTS = 2000


class Follower:
    """A client that follows events of one VM, or of all.

    :param vm: None: of all.
    """

    def __init__(self, vm: str | None) -> None:
        self._vm = vm
        self._queue: deque[Event] = deque()
        self._there = asyncio.Event()
        self._dropped = 0

    def put_events(self, events: Iterable[Event]) -> None:
        """Queue events, or count those that do not fit as dropped."""
        for event in events:
            if self._vm is not None and event.vm != self._vm:
                continue
            if len(self._queue) >= MAX_WAITING_EVENTS:
                self._dropped += 1
            else:
                self._queue.append(event)
            self._there.set()

    async def take_events(self) -> tuple[list[Event], int]:
        """Wait for events, and return them.

        :returns: the events since the last call; how many more did not fit.
        """
        await self._there.wait()
        self._there.clear()
        events, dropped = list(self._queue), self._dropped
        self._queue.clear()
        self._dropped = 0
        return events, dropped


class Followers:
    """All followers."""

    def __init__(self) -> None:
        self._all: set[Follower] = set()

    def add_follower(self, vm: str | None) -> Follower:
        """Begin to queue events for a client."""
        follower = Follower(vm)
        self._all.add(follower)
        return follower

    def remove_follower(self, follower: Follower) -> None:
        """Stop queueing events for a client. Idempotent."""
        self._all.discard(follower)

    def put_events(self, events: list[Event]) -> None:
        """Queue events for all followers."""
        for follower in self._all:
            follower.put_events(events)
