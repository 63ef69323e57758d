# SPDX-License-Identifier: GPL-2.0-or-later
"""The ways in which vm1 can fail on Xen, and what the cluster makes of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from lab import images
from lab.evaluation import trial
from lab.guest import Guest
from lab.images.kernel import module_files
from lab.xen import XenHost, XenLab
from tests.support.vm1 import fail_count, wait_started

__all__ = ["DESTROY", "HANG", "PANIC", "PAUSE", "POWEROFF", "SEGV", "WATCHDOG", "Way", "fail_over"]


class Way(NamedTuple):
    """A way to fail."""

    name: str
    happens: Callable[[XenHost], None]
    #: words of the exit reason
    reason: tuple[str, ...]


def panic(host: XenHost) -> None:
    Guest(host).power_guest_off("panic")


def destroy(host: XenHost) -> None:
    host.run_command("xl destroy vm1", timeout=60, check=True)


def hang(host: XenHost) -> None:
    Guest(host).power_guest_off("hang")


def poweroff(host: XenHost) -> None:
    Guest(host).power_guest_off("poweroff")


def pause(host: XenHost) -> None:
    host.run_command("xl pause vm1", timeout=60, check=True)


def watchdog(host: XenHost) -> None:
    """Let Xen's watchdog expire: the guest starts it, and then does not feed it."""
    guest = Guest(host)
    for file in module_files(images.kernel_of_tree(), "xen_wdt"):
        guest.put_file(f"/{file.name}", file.read_bytes())
        assert guest.run_command(f"insmod /{file.name} timeout=5").rc == 0
    assert guest.run_command("echo >/dev/watchdog").rc == 0


def segv(host: XenHost) -> None:
    Guest(host).kill_service("SEGV", "httpd")


PANIC = Way("panic", panic, ("kernel panic", "sysrq triggered crash", "system"))
PAUSE = Way("pause", pause, ("vm1 is paused for", "xl pause", "system"))
WATCHDOG = Way("watchdog", watchdog, ("watchdog has expired",))
HANG = Way("hang", hang, ("kernel hangs", "system"))
DESTROY = Way("destroy", destroy, ("xl destroy",))
POWEROFF = Way("poweroff", poweroff, ("power-off",))
SEGV = Way("segv", segv, ("SIGSEGV",))


def fail_over(lab: XenLab, way: Way, timeout: float = 120.0) -> tuple[XenHost, str]:
    """Let vm1 fail once, and check that crm_mon says why and that it runs on the other host.

    :param timeout: s until it does.
    :returns: the host on which it has failed, and the exit reason.
    """
    home = lab.running_on()
    assert home is not None, way.name
    (standby,) = (host for host in lab.hosts if host is not home)
    way.happens(home)
    wait_started(standby, timeout)
    shown = standby.run_command("crm_mon -1 --output-as=xml", timeout=60, check=True).output
    reason = trial.exit_reason(shown.encode())
    assert [word for word in way.reason if word not in reason] == [], f"{way.name}: {reason}"
    assert (count := fail_count(lab)) == 1, f"{way.name}: {count} failures"
    return home, reason
