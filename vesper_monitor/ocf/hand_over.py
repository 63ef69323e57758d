# SPDX-License-Identifier: GPL-2.0-or-later
"""What travels with a VM that is migrated live: which domain it is, and its fault.

Pacemaker cancels the monitor before a live migration, so nobody reports a
fault of that time::

    source                         cluster                  target
    vesperd --hand_over--> migrate_to
                           --attribute of the target node--> migrate_from
                                              a file there --start, wait--> vesperd

Each keeps the fault until the next one has it.  The attribute is the target
node's: like the VM it outlives the source, and like the VM it ends with the
target's boot.  It is private, so the CIB does not have it.  A change of the CIB
would abort Pacemaker's transition in the middle of the migration, and the
target would get a start instead of migrate_from.  That happens for other
reasons, too, so a start that finds the VM running also looks for a fault.

The attribute names the domain before the migration begins.  The target's own
configuration file may name another one.  Without the attribute the target
would not find what arrives, and would start a second copy: so a migration
whose domain cannot be announced is refused.  A fault that cannot be sent
makes no migration fail.

This is the source's side; :mod:`vesper_monitor.ocf.arrival` is the target's.
"""

from __future__ import annotations

import time

from vesper_monitor.client import DaemonError, DaemonUnavailableError
from vesper_monitor.ocf.carried_fault import change_attribute, pack_fault
from vesper_monitor.ocf.invocation import log_line
from vesper_monitor.ocf.toolstack import ToolstackError, ToolstackMissingError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vesper_monitor.ocf.agent import Agent

__all__ = ["announce_domain", "send_fault", "withdraw_domain"]

#: Tries to announce a domain: the cluster may be electing a writer.
ANNOUNCE_TRIES = 2
#: Seconds in which a vesperd that is not there is asked again: it is being restarted.
VESPERD_PATIENCE_S = 5.0
VESPERD_PAUSE_S = 0.2
#: Seconds that vesperd may take, if it is telling Pacemaker of the fault just now.
HAND_OVER_LIMIT_S = 12.0
#: Seconds that its answer may be late.
ANSWER_GRACE_S = 2.0


def announce_domain(agent: Agent, target: str) -> None:
    """Name the domain to the node to which it is about to leave.

    It replaces what an earlier migration left there.  Without a cluster nothing is done.

    :param target: the node's name in the cluster.
    :raises ToolstackError: the cluster did not take it.
    """
    for left in reversed(range(ANNOUNCE_TRIES)):
        try:
            _set_attribute(agent, target, None)
            return
        except ToolstackMissingError as error:
            log_line(f"{agent.vm}: is not announced to {target}: {error}")
            return
        except ToolstackError as error:
            if not left:
                raise ToolstackError(f"the cluster cannot announce it: {error}") from error
            log_line(f"{agent.vm}: is not announced to {target}: {error}; trying again")


def withdraw_domain(agent: Agent, target: str) -> None:
    """Take the announcement back: the domain stays here. Never fails.

    The target would take a domain of that name for this resource's.
    """
    try:
        change_attribute(agent.call, target, "--delete")
    except ToolstackError as error:
        log_line(f"{agent.vm}: its announcement to {target} is not withdrawn: {error}")


def send_fault(agent: Agent, target: str) -> None:
    """Send the fault of a VM after it, which left for another node. Never fails."""
    vm = agent.vm
    # A fault that arrived here with it, and that vesperd does not have yet, goes on.
    fault = _ask_for_fault(agent) or agent.vesperd.carried_fault_field().get("carried")
    agent.vesperd.forget_carried()
    if fault is None:
        return
    reason = str(fault.get("reason"))
    try:
        _set_attribute(agent, target, fault)
    except ToolstackError as error:
        log_line(f"{vm}: {target} did not get the fault of the VM ({reason}): {error}")
        return
    log_line(f"{vm}: sent its fault to {target}: {reason}")


def _set_attribute(agent: Agent, target: str, fault: dict[str, Any] | None) -> None:
    """:raises ToolstackError: the cluster did not take it."""
    known = agent.identity.remembered
    # A domain's number is its host's.
    keeps_ident = agent.toolstack.ident_field == "uuid" and known is not None
    ident = known.ident if keeps_ident and known is not None and known.name == agent.vm else ""
    value = pack_fault({"vm": agent.vm, "ident": ident, "fault": fault})
    change_attribute(agent.call, target, "--update", value)


def _ask_for_fault(agent: Agent) -> dict[str, Any] | None:
    """Return the fault that vesperd hands over; None: there is none, or it cannot be asked."""
    until = time.monotonic() + min(VESPERD_PATIENCE_S, agent.call.limit_time())
    while True:
        limit = agent.call.limit_time(HAND_OVER_LIMIT_S)
        try:
            answer = agent.vesperd.client.call_vesperd(
                "hand_over",
                reply_timeout=limit + ANSWER_GRACE_S,
                resource=agent.call.resource,
                timeout=limit,
                **agent.vesperd.domain_fields(),
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
        log_line(f"{agent.vm}: unknown whether it had a fault when it left: {trouble}")
        return None
