# SPDX-License-Identifier: GPL-2.0-or-later
"""A fault goes with its VM: from the source's vesperd to the target's.

Pacemaker has cancelled the monitor before a live migration, so a fault of that
time has nobody to be told to::

    source                         cluster                  target
    vesperd --hand_over--> migrate_to
                           --attribute of the target node--> migrate_from
                                              a file there --start, wait--> vesperd

Each keeps the fault until the next one has it.  The attribute is the target
node's: like the VM it outlives the source, and like the VM it ends with the
target's boot.  It is a private one, which the CIB does not have: else its change
would abort Pacemaker's transition in the middle of the migration, and the
target would get a start instead of migrate_from.  That happens for other
reasons, too, so a start that finds the VM running also looks for a fault.
None of this can make a migration fail.
"""

from __future__ import annotations

import base64
import json
import time

from vesper_monitor.client import DaemonError, DaemonUnavailable
from vesper_monitor.ocf.basics import AGAIN, CARRIED
from vesper_monitor.ocf.call import log
from vesper_monitor.ocf.toolstack import ToolstackError, run, spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vesper_monitor.ocf.agent import Agent
    from vesper_monitor.ocf.toolstack import Background

__all__ = ["Arrival", "attribute", "kept", "send_fault"]

#: Seconds for the cluster to take or to give an attribute.
CLUSTER_LIMIT_S = 5.0
#: Seconds in which a vesperd that is not there is asked again: it is being restarted.
VESPERD_PATIENCE_S = 5.0
VESPERD_PAUSE_S = 0.2
#: Seconds that vesperd may take, if Pacemaker is being told of the fault just
#: now; and that its answer may be late.
HAND_OVER_LIMIT_S = 12.0
ANSWER_GRACE_S = 2.0
#: Characters of a packed fault; what is longer is none.
MAX_CHARS = 4000


def attribute(vm: str) -> str:
    """Name of the transient node attribute in which a fault goes along with a VM."""
    return f"vesper-carried-{vm}"


def _attrd_updater(vm: str, node: str, *words: str) -> list[str]:
    return ["attrd_updater", "--private", "--name", attribute(vm), "--node", node, *words]


# -- the source ---------------------------------------------------------------------------


def send_fault(agent: Agent, target: str) -> None:
    """The VM has left for another node: send its fault after it. Never fails.

    :param target: the node's name in the cluster.
    """
    vm = agent.vm
    # One that has come along and that vesperd has not taken yet goes on.
    fault = _ask_for_fault(agent) or agent.carried().get("carried")
    agent.forget_carried()
    # Always: what an earlier migration has left there must not be taken for this one's.
    words = ["--delete"] if fault is None else ["--update", pack(fault)]
    try:
        code, said = run(_attrd_updater(vm, target, *words), agent.limit(CLUSTER_LIMIT_S))
        trouble = f"attrd_updater: exit status {code}: {said.strip()}" if code else ""
    except ToolstackError as error:
        trouble = str(error)
    if fault is None:
        if trouble:
            log(f"{vm}: {trouble}")
        return
    reason = str(fault.get("reason"))
    if trouble:
        log(f"{vm}: {target} is not told of the fault that went along: {reason}: {trouble}")
    else:
        log(f"{vm}: a fault goes along to {target}: {reason}")


def _ask_for_fault(agent: Agent) -> dict[str, Any] | None:
    """What vesperd here has handed over; None: nothing, or it cannot be asked."""
    vm = agent.vm
    until = time.monotonic() + min(VESPERD_PATIENCE_S, agent.limit())
    while True:
        limit = agent.limit(HAND_OVER_LIMIT_S)
        try:
            answer = agent.vesperd.call(
                "hand_over",
                reply_timeout=limit + ANSWER_GRACE_S,
                resource=agent.call.resource,
                timeout=limit,
                **agent.domain_fields(),
            )
            fault = answer.get("carried")
            return fault if isinstance(fault, dict) else None
        except DaemonError as error:
            trouble = str(error)
        except DaemonUnavailable as error:
            if time.monotonic() < until:
                time.sleep(VESPERD_PAUSE_S)
                continue
            trouble = str(error)
        log(f"{vm}: whether it had a fault when it left is not known: {trouble}")
        return None


# -- the target ---------------------------------------------------------------------------


class Arrival:
    """What comes along with a VM; asked for while the VM is waited for."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._vm = agent.vm
        self._query: Background | None = None
        self._found = False
        try:
            command = _attrd_updater(self._vm, agent.call.node, "--query")
            self._query = spawn(command, hint="is Pacemaker installed?")
        except ToolstackError as error:
            log(f"{self._vm}: whether a fault has come along is not known: {error}")

    def receive(self) -> None:
        """Keep what has come along for vesperd. Never fails."""
        agent, value = self._agent, ""
        if self._query is not None:
            limit = agent.limit(CLUSTER_LIMIT_S)
            code, said = self._query.wait(limit), self._query.output()
            self.close()
            if code is None:
                log(f"{self._vm}: whether a fault has come along is not known: "
                    f"attrd_updater did not end within {limit:.0f} s")  # fmt: skip
            elif code == 0:
                value = _value(said)
            elif "does not exist" not in said:
                log(f"{self._vm}: whether a fault has come along is not known: "
                    f"attrd_updater: exit status {code}: {said.strip()}")  # fmt: skip
        self._found = bool(value)
        if value:
            keep(agent, value)

    def end(self) -> None:
        """It is kept, or vesperd has it: remove it from the cluster. Never fails."""
        if not self._found:
            return
        agent = self._agent
        command = _attrd_updater(self._vm, agent.call.node, "--delete")
        try:
            code, said = run(command, agent.limit(CLUSTER_LIMIT_S))
            if code:
                log(f"{self._vm}: attrd_updater: exit status {code}: {said.strip()}")
        except ToolstackError as error:
            log(f"{self._vm}: {error}")

    def close(self) -> None:
        """End the question, if it is not answered. May be called again."""
        if self._query is not None:
            self._query.close()
            self._query = None


def _value(said: str) -> str:
    """Of a line ``name="…" host="…" value="…"``; empty: none."""
    for line in said.splitlines():
        _, mark, rest = line.partition('value="')
        if mark:
            value = rest.partition('"')[0]
            return "" if value == "(null)" else value
    return ""


# -- on the way -----------------------------------------------------------------------------


def keep(agent: Agent, packed: str) -> None:
    """Keep a fault until this node's vesperd has taken it."""
    agent.call.remember(CARRIED, packed[: MAX_CHARS + 1])
    # What the last monitor here has asked does not speak of it.
    agent.call.remember(AGAIN, "")


def kept(agent: Agent) -> dict[str, Any]:
    """Field of a ``start`` or ``wait`` that gives vesperd what is kept for it, if anything is."""
    packed = agent.call.remembered(CARRIED)
    if not packed:
        return {}
    try:
        return {"carried": unpack(packed)}
    except ValueError as error:
        log(f"{agent.vm}: what has come along is no fault: {error}")
        agent.forget_carried()
        return {}


def pack(fault: dict[str, Any]) -> str:
    """As a value that Pacemaker and a shell leave alone: letters, digits, ``-_=``."""
    text = json.dumps(fault, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode("ascii")).decode("ascii")


def unpack(packed: str) -> dict[str, Any]:
    """:raises ValueError: it is no packed fault."""
    if len(packed) > MAX_CHARS:
        raise ValueError(f"more than {MAX_CHARS} characters")
    fault = json.loads(base64.b64decode(packed.encode("ascii"), altchars=b"-_", validate=True))
    if not isinstance(fault, dict):
        raise ValueError("no object")
    return fault
