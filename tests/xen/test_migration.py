# SPDX-License-Identifier: GPL-2.0-or-later
"""Migrations under Pacemaker: of a PV guest, which Debian's Xen cannot migrate, and of a fault.

``make soak`` migrates guests that it can.
"""

from __future__ import annotations

import os

import pytest

from lab.xen import XenLab
from tests.vm1 import fail_count, wait_collecting
from tests.xen.happenings import move
from tests.xen.vm1 import begin, clean

#: A migration takes half a minute here; without it vesperd would tell Pacemaker before its end.
PATIENT = "echo 'monitor_grace = 300' >>/etc/vesper/vesperd.toml"


def test_a_doomed_migration_says_why(lab: XenLab) -> None:
    """Nothing is sent; it is stopped and started at the target."""
    begin(lab, "pv")
    home = lab.running_on()
    assert home is not None
    (target,) = (host for host in lab.hosts if host is not home)
    move(target)
    log = home.run("grep 'cannot be migrated live' /var/log/pacemaker/pacemaker.log").output
    assert "a PV guest needs shadow paging" in log
    clean(lab)


@pytest.mark.skipif("VESPER_MIGRATIONS" not in os.environ, reason="minutes; tests/kvm has it, too")
def test_a_fault_during_a_migration_is_told_at_the_target(lab: XenLab) -> None:
    """As in tests/kvm/lab/test_migration.py."""
    begin(lab, "pvh")
    settings = lab.a.run("cat /etc/vesper/vesperd.toml", check=True).output
    home = lab.running_on()
    assert home is not None
    (target,) = (host for host in lab.hosts if host is not home)
    try:
        for host in lab.hosts:
            host.run(PATIENT, check=True)
            host.stop_vesperd()
            host.start_vesperd()
        wait_collecting(home)
        guest = lab.guest(through=target)
        boot = guest.page(timeout=10)
        target.run(f"crm_resource --resource vm1 --move --node {target.name}", check=True)
        home.wait("pgrep -f 'xl migrate'", timeout=120)
        guest.run("kill -SEGV $(pidof httpd)")
        home.wait("vesper faults | grep -q SIGSEGV", timeout=30)
        target.wait("grep -q 'has come along' /var/log/vesperd.log", timeout=240)
        home.run("crm_resource --wait --timeout=200s", timeout=240)
        guest.wait_ready(200)
        assert guest.page(timeout=10) != boot
        assert fail_count(lab) == 1
    finally:
        target.run("crm_resource --resource vm1 --clear", check=True)
        for host in lab.hosts:
            host.put("/etc/vesper/vesperd.toml", settings.encode())
            host.stop_vesperd()
            host.start_vesperd()
        clean(lab)
