# SPDX-License-Identifier: GPL-2.0-or-later
"""A monitor with OCF_CHECK_LEVEL 10 or 20: it checks all parts, and returns at once.

It runs beside the one that waits (:mod:`vesper_monitor.ocf.deep_check`).  Level 10
asks the toolstack itself for the domain's state, vesperd for a fault, and
runs the monitor scripts.  Level 20 also requires that the guest is watched.
"""

from __future__ import annotations

from vesper_monitor.client import DaemonError, DaemonUnavailableError
from vesper_monitor.ocf.invocation import OcfCode, OcfExit, log_line
from vesper_monitor.ocf.status import report_status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vesper_monitor.ocf.agent import Agent

__all__ = ["check_guest"]


def check_guest(agent: Agent) -> None:
    """Check the domain, its guest and the monitor scripts.

    :raises OcfExit: something is wrong.
    """
    # A recurring monitor that cannot tell is no reason to stop a VM that may be well.
    report_status(
        agent, unknown=OcfCode.OCF_DEGRADED if agent.call.interval > 0 else OcfCode.OCF_ERR_GENERIC
    )
    vm = agent.vm
    unwatched = ""
    pause = ""
    try:
        answer = agent.vesperd.send_request("state")
    except (DaemonUnavailableError, DaemonError) as error:
        unwatched = str(error)
    else:
        pause, fault = _text_field(answer, "paused", "text"), _text_field(answer, "fault", "reason")
        watch = answer.get("watch")
        if not isinstance(watch, dict):
            unwatched = f"vesperd does not know it; begin with: vesper activate {vm}"
        elif watch.get("degraded"):
            unwatched = str(watch["degraded"])
        _report_problem(vm, fault, pause)
    if agent.settings.scripts:
        from vesper_monitor.ocf.scripts import Scripts

        scripts = Scripts(agent)
        try:
            wrong = scripts.run_one_round()
        finally:
            scripts.close()
        _report_problem(vm, wrong or "", pause)
    if unwatched and agent.call.check_level >= 20 and not pause:
        why = agent.explain_missing_device(unwatched) or unwatched
        raise OcfExit(OcfCode.OCF_DEGRADED, f"{vm} is not watched: {why}")


def _report_problem(vm: str, wrong: str, pause: str) -> None:
    """Report what is wrong, unless watching is paused.

    :param wrong: empty: nothing.
    :raises OcfExit: it is reported.
    """
    if not wrong:
        return
    if not pause:
        raise OcfExit(OcfCode.OCF_ERR_GENERIC, wrong)
    log_line(f"{vm}: not reported ({pause}): {wrong}")


def _text_field(answer: dict[str, Any], key: str, inner: str) -> str:
    value = answer.get(key)
    return str(value.get(inner) or "unknown") if isinstance(value, dict) else ""
