# SPDX-License-Identifier: GPL-2.0-or-later
"""The agent ocf:vesper:XenVM: its parameters, and which action does what."""

from __future__ import annotations

from vesper_monitor.ocf.agent import DEFAULT_PROBES, Agent, Settings
from vesper_monitor.ocf.call import Call, Code, Exit, finish, process_age
from vesper_monitor.ocf.xl import Xl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["domain_name", "main", "settings"]

#: Longest name of a process that the kernel keeps (TASK_COMM_LEN - 1).
COMM_LENGTH = 15

USAGE = "usage: XenVM {start|stop|monitor|status|validate-all|meta-data}"


def domain_name(call: Call) -> str:
    """As the stock agent finds it: parameter, ``name=`` in the xmfile, resource's id."""
    name = call.parameter("name")
    if not name:
        try:
            with open(call.parameter("xmfile"), errors="replace") as file:
                name = _name_in(file.read(65536))
        except (OSError, ValueError):
            pass
    return name or call.resource


def _name_in(config: str) -> str:
    """The value of ``name = "..."``; empty if it is computed by something."""
    name = ""
    for line in config.splitlines():
        key, equals, value = line.partition("=")
        if equals and key.strip() == "name":
            value = value.strip()
            if value[:1] in ("'", '"'):
                name = value[1:].partition(value[0])[0]
            else:
                name = value.partition("#")[0].strip()
    return "" if "%" in name or any(c.isspace() for c in name) else name


def settings(call: Call, *, strict: bool) -> Settings:
    """Read the parameters.

    :param strict: refuse what is wrong. A stop or a probe must work with
        whatever the configuration is: then the default stands in for it.
    :raises Exit: code 6 with what is wrong, if strict.
    """
    xmfile = call.parameter("xmfile")
    timeout = call.parameter("shutdown_timeout")
    probes = (call.parameter("probes") or DEFAULT_PROBES).replace(",", " ").split()
    services = call.parameter("services").replace(",", " ").split()
    wrong = (
        _wrong_xmfile(xmfile)
        or _wrong_timeout(timeout)
        or next(filter(None, map(_wrong_probe, probes)), "")
        or next(filter(None, map(_wrong_service, services)), "")
    )
    if wrong and strict:
        raise Exit(Code.CONFIGURED, wrong)
    return Settings(
        config=xmfile,
        vm=domain_name(call),
        shutdown_timeout=float(timeout) if timeout and not _wrong_timeout(timeout) else None,
        probes=[probe for probe in probes if not _wrong_probe(probe)],
        services=[service for service in services if not _wrong_service(service)],
    )


def _wrong_xmfile(path: str) -> str:
    if not path:
        return "parameter xmfile is not set: it must name the domain's xl configuration file"
    if not path.startswith("/"):
        return f"parameter xmfile={path}: must be an absolute path"
    return ""


def _wrong_timeout(text: str) -> str:
    if text and not (text.isascii() and text.isdecimal()):
        return f"parameter shutdown_timeout={text}: must be a whole number of seconds"
    return ""


def _wrong_probe(name: str) -> str:
    if name.isascii() and name.replace("_", "").isalnum() and len(name) <= 55:
        return ""
    return f"parameter probes: {name} is no name of a probe; they are listed by: vesper probe list"


def _wrong_service(name: str) -> str:
    if "/" in name:
        return (
            f"parameter services: {name} is a path; needed is the process's name as "
            "'ps -o comm' in the guest shows it"
        )
    short = name.encode()[:COMM_LENGTH].decode(errors="ignore")
    if short != name:
        return (
            f"parameter services: {name} is longer than the {COMM_LENGTH} bytes of a process's "
            f"name that the kernel keeps; write {short}"
        )
    return ""


def _monitor(call: Call) -> None:
    agent = Agent(call, settings(call, strict=False), Xl())
    if call.interval <= 0:
        agent.status()
        agent.set_first_mark()
        return
    from vesper_monitor.ocf.monitor import Monitor

    Monitor(agent).run()


def _agent(call: Call, *, strict: bool) -> Agent:
    return Agent(call, settings(call, strict=strict), Xl())


ACTIONS = {
    "start": lambda call: _agent(call, strict=True).start(),
    "stop": lambda call: _agent(call, strict=False).stop(),
    "status": lambda call: _agent(call, strict=False).status(),
    "monitor": _monitor,
    "validate-all": lambda call: _agent(call, strict=True).validate(),
}


def main(arguments: list[str], environ: Mapping[str, str]) -> int:
    """Do the action; the exit code."""

    def action() -> None:
        if len(arguments) != 1:
            raise Exit(Code.ARGS, USAGE)
        if arguments[0] in ("usage", "help"):
            print(USAGE)
            return
        do = ACTIONS.get(arguments[0])
        if do is None:
            raise Exit(Code.UNIMPLEMENTED, f"no such action: {arguments[0]}; {USAGE}")
        do(Call(arguments[0], environ, process_age()))

    return finish(action)
