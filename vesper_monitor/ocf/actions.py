# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of actions, for the agents of all hypervisors."""

from __future__ import annotations

from vesper_monitor.ocf.fast_common import process_age
from vesper_monitor.ocf.invocation import OcfCode, OcfExit, OcfInvocation, finish_action

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vesper_monitor.ocf.agent import Agent

__all__ = ["run_agent"]


def _run_start(agent: Agent) -> None:
    from vesper_monitor.ocf.start import start_vm

    start_vm(agent)


def _run_stop(agent: Agent) -> None:
    from vesper_monitor.ocf.stop import Stop

    Stop(agent).run_stop()


def _run_status(agent: Agent) -> None:
    from vesper_monitor.ocf.status import report_status

    report_status(agent)


def _run_monitor(agent: Agent) -> None:
    call = agent.call
    if call.check_level >= 10 and call.interval > 0:
        from vesper_monitor.ocf.deep_check import run_deep_monitor

        run_deep_monitor(agent)
    elif call.check_level >= 10:
        from vesper_monitor.ocf.check import check_guest

        check_guest(agent)
    elif call.interval <= 0:
        _run_status(agent)
    else:
        from vesper_monitor.ocf.monitor import Monitor

        Monitor(agent).run()
        return
    if call.interval <= 0:
        agent.set_first_mark()


def _migrate_to(agent: Agent) -> None:
    from vesper_monitor.ocf.migrate import migrate_to

    migrate_to(agent)


def _migrate_from(agent: Agent) -> None:
    from vesper_monitor.ocf.migrate import migrate_from

    migrate_from(agent)


def _run_reload(agent: Agent) -> None:
    from vesper_monitor.ocf.status import reload_parameters

    reload_parameters(agent)


def _run_validate(agent: Agent) -> None:
    from vesper_monitor.ocf.validate import validate_all

    validate_all(agent)


ACTIONS = {
    "start": _run_start,
    "stop": _run_stop,
    "status": _run_status,
    "monitor": _run_monitor,
    "migrate_to": _migrate_to,
    "migrate_from": _migrate_from,
    "reload-agent": _run_reload,
    "validate-all": _run_validate,
}

#: Actions that log or refuse wrong parameters
#: (:meth:`vesper_monitor.ocf.parameters.Reader.refuse_wrong_values`). The others must work
#: with any configuration.
STRICT = ("start", "reload-agent", "validate-all")


def run_agent(
    name: str,
    build: Callable[[OcfInvocation, bool], Agent],
    arguments: list[str],
    environ: Mapping[str, str],
    said: bytes,
) -> int:
    """Do the action, and return its exit code.

    :param name: of the agent, for its usage.
    :param build: makes an agent for a call; its second argument says whether wrong
        parameters are refused (:class:`~vesper_monitor.ocf.invocation.OcfExit`).
    :param said: the answer that vesperd gave already (:mod:`vesper_monitor.ocf.fast_monitor`).
    """
    usage = f"usage: {name} {{{'|'.join(ACTIONS)}|meta-data}}"

    def action() -> None:
        if len(arguments) != 1:
            raise OcfExit(OcfCode.OCF_ERR_ARGS, usage)
        if arguments[0] in ("usage", "help"):
            print(usage)
            return
        do = ACTIONS.get(arguments[0])
        if do is None:
            raise OcfExit(OcfCode.OCF_ERR_UNIMPLEMENTED, f"no such action: {arguments[0]}; {usage}")
        call = OcfInvocation(arguments[0], environ, process_age(), said)
        do(build(call, arguments[0] in STRICT))

    return finish_action(action)
