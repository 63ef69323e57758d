# SPDX-License-Identifier: GPL-2.0-or-later
"""On a node of Pacemaker Remote, which has no Corosync and no controller of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from lab.cluster import ClusterLab
from lab.cluster.node import wait_until
from tests.cluster.support.life import QUIET_S, Life
from tests.cluster.support.vm import VirtualMachine


@pytest.fixture(scope="module")
def lab() -> Iterator[ClusterLab]:
    """One node, and one remote node."""
    with ClusterLab(1, remotes=1) as lab:
        yield lab


def put_on_remote(vm: VirtualMachine) -> Life:
    remote = vm.lab.find_node("remote1")
    if vm.find_node().name != remote.name:
        vm.run_admin_command("crm_resource", "-r", "vm1", "--move", "-N", remote.name)
        vm.run_admin_command("crm_resource", "-r", "vm1", "--clear", "-N", remote.name)
    return Life(vm, remote)


def test_a_fault_is_told_at_once(vm: VirtualMachine) -> None:
    vm.configure_resource()
    life = put_on_remote(vm)
    time.sleep(QUIET_S)
    life.assert_well()
    life.fail_over().assert_unharmed()


def test_what_administrators_do(vm: VirtualMachine) -> None:
    vm.configure_resource()
    life = put_on_remote(vm)
    vm.run_admin_command("crm_resource", "--refresh", "-r", "vm1")
    life.assert_well()
    life.node.run("vesper", "pause", "vm1", "--reason", "backup")
    for _ in wait_until("the pause as a node attribute", 20):
        if "(backup)" in vm.lab.nodes[0].run("crm_mon", "-1A").stdout:
            break
    life.node.run("vesper", "resume", "vm1")
    vm.set_meta_attribute("is-managed", "false")
    vm.kill_httpd(life.node)
    vm.wait_failure()
    time.sleep(QUIET_S)
    life.assert_unharmed()
    vm.set_meta_attribute("is-managed", None)
    life.wait_failed_over()


def test_a_fault_in_a_long_gap_waits_for_the_next_monitor(vm: VirtualMachine) -> None:
    """An asynchronous failure would be refused by the controller."""
    vm.configure_resource(interval="15s", timeout="8s")
    life = put_on_remote(vm)
    vm.wait_watched(life.node, waiting=False)
    vm.kill_httpd(life.node)
    life.wait_failed_over()
