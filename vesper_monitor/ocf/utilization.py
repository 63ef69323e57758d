# SPDX-License-Identifier: GPL-2.0-or-later
"""autoset_, unset_utilization_*: the domain's size becomes the resource's utilization.

Only values that changed are written; the last ones are remembered until the next
start or probe.
"""

from __future__ import annotations

from vesper_monitor.ocf.invocation import log_line
from vesper_monitor.ocf.toolstack import ToolstackError, run_command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vesper_monitor.ocf.agent import Agent

__all__ = ["forget_utilization", "update_utilization"]

#: Seconds for one command; nothing waits for it to succeed.
UPDATE_LIMIT_S = 5.0
#: In place of a value: there is to be none.
NONE = "-"


def update_utilization(agent: Agent) -> None:
    """Write CPUs and memory (MiB) into the resource's utilization, or take them out of it.

    Never fails.
    """
    vm = agent.vm
    try:
        size = agent.toolstack.read_size(vm, agent.call.limit_time(UPDATE_LIMIT_S))
        if size is None:
            return
        found = {"cpu": size[1], "hv_memory": size[0], "host_memory": size[0]}
        wanted = {name: str(found[name]) for name in agent.settings.utilization}
        wanted |= dict.fromkeys(agent.settings.no_utilization, NONE)
        known = _remembered_values(agent)
        for name, value in wanted.items():
            if known.get(name) != value:
                _set_attribute(agent, name, value)
    except ToolstackError as error:
        log_line(f"{vm}: utilization is not updated: {error}")
        return
    agent.call.remember_text("utilization", " ".join(f"{k}={v}" for k, v in wanted.items()))


def forget_utilization(agent: Agent) -> None:
    """Have the next update write all values."""
    agent.call.remember_text("utilization", "")


def _set_attribute(agent: Agent, name: str, value: str) -> None:
    resource = agent.call.resource.partition(":")[0]
    command = ["crm_resource", "--resource", resource, "--utilization"]
    if value == NONE:
        command += ["--delete-parameter", name]
    else:
        command += ["--set-parameter", name, "--parameter-value", value]
    code, text = run_command(command, agent.call.limit_time(UPDATE_LIMIT_S))
    if code != 0:
        raise ToolstackError(f"{' '.join(command)}: exit status {code}: {text.strip()[-200:]}")
    log_line(f"{resource}: utilization {name}={value}")


def _remembered_values(agent: Agent) -> dict[str, str]:
    text = agent.call.remembered_text("utilization")
    return dict(pair.split("=", 1) for pair in text.split() if "=" in pair)
