# SPDX-License-Identifier: GPL-2.0-or-later
"""systemd's notification protocol, sd_notify(3): the part that vesperd needs."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

__all__ = ["notify_systemd", "watchdog_interval"]


def notify_systemd(*lines: str, descriptors: Sequence[int] = ()) -> None:
    """Send e.g. ``READY=1``. Does nothing where systemd did not start us."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    if path.startswith("@"):
        path = "\0" + path[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(1.0)
            sock.connect(path)
            socket.send_fds(sock, ["\n".join(lines).encode()], descriptors)
    except OSError:
        pass  # systemd notices by itself


def watchdog_interval() -> float | None:
    """s between two ``WATCHDOG=1``: half of what systemd allows; None: not wanted."""
    try:
        limit = int(os.environ["WATCHDOG_USEC"])
    except (KeyError, ValueError):
        return None
    if os.environ.get("WATCHDOG_PID") not in (None, str(os.getpid())):
        return None
    return limit / 2_000_000
