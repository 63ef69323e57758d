# SPDX-License-Identifier: GPL-2.0-or-later
"""A reset that the guest's kernel does not announce is no hang: it boots, and is watched again."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from lab.evaluation import cluster
from lab.kvm import KvmHost, KvmLab
from tests.kvm.support.vm1 import CONFIG, clean, fatal_signals
from tests.support.vm1 import fail_count, wait_collecting

#: s. The guest's firmware alone takes longer, and shows no life meanwhile.
HANG_TIMEOUT_S = 2
BOOT_MENU = "<bootmenu enable='yes' timeout='6000'/>"


@pytest.fixture(scope="module")
def slow(lab: KvmLab) -> Iterator[KvmLab]:
    """vm1 as a resource, which boots slowly and has little time for a hang."""
    clean(lab)
    for host in lab.hosts:
        xml = lab.domain_xml().replace("</os>", f"{BOOT_MENU}</os>")
        host.put_file(CONFIG, xml.encode())
    cluster.configure_resource(lab, "vesper", print)
    lab.a.run_command(
        f"crm_resource -r vm1 -p hang_timeout -v {HANG_TIMEOUT_S}", timeout=60, check=True
    )
    cluster.settle_after_failover(lab, "vesper", print)
    yield lab
    clean(lab)


def _by_libvirt(_lab: KvmLab, home: KvmHost) -> None:
    home.run_command("virsh reset vm1", check=True)


def _by_the_guest(lab: KvmLab, home: KvmHost) -> None:
    lab.guest_through(through=home).start_command("echo b >/proc/sysrq-trigger")


def _while_libvirtd_is_away(lab: KvmLab, home: KvmHost) -> None:
    """libvirtd tells nobody of it, and comes back while the guest boots."""
    home.stop_libvirtd(signal="KILL")
    _by_the_guest(lab, home)
    home.wait_for_command("vesper status | grep -q 'check libvirtd'", timeout=20)
    home.start_libvirtd()


@pytest.mark.parametrize(
    ("reset", "shown"),
    [
        (_by_libvirt, "vm1 was reset at .* and boots"),
        (_by_the_guest, "vm1 was reset at .* and boots"),
        (_while_libvirtd_is_away, "vm1 shows no life since "),
    ],
    ids=["virsh reset", "sysrq-b", "libvirtd is away"],
)
def test_a_reset_is_no_hang(
    slow: KvmLab, reset: Callable[[KvmLab, KvmHost], None], shown: str
) -> None:
    lab = slow
    home = lab.running_on()
    assert home is not None
    wait_collecting(home)
    guest = lab.guest_through(through=home)
    qemu, boot = (
        home.run_command("cat /run/libvirt/qemu/vm1.pid").output,
        guest.fetch_page(timeout=5),
    )
    before, faults = (
        fatal_signals(home),
        home.run_command("vesper faults --json", check=True).output,
    )
    reset(lab, home)
    home.wait_for_command(f"vesper status --json | grep -q '{shown}'", timeout=30, every=0.05)
    wait_collecting(home, 120)
    guest.wait_ready(60)
    assert guest.fetch_page(timeout=5) not in (boot, None)
    # The new kernel's events are read from the first on; that a worker dies is no fault.
    guest.run_command("sleep 1000 & sleep 1; kill -BUS $!; sleep 1")
    home.wait_for_command("vesper events --json | tail -n 1 | grep -q SIGBUS", timeout=30)
    assert fatal_signals(home)[len(before) :] == ["SIGBUS"]
    assert home.run_command("vesper faults --json", check=True).output == faults
    assert home.run_command("cat /run/libvirt/qemu/vm1.pid").output == qemu
    assert fail_count(lab) == 0
