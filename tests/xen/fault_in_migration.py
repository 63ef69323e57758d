# SPDX-License-Identifier: GPL-2.0-or-later
"""A fault during a live migration on Xen goes with the VM.

As in tests/kvm/lab/test_migration.py.  ``make migrations`` runs it, as it takes minutes.
"""

from __future__ import annotations

from lab import idle
from lab.xen import XenLab
from tests.vm1 import fail_count, wait_collecting
from tests.xen.vm1 import begin, clean

#: A migration takes half a minute here; without it vesperd would tell Pacemaker before its end.
PATIENT = "echo 'monitor_grace = 300' >>/etc/vesper/vesperd.toml"


def test_a_fault_during_a_migration_is_told_at_the_target(lab: XenLab) -> None:
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
        home.run(f"({idle.COMMAND})", timeout=240, check=True)
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
