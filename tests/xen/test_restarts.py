# SPDX-License-Identifier: GPL-2.0-or-later
"""A domain that pauses, resets itself, or crashes and is restarted by xl: what the monitors say.

The agent is called as Pacemaker calls it.  One boot serves what it survives.
"""

from __future__ import annotations

import time

from lab.evaluation import cluster
from lab.xen import XenHost, XenLab, project
from tests.support.vm1 import status, wait_collecting
from tests.xen.support.vm1 import agent, begin_monitor, wait_monitor

SUCCESS, ERROR, DEGRADED = 0, 1, 190
FAULTS = "vesper faults --json"


def start(lab: XenLab, extra: str = "") -> XenHost:
    config = project.guest_config(extra, on_crash="restart")
    lab.a.put_file("/etc/xen/vm1.cfg", config.encode())
    started = agent(lab.a, "start", timeout=90)
    assert started.rc == SUCCESS, started.output
    lab.guest_through(through=lab.a).wait_ready(60)
    begin_monitor(lab.a)
    wait_monitor(lab.a)  # the first, which does not wait
    return lab.a


def domain_number(host: XenHost) -> int:
    return int(host.run_command("xl domid vm1", timeout=60, check=True).output)


def wait_another_domain(host: XenHost, number: int, limit: float = 60.0) -> None:
    host.wait_for_command(f"xl list | grep '^vm1 ' | grep -qv '^vm1 *{number} '", timeout=limit)


def monitor_until_well(host: XenHost) -> list[tuple[int, str]]:
    """Monitors, one after the other, until one waits or says that all is well."""
    results = [wait_monitor(host)]
    while results[-1][0] == DEGRADED and len(results) < 5:
        begin_monitor(host)
        results.append(wait_monitor(host, 120))
    return results


def begin_waiting_monitor(host: XenHost) -> None:
    """Begin a monitor that waits: the first after a reboot may say at once that all is well."""
    begin_monitor(host)
    host.wait_for_command(
        f"[ -s /tmp/monitor.code ] || {{ {cluster.MONITOR_IS_WAITING}; }}", timeout=60
    )
    if host.run_command("[ -s /tmp/monitor.code ]").rc == 0:
        assert wait_monitor(host)[0] == SUCCESS
        begin_monitor(host)
        host.wait_for_command(cluster.MONITOR_IS_WAITING, timeout=60)


def stop(host: XenHost) -> None:
    stopped = agent(host, "stop", timeout=60)
    assert stopped.rc == SUCCESS, stopped.output
    time.sleep(6)  # xl would have brought it back by then
    assert "vm1" not in host.run_command("xl list", timeout=60, check=True).output


def test_a_watched_guest_that_pauses_resets_or_panics_is_well_again(cleaned: XenLab) -> None:
    """It is paused, resets itself without a word, and panics."""
    lab = cleaned
    before = lab.a.run_command(FAULTS, check=True).output  # of other tests of this lab
    host, guest = start(lab), lab.guest_through(through=lab.a)
    wait_collecting(host)
    begin_monitor(host)
    host.run_command("xl pause vm1", timeout=60, check=True)
    host.wait_for_command("vesper status | grep -q 'vm1 is paused: .*xl pause'", timeout=30)
    host.run_command("xl unpause vm1", timeout=60, check=True)
    host.wait_for_command("! vesper status | grep -q paused", timeout=30)

    number = domain_number(host)
    guest.start_command("echo b >/proc/sysrq-trigger")
    wait_another_domain(host, number)
    results = monitor_until_well(host)
    assert results[-1][0] == SUCCESS, results
    assert "runs again, so it rebooted" in results[-1][1]
    guest.wait_ready(60)
    wait_collecting(host)
    assert host.run_command(FAULTS, check=True).output == before

    # What its kernel has said is a fault, though xl restarts it.
    begin_waiting_monitor(host)
    guest.power_guest_off("panic")
    code, said = wait_monitor(host)
    assert (code, "kernel panic" in said) == (ERROR, True), said
    stop(host)


def test_a_guest_without_modules_that_xl_restarts_is_no_failure(cleaned: XenLab) -> None:
    lab = cleaned
    host = start(lab, "lab.vesper=no")
    number = domain_number(host)
    begin_monitor(host)
    lab.guest_through(through=host).power_guest_off("panic")
    wait_another_domain(host, number)
    results = monitor_until_well(host)
    assert {code for code, _ in results} <= {SUCCESS, DEGRADED}, results
    assert status(host)["domid"] != number
    stop(host)
