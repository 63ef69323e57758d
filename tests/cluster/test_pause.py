# SPDX-License-Identifier: GPL-2.0-or-later
"""A pause of watching, as the cluster sees it."""

from __future__ import annotations

import time

from lab.cluster import Node
from lab.cluster.node import wait_until
from tests.cluster.support.vm import VirtualMachine


def attribute(node: Node) -> str:
    """What crm_mon shows of the pause; empty: nothing."""
    shown = node.run("crm_mon", "-1", "-A").stdout
    lines = [line for line in shown.splitlines() if "vesper-pause-vm1" in line]
    return lines[0].split(":", 1)[1].strip() if lines else ""


def wait_attribute(node: Node, *, there: bool) -> str:
    for _ in wait_until(f"node attribute of the pause, there={there}", 20):
        if bool(shown := attribute(node)) is there:
            return shown
    raise AssertionError


def test_nothing_is_reported_until_it_ends(vm: VirtualMachine) -> None:
    node = vm.configure_resource()
    vm.wait_watched(node)
    domid = vm.find_domid(node)
    node.run("vesper", "pause", "vm1", "--for", "10m", "--reason", "Größe")
    try:
        # Pacemaker shows nothing that is not ASCII, so it is escaped.
        assert r"(Gr\xf6\xdfe)" in wait_attribute(vm.other_node(node), there=True)
        node.stop_vesperd()
        node.start_vesperd()
        vm.wait_watched(node)
        vm.kill_httpd(node)
        for _ in wait_until("the fault in the journal", 10):
            if "ended by pause of watching" in node.run("vesper", "faults").stdout:
                break
        time.sleep(2)
        assert vm.list_failures() == []
        assert vm.find_domid(node) == domid
    finally:
        node.run("vesper", "resume", "vm1")
    wait_attribute(vm.other_node(node), there=False)
    assert vm.list_failures() == []
    vm.kill_httpd(node)
    vm.wait_moved(node)
    assert vm.read_fail_count(node) == 1


def test_it_ends_by_itself(vm: VirtualMachine) -> None:
    node = vm.configure_resource()
    vm.wait_watched(node)
    node.run("vesper", "pause", "vm1", "--for", "5s")
    wait_attribute(node, there=True)
    wait_attribute(node, there=False)
    vm.kill_httpd(node)
    vm.wait_moved(node)
