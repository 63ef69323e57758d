# SPDX-License-Identifier: GPL-2.0-or-later
"""Parameters that are changed while the VM runs."""

from __future__ import annotations

from lab.cluster.node import wait_until
from tests.cluster.vm import VirtualMachine


def test_services_are_changed_without_a_restart(vm: VirtualMachine) -> None:
    node = vm.configure()
    vm.wait_watched(node)
    domid = vm.domid(node)
    reloads = vm.operations(node, "reload-agent")
    node.run("crm_resource", "-r", "vm1", "-p", "services", "-v", "nginx")
    for _ in wait_until("vesperd knows of it", 20):
        if vm.status(node).get("services") == ["nginx"]:
            break
    vm.settle()
    assert vm.domid(node) == domid
    assert vm.failures() == []
    assert vm.operations(node, "reload-agent") == reloads + 1
    vm.wait_watched(node)
    # What was the service is none any more; what is now, is.
    vm.kill_httpd(node)
    for _ in wait_until("the event in vesperd", 10):
        if "httpd[97]" in node.run("vesper", "events").stdout:
            break
    assert vm.failures() == []
    vm.tell(node, "emit", "send_signal", "sig=11", "comm=nginx", "fatal=1")
    vm.wait_moved(node)
    (failure,) = vm.failures()
    assert failure.reason.startswith("nginx[97] killed by SIGSEGV")


def test_probes_are_changed_without_a_restart(vm: VirtualMachine) -> None:
    node = vm.configure()
    vm.wait_watched(node)
    domid = vm.domid(node)
    node.run("crm_resource", "-r", "vm1", "-p", "probes", "-v", "out_of_memory")
    for _ in wait_until("one probe is left", 20):
        probes = [probe["name"] for probe in vm.status(node).get("probes", [])]
        if probes == ["out_of_memory"]:
            break
    vm.settle()
    assert vm.domid(node) == domid
    assert vm.failures() == []


def test_another_name_is_another_domain(vm: VirtualMachine) -> None:
    """xmfile and name cannot be reloaded: Pacemaker restarts."""
    node = vm.configure()
    starts, reloads = (vm.operations(node, action) for action in ("start", "reload-agent"))
    node.run("crm_resource", "-r", "vm1", "-p", "name", "-v", "vm1")
    for _ in wait_until("a restart", 30):
        if vm.operations(node, "start") > starts:
            break
    vm.settle()
    assert vm.operations(node, "reload-agent") == reloads
