# SPDX-License-Identifier: GPL-2.0-or-later
"""autoset_utilization_*: what the domain has becomes the resource's utilization.

The cluster is told only of what has changed since it was told last; that is
remembered until the next start or probe.
"""

from __future__ import annotations

import os

from vesper_monitor.ocf.call import log
from vesper_monitor.ocf.toolstack import ToolstackError, run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vesper_monitor.ocf.agent import Agent

__all__ = ["forget", "update"]

#: Seconds for one command; nothing waits for it to succeed.
LIMIT = 5.0


def update(agent: Agent) -> None:
    """Write CPUs and memory (MiB) into the resource's utilization. Never fails."""
    vm = agent.settings.vm
    try:
        size = agent.toolstack.sizes(agent.limit(LIMIT)).get(vm)
        if size is None:
            return
        found = {"cpu": size[1], "hv_memory": size[0]}
        wanted = {name: str(found[name]) for name in agent.settings.utilization}
        known = _remembered(agent)
        for name, value in wanted.items():
            if known.get(name) != value:
                _set(agent, name, value)
    except ToolstackError as error:
        log(f"{vm}: utilization is not updated: {error}")
        return
    _remember(agent, wanted)


def forget(agent: Agent) -> None:
    """Tell the cluster anew with the next update."""
    try:
        os.unlink(_path(agent))
    except OSError:
        pass


def _set(agent: Agent, name: str, value: str) -> None:
    resource = agent.call.resource.partition(":")[0]
    # fmt: off
    command = ["crm_resource", "--resource", resource, "--utilization",
               "--set-parameter", name, "--parameter-value", value]
    # fmt: on
    code, text = run(command, agent.limit(LIMIT))
    if code != 0:
        raise ToolstackError(f"{' '.join(command)}: exit status {code}: {text.strip()[-200:]}")
    log(f"{resource}: utilization {name}={value}")


def _path(agent: Agent) -> str:
    return agent.state_file("utilization")


def _remembered(agent: Agent) -> dict[str, str]:
    try:
        with open(_path(agent)) as file:
            return dict(pair.split("=", 1) for pair in file.read().split() if "=" in pair)
    except OSError:
        return {}


def _remember(agent: Agent, values: dict[str, str]) -> None:
    try:
        os.makedirs(agent.call.state_dir, exist_ok=True)
        with open(_path(agent), "w") as file:
            file.write(" ".join(f"{name}={value}" for name, value in values.items()))
    except OSError as error:
        log(f"{_path(agent)}: {error.strerror}")
