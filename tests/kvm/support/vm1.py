# SPDX-License-Identifier: GPL-2.0-or-later
"""vm1 on KVM in the tests: removed, moved, and by the agent alone."""

from __future__ import annotations

import json

from lab.host import Result
from lab.kvm import KvmHost, KvmLab
from tests.support.vm1 import remove_resource

__all__ = ["CONFIG", "agent", "clean", "fatal_signals", "other"]

CONFIG = "/etc/lab/vm1.xml"
_ENVIRONMENT = (
    "OCF_ROOT=/usr/lib/ocf OCF_RESOURCE_INSTANCE=vm1 OCF_RESOURCE_TYPE=LibvirtVM "
    f"OCF_RESOURCE_PROVIDER=vesper OCF_RESKEY_config={CONFIG} "
    "OCF_RESKEY_CRM_meta_interval={interval} OCF_RESKEY_CRM_meta_timeout={timeout}000 "
)


def agent(host: KvmHost, action: str, *, timeout: int | str = 40, **parameters: str) -> Result:
    """Run the agent without Pacemaker.

    :param timeout: s, of the operation. A string is converted, so that mypy takes
        ``**{name: value}`` after it.
    """
    interval = 1000 if action == "monitor" else 0
    environment = _ENVIRONMENT.format(interval=interval, timeout=timeout)
    environment += "".join(f"OCF_RESKEY_{key}={value} " for key, value in parameters.items())
    command = f"{environment} /usr/lib/ocf/resource.d/vesper/LibvirtVM {action}"
    return host.run_command(command, timeout=int(timeout) + 50)


def clean(lab: KvmLab) -> None:
    """Remove the resource and the guest, whatever state they are in."""
    remove_resource(lab)
    for host in lab.hosts:
        for name in host.list_domains():
            host.run_command(f"virsh destroy {name}", timeout=60)
        host.put_file(CONFIG, lab.domain_xml().encode())


def other(lab: KvmLab, host: KvmHost | None) -> KvmHost:
    """The other host of two."""
    (found,) = (each for each in lab.hosts if each is not host)
    return found


def fatal_signals(host: KvmHost) -> list[str]:
    """Names of the fatal signals that vesperd there has seen, in order."""
    output = host.run_command("vesper events --json -n 1000", timeout=60, check=True).output
    rows = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    rows = [row.get("event", row) if isinstance(row.get("event"), dict) else row for row in rows]
    return [
        row["fields"]["signal"]
        for row in rows
        if row["event"] == "send_signal" and row["fields"]["fatal"]
    ]
