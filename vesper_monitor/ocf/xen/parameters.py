# SPDX-License-Identifier: GPL-2.0-or-later
"""The agent ocf:vesper:XenVM: its parameters."""

from __future__ import annotations

from vesper_monitor.ocf import actions
from vesper_monitor.ocf.agent import Agent
from vesper_monitor.ocf.domain_identity import find_configured_name
from vesper_monitor.ocf.invocation import OcfInvocation
from vesper_monitor.ocf.parameters import Reader
from vesper_monitor.ocf.settings import Settings
from vesper_monitor.ocf.xen.xl import Xl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["main", "read_settings"]


def _read_name(data: bytes) -> str:
    """:raises ValueError: it is not understood, or names none."""
    from vesper_monitor.ocf.xen.xl_config import read_name  # only where the file has changed

    return read_name(data)


def read_settings(call: OcfInvocation, *, strict: bool) -> Settings:
    """Read the parameters.

    :raises OcfExit: code 6 with the error, if strict.
    """
    read = Reader(call)
    config = read.read_path("xmfile", "the domain's xl configuration file")
    found = Settings(config, find_configured_name(call, "xmfile", _read_name))
    if found.configured.name is None and read.read_text("name"):
        read.wrong.append(f"{found.configured.trouble}: no domain can have such a name")
    read.read_common_parameters(found)
    found.power_button = read.read_boolean("shutdown_acpi")
    found.keep_crashed = read.read_boolean("keep_crashed")
    found.poweroff_wanted = read.read_boolean("poweroff_wanted")
    found.manage_memory = read.read_boolean("allow_mem_management")
    found.reserved_memory = int(read.read_number("reserved_Dom0_memory", 512) or 0)
    found.address_attribute = read.read_text("node_ip_attribute")
    found.utilization = [
        name for name in ("cpu", "hv_memory") if read.read_boolean(f"autoset_utilization_{name}")
    ]
    if strict:
        read.refuse_wrong_values(found)
    return found


def _build_agent(call: OcfInvocation, strict: bool) -> Agent:
    found = read_settings(call, strict=strict)
    return Agent(call, found, Xl(power_button=found.power_button))


def main(arguments: list[str], environ: Mapping[str, str], said: bytes = b"") -> int:
    """Do the action; the exit code. See :func:`vesper_monitor.ocf.actions.run_agent`."""
    return actions.run_agent("XenVM", _build_agent, arguments, environ, said)
