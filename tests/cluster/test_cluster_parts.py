# SPDX-License-Identifier: GPL-2.0-or-later
"""Parts of Pacemaker die, or the whole cluster is restarted, while a VM runs."""

from __future__ import annotations

from lab.cluster import Node
from lab.cluster.node import wait_until
from tests.cluster.support.life import Life
from tests.cluster.support.vm import VirtualMachine

EXECUTOR = "/usr/lib/pacemaker/pacemaker-execd"
CONTROLLER = "/usr/lib/pacemaker/pacemaker-controld"


def dc(vm: VirtualMachine) -> Node:
    """The node that is the cluster's designated controller."""
    for _ in wait_until("a DC", 60):
        for node in vm.lab.nodes:
            status = vm.lab.read_status(node) if node.is_running() else None
            found = status.find("./summary/current_dc") if status is not None else None
            if found is not None and found.get("present") == "true":
                return vm.lab.find_node(str(found.get("name")))
    raise AssertionError


def wait_online(vm: VirtualMachine) -> None:
    for _ in wait_until("all nodes online", 60, 0.2):
        if len(vm.lab.list_online()) == len(vm.lab.nodes):
            return


def test_the_cluster_is_restarted_below_a_running_vm(vm: VirtualMachine, life: Life) -> None:
    def restart() -> None:
        for node in vm.lab.nodes:
            node.start_cluster()
        wait_online(vm)
        vm.run_admin_command("crm_attribute", "--name", "maintenance-mode", "--delete")

    def stop() -> None:
        vm.run_admin_command("crm_attribute", "--name", "maintenance-mode", "--update", "true")
        for node in vm.lab.nodes:
            node.stop_cluster()

    stop()
    restart()
    life.assert_well()
    stop()
    vm.kill_httpd(life.node)
    life.wait_fault()
    restart()
    life.wait_failed_over()


def test_the_controller_of_its_node_is_killed(vm: VirtualMachine, life: Life) -> None:
    """It is started again within a second, and looks for what runs."""
    life.node.kill_daemon(CONTROLLER)
    wait_online(vm)
    life.assert_well()
    # What is found meanwhile is held.
    life.node.kill_daemon(CONTROLLER)
    vm.kill_httpd(life.node)
    wait_online(vm)
    life.wait_ended()


def test_the_executor_of_its_node_is_killed(vm: VirtualMachine, life: Life) -> None:
    """With it the monitor that waits."""
    life.node.kill_daemon(EXECUTOR)
    wait_online(vm)
    life.assert_well()
    life.node.kill_daemon(EXECUTOR)
    vm.kill_httpd(life.node)
    wait_online(vm)
    life.wait_ended()


def test_the_dc_is_lost(vm: VirtualMachine, life: Life) -> None:
    """By a power cut, while the VM on the other node has a fault."""
    if dc(vm).name == life.node.name:
        life.node.kill_daemon(CONTROLLER)
        wait_online(vm)
        life.assert_well()
    lost = dc(vm)
    assert lost.name != life.node.name
    lost.cut_power()
    vm.kill_httpd(life.node)
    for _ in wait_until("the end of the faulty instance", 60):
        if vm.list_faults(life.node)[-1]["ended_by"] == "stop":
            break
    new = vm.lab.power_on(lost)
    wait_online(vm)
    new.start_vesperd()
    life.wait_ended()
