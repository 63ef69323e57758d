# SPDX-License-Identifier: GPL-2.0-or-later
"""Event channels through ``/dev/xen/evtchn`` (include/uapi/xen/evtchn.h, Linux 6.1).

A read of the device returns the ports that have fired; they are masked.  A write of a
port unmasks it.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
from collections.abc import Callable

__all__ = ["EventChannel"]

DEVICE_PATH = "/dev/xen/evtchn"


def _ioctl_number(number: int, size: int) -> int:
    """_IOC(_IOC_NONE, 'E', number, size)"""
    return (size << 16) | (ord("E") << 8) | number


_IOCTL_BIND_INTERDOMAIN = _ioctl_number(1, 8)  # unsigned int remote_domain, remote_port
_IOCTL_NOTIFY = _ioctl_number(4, 4)  # unsigned int port

#: A guest that fires more often than this is served at intervals.  Its events coalesce,
#: and the daemon stays free for others.
_MAX_EVENTS_PER_S = 200
_LISTEN_PAUSE_S = 0.02


class EventChannel:
    """A port of this host, bound to a guest's port, on a descriptor of its own."""

    def __init__(self, domid: int, remote_port: int, callback: Callable[[], None]) -> None:
        """
        :param callback: called on the loop when the guest has notified.
        :raises OSError: the guest has no such port for this domain.
        """
        self._loop = asyncio.get_running_loop()
        self._callback = callback
        self._second, self._count = 0.0, 0
        self._fd = os.open(DEVICE_PATH, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            request = bytearray(struct.pack("=II", domid, remote_port))
            self._port = fcntl.ioctl(self._fd, _IOCTL_BIND_INTERDOMAIN, request)
        except OSError:
            os.close(self._fd)
            raise
        self._loop.add_reader(self._fd, self._handle_readable)

    def notify_port(self) -> None:
        """Notify the guest. Never blocks."""
        if self._fd >= 0:
            fcntl.ioctl(self._fd, _IOCTL_NOTIFY, bytearray(struct.pack("=I", self._port)))

    def close(self) -> None:
        """Unbind the port and close the descriptor. Idempotent."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _handle_readable(self) -> None:
        try:
            os.read(self._fd, 4096)
        except BlockingIOError:
            return
        now = self._loop.time()
        if now - self._second > 1.0:
            self._second, self._count = now, 0
        self._count += 1
        if self._count > _MAX_EVENTS_PER_S:
            self._loop.call_later(_LISTEN_PAUSE_S, self._listen_for_events)
        else:
            self._listen_for_events()

    def _listen_for_events(self) -> None:
        # Unmask before the callback: an event meanwhile fires again.
        if self._fd >= 0:
            os.write(self._fd, struct.pack("=I", self._port))
            self._callback()
