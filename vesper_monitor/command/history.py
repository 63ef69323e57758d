# SPDX-License-Identifier: GPL-2.0-or-later
"""What the cluster remembers of one resource's operations.

Of each node, operation and interval Pacemaker keeps the last, and the last
failure: it is the end of a story, and no log.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, replace

from vesper_monitor.util.errors import VesperError
from vesper_monitor.util.xml_parser import parse_xml

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lxml.etree import _Element as Element

__all__ = ["HistoryError", "Operation", "parse_operations", "read_operations"]

#: s for the cluster to answer.
QUERY_TIMEOUT_S = 20.0

#: OCF exit codes and Pacemaker's own (crm_exit_t), as crm_mon names them.
_NAMES = {
    0: "ok",
    1: "error",
    2: "invalid parameter",
    3: "unimplemented",
    4: "insufficient privileges",
    5: "not installed",
    6: "not configured",
    7: "not running",
    190: "ok, degraded",
    198: "timed out",
}


class HistoryError(VesperError):
    """The cluster did not say; the text says what was asked and how it failed."""


@dataclass(frozen=True)
class Operation:
    """One operation that has ended."""

    #: s, CLOCK_REALTIME, of its end (of a recurring one: of its last other
    #: result); known to a second, which it is past by less than one
    at: float
    node: str
    name: str  #: start, stop, monitor ...
    rc: int
    seconds: float  #: how long it took
    reason: str  #: its exit reason
    recurring: bool

    @property
    def begun(self) -> float:
        """s, likewise, of its beginning; of a recurring one not known."""
        return self.at - self.seconds

    @property
    def failed(self) -> bool:
        """Whether it was a failure: a probe that finds nothing running is none."""
        if self.rc in (0, 190):
            return False
        return self.recurring or self.name != "monitor" or self.rc != 7

    @property
    def result(self) -> str:
        """The exit code in words."""
        return _NAMES.get(self.rc, f"exit code {self.rc}")


def read_operations(resource: str) -> list[Operation]:
    """Ask the cluster.

    :returns: in order of time.
    :raises HistoryError:
    """
    command = ["cibadmin", "--query", "--scope", "status"]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=QUERY_TIMEOUT_S,
        )
    except FileNotFoundError:
        raise HistoryError("cibadmin: Pacemaker is not installed on this host") from None
    except subprocess.TimeoutExpired:
        raise HistoryError(
            f"{' '.join(command)}: no answer after {QUERY_TIMEOUT_S:.0f} s"
        ) from None
    if done.returncode != 0:
        raise HistoryError(f"{' '.join(command)}: {done.stderr.strip()[-300:]}")
    return parse_operations(done.stdout, resource)


def parse_operations(text: str, resource: str) -> list[Operation]:
    """
    :param text: the CIB's status section.
    :raises HistoryError: it is not XML.
    """
    try:
        root = parse_xml(text)
    except ValueError as error:
        raise HistoryError(f"the cluster's status is {error}") from None
    found: set[Operation] = set()
    for state in root.iter("node_state"):
        for history in state.iter("lrm_resource"):
            if history.get("id") == resource:
                entries = (_parse_operation(state, entry) for entry in history.iter("lrm_rsc_op"))
                found |= {operation for operation in entries if operation is not None}
    stops = [operation for operation in found if operation.name == "stop"]
    found = {_after_stop(operation, stops) for operation in found}
    starts = [operation for operation in found if operation.name == "start"]
    # In the same moment a start comes after a stop, and a monitor after the start.
    return sorted(
        (_after_start(operation, starts) for operation in found),
        key=lambda one: (one.at, one.recurring, one.name == "start"),
    )


def _after_stop(operation: Operation, stops: list[Operation]) -> Operation:
    """A start ends after a stop that has begun before it, or in the same second."""
    if operation.name != "start":
        return operation
    before = [stop.at for stop in stops if stop.begun < operation.begun + 0.5]
    return replace(operation, at=max([operation.at, *before]))


def _after_start(operation: Operation, starts: list[Operation]) -> Operation:
    """A monitor that succeeds, known to the second, comes after the start that has begun in it."""
    if not operation.recurring or operation.failed:
        return operation
    before = [
        start.at
        for start in starts
        if start.node == operation.node and start.begun <= operation.at <= start.at
    ]
    return replace(operation, at=max([operation.at, *before]))


def _parse_operation(state: Element, entry: Element) -> Operation | None:
    """None: not done yet, or not understood."""
    try:
        if entry.get("op-status") == "-1":  # pending
            return None
        recurring = int(entry.get("interval", "0")) > 0
        seconds = int(entry.get("exec-time", "0")) / 1000
        # Pacemaker 2.1 notes when one that runs once has begun.
        begin = float(entry.attrib["last-rc-change"])
        return Operation(
            at=begin if recurring else begin + seconds,
            node=state.get("uname", "?"),
            name=entry.attrib["operation"],
            rc=int(entry.attrib["rc-code"]),
            seconds=seconds,
            reason=entry.get("exit-reason", ""),
            recurring=recurring,
        )
    except (KeyError, ValueError):
        return None
