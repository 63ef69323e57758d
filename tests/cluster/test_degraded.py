# SPDX-License-Identifier: GPL-2.0-or-later
"""What is missing is said, and the VM runs all the same."""

from __future__ import annotations

import signal
import time

import pytest

from lab.cluster.node import wait_until
from tests.cluster.support.vm import VirtualMachine

DEGRADED = 190


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("lab.vesper=no", ["vm1", "no VESPER modules in the guest"]),
        ("lab.version=99", ["vm1", "99"]),
        ("lab.release=6.6.6-other", ["6.6.6-other", "vesper probe build"]),
    ],
    ids=["no modules", "other version", "no image"],
)
def test_a_guest_that_cannot_be_watched(vm: VirtualMachine, extra: str, words: list[str]) -> None:
    node = vm.configure_resource(extra=extra)
    failure = vm.wait_failure(40)
    assert failure.code == DEGRADED
    for word in words:
        assert word in failure.reason
    assert vm.read_fail_count(node) == 0
    assert vm.find_node().name == node.name
    # It is still watched by its domain's state.
    vm.tell_guest(node, "die")
    vm.wait_moved(node)


def test_vesperd_killed_and_restarted_shows_nowhere(vm: VirtualMachine) -> None:
    node = vm.configure_resource()
    vm.wait_watched(node)
    domid = vm.find_domid(node)
    node.stop_vesperd(signal.SIGKILL)
    node.start_vesperd()
    vm.wait_watched(node)
    assert vm.list_failures() == []
    assert vm.find_domid(node) == domid
    vm.kill_httpd(node)
    vm.wait_moved(node)
    assert vm.read_fail_count(node) == 1


def test_vesperd_gone_is_degraded_and_back_is_well(vm: VirtualMachine) -> None:
    node = vm.configure_resource()
    vm.wait_watched(node)
    domid = vm.find_domid(node)
    node.stop_vesperd(signal.SIGKILL)
    failure = vm.wait_failure(40)
    assert failure.code == DEGRADED
    assert "vesperd is not running; start it with: systemctl start vesperd" in failure.reason
    assert vm.read_fail_count(node) == 0
    assert vm.find_domid(node) == domid

    node.start_vesperd()
    vm.wait_watched(node)
    for _ in wait_until("a monitor without complaint", 60):
        if vm.read_last_monitor(node) == 0:
            break
    # Pacemaker would keep it on record; nobody has to clean it up.
    for _ in wait_until("no failure on record", 60):
        if vm.list_failures() == []:
            break
    assert vm.read_fail_count(node) == 0
    assert vm.find_domid(node) == domid
    # Another one shows again.
    node.stop_vesperd(signal.SIGKILL)
    assert vm.wait_failure(40).code == DEGRADED
    # And stays on record no longer than the VM is here.
    node.start_vesperd()
    vm.wait_watched(node)
    node.run("crm_resource", "-r", "vm1", "--ban", "-N", node.name)
    vm.wait_moved(node)
    for _ in wait_until("no failure on record", 60):
        if vm.list_failures() == []:
            break
    node.run("crm_resource", "-r", "vm1", "--clear")


def test_after_maintenance_a_degraded_one_of_before_does_not_keep_monitors_away(
    vm: VirtualMachine,
) -> None:
    """Pacemaker 2.1 takes its record for a monitor that runs; nobody would be told of a fault."""
    node = vm.configure_resource()
    vm.wait_watched(node)
    domid = vm.find_domid(node)
    node.stop_vesperd(signal.SIGKILL)
    assert vm.wait_failure(40).code == DEGRADED
    node.start_vesperd()
    vm.wait_watched(node)
    # Nor is Pacemaker ever done with cancelling the monitor: nothing here waits for that.
    maintenance = "crm_attribute", "--name", "maintenance-mode"
    node.run(*maintenance, "--update", "true")
    vm.wait_watched(node, waiting=False)
    node.run(*maintenance, "--delete")
    vm.wait_watched(node, limit=90)
    assert vm.list_failures() == []
    assert vm.find_domid(node) == domid
    vm.kill_httpd(node)
    vm.wait_moved(node)
    assert vm.read_fail_count(node) == 1


def test_a_fault_while_vesperd_is_down_is_not_lost(vm: VirtualMachine) -> None:
    node = vm.configure_resource()
    vm.wait_watched(node)
    node.stop_vesperd(signal.SIGKILL)
    vm.kill_httpd(node)
    node.start_vesperd()
    vm.wait_moved(node)
    (failure,) = vm.list_failures()
    assert failure.reason.startswith("httpd[97] killed by SIGSEGV")
    assert vm.read_fail_count(node) == 1


def test_a_death_while_vesperd_is_down_is_seen(vm: VirtualMachine) -> None:
    node = vm.configure_resource()
    vm.wait_watched(node)
    node.stop_vesperd(signal.SIGKILL)
    vm.tell_guest(node, "die")
    vm.wait_moved(node, 60)


def test_a_stopped_vesperd_harms_nothing(vm: VirtualMachine) -> None:
    """It hangs (SIGSTOP): no failure, and a stop works."""
    node = vm.configure_resource(timeout="8s")
    vm.wait_watched(node)
    node.signal_vesperd(signal.SIGSTOP)
    try:
        failure = vm.wait_failure(40)
        assert failure.code == DEGRADED
        assert vm.read_fail_count(node) == 0
        node.run("crm_resource", "-r", "vm1", "--meta", "-p", "target-role", "-v", "Stopped")
        vm.wait_settled()
        assert vm.list_nodes() == []
    finally:
        node.signal_vesperd(signal.SIGCONT)
    time.sleep(0.5)
    assert [f for f in vm.list_failures() if f.code not in (0, DEGRADED)] == []
