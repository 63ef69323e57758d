# SPDX-License-Identifier: GPL-2.0-or-later
"""The doorbells of all guests, heard through one descriptor.

An eventfd in an edge-triggered epoll(7) says each time that it was written to,
without being read: a guest that rings costs no system call of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Doorbells"]

_log = logging.getLogger(__name__)

_LISTEN_EVENTS = select.EPOLLIN | select.EPOLLET
#: Guests heard in one turn of the loop; the others are first in the next.
_MAX_RINGS_PER_TURN = 16
#: Rings of one guest that are heard at once in a second; one that rings without
#: end is then heard every so often (s), and the daemon stays free for others.
_MAX_RINGS_PER_S = 200
_LISTEN_PAUSE_S = 0.005


@dataclass
class _Doorbell:
    rung: Callable[[], None]
    second: float = 0.0  # by the loop's clock
    count: int = 0  # of rings in it
    later: asyncio.TimerHandle | None = None


class Doorbells:
    """Made on a running loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._epoll = select.epoll()
        self._bells: dict[int, _Doorbell] = {}
        self._loop.add_reader(self._epoll.fileno(), self._handle_rings)

    def add_doorbell(self, eventfd: int, rung: Callable[[], None]) -> None:
        """:param rung: called on the loop after each ring (they coalesce), and for one before."""
        self._epoll.register(eventfd, _LISTEN_EVENTS)
        self._bells[eventfd] = _Doorbell(rung)

    def remove_doorbell(self, eventfd: int) -> None:
        """Before it is closed. May be called twice."""
        bell = self._bells.pop(eventfd, None)
        if bell is not None:
            if bell.later is not None:
                bell.later.cancel()
            if not self._epoll.closed:
                self._epoll.unregister(eventfd)

    def close(self) -> None:
        """May be called twice."""
        for eventfd in list(self._bells):
            self.remove_doorbell(eventfd)
        if not self._epoll.closed:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()

    def _handle_rings(self) -> None:
        now = self._loop.time()
        for eventfd, _what in self._epoll.poll(0, _MAX_RINGS_PER_TURN):
            bell = self._bells.get(eventfd)
            if bell is None:
                continue  # closed by one before it
            if now - bell.second > 1.0:
                bell.second, bell.count = now, 0
            bell.count += 1
            if bell.count > _MAX_RINGS_PER_S:
                self._epoll.modify(eventfd, 0)
                bell.later = self._loop.call_later(
                    _LISTEN_PAUSE_S, self._resume_listening, eventfd, bell
                )
            else:
                _call_ring_callback(bell)

    def _resume_listening(self, eventfd: int, bell: _Doorbell) -> None:
        """Again. What came meanwhile is heard now, what comes from now on rings."""
        bell.later = None
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(eventfd)
        self._epoll.modify(eventfd, _LISTEN_EVENTS)
        _call_ring_callback(bell)


def _call_ring_callback(bell: _Doorbell) -> None:
    try:
        bell.rung()
    except Exception:  # it must not keep the others from being heard
        _log.exception("internal error at a guest's notification")
