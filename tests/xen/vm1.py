# SPDX-License-Identifier: GPL-2.0-or-later
"""vm1 in the tests: made, removed, and what vesperd says of it."""

from __future__ import annotations

import json
import time
from typing import Any

from lab.xen import XenHost, XenLab, project

__all__ = ["CONSOLE", "clean", "create_guest", "status", "wait_collecting"]

#: The guest's console, as xenconsoled of its host logs it.
CONSOLE = "/var/log/xen/console/guest-vm1.log"


def status(host: XenHost) -> dict[str, Any]:
    """vm1's row of ``vesper status``, of its latest life; empty if vesperd does not know it."""
    answer = json.loads(host.run("vesper status --json", timeout=60, check=True).output)
    rows = answer["vms"] if isinstance(answer, dict) else answer
    lives = [row for row in rows if row["vm"] == "vm1"]
    return max(lives, key=lambda row: int(row["domid"]), default={})


def wait_collecting(host: XenHost, timeout: float = 60.0) -> None:
    """Wait until both probes of vm1 are collecting."""
    deadline = time.monotonic() + timeout
    while True:
        now = status(host)
        states = [probe["state"] for probe in now.get("probes", [])]
        if states == ["collecting"] * 2 and not now["degraded"]:
            return
        assert time.monotonic() < deadline, f"not watched: {now}"
        time.sleep(0.5)


def create_guest(lab: XenLab) -> None:
    """Start vm1 on host-a without Pacemaker, and wait until it is up."""
    lab.a.run("xl create /etc/xen/vm1.cfg", timeout=60, check=True)
    lab.guest(through=lab.a).wait_ready(60)


def clean(lab: XenLab) -> None:
    """Remove the resource and the guest, whatever state they are in.

    The resource first: Pacemaker would recover from the loss of its guest, and
    might still be at it when the next test has a guest of that name.
    """
    if lab.a.run("crm_resource --resource vm1 --query-xml", timeout=60).rc == 0:
        # cleanup: a resource that has failed to stop would not be stopped
        lab.a.run("crm_resource --cleanup --resource vm1", timeout=60)
        lab.a.run("crm -F --wait resource stop vm1", timeout=240, check=True)
        lab.a.run("crm -F configure delete vm1", timeout=60, check=True)
        lab.a.run("crm_resource --wait --timeout=60s", timeout=90, check=True)
    for host in lab.hosts:
        host.run("xl destroy vm1", timeout=60)
    for host in lab.hosts:
        if host.run("test -S /run/vesper/vesperd.sock && pgrep vesperd").rc != 0:
            host.stop_vesperd()
            host.start_vesperd()
        host.put("/etc/xen/vm1.cfg", project.guest_config().encode())
