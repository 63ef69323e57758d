# SPDX-License-Identifier: GPL-2.0-or-later
"""What operators do to a VM that was migrated live, and what vesperd does by itself."""

from __future__ import annotations

from lab import idle
from lab.kvm import KvmLab
from tests.kvm.support.vm1 import other
from tests.support.vm1 import fail_count, wait_collecting, wait_started

#: The cluster shows a degraded monitor.
SHOWN = "crm_mon -1 --output-as=xml | grep -q 'exitcode=\"190\"'"


def test_after_degraded_a_migrated_vm_is_not_restarted(vm1: KvmLab) -> None:
    """As `crm_resource --cleanup` would: its history ends where the migration is half done."""
    home = vm1.running_on()
    assert home is not None
    wait_collecting(home)
    boot = vm1.guest_through(through=home).fetch_page(timeout=5)
    target = other(vm1, home)
    target.run_command(f"crm_resource --resource vm1 --move --node {target.name}", check=True)
    wait_started(target)
    target.run_command("crm_resource --resource vm1 --clear", check=True)
    wait_collecting(target)

    target.stop_vesperd()
    target.wait_for_command(SHOWN, timeout=60)
    target.start_vesperd()
    # It goes by itself, and the VM goes on.
    target.wait_for_command(f"! {SHOWN}", timeout=90)
    target.run_command(f"({idle.COMMAND})", timeout=240, check=True)
    assert vm1.running_on() is target
    assert vm1.guest_through(through=target).fetch_page(timeout=10) == boot

    # What the man pages advise.
    target.run_command("crm_resource --refresh --resource vm1", timeout=60, check=True)
    target.run_command(f"({idle.COMMAND})", timeout=240, check=True)
    wait_collecting(target)
    assert vm1.running_on() is target
    assert vm1.guest_through(through=target).fetch_page(timeout=10) == boot
    assert fail_count(vm1) == 0
