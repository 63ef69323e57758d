# SPDX-License-Identifier: GPL-2.0-or-later
"""Live migration under Pacemaker: a PVH guest, and a PV guest, which Debian's Xen cannot migrate.

``make nofaults`` does 20 migrations; here a refused one only.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator

import pytest

from lab.evaluation import cluster
from lab.evaluation.setting import PRIMITIVES
from lab.guest import Guest
from lab.xen import XenHost, XenLab, project
from tests.vm1 import wait_started
from tests.xen.no_fault import ROUNDS, Innocent, fatal_pids
from tests.xen.vm1 import clean

PRIMITIVE = (
    PRIMITIVES["xen"]["vesper"].replace(
        " meta ",
        " op migrate_to timeout=240s interval=0 op migrate_from timeout=180s interval=0 meta ",
    )
    + " allow-migrate=true"
)
#: Once a second a process that is no service is killed.
KILL = (
    "rm -f /tmp/killed /tmp/enough; (while [ ! -e /tmp/enough ]; do sleep 1000 & p=$!; "
    "usleep 300000; kill -ILL $p; echo $p >>/tmp/killed; usleep 700000; done) "
    ">/dev/null 2>&1 </dev/null &"
)
ENOUGH = "touch /tmp/enough; sleep 2; cat /tmp/killed"
#: When the domain went on at the target, and when vesperd had its probes there.
ARRIVED = "sed -n 's/ .*Domain started.*//p' /var/log/xen/migrate-receive.log | tail -n 1"
WATCHED = "grep 'vm1: goes on with' /var/log/vesperd.log | tail -n 1"


def start(lab: XenLab, kind: str) -> None:
    clean(lab)
    for host in lab.hosts:
        host.put("/etc/xen/vm1.cfg", project.guest_config(kind=kind).encode())
    cluster.type_in(lab, f"crm configure {PRIMITIVE}", print)
    cluster.ready(lab, "vesper")


@pytest.fixture(scope="module")
def movable(lab: XenLab) -> Iterator[XenLab]:
    start(lab, "pvh")
    yield lab
    clean(lab)


def test_a_doomed_migration_says_why(lab: XenLab) -> None:
    """A PV guest: nothing is sent; it is stopped and started at the target."""
    start(lab, "pv")
    home = lab.running_on()
    assert home is not None
    (target,) = (host for host in lab.hosts if host is not home)
    move(lab, target)
    log = home.run("grep 'cannot be migrated live' /var/log/pacemaker/pacemaker.log").output
    assert "a PV guest needs shadow paging" in log
    clean(lab)


def move(lab: XenLab, target: XenHost) -> None:
    target.run(f"crm_resource --resource vm1 --move --node {target.name}", check=True)
    wait_started(target, 300)
    target.run("crm_resource --resource vm1 --clear", check=True)


if ROUNDS:  # three minutes each: make nofaults, not make test

    def test_migrations_are_no_fault(movable: XenLab) -> None:
        lab = movable
        took = []
        for number in range(ROUNDS):
            begin = time.monotonic()
            now = Innocent(lab)
            home = now.home
            (target,) = (host for host in lab.hosts if host is not home)
            guest = Guest(target)
            page = guest.page(timeout=5)
            before = {host.name: len(fatal_pids(host)) for host in lab.hosts}
            guest.run(KILL)
            time.sleep(3)
            move(lab, target)
            assert guest.page(timeout=10) == page, "it was started anew, not migrated"
            killed = [int(word) for word in guest.run(ENOUGH).output.split()]
            deadline = time.monotonic() + 30
            while killed[-1] not in fatal_pids(target):
                assert time.monotonic() < deadline, f"{killed[-1]} was not seen"
                time.sleep(0.5)
            seen = [pid for host in (home, target) for pid in fatal_pids(host)[before[host.name] :]]
            assert seen == killed, "events were lost or doubled"
            arrived = float(target.run(ARRIVED, check=True).output)
            watched = target.run(WATCHED, check=True).output
            when = datetime.datetime.strptime(watched[:23], "%Y-%m-%d %H:%M:%S,%f")
            took.append(when.replace(tzinfo=datetime.UTC).timestamp() - arrived)
            print(f"migration {number + 1}: {len(killed)} events, watched again after "
                  f"{took[-1]:.2f} s; {time.monotonic() - begin:.0f} s", flush=True)  # fmt: skip
            now.check(f"migration {number + 1}", target)
