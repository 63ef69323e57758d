# SPDX-License-Identifier: GPL-2.0-or-later
"""From a record in the guest's relay channel to a failure in Pacemaker, and the failover."""

from __future__ import annotations

import json
import re
import time

import pytest

from lab.cluster import Node
from lab.cluster.node import wait_until
from tests.cluster.support.vm import VirtualMachine
from vesper_monitor.ocf.fast_common import waiting_time


def test_a_fault_while_a_monitor_waits_fails_over_at_once(vm: VirtualMachine) -> None:
    node = vm.configure()
    vm.wait_watched(node)
    vm.kill_httpd(node)
    vm.wait_moved(node)
    (failure,) = vm.failures()
    assert failure.node == node.name
    assert failure.operation == "vm1_monitor_1000"
    assert failure.reason.startswith("httpd[97] killed by SIGSEGV")
    assert "(service)" in failure.reason
    _why(vm, node)


def _why(vm: VirtualMachine, failed: Node) -> None:
    """The incident in order, and the node attribute."""
    answer = json.loads(failed.run("vesper", "why", "vm1", "--json").stdout)
    assert answer["cluster"] is None
    new = vm.other(failed).name
    steps = [
        ("guest", "SIGSEGV kills httpd[97]"),
        ("vesperd", "fault "),
        ("vesperd", "reported to Pacemaker"),
        (failed.name, "monitor: error"),
        (failed.name, "stop: ok"),
        (new, "start: ok"),
    ]
    said = [(step["where"], step["text"]) for step in answer["steps"]]
    found = [
        next(i for i, (at, text) in enumerate(said) if at == where and text.startswith(start))
        for where, start in steps
    ]
    assert found == sorted(found), said
    for line in ("SIGSEGV kills httpd[97]", "reported to Pacemaker", "start: ok"):
        assert line in failed.run("vesper", "why", "vm1").stdout
    elsewhere = vm.other(failed).run("vesper", "why", "vm1").stdout
    assert f"no fault for this failure; if {failed.name} is another host, ask there" in elsewhere
    for _ in wait_until("the fault as a node attribute", 30):
        shown = failed.run("crm_mon", "-1A").stdout
        if re.search(
            r"vesper-fault-vm1\s*: \S+ \S+ fault \d+: httpd\[97\] killed by SIGSEGV", shown
        ):
            return


def test_an_oom_kill_fails_over(vm: VirtualMachine) -> None:
    node = vm.configure()
    vm.wait_watched(node)
    vm.tell(node, "emit", "out_of_memory", "comm=mysqld")
    vm.wait_moved(node)
    (failure,) = vm.failures()
    assert "mysqld" in failure.reason
    assert "(system)" in failure.reason


def test_one_fault_is_one_failure(vm: VirtualMachine) -> None:
    """However often the guest says it, and however long ago it was."""
    node = vm.configure()
    vm.wait_watched(node)
    vm.kill_httpd(node, "count=20")
    new = vm.wait_moved(node)
    time.sleep(3)  # more monitors have run on the new node meanwhile
    assert vm.fail_count(node) == 1
    assert vm.fail_count(new) == 0
    assert len(vm.failures()) == 1


def test_a_dying_worker_is_no_fault(vm: VirtualMachine) -> None:
    node = vm.configure()
    vm.wait_watched(node)
    vm.kill_httpd(node, "pid=98", "parent_pid=97", "parent_comm=httpd")
    for _ in wait_until("the event in vesperd", 10):
        if "httpd[98]" in node.run("vesper", "events").stdout:
            break
    time.sleep(2)
    assert vm.failures() == []
    assert vm.node().name == node.name


def test_a_fault_in_the_gap_of_a_short_interval_fails_over(vm: VirtualMachine) -> None:
    # Waits 4 s, then a gap of 1 s: told by the next monitor.
    node = vm.configure(interval="1s", timeout="6s")
    vm.wait_watched(node)
    vm.wait_watched(node, waiting=False)
    vm.kill_httpd(node)
    vm.wait_moved(node)
    (failure,) = vm.failures()
    assert failure.reason.startswith("httpd[97] killed by SIGSEGV")
    assert vm.fail_count(node) == 1


def test_a_fault_in_the_gap_of_a_long_interval_fails_over(vm: VirtualMachine) -> None:
    """Pacemaker is told without a monitor."""
    node = vm.configure(interval="300s", timeout="8s")
    vm.wait_watched(node, waiting=False)
    stops = vm.operations(node, "stop")
    vm.kill_httpd(node)
    new = vm.wait_moved(node, 60)
    assert vm.operations(node, "stop") == stops + 1
    # The controller may count an asynchronous failure twice (Pacemaker 2.1).
    assert vm.fail_count(node) in (1, 2)
    faults = node.run("vesper", "faults").stdout
    assert "SIGSEGV" in faults
    vm.wait_watched(new, waiting=False)
    assert vm.fail_count(new) == 0


def test_a_fault_of_an_earlier_instance_touches_no_later_one(vm: VirtualMachine) -> None:
    node = vm.configure()
    vm.wait_watched(node)
    vm.kill_httpd(node)
    new = vm.wait_moved(node)
    # Its journal, read again, must not bring it back either.
    node.stop_vesperd()
    node.start_vesperd()
    new.run("crm_resource", "--cleanup", "-r", "vm1")
    new.run("crm_resource", "-r", "vm1", "--move", "-N", node.name)
    vm.wait_moved(new)
    new.run("crm_resource", "-r", "vm1", "--clear", "-N", node.name)
    vm.settle()
    domid = vm.domid(node)
    vm.wait_watched(node)
    time.sleep(3)
    assert vm.failures() == []
    assert vm.domid(node) == domid


@pytest.mark.parametrize(
    ("words", "code"), [(["state", "crashed"], 1), (["die"], 7)], ids=["crashed", "gone"]
)
def test_the_death_of_the_domain_fails_over(
    vm: VirtualMachine, words: list[str], code: int
) -> None:
    node = vm.configure()
    vm.wait_watched(node)
    vm.tell(node, *words)
    vm.wait_moved(node)
    (failure,) = vm.failures()
    assert failure.code == code
    assert "vm1" in failure.reason
    # It is what `vesper why` tells, and not a fault of before.
    assert vm.faults(node)[-1]["rule"] == "domain_ended"
    why = json.loads(node.run("vesper", "why", "vm1", "--json").stdout)
    assert why["fault"]["reason"] == failure.reason
    said = [step["text"].partition(":")[0] for step in why["steps"] if step["whole"]]
    assert said[:3] == ["monitor", "stop", "start"]


def test_the_first_monitor_returns_at_once(vm: VirtualMachine) -> None:
    """Pacemaker's start transition waits for it."""
    start = time.monotonic()
    node = vm.configure(interval="1s", timeout="60s")
    assert time.monotonic() - start < waiting_time(60)
    assert vm.last_monitor(node) == 0
    vm.wait_watched(node)


def test_a_stop_is_not_delayed_by_a_waiting_monitor(vm: VirtualMachine) -> None:
    node = vm.configure(interval="1s", timeout="120s")
    vm.wait_watched(node)
    start = time.monotonic()
    node.run("crm_resource", "-r", "vm1", "--meta", "-p", "target-role", "-v", "Stopped")
    vm.settle()
    assert time.monotonic() - start < waiting_time(120) / 4
    assert vm.on() == []
    assert vm.failures() == []
