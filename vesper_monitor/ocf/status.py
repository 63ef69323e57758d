# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether the VM runs, at once: what ``status`` and a plain ``monitor`` answer."""

from __future__ import annotations

import time

from vesper_monitor.hypervisor.domain_state import DomainState
from vesper_monitor.ocf.domain_lookup import ALIVE, LOOK_PAUSE_S, DomainContradictionError
from vesper_monitor.ocf.invocation import OcfCode, OcfExit, log_line
from vesper_monitor.ocf.toolstack import ToolstackError, ToolstackMissingError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vesper_monitor.ocf.agent import Agent

__all__ = ["refuse_foreign", "reload_parameters", "report_status"]

#: Seconds in which vesperd is asked again what the toolstack cannot say.
VESPERD_PATIENCE_S = 5.0
#: Seconds of the call that are left when that ends.
VESPERD_RESERVE_S = 2.0


def report_status(agent: Agent, unknown: OcfCode = OcfCode.OCF_ERR_GENERIC) -> None:
    """Return if the VM runs.

    :param unknown: the exit code if that is unknown.
    :raises OcfExit: it does not run, or that is unknown.
    """
    state = _find_state(agent, unknown)
    if state is DomainState.GONE and agent.lookup.turn_to_configured():
        state = _find_state(agent, unknown)
    if state in ALIVE:
        agent.lookup.claim_domain()
        return
    if state is DomainState.GONE:
        agent.vesperd.expect_arrival()  # it may come here by itself
        raise OcfExit(OcfCode.OCF_NOT_RUNNING, f"{agent.vm} is not running")
    raise OcfExit(
        OcfCode.OCF_ERR_GENERIC,
        f"{agent.vm} is {agent.lookup.describe_state(state)}: it must be stopped",
    )


def reload_parameters(agent: Agent) -> None:
    """Take over changed parameters while the VM runs.

    Each action reads most of them anew; vesperd must be told the rest.

    :raises OcfExit: the VM does not run.
    """
    report_status(agent)
    # The next monitor is another operation for Pacemaker, which waits for it.
    agent.set_first_mark()
    agent.vesperd.try_request("change", **agent.vesperd.build_wishes())


def refuse_foreign(agent: Agent, code: OcfCode) -> bool:
    """Refuse to act on a domain that belongs to another resource.

    :param code: of the refusal.
    :returns: whether the configured domain is another resource's and does not run.
    :raises OcfExit: it is another resource's, and runs or may run.
    """
    identity = agent.identity
    if identity.remembered is not None or not (owner := identity.find_owner(agent.vm)):
        return False
    try:
        if agent.lookup.wait_for_reboot() is DomainState.GONE:
            return True
    except ToolstackError as error:
        log_line(f"{agent.vm}: {error}")
    if identity.remembered is not None:
        return False  # another domain arrived meanwhile
    raise OcfExit(
        code,
        f"domain {agent.vm} belongs to resource {owner}, which started or found it last; "
        f"{agent.call.resource} leaves it alone",
    )


def _find_state(agent: Agent, unknown: OcfCode) -> DomainState:
    """Return the state by the toolstack; if that does not answer, by vesperd.

    :raises OcfExit: neither knows, or the two contradict each other.
    """
    while True:
        try:
            return agent.lookup.wait_for_reboot()
        except DomainContradictionError as error:
            if not agent.lookup.has_time_to_look():
                raise _build_unknown_exit(agent, unknown, error) from error
            agent.lookup.pause_before_next_look()
        except ToolstackError as error:
            return _find_state_by_vesperd(agent, unknown, error)


def _find_state_by_vesperd(agent: Agent, unknown: OcfCode, error: ToolstackError) -> DomainState:
    """:raises OcfExit: vesperd does not know either."""
    patience = min(VESPERD_PATIENCE_S, agent.call.seconds_left() - VESPERD_RESERVE_S)
    until = time.monotonic() + patience
    reboot = agent.lookup.end_of_reboot()
    while (state := agent.vesperd.read_domain_state()) is None or state is DomainState.GONE:
        if time.monotonic() >= (until if state is None else reboot):
            break
        time.sleep(LOOK_PAUSE_S)  # on a busy host the next sign of life may be late
    if state is None:
        if isinstance(error, ToolstackMissingError) and unknown is OcfCode.OCF_ERR_GENERIC:
            unknown = OcfCode.OCF_ERR_INSTALLED
        raise _build_unknown_exit(agent, unknown, error) from error
    return state


def _build_unknown_exit(agent: Agent, code: OcfCode, error: ToolstackError) -> OcfExit:
    return OcfExit(code, f"cannot tell whether {agent.vm} runs: {error}")
