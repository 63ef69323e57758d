# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests that come up, or go down, in a way of their own."""

from __future__ import annotations

import time

from lab.guest import Guest
from lab.xen import XenLab, project
from tests.support.vm1 import wait_collecting
from tests.xen.support.vm1 import CONSOLE


def test_modules_that_come_late_are_found(cleaned: XenLab) -> None:
    host = cleaned.a
    host.put_file("/etc/xen/vm1.cfg", project.guest_config("lab.vesper=no").encode())
    host.run_command("xl create /etc/xen/vm1.cfg", timeout=60, check=True)
    guest = Guest(host)
    guest.wait_ready(60)
    refused = host.run_command("vesper activate vm1", timeout=60)
    assert refused.rc == 1
    assert "load the modules vesper and vesper_xen" in refused.output
    guest.run_command("for m in $(cat /vesper); do insmod /lib/modules/$m; done")
    wait_collecting(host)


def test_no_user_space_is_needed(cleaned: XenLab) -> None:
    """PID 1 spins, every file is gone: probes are loaded and unloaded all the same."""
    host = cleaned.a
    host.put_file("/etc/xen/vm1.cfg", project.guest_config("lab.init=stuck").encode())
    host.run_command("xl create /etc/xen/vm1.cfg", timeout=60, check=True)
    host.wait_for_command(f"tail -n 5 {CONSOLE} | grep -q 'no user space'", timeout=60)
    time.sleep(3)  # until the last file is gone
    host.run_command("vesper activate vm1", timeout=90)
    wait_collecting(host, 90)
    host.run_command("vesper probe unload vm1 send_signal", timeout=90, check=True)
    host.run_command("vesper probe load vm1 send_signal", timeout=90, check=True)
    wait_collecting(host)


def test_a_guest_that_shuts_down_does_not_wait_for_its_device(cleaned: XenLab) -> None:
    """The kernel gives a device that its host does not close 5 s, and says so."""
    host = cleaned.a
    host.put_file("/etc/xen/vm1.cfg", project.guest_config("loglevel=7").encode())
    host.run_command("xl create /etc/xen/vm1.cfg", timeout=60, check=True)
    Guest(host).wait_ready(60)
    host.run_command("vesper activate vm1", timeout=60, check=True)
    wait_collecting(host)
    size = host.run_command(f"wc -c <{CONSOLE}", check=True).output.strip()
    host.run_command("xl shutdown vm1", timeout=60, check=True)
    host.wait_for_command("! xl list vm1", timeout=60)
    said = host.run_command(f"tail -c +{size} {CONSOLE}", check=True).output
    assert "System halted" in said
    assert "timeout closing device" not in said
