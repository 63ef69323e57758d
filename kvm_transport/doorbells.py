# SPDX-License-Identifier: GPL-2.0-or-later
"""The doorbells of all guests, heard through one descriptor.

An eventfd in an edge-triggered epoll(7) says each time that it was written to,
without being read: a guest that rings costs no system call of its own.
"""

from __future__ import annotations

import asyncio
import logging
import select
from collections.abc import Callable

__all__ = ["Doorbells"]

_LOG = logging.getLogger(__name__)

#: Guests heard in one turn of the loop; the others are first in the next.
_IN_A_TURN = 16


class Doorbells:
    """Made on a running loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._epoll = select.epoll()
        self._rung: dict[int, Callable[[], None]] = {}
        self._loop.add_reader(self._epoll.fileno(), self._hear)

    def add(self, eventfd: int, rung: Callable[[], None]) -> None:
        """:param rung: called on the loop after each ring (they coalesce), and for one before."""
        self._epoll.register(eventfd, select.EPOLLIN | select.EPOLLET)
        self._rung[eventfd] = rung

    def remove(self, eventfd: int) -> None:
        """Before it is closed. May be called twice."""
        if self._rung.pop(eventfd, None) is not None and not self._epoll.closed:
            self._epoll.unregister(eventfd)

    def close(self) -> None:
        """May be called twice."""
        if not self._epoll.closed:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()

    def _hear(self) -> None:
        for eventfd, _what in self._epoll.poll(0, _IN_A_TURN):
            rung = self._rung.get(eventfd)
            if rung is None:
                continue  # closed by one before it
            try:
                rung()
            except Exception:  # it must not keep the others from being heard
                _LOG.exception("internal error at a guest's notification")
