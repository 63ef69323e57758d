# SPDX-License-Identifier: GPL-2.0-or-later
"""The operations of one resource that the cluster remembers.

For each node, operation and interval, Pacemaker keeps the last operation and
the last failure. This is the end of a story, not a log.
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

#: s that the cluster may take to answer.
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
    """The cluster's history cannot be read; the text says which command failed, and how."""


@dataclass(frozen=True)
class Operation:
    """One operation that is complete."""

    #: s, CLOCK_REALTIME: its end, or when the result of a recurring operation last
    #: changed; rounded down to a whole second
    at: float
    node: str
    name: str  #: start, stop, monitor ...
    rc: int
    seconds: float  #: how long it took
    reason: str  #: its exit reason
    recurring: bool

    @property
    def begun(self) -> float:
        """Its start in s, CLOCK_REALTIME; meaningless for a recurring operation."""
        return self.at - self.seconds

    @property
    def failed(self) -> bool:
        """Whether it failed. A probe that finds the resource stopped did not fail."""
        if self.rc in (0, 190):
            return False
        return self.recurring or self.name != "monitor" or self.rc != 7

    @property
    def result(self) -> str:
        """Its exit code in words."""
        return _NAMES.get(self.rc, f"exit code {self.rc}")


def read_operations(resource: str) -> list[Operation]:
    """Ask the cluster for the operations of a resource.

    :returns: in order of time.
    :raises HistoryError: Pacemaker is not installed, or does not answer.
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
        raise HistoryError("cibadmin: command not found; is Pacemaker installed here?") from None
    except subprocess.TimeoutExpired:
        raise HistoryError(
            f"{' '.join(command)}: no answer after {QUERY_TIMEOUT_S:.0f} s"
        ) from None
    if done.returncode != 0:
        raise HistoryError(f"{' '.join(command)}: {done.stderr.strip()[-300:]}")
    return parse_operations(done.stdout, resource)


def parse_operations(text: str, resource: str) -> list[Operation]:
    """Return the operations of a resource in order of time.

    :param text: the CIB's status section.
    :raises HistoryError: the text is not XML.
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
    # At equal times a start comes after a stop, and a monitor after the start.
    return sorted(
        (_after_start(operation, starts) for operation in found),
        key=lambda one: (one.at, one.recurring, one.name == "start"),
    )


def _after_stop(operation: Operation, stops: list[Operation]) -> Operation:
    """Return a start with an end after that of each stop that began before it or in its second."""
    if operation.name != "start":
        return operation
    before = [stop.at for stop in stops if stop.begun < operation.begun + 0.5]
    return replace(operation, at=max([operation.at, *before]))


def _after_start(operation: Operation, starts: list[Operation]) -> Operation:
    """Return a successful monitor with a time after the start that began in its second."""
    if not operation.recurring or operation.failed:
        return operation
    before = [
        start.at
        for start in starts
        if start.node == operation.node and start.begun <= operation.at <= start.at
    ]
    return replace(operation, at=max([operation.at, *before]))


def _parse_operation(state: Element, entry: Element) -> Operation | None:
    """Return the operation; None if it is pending or cannot be parsed."""
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
