# SPDX-License-Identifier: GPL-2.0-or-later
"""Whose domain it is, and a second monitor, under a real Pacemaker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.cluster import Node
from lab.cluster.node import wait_until
from tests.cluster.support.vm import XMFILE, VirtualMachine

#: What the second monitor notes, and the waiting one looks after.
NOTE = "/run/resource-agents/vesper-vm1.deep"
#: Seconds of its interval.
INTERVAL_S = 3


@pytest.fixture
def web(vm: VirtualMachine) -> Iterator[VirtualMachine]:
    """Domain vm1 as the resource ``web``."""
    first = vm.lab.nodes[0]
    for node in vm.lab.nodes:
        node.write_file(XMFILE, 'name = "vm1"\nmemory = 64\n')
    # fmt: off
    first.run(
        "crm", "-F", "configure", "primitive", "web", "ocf:vesper:XenVM",
        "params", f"xmfile={XMFILE}", "services=httpd",
        "op", "monitor", "interval=1s", "timeout=600s",
        "op", "start", "timeout=60s", "op", "stop", "timeout=60s",
        timeout=60,
    )
    # fmt: on
    vm.wait_settled()
    try:
        yield vm
    finally:
        first.run("crm_resource", "-r", "web", "--meta", "-p", "target-role", "-v", "Stopped",
                  check=False)  # fmt: skip
        vm.wait_settled()
        first.run("crm", "-F", "configure", "delete", "web", check=False, timeout=60)
        first.run("crm_resource", "--refresh", check=False)
        vm.wait_settled()


def test_the_configuration_file_vanishes(web: VirtualMachine) -> None:
    """The VM ran on two nodes then: its name is not the resource's id."""
    node = web.find_node()
    domid = web.find_domid(node)
    web.wait_watched(node)
    for each in web.lab.nodes:
        each.run("mv", XMFILE, f"{XMFILE}.away")
    try:
        node.run("crm_resource", "--refresh", "-r", "web")
        web.wait_settled()
        web.wait_watched(node)
        assert [each.name for each in web.list_nodes()] == [node.name]
        assert web.find_domid(node) == domid
        assert web.list_failures() == []
    finally:
        for each in web.lab.nodes:
            each.run("mv", f"{XMFILE}.away", XMFILE)


def looked_at(node: Node) -> float:
    """When somebody has done the second monitor's look last; s, CLOCK_BOOTTIME."""
    words = node.run("cat", NOTE, check=False).stdout.split()
    return float(words[3]) if len(words) > 4 else 0.0


def test_a_second_monitor_beside_one_that_waits(vm: VirtualMachine) -> None:
    """Pacemaker runs one of them at a time, and the first one stays for ten minutes."""
    deep = f"op monitor interval={INTERVAL_S}s timeout=30s OCF_CHECK_LEVEL=10"
    node = vm.configure_resource(operations=tuple(deep.split()))
    seen: set[float] = set()
    for _ in wait_until("four looks of the second monitor", 60):
        seen |= {looked_at(node)} - {0.0}
        if len(seen) >= 4:
            break
    assert vm.list_failures() == []
    assert vm.read_status(node)["waiting"]
