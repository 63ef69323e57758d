# SPDX-License-Identifier: GPL-2.0-or-later
"""What looks like a fault and is none, each brought about for real in the Xen lab."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable

from lab import idle
from lab.evaluation import cluster
from lab.guest import Guest
from lab.xen import XenHost
from tests.support.vm1 import wait_collecting, wait_started
from tests.xen.support.invariants import Innocent, fatal_pids
from vesper_monitor.daemon.config import Config

__all__ = ["IN_SHORT", "RARE", "USUAL", "Happening", "migrate", "move"]

Happening = Callable[[Innocent], None]

HANG = Config().hang_timeout
BUSY = "for i in 1 2 3 4; do while :; do :; done >/dev/null 2>&1 & done; echo $(jobs -p) >/tmp/busy"
#: Command that stops each xl: while it runs no xl continues.
NO_XL = "while :; do pkill -STOP -x xl; sleep 0.2; done >/dev/null 2>&1 & echo $! >/tmp/no-xl"
XL_AGAIN = "kill $(cat /tmp/no-xl); pkill -CONT -x xl || true"
#: Command that finds the xl that waits for the end of a domain, to start it again.
XL_WAITS = "pgrep -f '^[^ ]*xl (create|restore|migrate-receive)'"
CONSOLED = "/usr/lib/xen-4.17/bin/xenconsoled"
#: Command for the guest: kill a process that is no service once a second.
KILL = (
    "rm -f /tmp/killed /tmp/enough; (while [ ! -e /tmp/enough ]; do sleep 1000 & p=$!; "
    "usleep 300000; kill -ILL $p; echo $p >>/tmp/killed; usleep 700000; done) "
    ">/dev/null 2>&1 </dev/null &"
)
ENOUGH = "touch /tmp/enough; sleep 2; cat /tmp/killed"
#: Lines of logs: the domain went on at the target; vesperd had its probes there.
ARRIVED = "sed -n 's/ .*Domain started.*//p' /var/log/xen/migrate-receive.log | tail -n 1"
WATCHED = "grep 'vm1: goes on with' /var/log/vesperd.log | tail -n 1"


def reboot(now: Innocent) -> None:
    guest = now.lab.guest_through(through=now.home)
    if now.home.run_command(XL_WAITS).rc != 0:
        # Nobody would start it again; see checkpoint().
        now.home.run_command("crm_resource --restart --resource vm1", timeout=300, check=True)
        cluster.wait_until_ready(now.lab, "vesper")
        now.page = guest.fetch_page(timeout=10)
        now.remark("started anew before")
    guest.power_guest_off("reboot")
    deadline = time.monotonic() + 90
    while (page := guest.fetch_page()) is None or page == now.page:
        assert time.monotonic() < deadline, "it has not rebooted"
        time.sleep(0.5)
    now.page = page


def pause(now: Innocent) -> None:
    now.home.run_command("xl pause vm1", timeout=60, check=True)
    time.sleep(HANG + 2)
    now.home.run_command("xl unpause vm1", timeout=60, check=True)


def checkpoint(now: Innocent) -> None:
    """Save the guest and let it go on, without its xl, which ends at the save (Xen 4.17)."""
    now.home.run_command(
        "xl save -c vm1 /var/tmp/vm1.save; rm /var/tmp/vm1.save", timeout=120, check=True
    )


def save_and_restore(now: Innocent) -> None:
    """Save and restore the guest in maintenance mode, since a saved VM does not run."""
    home = now.home
    home.run_command("crm_attribute --name maintenance-mode --update true", timeout=60, check=True)
    try:
        home.run_command("xl save vm1 /var/tmp/vm1.save", timeout=120, check=True)
        home.run_command(
            "xl restore /var/tmp/vm1.save; rm /var/tmp/vm1.save", timeout=120, check=True
        )
        now.lab.guest_through(through=home).wait_ready(60)
    finally:
        home.run_command("crm_attribute --name maintenance-mode --delete", timeout=60, check=True)
    wait_started(home)


def starvation(now: Innocent) -> None:
    """Give a busy guest next to no CPU of a busy host."""
    guest = now.lab.guest_through(through=now.home)
    guest.run_command(BUSY)
    now.home.run_command(f"xl sched-credit2 -d vm1 -c 3 && {{ {BUSY}; }}", timeout=60, check=True)
    try:
        time.sleep(2 * HANG + 2)
    finally:
        now.home.run_command(
            "kill $(cat /tmp/busy); xl sched-credit2 -d vm1 -c 0", timeout=60, check=True
        )
    guest.run_command("kill $(cat /tmp/busy)")


def xl_hangs(now: Innocent) -> None:
    """Let xl hang while Pacemaker asks for the state anew.

    On all nodes: asked on the target alone of an earlier migration, Pacemaker 2.1
    takes that for one that is not over, and starts the VM anew.
    """
    now.home.run_command(NO_XL, check=True)
    try:
        now.home.run_command("crm_resource --refresh --resource vm1", timeout=60)
        time.sleep(15)
        now.home.run_command(f"({idle.COMMAND})", timeout=240)
    finally:
        now.home.run_command(XL_AGAIN, check=True)


def xenstored_stops(now: Innocent) -> None:
    now.home.run_command("pkill -STOP -x oxenstored", check=True)
    try:
        time.sleep(HANG + 10)
    finally:
        now.home.run_command("pkill -CONT -x oxenstored", check=True)


def xenconsoled_is_gone(now: Innocent) -> None:
    now.home.run_command("pkill -KILL -x xenconsoled; sleep 3", check=True)
    now.home.run_command(
        f"{CONSOLED} --log=all --log-dir=/var/log/xen/console --pid-file /run/xenconsoled.pid",
        check=True,
    )


def vesperd_is_killed(now: Innocent) -> None:
    now.home.stop_vesperd(signal="KILL")
    time.sleep(2)
    now.home.start_vesperd()
    wait_collecting(now.home)


def maintenance(now: Innocent) -> None:
    """Put the cluster into maintenance mode, and restart vesperd as an upgrade does."""
    now.home.run_command(
        "crm_attribute --name maintenance-mode --update true", timeout=60, check=True
    )
    try:
        vesperd_is_killed(now)
    finally:
        now.home.run_command(
            "crm_attribute --name maintenance-mode --delete", timeout=60, check=True
        )


def migrate(now: Innocent) -> None:
    """Migrate the guest live under Pacemaker; what happens inside is seen once, here or there."""
    lab, home = now.lab, now.home
    (target,) = (host for host in lab.hosts if host is not home)
    guest = Guest(target)
    before = {host.name: len(fatal_pids(host)) for host in lab.hosts}
    guest.run_command(KILL)
    time.sleep(3)
    move(target)
    killed = [int(word) for word in guest.run_command(ENOUGH).output.split()]
    deadline = time.monotonic() + 30
    while killed[-1] not in fatal_pids(target):
        assert time.monotonic() < deadline, f"{killed[-1]} was not seen"
        time.sleep(0.5)
    seen = [pid for host in (home, target) for pid in fatal_pids(host)[before[host.name] :]]
    assert seen == killed, "events were lost or doubled"
    arrived = float(target.run_command(ARRIVED, check=True).output)
    watched = target.run_command(WATCHED, check=True).output
    when = datetime.datetime.strptime(watched[:23], "%Y-%m-%d %H:%M:%S,%f")
    took = when.replace(tzinfo=datetime.UTC).timestamp() - arrived
    now.home = target
    now.remark(f"{len(killed)} events, watched again after {took:.2f} s")


def move(target: XenHost) -> None:
    target.run_command(f"crm_resource --resource vm1 --move --node {target.name}", check=True)
    wait_started(target, 300)
    target.run_command("crm_resource --resource vm1 --clear", check=True)


#: Events of the guest; and of its host's parts and the cluster.
USUAL: tuple[Happening, ...] = (reboot, pause, save_and_restore, starvation, xl_hangs)
RARE: tuple[Happening, ...] = (
    checkpoint, xenstored_stops, xenconsoled_is_gone, vesperd_is_killed, maintenance,
)  # fmt: skip
#: Events of the short test; the others are also in test_guest.py and test_liveness.py.
IN_SHORT: tuple[Happening, ...] = (
    reboot, pause, checkpoint, xl_hangs, xenstored_stops, xenconsoled_is_gone,
)  # fmt: skip
