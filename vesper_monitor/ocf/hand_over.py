# SPDX-License-Identifier: GPL-2.0-or-later
"""What goes with a VM that is migrated live: which domain it is, and its fault.

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

The attribute names the domain from before the migration on.  The target's own
configuration file may name another one: without that it would not know what
has arrived, and start a second copy.
None of this can make a migration fail.
"""

from __future__ import annotations

import base64
import json
import time

from vesper_monitor.client import DaemonError, DaemonUnavailableError
from vesper_monitor.ocf.fast_common import AGAIN, CARRIED
from vesper_monitor.ocf.invocation import log_line
from vesper_monitor.ocf.toolstack import (
    ToolstackError,
    ToolstackMissingError,
    run_command,
    spawn_command,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vesper_monitor.ocf.agent import Agent
    from vesper_monitor.ocf.toolstack import Background

__all__ = [
    "Arrival",
    "announce_domain",
    "carried_attribute_name",
    "kept_fault_field",
    "send_fault",
    "withdraw",
]

#: Seconds for the cluster to take or to give an attribute.
CLUSTER_LIMIT_S = 5.0
#: Seconds in which a vesperd that is not there is asked again: it is being restarted.
VESPERD_PATIENCE_S = 5.0
VESPERD_PAUSE_S = 0.2
#: Seconds that vesperd may take, if Pacemaker is being told of the fault just
#: now; and that its answer may be late.
HAND_OVER_LIMIT_S = 12.0
ANSWER_GRACE_S = 2.0
#: Characters of what is packed; what is longer is nothing.
MAX_CHARS = 6000
#: Seconds until the cluster is asked again whether something has been sent.
ASK_AGAIN_S = 1.0


def carried_attribute_name(resource: str) -> str:
    """Name of the transient node attribute that says what was sent to that node."""
    return f"vesper-carried-{resource}"


def _attrd_updater(agent: Agent, node: str, *words: str) -> list[str]:
    name = carried_attribute_name(agent.call.resource)
    return ["attrd_updater", "--private", "--name", name, "--node", node, *words]


# -- the source ---------------------------------------------------------------------------


def announce_domain(agent: Agent, target: str) -> None:
    """Say which domain is about to leave for another node. Never fails.

    In place of what an earlier migration has left there.

    :param target: the node's name in the cluster.
    """
    if trouble := _set_attribute(agent, target, None):
        log_line(f"{agent.vm}: {target} is not told which domain comes: {trouble}")


def withdraw(agent: Agent, target: str) -> None:
    """The domain that was announced stays here. Never fails.

    What is left at the target would name a domain of that name as this resource's.
    """
    if trouble := _remove(agent, target):
        log_line(f"{agent.vm}: {target} is not told that it does not come: {trouble}")


def _remove(agent: Agent, node: str) -> str:
    """:returns: why the attribute is not removed; empty: it is."""
    return _change_attribute(agent, node, "--delete")


def _change_attribute(agent: Agent, node: str, *words: str) -> str:
    """:returns: why the cluster has not changed the attribute; empty: it has."""
    try:
        code, said = run_command(
            _attrd_updater(agent, node, *words), agent.limit_call(CLUSTER_LIMIT_S)
        )
    except ToolstackError as error:
        return str(error)
    return f"attrd_updater: exit status {code}: {said.strip()}" if code else ""


def send_fault(agent: Agent, target: str) -> None:
    """The VM has left for another node: send its fault after it. Never fails."""
    vm = agent.vm
    # One that has come along and that vesperd has not taken yet goes on.
    fault = _ask_for_fault(agent) or agent.carried_fault_field().get("carried")
    agent.forget_carried()
    if fault is None:
        return
    reason = str(fault.get("reason"))
    if trouble := _set_attribute(agent, target, fault):
        log_line(f"{vm}: {target} is not told of the fault that went along: {reason}: {trouble}")
    else:
        log_line(f"{vm}: a fault goes along to {target}: {reason}")


def _set_attribute(agent: Agent, target: str, fault: dict[str, Any] | None) -> str:
    """:returns: why the cluster does not have it; empty: it has."""
    known = agent.identity.remembered
    # A domain's number is its host's.
    keeps_ident = agent.toolstack.ident_field == "uuid" and known is not None
    ident = known.ident if keeps_ident and known is not None and known.name == agent.vm else ""
    value = pack_fault({"vm": agent.vm, "ident": ident, "fault": fault})
    return _change_attribute(agent, target, "--update", value)


def _ask_for_fault(agent: Agent) -> dict[str, Any] | None:
    """What vesperd here has handed over; None: nothing, or it cannot be asked."""
    vm = agent.vm
    until = time.monotonic() + min(VESPERD_PATIENCE_S, agent.limit_call())
    while True:
        limit = agent.limit_call(HAND_OVER_LIMIT_S)
        try:
            answer = agent.vesperd.call_vesperd(
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
        except DaemonUnavailableError as error:
            if time.monotonic() < until:
                time.sleep(VESPERD_PAUSE_S)
                continue
            trouble = str(error)
        log_line(f"{vm}: whether it had a fault when it left is not known: {trouble}")
        return None


# -- the target ---------------------------------------------------------------------------


class Arrival:
    """What was sent to this node; asked for while the VM is waited for."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._query: Background | None = None
        self._sent: dict[str, Any] = {}
        self._has_attribute = False
        self._asked_at = float("-inf")
        self._ask_cluster()

    def _ask_cluster(self) -> None:
        self._asked_at = time.monotonic()
        try:
            command = _attrd_updater(self._agent, self._agent.call.node, "--query")
            self._query = spawn_command(command, hint="is Pacemaker installed?")
        except ToolstackMissingError:
            pass  # no cluster: nothing was sent
        except ToolstackError as error:
            log_line(f"{self._agent.vm}: what was sent here is not known: {error}")

    def find_domain(self, *, again: bool = False) -> tuple[str, str]:
        """Name and UUID of the domain that was sent; empty where not known. Never fails.

        :param again: ask the cluster again, if nothing was sent when it was asked last.
        """
        self._take_answer()
        if again and not self._sent and time.monotonic() - self._asked_at > ASK_AGAIN_S:
            self._ask_cluster()
            self._take_answer()
        name, ident = self._sent.get("vm"), self._sent.get("ident")
        if not isinstance(name, str) or not name or not name.isprintable():
            return "", ""
        return name, ident if isinstance(ident, str) else ""

    def _take_answer(self) -> None:
        """Wait for the cluster's answer, if it is asked."""
        agent = self._agent
        if self._query is None:
            return
        limit = agent.limit_call(CLUSTER_LIMIT_S)
        code, said = self._query.wait_for_exit(limit), self._query.read_output()
        self.close()
        value = ""
        if code is None:
            self._asked_at = float("inf")  # not again
            log_line(f"{agent.vm}: what was sent here is not known: "
                f"attrd_updater did not end within {limit:.0f} s")  # fmt: skip
        elif code == 0:
            value = _attribute_value(said)
        elif "does not exist" not in said:
            log_line(f"{agent.vm}: what was sent here is not known: "
                f"attrd_updater: exit status {code}: {said.strip()}")  # fmt: skip
        self._has_attribute = self._has_attribute or bool(value)
        if value:
            try:
                self._sent = unpack_fault(value)
            except ValueError as error:
                log_line(f"{agent.vm}: what was sent here is not understood: {error}")

    def receive_fault(self) -> None:
        """Keep the fault that has come with the VM for vesperd. Never fails."""
        name, _ = self.find_domain()
        fault = self._sent.get("fault")
        if name == self._agent.vm and isinstance(fault, dict):
            keep_fault(self._agent, pack_fault(fault))

    def remove_from_cluster(self) -> None:
        """It is kept, or vesperd has it: remove it from the cluster. Never fails."""
        if not self._has_attribute:
            return
        agent = self._agent
        if trouble := _remove(agent, agent.call.node):
            log_line(f"{agent.vm}: {trouble}")

    def close(self) -> None:
        """End the question, if it is not answered. May be called again."""
        if self._query is not None:
            self._query.close()
            self._query = None


def _attribute_value(said: str) -> str:
    """Of a line ``name="…" host="…" value="…"``; empty: none."""
    for line in said.splitlines():
        _, mark, rest = line.partition('value="')
        if mark:
            value = rest.partition('"')[0]
            return "" if value == "(null)" else value
    return ""


# -- on the way -----------------------------------------------------------------------------


def keep_fault(agent: Agent, packed: str) -> None:
    """Keep a fault until this node's vesperd has taken it."""
    agent.call.remember_text(CARRIED, packed[: MAX_CHARS + 1])
    # What the last monitor here has asked does not speak of it.
    agent.call.remember_text(AGAIN, "")


def kept_fault_field(agent: Agent) -> dict[str, Any]:
    """Field of a ``start`` or ``wait`` that gives vesperd what is kept for it, if anything is."""
    packed = agent.call.remembered_text(CARRIED)
    if not packed:
        return {}
    try:
        return {"carried": unpack_fault(packed)}
    except ValueError as error:
        log_line(f"{agent.vm}: what has come along is no fault: {error}")
        agent.forget_carried()
        return {}


def pack_fault(fault: dict[str, Any]) -> str:
    """As a value that Pacemaker and a shell leave alone: letters, digits, ``-_=``."""
    text = json.dumps(fault, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode("ascii")).decode("ascii")


def unpack_fault(packed: str) -> dict[str, Any]:
    """:raises ValueError: it is no packed fault."""
    if len(packed) > MAX_CHARS:
        raise ValueError(f"more than {MAX_CHARS} characters")
    fault = json.loads(base64.b64decode(packed.encode("ascii"), altchars=b"-_", validate=True))
    if not isinstance(fault, dict):
        raise ValueError("no object")
    return fault
