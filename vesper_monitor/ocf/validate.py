# SPDX-License-Identifier: GPL-2.0-or-later
"""validate-all: a higher check level checks more.

Level 0 looks at the parameters (which was done when they were read), 10 also
at this node, 20 also at what the agent works with here: whether xl accepts
the domain's configuration, and whether vesperd can watch a guest.
"""

from __future__ import annotations

from vesper_monitor.client import DaemonError, DaemonUnavailableError
from vesper_monitor.ocf.invocation import OcfCode, OcfExit
from vesper_monitor.ocf.start import check_node
from vesper_monitor.ocf.toolstack import ToolstackError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vesper_monitor.ocf.agent import Agent

__all__ = ["validate_all"]

#: Seconds for one command.
LOOK_LIMIT_S = 10.0


def validate_all(agent: Agent) -> None:
    """Check parameters, node and configuration, as far as the check level says.

    :raises OcfExit: something is wrong.
    """
    level = agent.call.check_level
    if level < 10:
        return
    check_node(agent)
    try:
        agent.lookup.read_state()
        if level >= 20:
            _check_config(agent)
    except ToolstackError as error:
        raise OcfExit(OcfCode.OCF_ERR_GENERIC, str(error)) from error
    if level >= 20:
        _check_vesperd(agent)


def _check_config(agent: Agent) -> None:
    settings = agent.settings
    wrong = agent.toolstack.check_config(
        settings.config, agent.vm, agent.call.limit_time(LOOK_LIMIT_S)
    )
    if wrong:
        # Not CONFIGURED: the file may be another one on another node.
        raise OcfExit(
            OcfCode.OCF_ERR_ARGS,
            f"node {agent.call.node} does not accept {settings.config}: {wrong}",
        )


def _check_vesperd(agent: Agent) -> None:
    try:
        transports = agent.vesperd.client.call_vesperd(
            "hello", reply_timeout=agent.call.limit_time(LOOK_LIMIT_S)
        )["transports"]
        working = [name for name, error in transports.items() if error is None]
        reasons = "; ".join(f"{name}: {error}" for name, error in transports.items() if error)
    except (DaemonUnavailableError, DaemonError, LookupError, AttributeError) as error:
        raise OcfExit(
            OcfCode.OCF_ERR_INSTALLED,
            f"node {agent.call.node} cannot see faults inside the VM: {error}",
        ) from error
    if not working:
        raise OcfExit(
            OcfCode.OCF_ERR_INSTALLED, f"vesperd on node {agent.call.node} can watch no VM: "
            f"{reasons or 'no transport is installed'}; see: vesper status",
        )  # fmt: skip
