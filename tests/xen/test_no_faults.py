# SPDX-License-Identifier: GPL-2.0-or-later
"""What looks like a fault and is none: no failure is recorded, and the guest stays watched.

``make nofaults`` does each 20 times (``VESPER_ROUNDS``).
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from lab.xen import XenLab
from tests.vm1 import wait_started
from tests.xen.no_fault import ROUNDS, Innocent
from vesper_monitor.daemon.config import Config

Happening = Callable[[Innocent], None]

HANG = Config().hang_timeout
BUSY = "for i in 1 2 3 4; do while :; do :; done >/dev/null 2>&1 & done; echo $(jobs -p) >/tmp/busy"
#: As long as it runs no xl gets on.
NO_XL = "while :; do pkill -STOP -x xl; sleep 0.2; done >/dev/null 2>&1 & echo $! >/tmp/no-xl"
XL_AGAIN = "kill $(cat /tmp/no-xl); pkill -CONT -x xl || true"
CONSOLED = "/usr/lib/xen-4.17/bin/xenconsoled"


def reboot(now: Innocent) -> None:
    guest = now.lab.guest(through=now.home)
    before = guest.page(timeout=5)
    guest.end("reboot")
    deadline = time.monotonic() + 90
    while (page := guest.page()) is None or page == before:
        assert time.monotonic() < deadline, "it has not rebooted"
        time.sleep(0.5)


def pause(now: Innocent) -> None:
    now.home.run("xl pause vm1", timeout=60, check=True)
    time.sleep(HANG + 2)
    now.home.run("xl unpause vm1", timeout=60, check=True)


def checkpoint(now: Innocent) -> None:
    """Saved, and goes on."""
    now.home.run("xl save -c vm1 /var/tmp/vm1.save; rm /var/tmp/vm1.save", timeout=120, check=True)


def save_and_restore(now: Innocent) -> None:
    """In maintenance mode: a VM that is saved does not run, whoever wanted it."""
    home, guest = now.home, now.lab.guest(through=now.home)
    page = guest.page(timeout=5)
    home.run("crm_attribute --name maintenance-mode --update true", timeout=60, check=True)
    try:
        home.run("xl save vm1 /var/tmp/vm1.save", timeout=120, check=True)
        home.run("xl restore /var/tmp/vm1.save; rm /var/tmp/vm1.save", timeout=120, check=True)
        guest.wait_ready(60)
    finally:
        home.run("crm_attribute --name maintenance-mode --delete", timeout=60, check=True)
    wait_started(home)
    assert guest.page(timeout=10) == page, "it was started anew, not restored"


def starvation(now: Innocent) -> None:
    """A busy guest gets next to nothing of a busy host."""
    guest = now.lab.guest(through=now.home)
    guest.run(BUSY)
    now.home.run(f"xl sched-credit2 -d vm1 -c 3 && {{ {BUSY}; }}", timeout=60, check=True)
    try:
        time.sleep(2 * HANG + 2)
    finally:
        now.home.run("kill $(cat /tmp/busy); xl sched-credit2 -d vm1 -c 0", timeout=60, check=True)
    guest.run("kill $(cat /tmp/busy)")


def xl_hangs(now: Innocent) -> None:
    """While it does Pacemaker asks for the state anew."""
    now.home.run(NO_XL, check=True)
    try:
        now.home.run("crm_resource --refresh --resource vm1 --node $(uname -n)", timeout=60)
        time.sleep(15)
        now.home.run("timeout 60 crm_resource --wait", timeout=90)
    finally:
        now.home.run(XL_AGAIN, check=True)


def xenstored_stops(now: Innocent) -> None:
    now.home.run("pkill -STOP -x oxenstored", check=True)
    try:
        time.sleep(HANG + 10)
    finally:
        now.home.run("pkill -CONT -x oxenstored", check=True)


def xenconsoled_is_gone(now: Innocent) -> None:
    now.home.run("pkill -KILL -x xenconsoled; sleep 3", check=True)
    now.home.run(
        f"{CONSOLED} --log=all --log-dir=/var/log/xen/console --pid-file /run/xenconsoled.pid",
        check=True,
    )


EACH: tuple[Happening, ...] = (
    reboot, pause, checkpoint, save_and_restore, starvation, xl_hangs, xenstored_stops,
    xenconsoled_is_gone,
)  # fmt: skip
#: Without a word of how often, one after the other, and all is looked at once; the
#: rest is also in test_guest.py and test_liveness.py.
IN_SHORT: tuple[Happening, ...] = (
    reboot, pause, checkpoint, xl_hangs, xenstored_stops, xenconsoled_is_gone,
)  # fmt: skip


@pytest.mark.parametrize("series", [(one,) for one in EACH] if ROUNDS else [IN_SHORT])
def test_no_fault(vm1: XenLab, series: tuple[Happening, ...]) -> None:
    now = Innocent(vm1)
    name = ", ".join(happens.__name__ for happens in series)
    for number in range(ROUNDS or 1):
        begin = time.monotonic()
        for happens in series:
            happens(now)
        now.check(f"{name} {number + 1}")
        print(f"{name} {number + 1}: {time.monotonic() - begin:.0f} s", flush=True)
