# SPDX-License-Identifier: GPL-2.0-or-later
"""A fault in any phase of a live migration on Xen goes with the VM, and is told once.

As in tests/kvm/test_migration.py.  ``make migrations`` runs it, as it takes minutes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from lab import idle
from lab.evaluation import cluster
from lab.xen import XenHost, XenLab
from tests.support.vm1 import fail_count, wait_collecting
from tests.xen.support.vm1 import begin, clean

#: A migration takes half a minute here; without it vesperd would tell Pacemaker before its end.
PATIENT = "echo 'monitor_grace = 300' >>/etc/vesper/vesperd.toml"

XL = "/usr/sbin/xl"
#: In xl's place: a migration stops before it begins, or when it is done, until
#: /run/go is there; /run/held says that it does.
HOLDING_XL = r"""#!/bin/sh
[ "$1" = migrate ] || exec /opt/real/xl "$@"
hold() { touch /run/held; until [ -e /run/go ]; do sleep 0.1; done; }
[ -e /run/hold-before ] && hold
/opt/real/xl "$@"
code=$?
[ -e /run/hold-after ] && hold
exit $code
"""
#: By its own name, which Debian's wrapper goes by.
PUT_ASIDE = f"mkdir -p /opt/real; ln -sf $(readlink -f {XL}) /opt/real/xl; mv {XL} {XL}.aside"
LET_GO = "touch /run/go; rm -f /run/hold-*"


@pytest.fixture(scope="module")
def movable(lab: XenLab) -> Iterator[XenLab]:
    """vm1 as a resource that may be migrated, on hosts whose xl and vesperd are patient."""
    begin(lab, "pvh")
    settings = lab.a.run_command("cat /etc/vesper/vesperd.toml", check=True).output
    for host in lab.hosts:
        host.run_command(f"{PATIENT}; {PUT_ASIDE}", check=True)
        host.put_file(XL, HOLDING_XL.encode())
        host.run_command(f"chmod 755 {XL}", check=True)
        host.stop_vesperd()
        host.start_vesperd()
    yield lab
    for host in lab.hosts:
        host.run_command(f"mv {XL}.aside {XL}", check=True)
        host.put_file("/etc/vesper/vesperd.toml", settings.encode())
        host.stop_vesperd()
        host.start_vesperd()
    clean(lab)


def told(host: XenHost) -> int:
    """How many faults of the service a host has on record."""
    rows = json.loads(host.run_command("vesper faults --json", timeout=60, check=True).output)
    return sum("SIGSEGV" in row["reason"] for row in rows)


@pytest.mark.parametrize("phase", ["before", "under way", "after"])
def test_a_fault_in_a_migration_is_told_once(movable: XenLab, phase: str) -> None:
    """Before anything is sent, while memory is, and at the target before migrate_from."""
    lab = movable
    cluster.settle_after_failover(lab, "vesper", print)
    home = lab.running_on()
    assert home is not None
    (target,) = (host for host in lab.hosts if host is not home)
    wait_collecting(home)
    before = {host.name: told(host) for host in lab.hosts}
    guest = lab.guest_through(through=target)
    boot = guest.fetch_page(timeout=10)
    home.run_command(f"rm -f /run/go /run/held; touch '/run/hold-{phase}'", check=True)
    try:
        target.run_command(f"crm_resource --resource vm1 --move --node {target.name}", check=True)
        began = "pgrep -f 'xl migrate'" if phase == "under way" else "[ -e /run/held ]"
        home.wait_for_command(began, timeout=240, every=0.1)
        sees = target if phase == "after" else home
        if phase == "after":
            wait_collecting(target)
        guest.run_command("kill -SEGV $(pidof httpd)")
        sees.wait_for_command("vesper events | tail -n 20 | grep -q SIGSEGV", timeout=60)
        home.run_command(LET_GO, check=True)
        target.wait_for_command(
            "grep -Eq 'came along|fault [0-9]+: .*SIGSEGV' /var/log/vesperd.log", timeout=240
        )
        home.run_command(f"({idle.COMMAND})", timeout=240, check=True)
        guest.wait_ready(200)
        assert guest.fetch_page(timeout=10) != boot
        assert fail_count(lab) == 1
        new = {host.name: told(host) - before[host.name] for host in lab.hosts}
        # The source keeps the record of one that has gone along.
        assert new == {home.name: 0 if phase == "after" else 1, target.name: 1}
    finally:
        home.run_command(LET_GO, check=True)
        target.run_command("crm_resource --resource vm1 --clear", check=True)
        for host in lab.hosts:
            host.run_command("truncate -s 0 /var/log/vesperd.log")
