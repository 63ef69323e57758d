# SPDX-License-Identifier: GPL-2.0-or-later
"""Stops of faulty guests on a host that is busy: none may run out of its time.

A stop that fails gets the node fenced.  The agent is called as Pacemaker calls
it, without Pacemaker: what is measured is the stop alone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lab.guest import Guest
from lab.host import Host, Result

__all__ = ["STOP_TIMEOUT_S", "busy", "count_stops", "stop_faulty_guests"]

#: Seconds of the stop operation, as README and labs have it for Xen.
STOP_TIMEOUT_S = 60
#: Processes that use a CPU, for each CPU.
BUSY_PER_CPU = 2


def count_stops(default: int) -> int:
    """Return the number of stops: that of ``make stops STOPS=50``, else the default."""
    return int(os.environ.get("VESPER_STOPS") or default)


@contextmanager
def busy(host: Host) -> Iterator[None]:
    """Keep each CPU of a host busy with processes."""
    loops = f"for i in $(seq $(($(nproc) * {BUSY_PER_CPU}))); do (while :; do :; done) & done"
    begin = f"({loops}; echo $(jobs -p) >/tmp/busy) >/dev/null 2>&1 </dev/null"
    host.run_command(begin, timeout=60, check=True)
    try:
        yield
    finally:
        host.run_command("kill $(cat /tmp/busy)", timeout=60)


def stop_faulty_guests(
    host: Host,
    guest: Guest,
    stops: int,
    start: Callable[[], None],
    stop: Callable[[], Result],
) -> list[float]:
    """Start a guest, kill its service by a lack of memory, and stop it, again and again.

    :returns: seconds of each stop.
    """
    took = []
    for number in range(stops):
        start()
        with busy(host):
            guest.out_of_memory("httpd")
            begun = time.monotonic()
            result = stop()
            took.append(time.monotonic() - begun)
        print(f"stop {number + 1}: exit {result.rc} after {took[-1]:.1f} s", flush=True)
        assert result.rc == 0, result.output
        assert took[-1] < STOP_TIMEOUT_S, result.output
    return took
