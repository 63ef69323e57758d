# SPDX-License-Identifier: GPL-2.0-or-later
"""The waiting monitor, and what administrators do to a resource and to its cluster.

After each of it the same VM runs, nothing has failed, and the monitor waits
again; a fault before, meanwhile or after is one failure, and no other
instance's.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from lab.cluster.node import ClusterError
from tests.cluster.support.life import QUIET_S, Life
from tests.cluster.support.vm import VirtualMachine


@pytest.fixture
def maintenance(vm: VirtualMachine) -> Iterator[Callable[[bool], None]]:
    """Switches the cluster's maintenance mode."""

    def switch(on: bool) -> None:
        change = ("--update", "true") if on else ("--delete",)
        vm.run_admin_command("crm_attribute", "--name", "maintenance-mode", *change)

    yield switch
    switch(False)


def test_a_fault_while_unmanaged_fails_over_afterwards(vm: VirtualMachine, life: Life) -> None:
    """The monitor goes on; what it finds is shown, and waits for who manages again."""
    vm.set_meta_attribute("is-managed", "false")
    life.assert_well()
    vm.kill_httpd(life.node)
    failure = vm.wait_failure()
    assert failure.reason.startswith("httpd[97] killed by SIGSEGV")
    time.sleep(QUIET_S)
    life.assert_unharmed()
    assert vm.read_fail_count(life.node) == 1
    vm.set_meta_attribute("is-managed", None)
    life.wait_failed_over()


def test_a_fault_that_an_operator_has_seen_to(vm: VirtualMachine, life: Life) -> None:
    """A cleanup alone forgets the failure, not the fault: the service is still dead."""
    vm.set_meta_attribute("is-managed", "false")
    vm.kill_httpd(life.node)
    vm.wait_failure()
    vm.run_admin_command("crm_resource", "--cleanup", "-r", "vm1")
    vm.wait_failure()
    life.node.run("vesper", "faults", "clear", "vm1")
    vm.run_admin_command("crm_resource", "--cleanup", "-r", "vm1")
    life.assert_well()
    vm.set_meta_attribute("is-managed", None)
    life.assert_well()
    assert vm.list_faults(life.node)[-1]["ended_by"] == "operator"


def test_a_fault_in_maintenance_fails_over_afterwards(
    vm: VirtualMachine, life: Life, maintenance: Callable[[bool], None]
) -> None:
    """There are no monitors, and Pacemaker is told in no other way."""
    maintenance(True)
    vm.wait_watched(life.node, waiting=False)
    maintenance(False)
    life.assert_well()
    maintenance(True)
    vm.kill_httpd(life.node)
    life.wait_fault()
    time.sleep(QUIET_S)
    life.assert_unharmed()
    assert vm.list_failures() == []
    maintenance(False)
    life.wait_failed_over()


def test_after_maintenance_nothing_waits_for_a_monitor(
    vm: VirtualMachine, life: Life, maintenance: Callable[[bool], None]
) -> None:
    """Its operation is another one then, whose first run Pacemaker waits for with all else."""
    maintenance(True)
    vm.wait_watched(life.node, waiting=False)
    life.node.stop_vesperd(signal.SIGKILL)
    life.node.start_vesperd()
    maintenance(False)
    life.assert_well()


@pytest.mark.parametrize("how", ["--cleanup", "--refresh"])
def test_the_history_is_forgotten(vm: VirtualMachine, life: Life, how: str) -> None:
    command = "crm_resource", how, "-r", "vm1"
    vm.run_admin_command(*command)
    life.assert_well()
    new = life.fail_over()
    vm.run_admin_command(*command)
    new.assert_well()
    new.fail_over()


def test_a_refresh_at_the_moment_of_a_fault(vm: VirtualMachine, life: Life) -> None:
    """The failure may be forgotten before Pacemaker has acted on it: it is told again."""
    refresh = vm.lab.nodes[0].start_command("crm_resource", "--refresh", "-r", "vm1")
    vm.kill_httpd(life.node)
    assert refresh.wait(30) == 0
    life.wait_ended()


def test_moved_banned_and_put_on_standby(vm: VirtualMachine, life: Life) -> None:
    first, second = life.node, vm.other_node(life.node)
    resource = "crm_resource", "-r", "vm1"
    for there, back in (
        ((*resource, "--ban", "-N", first.name), (*resource, "--clear", "-N", first.name)),
        ((*resource, "--move", "-N", first.name), (*resource, "--clear", "-N", first.name)),
        (
            ("crm_standby", "-N", first.name, "-v", "on"),
            ("crm_standby", "-N", first.name, "-D"),
        ),
    ):
        faults = [len(vm.list_faults(node)) for node in vm.lab.nodes]
        vm.run_admin_command(*there)
        life = Life(vm, vm.find_node())
        vm.run_admin_command(*back)
        life.assert_well()
        assert [len(vm.list_faults(node)) for node in vm.lab.nodes] == faults
    assert life.node.name == second.name
    life.fail_over()


def test_a_fault_at_the_moment_of_a_ban(vm: VirtualMachine, life: Life) -> None:
    """It ends with its instance, whichever was first."""
    ban = vm.lab.nodes[0].start_command("crm_resource", "-r", "vm1", "--ban", "-N", life.node.name)
    with contextlib.suppress(ClusterError):  # on a busy machine its guest is gone by now
        vm.kill_httpd(life.node)
    assert ban.wait(30) == 0
    new = Life(vm, vm.wait_moved(life.node))
    vm.run_admin_command("crm_resource", "-r", "vm1", "--clear", "-N", life.node.name)
    time.sleep(QUIET_S)
    new.assert_unharmed()
    assert vm.read_fail_count(new.node) == 0
    assert life.count_faults() <= 1
    assert all(fault["ended"] for fault in vm.list_faults(life.node))
