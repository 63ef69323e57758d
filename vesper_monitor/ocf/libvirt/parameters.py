# SPDX-License-Identifier: GPL-2.0-or-later
"""The agent ocf:vesper:LibvirtVM: its parameters."""

from __future__ import annotations

import os

from vesper_monitor.ocf import actions
from vesper_monitor.ocf.agent import Agent
from vesper_monitor.ocf.domain_identity import find_configured_name
from vesper_monitor.ocf.libvirt.virsh import Virsh
from vesper_monitor.ocf.libvirt.virsh_call import Options
from vesper_monitor.ocf.parameters import Reader
from vesper_monitor.ocf.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from vesper_monitor.ocf.invocation import OcfInvocation

__all__ = ["main", "read_settings"]

#: What virsh knows (virDomainShutdownFlagValues).
SHUTDOWN_MODES = ("acpi", "agent", "initctl", "signal", "paravirt")
UTILIZATION = ("cpu", "host_memory", "hv_memory")
#: libvirt's configuration of its clients.
CLIENT_CONFIG = "/etc/libvirt/libvirt.conf"
DEFAULT_URI = "qemu:///system"


def _read_name(data: bytes) -> str:
    """
    :raises ValueError: it is no domain's, or names none.
    :raises ImportError: lxml is missing, which says nothing of the file: what would be
        looked for without its name is another domain.
    """
    from lxml import etree  # noqa: F401 (not before: it takes 40 ms to start)

    from vesper_monitor.ocf.libvirt.domain_xml import read_name

    return read_name(data)


def read_settings(call: OcfInvocation, *, strict: bool) -> tuple[Settings, Options]:
    """Read the parameters.

    :raises OcfExit: code 6 with the error, if strict.
    """
    read = Reader(call)
    config = read.read_path("config", "the domain's libvirt XML file")
    found = Settings(config, find_configured_name(call, "config", _read_name))
    if "/" in (found.configured.name or ""):
        read.wrong.append(f"domain name {found.configured.name}: libvirt allows no / in it")
    if found.configured.name is None and read.read_text("name"):
        read.wrong.append(f"{found.configured.trouble}: no domain can have such a name")
    read.read_common_parameters(found)
    found.shutdown_share = 1.0
    if read.read_boolean("force_stop"):
        found.shutdown_timeout = 0.0
    found.utilization = [
        name for name in UTILIZATION if read.read_boolean(f"autoset_utilization_{name}", True)
    ]
    found.no_utilization = [
        name
        for name in UTILIZATION
        if read.read_boolean(f"unset_utilization_{name}") and name not in found.utilization
    ]
    options = _read_options(read)
    options.config = found.config
    if strict:
        read.refuse_wrong_values(found)
    return found, options


def _read_options(read: Reader) -> Options:
    options = Options()
    options.uri = read.read_text("hypervisor") or _default_uri()
    options.add_device = read.read_boolean("add_device", True)
    options.shutdown_mode = read.read_text("shutdown_mode")
    modes = options.shutdown_mode.split(",") if options.shutdown_mode else []
    if any(mode not in SHUTDOWN_MODES for mode in modes):
        known = ", ".join(SHUTDOWN_MODES)
        read.note_doubt(
            "shutdown_mode",
            f"parameter shutdown_mode={options.shutdown_mode}: must be one or more of {known}",
        )
        options.shutdown_mode = ""
    options.sync_config = read.read_boolean("sync_config_on_stop")
    options.save_config = read.read_boolean("save_config_on_stop") or options.sync_config
    options.snapshot = read.read_text("snapshot")
    if options.snapshot and read.read_boolean("force_stop"):
        read.wrong.append("parameters snapshot and force_stop cannot both be set")
    options.backing_file = read.read_text("backingfile")
    options.stateless = read.read_boolean("stateless")
    if options.stateless and not options.backing_file:
        read.wrong.append("parameter stateless needs backingfile")
    options.copy_in = read.read_text("copyindirs").split()
    options.start_resources = read.read_boolean("start_resources")
    options.transport = read.read_text("migration_transport")
    options.user = read.read_text("migration_user")
    options.network_suffix = read.read_text("migration_network_suffix")
    options.migrate_uri = read.read_text("migrateuri")
    options.migrate_options = read.read_text("migrate_options").split()
    options.migrate_port = int(read.read_number("migrateport", 0) or 0)
    options.remote_uri = read.read_text("remoteuri")
    options.downtime = int(read.read_number("migration_downtime", 0) or 0)
    options.speed = int(read.read_number("migration_speed", 0) or 0)
    return options


def _default_uri() -> str:
    """Return the URI that libvirt's client would choose, without asking it: it may hang."""
    if uri := os.environ.get("VIRSH_DEFAULT_CONNECT_URI") or os.environ.get("LIBVIRT_DEFAULT_URI"):
        return uri
    try:
        with open(CLIENT_CONFIG, errors="replace") as file:
            for line in file:
                key, _, value = line.partition("=")
                if key.strip() == "uri_default":
                    return _unquote_value(value.strip()) or DEFAULT_URI
    except OSError:
        pass
    return DEFAULT_URI


def _unquote_value(value: str) -> str:
    """Return a text of libvirt's configuration without its quotes and comment."""
    for quote in ('"""', '"', "'"):
        if value.startswith(quote):
            return value[len(quote) :].partition(quote)[0].strip()
    return value.partition("#")[0].strip()


def _build_agent(call: OcfInvocation, strict: bool) -> Agent:
    found, options = read_settings(call, strict=strict)
    return Agent(call, found, Virsh(options))


def main(arguments: list[str], environ: Mapping[str, str], said: bytes = b"") -> int:
    """Do the action; the exit code. See :func:`vesper_monitor.ocf.actions.run_agent`."""
    return actions.run_agent("LibvirtVM", _build_agent, arguments, environ, said)
