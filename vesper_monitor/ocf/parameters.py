# SPDX-License-Identifier: GPL-2.0-or-later
"""The parameters of a call, understood: how any is read, and those all agents have.

A mistake in what is watched is never an outage: Pacemaker stops a VM on all
nodes if an action says that its configuration is wrong.  So a start refuses
only what the VM cannot run with, and only ``validate-all`` refuses the rest.
"""

from __future__ import annotations

from vesper_monitor.ocf.invocation import OcfCode, OcfExit, log_line
from vesper_monitor.ocf.settings import DEFAULT_PROBES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from vesper_monitor.ocf.invocation import OcfInvocation
    from vesper_monitor.ocf.settings import Settings

__all__ = ["Reader"]

#: Longest name of a process that the kernel keeps (TASK_COMM_LEN - 1).
MAX_COMM_CHARS = 15
#: Names in one list that vesperd takes (MAX_NAMES in vesper_monitor/daemon/request.py).
MAX_NAMES = 64

#: As ocf_is_true() of resource-agents understands a boolean; all else is false.
TRUE = ("yes", "true", "1", "ja", "on")
FALSE = ("no", "false", "0", "nein", "off", "")


class Reader:
    """Reads parameters and collects the errors in them.

    A wrong value is replaced by the default: a stop or a probe must work with any
    configuration.
    """

    def __init__(self, call: OcfInvocation) -> None:
        self._call = call
        #: errors with which the VM cannot run, in the order in which they were found
        self.wrong: list[str] = []
        #: errors with which it runs, but not as its administrator wants
        self.doubts: list[str] = []
        #: odd values, which mean the same here as to the stock agents
        self.remarks: list[str] = []
        #: names of parameters whose value is not to be used
        self.unclear: set[str] = set()

    def read_text(self, name: str) -> str:
        return self._call.read_parameter(name)

    def note_doubt(self, name: str, text: str) -> None:
        """Note a value that is not to be used.

        :param text: the error.
        """
        self.doubts.append(text)
        self.unclear.add(name)

    def read_number(self, name: str, default: float | None, least: int = 0) -> float | None:
        text = self.read_text(name)
        if not text:
            return default
        # A longer one is no number of seconds, and may be too much for a float.
        if text.isascii() and text.isdecimal() and len(text) <= 15 and int(text) >= least:
            return float(text)
        bound = f" of at least {least}" if least else ""
        self.note_doubt(name, f"parameter {name}={text}: must be a whole number{bound}")
        return default

    def read_boolean(self, name: str, default: bool = False) -> bool:
        text = self.read_text(name).lower()
        if text not in TRUE + FALSE:
            self.remarks.append(f"parameter {name}={text}: counts as false; write true or false")
        return text in TRUE if text else default

    def read_names(self, name: str, default: str, problem: Callable[[str], str]) -> list[str]:
        """Return the words, separated by blanks or commas, without those that have a problem."""
        listed = (self.read_text(name) or default).replace(",", " ").split()
        for text in filter(None, map(problem, listed)):
            self.note_doubt(name, text)
        if len(listed) > MAX_NAMES:
            self.note_doubt(name, f"parameter {name}: has more than {MAX_NAMES} names")
        return [item for item in listed if not problem(item)][:MAX_NAMES]

    def read_path(self, name: str, what: str) -> str:
        """Return a required absolute path.

        :param what: the file that it must name.
        """
        text = self.read_text(name)
        if not text:
            self.wrong.append(f"parameter {name} is not set: it must name {what}")
        elif not text.startswith("/"):
            self.wrong.append(f"parameter {name}={text}: must be an absolute path")
        return text

    def read_common_parameters(self, found: Settings) -> None:
        """Read the parameters that the agents of all hypervisors have."""
        found.shutdown_timeout = self.read_number("shutdown_timeout", None)
        found.probes = self.read_names("probes", DEFAULT_PROBES, _wrong_probe)
        found.services = self.read_names("services", "", _wrong_service)
        found.fault_on = self.read_text("fault_on").strip()
        found.pause_timeout = self.read_number("pause_timeout", None)
        found.hang_timeout = self.read_number("hang_timeout", None)
        if found.hang_timeout == 1:  # vesper_monitor.guest.health.hang_detector.MIN_TIMEOUT_S
            self.note_doubt("hang_timeout", "parameter hang_timeout=1: must be 0 or at least 2")
        found.boot_timeout = self.read_number("boot_timeout", None)
        found.scripts = self.read_text("monitor_scripts").split()
        found.script_timeout = self.read_number("monitor_scripts_timeout", 10, 1) or 10
        found.script_interval = self.read_number("monitor_scripts_interval", 10, 1) or 10
        # The same lists, to which an agent of one hypervisor adds.
        found.doubts, found.unclear = self.doubts, self.unclear

    def refuse_wrong_values(self, found: Settings) -> None:
        """Refuse errors, and log doubts.

        :raises OcfExit: code 6 with the first error: for a start one with which the VM
            cannot run, for ``validate-all`` any.
        """
        doubts = self.doubts + self.remarks
        if found.fault_on and not self.wrong:
            from vesper_monitor.ocf.check_fault_on import wrong_rules

            doubts += filter(None, [wrong_rules(found)])
        refused = self.wrong + (doubts if self._call.action == "validate-all" else [])
        # Pacemaker would stop a running VM on all nodes for a reload that fails.
        if refused and self._call.action != "reload-agent":
            raise OcfExit(OcfCode.OCF_ERR_CONFIGURED, refused[0])
        for text in self.wrong + doubts:
            log_line(text)


def _wrong_probe(name: str) -> str:
    if name.isascii() and name.replace("_", "").isalnum() and len(name) <= 55:
        return ""
    return f"parameter probes: {name} is not the name of a probe; see: vesper probe list"


def _wrong_service(name: str) -> str:
    if "'" in name or '"' in name:
        return (
            f"parameter services: {name} has a quotation mark; separate names with blanks; "
            "one that contains a blank belongs in fault_on"
        )
    if "/" in name:
        return (
            f"parameter services: {name} is a path; write the process's name as "
            "'ps -o comm' in the guest shows it"
        )
    short = name.encode()[:MAX_COMM_CHARS].decode(errors="ignore")
    if short != name:
        return (
            f"parameter services: {name} is longer than the {MAX_COMM_CHARS} bytes that the kernel "
            f"keeps of a process's name; write {short}"
        )
    return ""
