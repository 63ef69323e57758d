# SPDX-License-Identifier: GPL-2.0-or-later
"""Event channels through ``/dev/xen/evtchn`` (include/uapi/xen/evtchn.h, Linux 6.1).

Reading the device gives the ports that have fired, each masked since; writing
a port unmasks it.
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

#: A guest that fires more often than this (per second) is listened to only
#: every so often (s): its events coalesce, the daemon stays free for others.
_MAX_EVENTS_PER_S = 200
_LISTEN_PAUSE_S = 0.02


class EventChannel:
    """One port, bound to a port of a guest's, on a descriptor of its own."""

    def __init__(self, domid: int, remote_port: int, callback: Callable[[], None]) -> None:
        """
        :param callback: called on the loop when the guest has notified.
        :raises OSError: no such port there for this domain.
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
        """Never blocks."""
        if self._fd >= 0:
            fcntl.ioctl(self._fd, _IOCTL_NOTIFY, bytearray(struct.pack("=I", self._port)))

    def close(self) -> None:
        """Unbinds the port, too. May be called twice."""
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
        # Unmasked before the callback looks: what comes meanwhile fires again.
        if self._fd >= 0:
            os.write(self._fd, struct.pack("=I", self._port))
            self._callback()
