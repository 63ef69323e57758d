# SPDX-License-Identifier: GPL-2.0-or-later
"""vm1 in the tests of a whole lab: what vesperd and Pacemaker say of it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from lab import idle
from lab.evaluation.setting import Lab
from lab.host import ChannelError, Host

__all__ = [
    "FAULTS",
    "fail_count",
    "host_logs",
    "remove_resource",
    "status",
    "wait_collecting",
    "wait_started",
]

#: Faults of the evaluation, and words of the exit reason of each.
FAULTS = [
    ("sigsegv", ("httpd[", "SIGSEGV", "labd", "service")),
    ("oom", ("out of memory", "httpd[", "service")),
    ("oom-other", ("out of memory", "batch[", "system")),
]


def status(host: Host, vm: str = "vm1") -> dict[str, Any]:
    """Return the VM's latest row of ``vesper status``; empty if vesperd does not know it."""
    answer = json.loads(host.run_command("vesper status --json", timeout=60, check=True).output)
    rows = answer["vms"] if isinstance(answer, dict) else answer
    lives = [row for row in rows if row["vm"] == vm]
    return max(lives, key=lambda row: int(row["domid"]), default={})


def wait_collecting(host: Host, timeout: float = 60.0, vm: str = "vm1") -> None:
    """Wait until both probes of a VM are collecting."""
    deadline = time.monotonic() + timeout
    while True:
        now = status(host, vm)
        states = [probe["state"] for probe in now.get("probes", [])]
        if states == ["collecting"] * 2 and not now["degraded"]:
            return
        assert time.monotonic() < deadline, f"not watched: {now}"
        time.sleep(0.2)


def fail_count(lab: Lab, resource: str = "vm1") -> int:
    """Return the fail-count of a resource, summed over all hosts."""
    total = 0
    for host in lab.hosts:
        said = lab.hosts[0].run_command(
            f"crm_failcount -G -r {resource} -N {host.name}", timeout=60
        )
        value = said.output.rpartition("value=")[2].strip()
        total += 1000000 if value == "INFINITY" else int(value or 0)
    return total


def remove_resource(lab: Lab, name: str = "vm1") -> None:
    """Remove a resource, whatever state it is in."""
    host = lab.hosts[0]
    if host.run_command(f"crm_resource --resource {name} --query-xml", timeout=60).rc == 0:
        # refresh: a resource that has failed to stop would not be stopped
        host.run_command(f"crm_resource --refresh --resource {name}", timeout=60)
        host.run_command(f"crm -F resource stop {name}", timeout=60, check=True)
        host.run_command(f"({idle.COMMAND})", timeout=240, check=True)
        host.run_command(f"crm -F configure delete {name}", timeout=60, check=True)
        host.run_command(f"({idle.COMMAND})", timeout=240, check=True)


def host_logs(lab: Lab, command: str) -> Iterator[tuple[str, str]]:
    """Yield the title and the text of each host's logs, which explain a failed test."""
    for host in lab.hosts:
        try:
            text = host.run_command(command, timeout=60).output
        except ChannelError as error:
            text = str(error)
        yield f"{host.name} at the failure", text


def wait_started(host: Host, timeout: float = 120.0) -> None:
    """Wait until Pacemaker says that vm1 runs there, and nowhere else."""
    host.wait_for_command(
        f"crm_mon -1 --output-as=xml --resource=vm1 | grep -q 'role=\"Started\"' && "
        f"crm_resource --resource vm1 --locate 2>&1 | grep -q 'running on: {host.name} *$'",
        timeout=timeout,
    )
