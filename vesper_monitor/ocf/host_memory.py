# SPDX-License-Identifier: GPL-2.0-or-later
"""allow_mem_management: divides a host's memory equally among its domains.

As the stock agent does: what the host has, less what it keeps for itself,
divided by the number of running domains.  Unlike there the domain's
configuration file stays as it is, domains that do not run are not counted,
the units are explicit (``xl mem-set`` counts in KiB by default), and room is
made before a domain is created, not while.

Nothing here makes an action fail: a domain that does not let its memory be
changed keeps what it has.
"""

from __future__ import annotations

import time

from vesper_monitor.ocf.domain_lookup import ALIVE
from vesper_monitor.ocf.invocation import log_line
from vesper_monitor.ocf.toolstack import ToolstackError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vesper_monitor.ocf.agent import Agent
    from vesper_monitor.ocf.toolstack import HostMemory

__all__ = ["make_room", "share_out"]

#: Seconds for one command.
LOOK_LIMIT_S = 10.0
#: Seconds for the domains to give memory back before another is created.
SHRINK_LIMIT_S = 10.0
SHRINK_PAUSE_S = 0.5


def make_room(agent: Agent) -> int | None:
    """Before a start: shrink the others.

    :returns: MiB for the new domain; None: what its configuration says.
    """
    try:
        share = _share_out(agent, 1)
        if share is None:
            return None
        most = _get_host_memory(agent).read_max_memory(agent.settings.config)
        share = min(share, most) if most else share
        _wait_for_free(agent, share)
        return share
    except ToolstackError as error:
        log_line(f"{agent.vm}: memory is not divided: {error}")
        return None


def share_out(agent: Agent) -> None:
    """After a stop or a migration: let the domains that are here have all of it."""
    try:
        _share_out(agent, 0)
    except ToolstackError as error:
        log_line(f"{agent.vm}: memory is not divided: {error}")


def _share_out(agent: Agent, new: int) -> int | None:
    """:returns: MiB per domain; None: there is nothing to share."""
    host = _get_host_memory(agent)
    total, _ = host.read_host_memory(agent.call.limit_time(LOOK_LIMIT_S))
    states = agent.toolstack.list_states(agent.call.limit_time(LOOK_LIMIT_S))
    domains = host.list_sizes(agent.call.limit_time(LOOK_LIMIT_S))
    running = [name for name in domains if states.get(name) in ALIVE]
    count = len(running) + new
    share = (total - agent.settings.reserved_memory) // count if count else 0
    if share <= 0:
        if count:
            log_line(
                f"memory of this host: {total} MiB, less {agent.settings.reserved_memory} MiB that "
                f"it reserves: nothing to divide among {count} domains"
            )
        return None
    for name in running:
        if domains[name][0] == share:
            continue
        if agent.call.seconds_left() < 2.0:
            log_line("memory is not divided among all domains: the action's time is up")
            break
        try:
            host.set_memory(name, share, agent.call.limit_time(LOOK_LIMIT_S))
        except ToolstackError as error:
            log_line(f"{name}: keeps its {domains[name][0]} MiB: {error}")
    log_line(f"memory: {share} MiB for each of {count} domains")
    return share


def _get_host_memory(agent: Agent) -> HostMemory:
    if agent.toolstack.host is None:
        raise ToolstackError(f"{agent.toolstack.name} does not do that")
    return agent.toolstack.host


def _wait_for_free(agent: Agent, wanted: int) -> None:
    end = time.monotonic() + min(SHRINK_LIMIT_S, agent.call.seconds_left() / 4)
    while True:
        _, free = _get_host_memory(agent).read_host_memory(agent.call.limit_time(LOOK_LIMIT_S))
        if free >= wanted:
            return
        if time.monotonic() >= end:
            log_line(f"memory: {free} of {wanted} MiB are free; trying nevertheless")
            return
        time.sleep(SHRINK_PAUSE_S)
