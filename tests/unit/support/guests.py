# SPDX-License-Identifier: GPL-2.0-or-later
"""A stand-in guest whose tests do not use asyncio, and what tests ask vesperd about it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from tests.unit.support.daemons import DaemonProcess
from tests.unit.support.standins import GuestProcess

__all__ = ["SEGV", "Guest", "collecting", "wait_for", "waiting"]

#: What a guest is told, so that its service dies.
SEGV = ("emit", "send_signal", "sig=11", "comm=httpd", "fatal=1", "addr=0")


class Guest(GuestProcess):
    """A stand-in guest that is told what to do by synchronous calls."""

    def say(self, *words: str) -> None:
        """Tell the guest a command, and check that it was understood."""
        answer = asyncio.run(self.tell(*words))
        assert answer.startswith("ok") or not answer, answer


def collecting(daemon: DaemonProcess) -> int:
    """Return the number of probes that collect, in all guests together."""
    vms = daemon.call("status")["vms"]
    return [probe["state"] for vm in vms for probe in vm["probes"]].count("collecting")


def waiting(daemon: DaemonProcess) -> bool:
    """Whether a monitor waits, of any VM."""
    return any(vm["waiting"] for vm in daemon.call("status")["vms"])


def wait_for(condition: Callable[[], object], what: str, limit: float = 20.0) -> None:
    """Ask again and again until the condition holds.

    :param limit: s, after which the test fails.
    """
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, f"not within {limit:.0f} s: {what}"
        time.sleep(0.02)
