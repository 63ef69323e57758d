# SPDX-License-Identifier: GPL-2.0-or-later
"""vm1 on Xen in the tests: made and removed."""

from __future__ import annotations

from lab.evaluation import cluster
from lab.evaluation.setting import PRIMITIVES
from lab.host import Result
from lab.xen import XenHost, XenLab, project
from tests.support.vm1 import remove_resource

__all__ = [
    "CONSOLE",
    "agent",
    "begin",
    "begin_monitor",
    "clean",
    "create_guest",
    "wait_monitor",
]

#: The guest's console, as xenconsoled of its host logs it.
CONSOLE = "/var/log/xen/console/guest-vm1.log"

#: vm1 as a resource that may be migrated.
MOVABLE = (
    PRIMITIVES["xen"]["vesper"].replace(
        " meta ",
        " op migrate_to timeout=240s interval=0 op migrate_from timeout=180s interval=0 meta ",
    )
    + " allow-migrate=true"
)


def begin(lab: XenLab, kind: str) -> None:
    """Replace what is there by vm1 as a resource that may be migrated.

    :param kind: of guest: ``pv``, ``pvh``.
    """
    clean(lab)
    for host in lab.hosts:
        host.put_file("/etc/xen/vm1.cfg", project.guest_config(kind=kind).encode())
    cluster.type_in_crm_shell(lab, f"crm configure {MOVABLE}", print)
    cluster.wait_until_ready(lab, "vesper")
    # On a busy machine the guest takes long to come, and counts as degraded meanwhile.
    cluster.settle_after_failover(lab, "vesper", print)


_ENVIRONMENT = (
    "OCF_ROOT=/usr/lib/ocf OCF_RESOURCE_INSTANCE=vm1 OCF_RESKEY_xmfile=/etc/xen/vm1.cfg "
    "OCF_RESKEY_CRM_meta_interval={interval} OCF_RESKEY_CRM_meta_timeout={timeout}000"
)
_AGENT = "/usr/lib/ocf/resource.d/vesper/XenVM"


def agent(host: XenHost, action: str, *, timeout: int) -> Result:
    """Run the agent without Pacemaker.

    :param timeout: s, of the operation.
    """
    environment = _ENVIRONMENT.format(interval=0, timeout=timeout)
    return host.run_command(f"{environment} {_AGENT} {action}", timeout=timeout + 50)


def begin_monitor(host: XenHost, *, timeout: int = 600) -> None:
    """Begin a recurring monitor as Pacemaker runs it: see :func:`wait_monitor`."""
    environment = _ENVIRONMENT.format(interval=1000, timeout=timeout)
    run = f"env {environment} {_AGENT} monitor >/tmp/monitor.said 2>&1; echo $? >/tmp/monitor.code"
    host.run_command(f"rm -f /tmp/monitor.*; ({run}) >/dev/null 2>&1 </dev/null &", check=True)


def wait_monitor(host: XenHost, timeout: float = 60.0) -> tuple[int, str]:
    """Wait for the end of the recurring monitor. :returns: its exit code and what it said."""
    host.wait_for_command("[ -s /tmp/monitor.code ]", timeout=timeout)
    code = host.run_command("cat /tmp/monitor.code", check=True).output
    return int(code), host.run_command("cat /tmp/monitor.said", check=True).output


def create_guest(lab: XenLab) -> None:
    """Start vm1 on host-a without Pacemaker, and wait until it is up."""
    lab.a.run_command("xl create /etc/xen/vm1.cfg", timeout=60, check=True)
    lab.guest_through(through=lab.a).wait_ready(60)


def clean(lab: XenLab) -> None:
    """Remove the resource and the guest, whatever state they are in.

    The resource first: Pacemaker would recover from the loss of its guest, and
    might still be at it when the next test has a guest of that name.
    """
    remove_resource(lab)
    for host in lab.hosts:
        host.run_command("xl destroy vm1", timeout=60)
    for host in lab.hosts:
        if host.run_command("test -S /run/vesper/vesperd.sock && pgrep vesperd").rc != 0:
            host.stop_vesperd()
            host.start_vesperd()
        host.put_file("/etc/xen/vm1.cfg", project.guest_config().encode())
