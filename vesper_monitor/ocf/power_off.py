# SPDX-License-Identifier: GPL-2.0-or-later
"""poweroff_wanted: a guest that powers itself off is to stay off."""

from __future__ import annotations

from vesper_monitor.ocf.invocation import OcfCode, OcfExit, log_line
from vesper_monitor.ocf.toolstack import ToolstackError, run_command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vesper_monitor.ocf.agent import Agent

__all__ = ["accept_power_off"]

#: Seconds for the cluster to take over a wanted power-off.
ACCEPT_LIMIT_S = 10.0


def accept_power_off(agent: Agent, reason: str) -> None:
    """Have Pacemaker stop the resource, whose guest powered itself off.

    :param reason: of the domain's end.
    :raises OcfExit: the cluster does not take it.
    """
    log_line(f"{agent.vm}: {reason}; as poweroff_wanted is set, target-role becomes Stopped")
    # fmt: off
    command = ["crm_resource", "--resource", agent.call.resource, "--meta",
               "--set-parameter", "target-role", "--parameter-value", "Stopped"]
    # fmt: on
    try:
        code, text = run_command(command, agent.call.limit_time(ACCEPT_LIMIT_S))
    except ToolstackError as error:
        code, text = 1, str(error)
    if code != 0:
        raise OcfExit(
            OcfCode.OCF_NOT_RUNNING, f"{reason}; target-role could not be set: {text.strip()}"
        )
