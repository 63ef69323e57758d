# SPDX-License-Identifier: GPL-2.0-or-later
"""The agent ocf:vesper:XenVM: its parameters, and which action does what."""

from __future__ import annotations

from vesper_monitor.ocf.agent import DEFAULT_PROBES, Agent, Settings
from vesper_monitor.ocf.call import Call, Code, Exit, finish, process_age
from vesper_monitor.ocf.xl import Xl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["domain_name", "main", "settings"]

#: Longest name of a process that the kernel keeps (TASK_COMM_LEN - 1).
COMM_LENGTH = 15

USAGE = (
    "usage: XenVM {start|stop|monitor|status|migrate_to|migrate_from|reload-agent|"
    "validate-all|meta-data}"
)

#: As ocf_is_true() of resource-agents understands a boolean.
TRUE = ("yes", "true", "1", "ja", "on")
FALSE = ("no", "false", "0", "nein", "off", "")


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
    found = Settings(call.parameter("xmfile"), domain_name(call))
    wrong = [_wrong_xmfile(found.config)]

    def number(name: str, default: float | None, least: int = 0) -> float | None:
        text = call.parameter(name)
        if not text:
            return default
        if text.isascii() and text.isdecimal() and int(text) >= least:
            return float(text)
        bound = f" of at least {least}" if least else ""
        wrong.append(f"parameter {name}={text}: must be a whole number{bound}")
        return default

    def boolean(name: str) -> bool:
        text = call.parameter(name).lower()
        if text not in TRUE + FALSE:
            wrong.append(f"parameter {name}={text}: must be true or false")
        return text in TRUE

    def names(name: str, default: str, problem: Callable[[str], str]) -> list[str]:
        listed = (call.parameter(name) or default).replace(",", " ").split()
        wrong.extend(map(problem, listed))
        return [item for item in listed if not problem(item)]

    found.shutdown_timeout = number("shutdown_timeout", None)
    found.power_button = boolean("shutdown_acpi")
    found.keep_crashed = boolean("keep_crashed")
    found.probes = names("probes", DEFAULT_PROBES, _wrong_probe)
    found.services = names("services", "", _wrong_service)
    found.fault_on = call.parameter("fault_on").strip()
    if strict and found.fault_on:
        from vesper_monitor.ocf.fault_on import wrong_rules

        wrong.append(wrong_rules(found))
    found.scripts = call.parameter("monitor_scripts").split()
    found.script_timeout = number("monitor_scripts_timeout", 10, 1) or 10
    found.script_interval = number("monitor_scripts_interval", 10, 1) or 10
    found.manage_memory = boolean("allow_mem_management")
    found.reserved_memory = int(number("reserved_Dom0_memory", 512) or 0)
    found.address_attribute = call.parameter("node_ip_attribute")
    found.utilization = [
        name for name in ("cpu", "hv_memory") if boolean(f"autoset_utilization_{name}")
    ]
    if strict and (reason := next(filter(None, wrong), "")):
        raise Exit(Code.CONFIGURED, reason)
    return found


def _wrong_xmfile(path: str) -> str:
    if not path:
        return "parameter xmfile is not set: it must name the domain's xl configuration file"
    if not path.startswith("/"):
        return f"parameter xmfile={path}: must be an absolute path"
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


def _start(call: Call) -> None:
    _agent(call, strict=True).start()


def _stop(call: Call) -> None:
    from vesper_monitor.ocf.stop import Stop

    Stop(_agent(call, strict=False)).run()


def _status(call: Call) -> None:
    _agent(call, strict=False).status()


def _monitor(call: Call) -> None:
    agent = _agent(call, strict=False)
    if call.check_level >= 10:
        from vesper_monitor.ocf.check import check

        check(agent)
    elif call.interval <= 0:
        agent.status()
    else:
        from vesper_monitor.ocf.monitor import Monitor

        Monitor(agent).run()
        return
    if call.interval <= 0:
        agent.set_first_mark()


def _migrate_to(call: Call) -> None:
    from vesper_monitor.ocf.migrate import migrate_to

    migrate_to(_agent(call, strict=False))


def _migrate_from(call: Call) -> None:
    from vesper_monitor.ocf.migrate import migrate_from

    migrate_from(_agent(call, strict=False))


def _reload(call: Call) -> None:
    _agent(call, strict=True).reload()


def _validate(call: Call) -> None:
    from vesper_monitor.ocf.validate import validate

    validate(_agent(call, strict=True))


def _agent(call: Call, *, strict: bool) -> Agent:
    return Agent(call, settings(call, strict=strict), Xl())


ACTIONS = {
    "start": _start,
    "stop": _stop,
    "status": _status,
    "monitor": _monitor,
    "migrate_to": _migrate_to,
    "migrate_from": _migrate_from,
    "reload-agent": _reload,
    "validate-all": _validate,
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
