# SPDX-License-Identifier: GPL-2.0-or-later
"""migrate_to and migrate_from: the VM goes to another node while it runs.

A domain that cannot be migrated is recognised before anything is sent, so that a
doomed migration costs only Pacemaker's stop and start.
"""

from __future__ import annotations

import time

from vesper_monitor.hypervisor.domain_state import DomainState
from vesper_monitor.ocf.fast_common import shorten_reason
from vesper_monitor.ocf.hand_over import announce_domain, send_fault, withdraw_domain
from vesper_monitor.ocf.invocation import OcfCode, OcfExit, log_line
from vesper_monitor.ocf.start import begin_activation
from vesper_monitor.ocf.status import refuse_foreign
from vesper_monitor.ocf.toolstack import ToolstackError, run_command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vesper_monitor.ocf.agent import Agent

__all__ = ["failure_attribute_name", "migrate_from", "migrate_to"]

#: Seconds for a question to the cluster or the toolstack.
ASK_LIMIT_S = 10.0
#: Seconds without any sign of the domain at the target until it is given up.
ARRIVAL_LIMIT_S = 10.0
#: Seconds that must be left of a migration that has failed, to say so at the target.
WITHDRAW_S = 4.0
#: Seconds for what the toolstack has to do when it has arrived.
ARRIVED_LIMIT_S = 20.0


def failure_attribute_name(vm: str) -> str:
    """Return the name of the node attribute that says why the last migration of a VM failed."""
    return f"vesper-migration-{vm}"


def migrate_to(agent: Agent) -> None:
    """Run at the source. Returns when the VM runs at the target.

    :raises OcfExit: it does not; the text says whether it still runs here.
    """
    try:
        _migrate_to(agent)
    except OcfExit as end:
        # Of a migration Pacemaker keeps the result and not the exit reason
        # (lrm_rsc_op in the CIB, 2.1): crm_mon shows that it failed, not why.
        _show_failure(agent, end.reason)
        raise
    send_fault(agent, agent.call.migrate_target)
    _show_failure(agent, "")


def _show_failure(agent: Agent, reason: str) -> None:
    """Let ``crm_mon -A`` show it; empty: nothing any more. Never fails."""
    name = failure_attribute_name(agent.vm)
    if not reason and not agent.call.remembered_text("migration"):
        return
    agent.call.remember_text("migration", reason)
    words = ["--update", shorten_reason(reason)] if reason else ["--delete"]
    # Pacemaker's tools run in the C locale, and refuse all else (exit 64).
    command = [
        word.encode("ascii", "backslashreplace").decode("ascii")
        for word in ("attrd_updater", "--name", name, *words)
    ]
    try:
        run_command(command, agent.call.limit_time(ASK_LIMIT_S))
    except ToolstackError as error:
        log_line(f"{name}: {error}")


def _migrate_to(agent: Agent) -> None:
    refuse_foreign(agent, OcfCode.OCF_ERR_GENERIC)
    if mismatch := agent.identity.describe_mismatch():
        # The target could take the domain for the other one.
        raise OcfExit(OcfCode.OCF_ERR_GENERIC, f"not migrated live: {mismatch}")
    vm, target = agent.vm, agent.call.migrate_target
    if not target:
        raise OcfExit(
            OcfCode.OCF_ERR_ARGS,
            "migrate_to: Pacemaker gave no target (OCF_RESKEY_CRM_meta_migrate_target)",
        )
    try:
        state = agent.lookup.read_state()
        vm = agent.vm
        paused = state is DomainState.PAUSED and agent.toolstack.migrates_paused
        if state is not DomainState.RUNNING and not paused:
            raise OcfExit(
                OcfCode.OCF_ERR_GENERIC,
                f"{vm} cannot be migrated to {target}: it is {state.value} here",
            )
        if reason := agent.toolstack.explain_immovable(vm, agent.call.limit_time(ASK_LIMIT_S)):
            raise OcfExit(OcfCode.OCF_ERR_GENERIC, f"{vm} cannot be migrated live: {reason}")
        address = _find_target_address(agent, target)
        announce_domain(agent, target)
        log_line(f"{vm}: migrating to {target} ({address})")
        try:
            agent.toolstack.migrate_domain(vm, address, agent.call.limit_time())
        except ToolstackError:
            _withdraw(agent, target)
            raise
        if agent.lookup.read_state() in (DomainState.RUNNING, DomainState.PAUSED):
            raise ToolstackError("the toolstack reported success, but the domain still runs here")
    except ToolstackError as error:
        raise OcfExit(
            OcfCode.OCF_ERR_GENERIC, f"{vm} was not migrated to {target}: {error}"
        ) from error
    log_line(f"{vm}: migrated to {target}")


def _withdraw(agent: Agent, target: str) -> None:
    """Withdraw the announcement, if the domain certainly stays here. Never fails."""
    if agent.call.seconds_left() <= WITHDRAW_S:
        return  # the toolstack may still be migrating it
    try:
        stays = agent.lookup.read_state() in (DomainState.RUNNING, DomainState.PAUSED)
    except ToolstackError as error:
        log_line(f"{agent.vm}: {error}")
        return
    if stays:
        withdraw_domain(agent, target)


def migrate_from(agent: Agent) -> None:
    """Run at the target. Returns when the VM runs here, or is paused here as it left.

    :raises OcfExit: it does not.
    """
    arrival = agent.lookup.arrival
    agent.vesperd.forget_carried()
    try:
        _wait_for_domain(agent)
        agent.keep_unwatched_reason(
            agent.toolstack.finish_arrival(agent.vm, agent.call.limit_time(ARRIVED_LIMIT_S))
        )
        arrival.receive_fault()
    finally:
        arrival.close()
    begin_activation(agent)
    arrival.remove_from_cluster()
    if agent.settings.scripts:
        from vesper_monitor.ocf.scripts import wait_for_success

        wait_for_success(agent)
    if agent.settings.manage_memory:
        from vesper_monitor.ocf.host_memory import share_out

        share_out(agent)


def _wait_for_domain(agent: Agent) -> None:
    """:raises OcfExit: it does not arrive."""
    seen = time.monotonic()
    trouble = ""
    vm = agent.vm
    while agent.call.seconds_left() > 2.0:
        try:
            present = agent.lookup.find_present_domains()
            vm = agent.vm  # which may be another one than was remembered here
            if agent.identity.is_foreign():
                present = {}  # the file names what another resource runs
            state = present.get(vm, DomainState.GONE)
            if state is DomainState.RUNNING:
                return
            if state is DomainState.PAUSED and not agent.toolstack.is_arriving(vm):
                log_line(f"{vm}: arrived, and is paused")
                return
            trouble = ", ".join(f"{name} is {s.value}" for name, s in present.items())
            if present:
                seen = time.monotonic()
            elif time.monotonic() - seen > ARRIVAL_LIMIT_S:
                raise OcfExit(
                    OcfCode.OCF_ERR_GENERIC, f"{vm} did not arrive on node {agent.call.node}"
                )
        except ToolstackError as error:
            trouble = str(error)
        agent.lookup.pause_before_next_look(max(0.0, agent.call.seconds_left() - 2.0))
    raise OcfExit(
        OcfCode.OCF_ERR_GENERIC,
        f"{vm} did not arrive on node {agent.call.node} within the operation's timeout: "
        f"{trouble or 'no such domain'}",
    )


def _find_target_address(agent: Agent, target: str) -> str:
    """Return the address to migrate to: the node attribute's value, else the node's name."""
    attribute = agent.settings.address_attribute
    if not attribute:
        return target
    # fmt: off
    code, text = run_command(
        ["crm_attribute", "--type", "nodes", "--node", target, "--name", attribute,
         "--query", "--quiet"],
        agent.call.limit_time(ASK_LIMIT_S),
    )
    # fmt: on
    value = text.strip() if code == 0 else ""
    if value in ("", "(null)"):
        log_line(f"{target}: has no node attribute {attribute}; migrating to the node's name")
        return target
    if value.startswith("-") or len(value.split()) != 1:
        raise ToolstackError(f"node attribute {attribute} of {target} is not an address: {value!r}")
    return value
