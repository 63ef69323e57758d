# SPDX-License-Identifier: GPL-2.0-or-later
"""Connections that are made inside of another network namespace."""

from __future__ import annotations

import ctypes
import os
import socket
from concurrent.futures import ThreadPoolExecutor

__all__ = ["connect_from_namespace"]

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000  # sched.h


def connect_from_namespace(pid: int, address: str, port: int, timeout: float) -> socket.socket:
    """Return a TCP connection from the network namespace of a process.

    A socket stays in the namespace in which it was created, and each thread has its own
    namespace.  So a thread enters the namespace, connects, and ends.

    :raises OSError: no such process, or it cannot be reached.
    """

    def connect_there() -> socket.socket:
        # os.setns() is new in Python 3.12
        namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if _libc.setns(namespace, _CLONE_NEWNET) != 0:
                error = ctypes.get_errno()
                raise OSError(error, f"network namespace of {pid}: {os.strerror(error)}")
        finally:
            os.close(namespace)
        return socket.create_connection((address, port), timeout)

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(connect_there).result()
