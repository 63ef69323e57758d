# SPDX-License-Identifier: GPL-2.0-or-later
"""The doorbells of all guests, watched through one descriptor.

An edge-triggered epoll(7) reports each write to an eventfd, and nobody needs to read
the eventfd.  So a ring costs no system call of its own.
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
#: Guests served in one turn of the loop; the others are first in the next.
_MAX_RINGS_PER_TURN = 16
#: A guest that rings more often than this is served at intervals, so that the daemon
#: stays free for others.
_MAX_RINGS_PER_S = 200
_LISTEN_PAUSE_S = 0.005


@dataclass
class _Doorbell:
    """One guest's doorbell."""

    rung: Callable[[], None]
    second: float = 0.0  # when the present second began, by the loop's clock
    count: int = 0  # rings in this second
    later: asyncio.TimerHandle | None = None


class Doorbells:
    """The doorbells of all guests. Make the object on a running loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._epoll = select.epoll()
        self._bells: dict[int, _Doorbell] = {}
        self._loop.add_reader(self._epoll.fileno(), self._handle_rings)

    def add_doorbell(self, eventfd: int, rung: Callable[[], None]) -> None:
        """Watch a doorbell.

        :param rung: called on the loop after each ring, also after one before this call.
            Rings coalesce.
        """
        self._epoll.register(eventfd, _LISTEN_EVENTS)
        self._bells[eventfd] = _Doorbell(rung)

    def remove_doorbell(self, eventfd: int) -> None:
        """Watch a doorbell no longer. Call it before you close the eventfd. Idempotent."""
        bell = self._bells.pop(eventfd, None)
        if bell is not None:
            if bell.later is not None:
                bell.later.cancel()
            if not self._epoll.closed:
                self._epoll.unregister(eventfd)

    def close(self) -> None:
        """Watch no doorbell any longer. Idempotent."""
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
                continue  # the callback of one before it has removed it
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
        """Watch a doorbell again after the pause, and report what rang meanwhile."""
        bell.later = None
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(eventfd)
        self._epoll.modify(eventfd, _LISTEN_EVENTS)
        _call_ring_callback(bell)


def _call_ring_callback(bell: _Doorbell) -> None:
    try:
        bell.rung()
    except Exception:  # the other guests must be served
        _log.exception("internal error at a guest's notification")
