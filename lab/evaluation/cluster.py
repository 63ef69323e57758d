# SPDX-License-Identifier: GPL-2.0-or-later
"""The cluster's configuration, typed as a user would type it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from lab import idle
from lab.evaluation.setting import PRIMITIVES, Lab, scale_timeouts
from lab.host import ChannelError, LabError

__all__ = ["configure_resource", "settle_after_failover", "type_in_crm_shell", "wait_until_ready"]

#: vm1 as it is to be, for crmsh.
RESOURCE_FILE = "/root/vm1.crm"

#: s for vm1 to run and to be watched, on a machine that is not slow.
READY_LIMIT_S = 180.0

#: crmsh's remarks that mean nothing here (there is no fencing in the lab).
_NOISE = re.compile(r"Blind faith|not fencing unseen")


def type_in_crm_shell(lab: Lab, command: str, show: Callable[[str], None]) -> None:
    """Run a command on the first host, shown as typed.

    :raises LabError: it failed, with its words.
    """
    host = lab.hosts[0]
    show(f"{host.name}# {command}")
    result = host.run_command(command, timeout=240)
    said = [line for line in result.output.splitlines() if line and not _NOISE.search(line)]
    for line in said:
        show(f"    {line}")
    if result.rc != 0:
        raise LabError(f"{command}: exit status {result.rc}: {' '.join(said)}")


def configure_resource(
    lab: Lab, watch: str, show: Callable[[str], None], time_factor: float = 1.0
) -> None:
    """Make vm1 a resource that is watched in that way, in place of what was there.

    A vm1 that runs goes on running: in maintenance mode its resource gets
    another agent, which is then asked what it finds. On KVM it must then be
    started anew to be watched.

    :param time_factor: how many times longer than usual operations may take.
    """
    host, primitive = lab.hosts[0], scale_timeouts(PRIMITIVES[lab.vmm][watch], time_factor)
    if host.run_command("crm_resource --resource vm1 --query-xml", timeout=60).rc != 0:
        type_in_crm_shell(lab, f"crm configure {primitive}", show)
    else:
        host.put_file(RESOURCE_FILE, f"{primitive}\n".encode())
        type_in_crm_shell(lab, "crm_attribute --name maintenance-mode --update true", show)
        type_in_crm_shell(lab, f"cat {RESOURCE_FILE}", show)
        type_in_crm_shell(lab, f"crm configure load update {RESOURCE_FILE}", show)
        # What the other agent has found is forgotten, its failures too.
        type_in_crm_shell(lab, "crm_resource --refresh --resource vm1", show)
        type_in_crm_shell(lab, "crm_attribute --name maintenance-mode --delete", show)
        if (lab.vmm, watch) == ("kvm", "vesper"):
            # VESPER's device comes with the start of the VM.
            host.run_command(f"({idle.COMMAND})", timeout=240, check=True)
            type_in_crm_shell(lab, "crm_resource --restart --resource vm1", show)
    wait_until_ready(lab, watch, READY_LIMIT_S * time_factor)


def wait_until_ready(lab: Lab, watch: str, timeout: float = READY_LIMIT_S) -> None:
    """Wait until vm1 runs, its page comes, and it is watched.

    :raises LabError: it does not get there.
    """
    deadline = time.monotonic() + timeout
    why = ""
    while time.monotonic() < deadline:
        try:
            why = _explain_not_ready(lab, watch)
        except ChannelError as error:
            why = str(error)
        if not why:
            return
        time.sleep(0.5)
    state = lab.hosts[0].run_command("crm_mon -1 -r 2>&1; vesper status 2>&1", timeout=60).output
    raise LabError(f"vm1 is not ready after {timeout:.0f} s: {why}\n{state}")


#: What ``vesper status --json`` asks vesperd, without the second and a half
#: that Python needs to start in an emulated host.
MONITOR_IS_WAITING = (
    'echo \'{"op": "status"}\' | socat -t 5 - UNIX-CONNECT:/run/vesper/vesperd.sock | '
    "grep '\"waiting\": *true' | grep -q '\"collecting\"'"
)


def _explain_not_ready(lab: Lab, watch: str) -> str:
    for host in lab.hosts:
        if lab.guest_through(through=host).fetch_page(timeout=3) is None:
            return f"its page does not come to {host.name}"
    if watch == "vesper" and not any(
        host.run_command(MONITOR_IS_WAITING, timeout=60).rc == 0 for host in lab.hosts
    ):
        return "no monitor is waiting, or no probe is loaded"
    state = lab.hosts[0].run_command("crm_mon -1 -o", timeout=60).output
    agent = PRIMITIVES[lab.vmm][watch].split()[2]
    if not re.search(rf"vm1\s+\({agent}\):\s+Started", state):
        return f"Pacemaker does not say that {agent} is started"
    if watch == "polling" and 'monitor: interval="10' not in state:
        return "no monitor has run"
    return ""


def settle_after_failover(
    lab: Lab, watch: str, show: Callable[[str], None], time_factor: float = 1.0
) -> None:
    """After a failover: forget the failure, and be ready for the next one."""
    type_in_crm_shell(lab, "crm_resource --refresh --resource vm1", show)
    wait_until_ready(lab, watch, READY_LIMIT_S * time_factor)
