# SPDX-License-Identifier: GPL-2.0-or-later
"""Parameters that are changed while the VM runs."""

from __future__ import annotations

import pytest

from lab.cluster.node import wait_until
from tests.cluster.support.vm import VirtualMachine


def test_services_are_changed_without_a_restart(vm: VirtualMachine) -> None:
    node = vm.configure_resource()
    vm.wait_watched(node)
    domid = vm.find_domid(node)
    reloads = vm.count_operations(node, "reload-agent")
    node.run("crm_resource", "-r", "vm1", "-p", "services", "-v", "nginx")
    for _ in wait_until("vesperd knows of it", 20):
        if vm.read_status(node).get("services") == ["nginx"]:
            break
    vm.wait_settled()
    assert vm.find_domid(node) == domid
    assert vm.list_failures() == []
    assert vm.count_operations(node, "reload-agent") == reloads + 1
    vm.wait_watched(node)
    # What was the service is none any more; what is now, is.
    vm.kill_httpd(node)
    for _ in wait_until("the event in vesperd", 10):
        if "httpd[97]" in node.run("vesper", "events").stdout:
            break
    assert vm.list_failures() == []
    vm.tell_guest(node, "emit", "send_signal", "sig=11", "comm=nginx", "fatal=1")
    vm.wait_moved(node)
    (failure,) = vm.list_failures()
    assert failure.reason.startswith("nginx[97] killed by SIGSEGV")


def test_probes_are_changed_without_a_restart(vm: VirtualMachine) -> None:
    node = vm.configure_resource()
    vm.wait_watched(node)
    domid = vm.find_domid(node)
    node.run("crm_resource", "-r", "vm1", "-p", "probes", "-v", "out_of_memory")
    for _ in wait_until("one probe is left", 20):
        probes = [probe["name"] for probe in vm.read_status(node).get("probes", [])]
        if probes == ["out_of_memory"]:
            break
    vm.wait_settled()
    assert vm.find_domid(node) == domid
    assert vm.list_failures() == []


RIGHT = {"fault_on": "send_signal: default", "services": "httpd"}


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("fault_on", "send_signal: fatl", "fault_on: line 1, column 14"),
        ("services", "httpd verylongservicename-x", "write verylongservice"),
    ],
    ids=["fault_on", "services"],
)
def test_a_mistake_in_what_is_watched_is_no_outage(
    vm: VirtualMachine, name: str, value: str, words: str
) -> None:
    """A 6 would stop the healthy VM on all nodes; the next start would fail, too."""
    node = vm.configure_resource()
    vm.wait_watched(node)
    domid, stops = vm.find_domid(node), vm.count_operations(node, "stop")
    node.run("crm_resource", "-r", "vm1", "-p", name, "-v", value)
    failure = vm.wait_failure()
    vm.wait_settled()
    assert failure.code == 190
    assert words in failure.reason
    assert (vm.find_domid(node), vm.count_operations(node, "stop"), vm.read_fail_count(node)) == (
        domid,
        stops,
        0,
    )
    # What was in force still is, and where it is started next the mistake is none either.
    assert words in vm.read_status(node)["degraded"]
    vm.kill_httpd(node)
    new = vm.wait_moved(node)
    assert vm.read_fail_count(node) == 1
    domid = vm.find_domid(new)
    new.run("crm_resource", "-r", "vm1", "-p", name, "-v", RIGHT[name])
    for _ in wait_until("a monitor without complaint", 60):
        if vm.read_last_monitor(new) == 0 and vm.read_status(new)["degraded"] is None:
            break
    # (Pacemaker forgets failures of a resource whose parameters change.)
    for _ in wait_until("nothing degraded is on record", 60):
        if all(failure.code != 190 for failure in vm.list_failures()):
            break
    assert vm.find_domid(new) == domid


def test_another_name_is_another_domain(vm: VirtualMachine) -> None:
    """xmfile and name cannot be reloaded: Pacemaker restarts."""
    node = vm.configure_resource()
    starts, reloads = (vm.count_operations(node, action) for action in ("start", "reload-agent"))
    node.run("crm_resource", "-r", "vm1", "-p", "name", "-v", "vm1")
    for _ in wait_until("a restart", 30):
        if vm.count_operations(node, "start") > starts:
            break
    vm.wait_settled()
    assert vm.count_operations(node, "reload-agent") == reloads
