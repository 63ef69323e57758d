# SPDX-License-Identifier: GPL-2.0-or-later
"""``vesper why``: explain one incident, from the kernel's event to the recovery.

Vesperd's journal has the times of faults to the millisecond. The cluster's
history has what followed, to the second, and only the most recent operations.
Operations belong to a fault if their times fit its end. A later failure is
another incident, for which this host may have no fault.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from typing import Any

from vesper_monitor.client import Client, DaemonError
from vesper_monitor.command import history
from vesper_monitor.command.history import HistoryError, Operation
from vesper_monitor.command.show import print_json
from vesper_monitor.command.table import format_columns, format_note

__all__ = [
    "Step",
    "build_story",
    "explain_incident",
    "find_operations_of_fault",
    "find_unexplained_failure",
]

#: s by which the cluster's time of an operation may precede its cause. The cluster
#: rounds down to whole seconds, and two processes read the clock one after the other.
ROUNDING_S = 2.0
#: Faults of one VM among which the next one after a fault is searched.
MAX_FAULTS = 1000
#: A failure without a fault is shown with the VM's events of so many s before it.
EVENTS_BEFORE_S = 10.0
#: Newest events of a VM among which those are searched.
MAX_EVENTS = 100


@dataclass(frozen=True)
class Step:
    """A line of the timeline."""

    at: float  #: s, CLOCK_REALTIME
    where: str  #: guest, host (the hypervisor), vesperd, or a node's name
    text: str
    whole: bool = False  #: its time is known to the second only


def explain_incident(client: Client, options: argparse.Namespace) -> None:
    """Show the timeline of a VM's last failure, or of the fault with the given ID."""
    faults = client.call_vesperd("faults", vm=options.vm, limit=MAX_FAULTS)["faults"]
    if options.id is not None:
        found = client.call_vesperd("fault", id=options.id)["fault"]
        if found["vm"] != options.vm:
            raise DaemonError(
                "bad-request", f"fault {found['id']} belongs to {found['vm']}, not to {options.vm}"
            )
    else:
        found = faults[-1] if faults else None
    resource = found["resource"] if found is not None else _find_resource(client, options.vm)
    trouble = None
    try:
        operations = history.read_operations(resource)
    except HistoryError as error:
        operations, trouble = [], str(error)
    if options.id is None and (failure := find_unexplained_failure(found, operations)) is not None:
        _show_failure(client, options, resource, failure, operations)
    elif found is not None:
        later = [fault["seen"] for fault in faults if _sort_number(fault) > _sort_number(found)]
        _show_fault(client, options, found, operations, min(later, default=math.inf), trouble)
    else:
        raise DaemonError(
            "no-such-vm",
            f"{options.vm}: this host's journal has no fault of this VM; "
            "'crm_mon -A' shows which host had the last one",
        )


def _sort_number(fault: dict[str, Any]) -> float:
    """Return a sort key: a fault that is not yet in the journal is the latest."""
    return math.inf if fault["id"] is None else float(fault["id"])


def _label_fault(fault: dict[str, Any]) -> str:
    return "fault (not written yet)" if fault["id"] is None else f"fault {fault['id']}"


def _show_fault(
    client: Client,
    options: argparse.Namespace,
    fault: dict[str, Any],
    operations: list[Operation],
    until: float,
    trouble: str | None,
) -> None:
    events = []
    if fault["id"] is not None:
        events = client.call_vesperd("fault", id=fault["id"])["events"]
    steps = build_story(fault, events, operations, until)
    if options.json:
        _print_json(fault, None, steps, trouble)
        return
    whose = f"{fault['resource']} ({fault['vm']})"
    print(f"{fault.get('class', 'unknown')} fault of {whose}: {fault['reason']}\n")
    _print_steps(steps, fault["seen"])
    if trouble is not None:
        print(format_note("cluster", trouble))
    elif not any(step.whole for step in steps):
        print(format_note("cluster", "its history does not reach back to this fault"))


def _show_failure(
    client: Client,
    options: argparse.Namespace,
    resource: str,
    failure: Operation,
    operations: list[Operation],
) -> None:
    """Show a failure that no fault in this host's journal explains."""
    answers = client.stream_answers("events", vm=options.vm, limit=MAX_EVENTS)
    events = [answer["event"] for answer in answers if "event" in answer]
    near = failure.at - EVENTS_BEFORE_S, failure.at + ROUNDING_S
    steps = [_event_step(event) for event in events if near[0] <= event["received"] <= near[1]]
    last = max([failure.at, *(step.at for step in steps)])
    after = operations[operations.index(failure) :]
    steps += _make_steps(after[: _count_until_recovered(after)], last, None)
    what = f"{failure.name} on {failure.node}: {failure.result}"
    if failure.reason:
        what += f" ({failure.reason})"
    if options.json:
        _print_json(None, what, steps, None)
        return
    print(f"failure of {resource} ({options.vm}): {what}\n")
    _print_steps(steps, failure.at)
    print(
        format_note(
            "cause",
            "this host's journal has no fault for this failure; "
            f"if {failure.node} is another host, ask there; "
            f"for an older fault on this host: vesper why {options.vm} --fault ID",
        )
    )


def _print_json(
    fault: dict[str, Any] | None, failure: str | None, steps: list[Step], trouble: str | None
) -> None:
    told = [vars(step) for step in steps]
    print_json({"fault": fault, "failure": failure, "steps": told, "cluster": trouble})


def _print_steps(steps: list[Step], begin: float) -> None:
    rows = [
        (_format_step_time(step), _format_since_fault(step, begin), step.where, step.text)
        for step in steps
    ]
    print(format_columns(("TIME", "AFTER", "WHERE", "WHAT"), rows))


def build_story(
    fault: dict[str, Any],
    events: list[dict[str, Any]],
    operations: list[Operation],
    until: float = math.inf,
) -> list[Step]:
    """Return the steps of an incident in order of time.

    :param fault: as in docs/api.md.
    :param events: of that VM, up to the fault.
    :param operations: of the resource; those that do not belong to the fault are omitted.
    :param until: s, CLOCK_REALTIME: when the next fault was seen.
    """
    steps = [_event_step(event) for event in events]
    steps.append(Step(fault["seen"], "vesperd", f"{_label_fault(fault)}: {fault['reason']}"))
    if fault["told"] is not None:
        steps.append(Step(fault["told"], "vesperd", "reported to Pacemaker"))
    if fault["ended"] is not None:
        steps.append(Step(fault["ended"], "vesperd", f"fault ended by {fault['ended_by']}"))
    heard = fault["told"] or fault["seen"]
    steps += _make_steps(find_operations_of_fault(fault, operations, until), heard, fault["ended"])
    return sorted(steps, key=lambda step: step.at)


def find_operations_of_fault(
    fault: dict[str, Any], operations: list[Operation], until: float = math.inf
) -> list[Operation]:
    """Return the operations with which the cluster reacted to a fault, in order of time.

    :param operations: all, as :func:`vesper_monitor.command.history.read_operations` returns them.
    """
    seen, ended = fault["seen"], fault["ended"]
    failures = [o for o in operations if o.failed and seen - ROUNDING_S <= o.at < until]
    if ended is None:
        rest = [o for o in operations if not o.failed and seen <= o.at < until]
        return sorted(failures + rest, key=lambda o: o.at)
    around = [
        index
        for index, o in enumerate(operations)
        if o.name == "stop" and o.begun - ROUNDING_S < ended < o.at + ROUNDING_S
    ]
    if not around:
        # The resource was not stopped for it, or the history does not reach back so far.
        return [o for o in failures if o.at < ended + ROUNDING_S]
    stop = operations[around[0]]
    first = [o for o in failures if o.recurring and o.at < stop.at + ROUNDING_S]
    after = [o for o in operations[around[0] + 1 :] if o not in first and o.at < until]
    return [*first, stop, *after[: _count_until_recovered(after)]]


def _count_until_recovered(operations: list[Operation]) -> int:
    """Return how many operations the recovery took: up to the start, and its first monitor."""
    for count, started in enumerate(operations, 1):
        if started.name == "start" and not started.failed:
            for more, monitor in enumerate(operations[count:], 1):
                if monitor.recurring and monitor.node == started.node:
                    # Operations in between belong to a later move.
                    return count + more if more == 1 else count
            return count
    return len(operations)


def _make_steps(operations: list[Operation], begin: float, ended: float | None) -> list[Step]:
    """Return the steps of operations, with times in their order.

    The cluster rounds the times down to the second.

    :param begin: s; all operations were later than this.
    :param ended: s, when the fault ended; its stop was complete after that.
    """
    steps, least = [], begin
    for operation in operations:
        if operation.name == "stop" and ended is not None:
            least = max(least, ended)
        least = max(least, operation.at)
        steps.append(Step(least, operation.node, _operation_step(operation), whole=True))
    return steps


def find_unexplained_failure(
    fault: dict[str, Any] | None, operations: list[Operation]
) -> Operation | None:
    """Return the last failure of a resource if it is later than its last fault, and another one.

    :param fault: the last one in the journal; None if there is none.
    """
    failures = [o for o in operations if o.failed and o.name in ("start", "stop", "monitor")]
    if fault is not None:
        mine = find_operations_of_fault(fault, operations)
        begin = (fault["told"] or fault["seen"]) + ROUNDING_S
        failures = [o for o in failures if o.at > begin and o not in mine]
    return failures[-1] if failures else None


def _event_step(event: dict[str, Any]) -> Step:
    where = "host" if event.get("probe") == "hypervisor" else "guest"
    return Step(event["received"], where, str(event["text"]))


def _operation_step(operation: Operation) -> str:
    text = f"{operation.name}: {operation.result}"
    if operation.reason:
        text += f" ({operation.reason})"
    if operation.seconds and not operation.recurring:
        text += f", took {operation.seconds:.1f} s"
    return text


def _find_resource(client: Client, vm: str) -> str:
    """Return the resource of a VM; the VM's name if this host knows none."""
    for row in client.call_vesperd("status")["vms"]:
        if row["vm"] == vm and row["resource"] is not None:
            return str(row["resource"])
    return vm


def _format_step_time(step: Step) -> str:
    text = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(step.at))
    return text if step.whole else f"{text}.{int(step.at % 1 * 1000):03d}"


def _format_since_fault(step: Step, fault: float) -> str:
    return f"{step.at - fault:+.{0 if step.whole else 3}f} s"
