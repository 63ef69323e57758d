# SPDX-License-Identifier: GPL-2.0-or-later
"""start: creates the domain unless it runs, and begins the resource's activation."""

from __future__ import annotations

import os

from vesper_monitor.hypervisor.domain_state import DomainState
from vesper_monitor.ocf import deep_check, stop
from vesper_monitor.ocf.domain_lookup import ALIVE
from vesper_monitor.ocf.invocation import OcfCode, OcfExit, log_line
from vesper_monitor.ocf.toolstack import ToolstackError, ToolstackMissingError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vesper_monitor.ocf.agent import Agent

__all__ = ["begin_activation", "check_node", "start_vm"]


def start_vm(agent: Agent) -> None:
    """Start the VM, unless it runs, and tell vesperd.

    :raises OcfExit: it does not run, or a monitor script does not succeed.
    """
    deep_check.forget_deep_check(agent)
    check_node(agent)
    try:
        present = agent.lookup.find_for_start()
        if present and present.get(agent.vm) not in ALIVE:
            _remove_remains(agent, present)
            present = agent.lookup.find_for_start()
        if present:
            log_line(f"{agent.vm}: already runs ({agent.lookup.describe_domains(present)})")
        else:
            agent.vesperd.forget_carried()
            _create_domain(agent)
            agent.lookup.forget_sent()
    except ToolstackError as error:
        raise OcfExit(OcfCode.OCF_ERR_GENERIC, f"{agent.vm} was not started: {error}") from error
    if present:
        _begin_arrived(agent)
    else:
        begin_activation(agent)
    if agent.settings.scripts:
        from vesper_monitor.ocf.scripts import wait_for_success

        wait_for_success(agent)


def begin_activation(agent: Agent) -> None:
    """Begin an activation of the resource: the VM runs here from now on."""
    agent.set_first_mark()
    agent.lookup.claim_domain()
    agent.vesperd.notify_start()
    if agent.settings.utilization or agent.settings.no_utilization:
        from vesper_monitor.ocf import utilization

        utilization.forget_utilization(agent)
        utilization.update_utilization(agent)


def check_node(agent: Agent) -> None:
    """Check that the node has what a start needs.

    :raises OcfExit: code 5, so that Pacemaker tries another node.
    """
    config, node = agent.settings.config, agent.call.node
    if not os.path.isfile(config):
        raise OcfExit(
            OcfCode.OCF_ERR_INSTALLED,
            f"{config} does not exist on node {node}: each node that may run {agent.vm} "
            "needs its configuration file",
        )
    if not os.access(config, os.R_OK):
        raise OcfExit(OcfCode.OCF_ERR_PERM, f"{config} cannot be read on node {node}")
    for command in agent.toolstack.commands:
        if not _is_executable(command):
            raise OcfExit(
                OcfCode.OCF_ERR_INSTALLED,
                f"{command} is not installed on node {node} (PATH {_read_command_path()})",
            )
    for script in agent.settings.scripts:
        if not _is_executable(script):
            raise OcfExit(
                OcfCode.OCF_ERR_INSTALLED,
                f"monitor script {script} does not exist on node {node}, or is not executable",
            )


def _begin_arrived(agent: Agent) -> None:
    """Begin with a VM that runs already, perhaps by a migration without a migrate_from."""
    arrival = agent.lookup.arrival
    arrival.receive_fault()
    begin_activation(agent)
    arrival.remove_from_cluster()


def _remove_remains(agent: Agent, present: dict[str, DomainState]) -> None:
    """Remove what is left of the domain before its start."""
    found = agent.lookup.describe_domains(present)
    log_line(f"{agent.vm}: is {found}; removing it before the start")
    stop.remove_domain(agent)


def _create_domain(agent: Agent) -> None:
    """:raises ToolstackError: it does not run."""
    vm = agent.vm
    memory = None
    if agent.settings.manage_memory:
        from vesper_monitor.ocf.host_memory import make_room

        memory = make_room(agent)
    create, config = agent.toolstack.create_domain, agent.settings.config
    # The configuration may name another domain before a failed start is stopped.
    agent.identity.remember_created_domain()
    try:
        note = create(config, vm, agent.call.limit_time(), memory)
    except ToolstackError as error:
        # A domain that was kept for its dump must not cost the service.
        try:
            dropped = stop.drop_kept(agent)
        except ToolstackError as trouble:
            log_line(f"{vm}: {trouble}")
            dropped = False
        if not dropped:
            _forget_if_gone(agent)
            raise
        log_line(f"{vm}: {error}; trying again without the crashed domain that was kept")
        note = create(config, vm, agent.call.limit_time(), memory)
    if _list_after_create(agent).get(vm, DomainState.GONE) not in ALIVE:
        raise ToolstackError(
            f"{agent.toolstack.name} reported success, but lists no running {vm}; "
            f"see: {agent.toolstack.look}"
        )
    agent.keep_unwatched_reason(note)


def _forget_if_gone(agent: Agent) -> None:
    """Forget the domain that a failed create did not leave behind. Never fails."""
    try:
        if agent.lookup.find_present_domains():
            return
    except ToolstackError as error:
        log_line(f"{agent.vm}: {error}")
        return
    agent.identity.forget_domain()


def _list_after_create(agent: Agent) -> dict[str, DomainState]:
    """List the domains; again while the toolstack hangs, since the domain was created.

    :raises ToolstackError: unknown when the time is nearly up.
    """
    logged = False
    while True:
        try:
            return agent.lookup.list_states()
        except ToolstackMissingError:
            raise
        except ToolstackError as error:
            if not agent.lookup.has_time_to_look():
                raise
            if not logged:
                log_line(f"{agent.vm}: is created; {error}; looking again")
            logged = True
            agent.lookup.pause_before_next_look()


def _read_command_path() -> str:
    return os.environ.get("PATH") or os.defpath


def _is_executable(command: str) -> bool:
    """Whether execvp(3) would find it."""
    folders = [""] if "/" in command else _read_command_path().split(":")
    paths = (os.path.join(folder, command) for folder in folders)
    return any(os.path.isfile(path) and os.access(path, os.X_OK) for path in paths)
