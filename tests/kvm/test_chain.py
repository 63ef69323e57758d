# SPDX-License-Identifier: GPL-2.0-or-later
"""The whole chain on KVM: from the fault in the guest to the standby host."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lab.evaluation import trial
from lab.kvm import KvmHost, KvmLab
from tests.kvm.support.vm1 import fatal_signals, other
from tests.support.vm1 import FAULTS, fail_count, wait_collecting, wait_started


@pytest.mark.parametrize(("fault", "reason"), FAULTS)
def test_fault_fails_over(vm1: KvmLab, fault: str, reason: tuple[str, ...]) -> None:
    home = vm1.running_on()
    run = trial.perform_trial(vm1, fault, "vesper", print)
    assert run.seen_s is not None
    assert run.recorded_s is not None
    assert run.stop_s is not None
    assert run.started_elsewhere_s is not None
    assert run.service_back_s is not None
    # The two are Pacemaker's, and some ms apart in either order.
    assert run.seen_s < min(run.recorded_s, run.stop_s) + run.clock_error_s
    assert max(run.recorded_s, run.stop_s) < run.started_elsewhere_s
    for word in reason:
        assert word in run.exit_reason
    assert vm1.running_on() is other(vm1, home)
    assert fail_count(vm1) == 1


def _panic(lab: KvmLab, home: KvmHost) -> None:
    lab.guest_through(through=home).start_command("echo c >/proc/sysrq-trigger")


def _kill(_lab: KvmLab, home: KvmHost) -> None:
    home.run_command("kill -9 $(cat /run/libvirt/qemu/vm1.pid)", check=True)


def _destroy(_lab: KvmLab, home: KvmHost) -> None:
    home.run_command("virsh destroy vm1", check=True)


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (_panic, ("panic", "sysrq triggered crash")),
        (_kill, ("does not run any more", "killed")),
        (_destroy, ("does not run any more", "destroyed")),
    ],
)
def test_end_of_the_domain_fails_over(
    vm1: KvmLab, end: Callable[[KvmLab, KvmHost], None], reason: tuple[str, ...]
) -> None:
    home = vm1.running_on()
    assert home is not None
    standby = other(vm1, home)
    wait_collecting(home)  # the last words of a guest that nobody reads yet are lost
    end(vm1, home)
    wait_started(standby)
    said = trial.exit_reason(
        standby.run_command("crm_mon -1 --output-as=xml", check=True).output.encode()
    )
    for word in reason:
        assert word in said
    assert vm1.running_on() is standby
    assert fail_count(vm1) == 1
    # Nothing is held of a VM that has gone.
    home.wait_for_command("! grep -q memfd:vesper /proc/[0-9]*/maps", timeout=20)


def test_vesperd_is_restarted_while_the_guest_runs(vm1: KvmLab) -> None:
    home = vm1.running_on()
    assert home is not None
    guest = vm1.guest_through(through=home)
    wait_collecting(home)
    qemu, boot = (
        home.run_command("cat /run/libvirt/qemu/vm1.pid").output,
        guest.fetch_page(timeout=5),
    )
    before = fatal_signals(home)
    home.stop_vesperd(signal="KILL")
    # What happens meanwhile is seen afterwards; that a worker dies is no fault.
    guest.run_command("sleep 1000 & sleep 1; kill -SEGV $!; sleep 1")
    home.start_vesperd()
    wait_collecting(home)
    guest.run_command("sleep 1000 & sleep 1; kill -BUS $!; sleep 1")
    home.wait_for_command("vesper events --json | grep -q SIGBUS", timeout=30)
    assert fatal_signals(home)[len(before) :] == ["SIGSEGV", "SIGBUS"]
    assert home.run_command("cat /run/libvirt/qemu/vm1.pid").output == qemu
    assert guest.fetch_page(timeout=5) == boot
    assert fail_count(vm1) == 0
