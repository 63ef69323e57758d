# SPDX-License-Identifier: GPL-2.0-or-later
"""``vesper why``: one incident, from the kernel's event to the service's return."""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from typing import Any

from vesper_monitor.client import Client, DaemonError
from vesper_monitor.command import history
from vesper_monitor.command.history import HistoryError, Operation
from vesper_monitor.command.show import print_json
from vesper_monitor.command.table import columns, note

__all__ = ["Step", "story", "why"]

#: s by which the cluster's whole seconds may lie before the fault.
ROUNDING = 1.0


@dataclass(frozen=True)
class Step:
    """A line of the story."""

    at: float  #: s, CLOCK_REALTIME
    where: str  #: guest, vesperd, or the node
    text: str
    whole: bool = False  #: known to the second only


def why(client: Client, options: argparse.Namespace) -> None:
    """What happened to a VM, when, and what became of it."""
    answer = client.call("fault", id=_which(client, options))
    found, events = answer["fault"], answer["events"]
    if found["vm"] != options.vm:
        raise DaemonError("bad-request", f"fault {found['id']} is of {found['vm']}")
    trouble = None
    try:
        operations = history.operations(found["resource"])
    except HistoryError as error:
        operations, trouble = [], str(error)
    steps = story(found, events, operations)
    if options.json:
        print_json(
            {
                "fault": found,
                "steps": [vars(step) for step in steps],
                "cluster": trouble,
            }
        )
        return
    print(f"{found['resource']} ({found['vm']}): {found['reason']}\n")
    rows = [(_clock(step), _since(step, found["seen"]), step.where, step.text) for step in steps]
    print(columns(("TIME", "AFTER", "WHERE", "WHAT"), rows))
    if trouble is not None:
        print(note("cluster", trouble))
    elif not any(step.whole for step in steps):
        print(note("cluster", "its history does not go back to this fault"))


def story(
    fault: dict[str, Any], events: list[dict[str, Any]], operations: list[Operation]
) -> list[Step]:
    """The steps in order of time.

    :param fault: as vesperd has it (docs/api.md).
    :param events: of that VM, up to the fault.
    :param operations: of the resource; those of before the fault are left out.
    """
    steps = [Step(event["received"], "guest", str(event["text"])) for event in events]
    steps.append(Step(fault["seen"], "vesperd", f"fault {fault['id']}: {fault['reason']}"))
    if fault["told"] is not None:
        steps.append(Step(fault["told"], "vesperd", "told Pacemaker"))
    if fault["ended"] is not None:
        steps.append(Step(fault["ended"], "vesperd", f"fault ended by {fault['ended_by']}"))
    for operation in operations:
        if operation.at >= fault["seen"] - ROUNDING:
            steps.append(Step(operation.at, operation.node, _said(operation), whole=True))
    heard = fault["told"] or fault["seen"]

    def when(step: Step) -> float:
        # What the cluster did in the fault's own second came after the fault.
        return max(step.at, heard) if step.whole and step.at > heard - ROUNDING else step.at

    return sorted(steps, key=when)


def _said(operation: Operation) -> str:
    text = f"{operation.name}: {operation.result}"
    if operation.reason:
        text += f" ({operation.reason})"
    if operation.seconds and not operation.recurring:
        text += f", took {operation.seconds:.1f} s"
    return text


def _which(client: Client, options: argparse.Namespace) -> int:
    """The fault asked for, or the VM's last."""
    if options.id is not None:
        return int(options.id)
    faults = client.call("faults", vm=options.vm, limit=1)["faults"]
    if not faults:
        raise DaemonError(
            "no-such-vm",
            f"{options.vm}: this host's journal has no fault of it; 'crm_mon -A' shows "
            "on which host it had its last",
        )
    return int(faults[-1]["id"])


def _clock(step: Step) -> str:
    text = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(step.at))
    return text if step.whole else f"{text}.{int(step.at % 1 * 1000):03d}"


def _since(step: Step, fault: float) -> str:
    return f"{step.at - fault:+.{0 if step.whole else 3}f} s"
