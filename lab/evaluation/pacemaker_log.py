# SPDX-License-Identifier: GPL-2.0-or-later
"""What happened to a resource, from the lines of pacemaker.log (Pacemaker 2.1).

The controller's own lines are read, for they are stamped where it happens; by
function: ``log_executor_event`` (a result, on the node), ``lrm_op_...``
("Requesting local execution"), and pacemaker-attrd's fail-count.
"""

from __future__ import annotations

import calendar
import enum
import re
import time
from dataclasses import dataclass

__all__ = ["PATTERN", "TICK_S", "Entry", "What", "parse_log_line"]


#: Seconds by which a line may be stamped too early: its time is the kernel's coarse
#: clock, in ms. All stamps of a host are 4 ms apart (HZ=250).
TICK_S = 0.005


class What(enum.Enum):
    FAILED = "monitor failed"  # the controller on the node has the agent's verdict
    RECORDED = "failure recorded"  # fail-count set
    STOP = "stop called"
    STOPPED = "stopped"
    STUCK = "stop failed"  # without fencing, nothing more happens then
    START = "start called"
    STARTED = "running"


@dataclass(frozen=True)
class Entry:
    """One line that says something about the resource."""

    time_ns: int  #: CLOCK_REALTIME of the host that has logged it
    host: str  #: where the thing has happened
    what: What


#: For grep -E in the host: only these lines need to travel.
PATTERN = "Result of|Requesting local execution|Setting fail-count"

_LINE = re.compile(
    r"^(\w{3} [ \d]\d \d\d:\d\d:\d\d)\.(\d{3}) (\S+)\s+(\S+)\s+\[\d+\] \(\w+\)\s+\w+: (.*)$"
)


def parse_log_line(line: str, resource: str, year: int) -> Entry | None:
    """Understand a line.

    :param year: pacemaker.log does not say; its times are UTC in the lab.
    :returns: None for a line that says nothing about the resource.
    """
    match = _LINE.match(line.strip())
    if not match:
        return None
    stamp, milliseconds, logger, _daemon, text = match.groups()
    found = _find_meaning(text, re.escape(resource))
    if not found:
        return None
    what, host = found
    seconds = calendar.timegm(time.strptime(f"{year} {stamp}", "%Y %b %d %H:%M:%S"))
    return Entry(seconds * 10**9 + int(milliseconds) * 10**6, host or logger, what)


def _find_meaning(text: str, resource: str) -> tuple[What, str | None] | None:
    result = re.match(rf"Result of (\w+) operation for {resource} on (\S+): (\w+)", text)
    if result:
        operation, host, outcome = result.groups()
        if operation == "monitor" and outcome not in ("ok", "OCF_DEGRADED", "Cancelled"):
            return What.FAILED, host
        if outcome == "ok" and operation in ("start", "stop"):
            return (What.STARTED if operation == "start" else What.STOPPED), host
        if operation == "stop" and outcome != "Cancelled":
            return What.STUCK, host
        return None
    request = re.match(
        rf"Requesting local execution of (\w+) operation for {resource} on (\S+)", text
    )
    if request:
        operation, host = request.groups()
        return {"start": (What.START, host), "stop": (What.STOP, host)}.get(operation)
    count = re.match(rf"Setting fail-count-{resource}#monitor_\d+\[(\S+?)\].*-> \S*[1-9I]", text)
    if count:
        return What.RECORDED, count.group(1)
    return None
