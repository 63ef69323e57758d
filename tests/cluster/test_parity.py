# SPDX-License-Identifier: GPL-2.0-or-later
"""What users of the stock agent rely on, under a real Pacemaker."""

from __future__ import annotations

import time

from lab.cluster.node import wait_until
from tests.cluster.support.vm import VirtualMachine


def test_a_monitor_script_fails_the_vm_over(vm: VirtualMachine) -> None:
    for node in vm.lab.nodes:
        node.write_file(
            "/etc/xen/check", "#!/bin/sh\n[ ! -e /run/broken ] || { echo 503; exit 1; }\n"
        )
        node.host_path("/etc/xen/check").chmod(0o755)
    node = vm.configure_resource(
        params=("monitor_scripts=/etc/xen/check", "monitor_scripts_interval=2",
                "monitor_scripts_timeout=3"),
    )  # fmt: skip
    vm.wait_watched(node)
    node.run("touch", "/run/broken")
    try:
        vm.wait_moved(node, 60)
        (failure,) = vm.list_failures()
        assert failure.reason == "monitor script /etc/xen/check exit status 1: 503"
        assert vm.read_fail_count(node) == 1
    finally:
        node.run("rm", "/run/broken")


def test_a_stop_waits_for_no_script_and_leaves_none(vm: VirtualMachine) -> None:
    for node in vm.lab.nodes:
        script = "#!/bin/sh\n[ -e /run/started ] || exit 0\nexec sleep 4242\n"
        node.write_file("/etc/xen/check", script)
        node.host_path("/etc/xen/check").chmod(0o755)
    node = vm.configure_resource(
        params=("monitor_scripts=/etc/xen/check", "monitor_scripts_interval=1",
                "monitor_scripts_timeout=20"),
        timeout="60s",
    )  # fmt: skip
    vm.wait_watched(node)
    node.run("touch", "/run/started")
    try:
        for _ in wait_until("a script that runs", 20):
            if "sleep 4242" in node.run("ps", "ax").stdout:
                break
        start = time.monotonic()
        node.run("crm_resource", "-r", "vm1", "--meta", "-p", "target-role", "-v", "Stopped")
        vm.wait_settled()
        assert time.monotonic() - start < 15
        assert vm.list_nodes() == []
        assert vm.list_failures() == []
        assert "sleep 4242" not in node.run("ps", "ax").stdout
    finally:
        node.run("rm", "/run/started")


def test_a_crashed_domain_is_not_asked_to_shut_down(vm: VirtualMachine) -> None:
    node = vm.configure_resource()
    vm.wait_watched(node)
    vm.tell_guest(node, "state", "crashed")
    vm.wait_moved(node)
    log = node.pacemaker_log.read_text(errors="replace")
    assert "vm1: is crashed, no shutdown" in log


def test_a_fault_of_the_service_leaves_the_guest_to_shut_down(vm: VirtualMachine) -> None:
    node = vm.configure_resource()
    vm.wait_watched(node)
    vm.kill_httpd(node)
    vm.wait_moved(node)
    log = node.pacemaker_log.read_text(errors="replace")
    assert "vm1: the system inside still runs and is shut down: httpd[97] killed" in log


def test_a_fault_of_the_system_does_not(vm: VirtualMachine) -> None:
    node = vm.configure_resource()
    vm.wait_watched(node)
    vm.tell_guest(node, "emit", "out_of_memory", "comm=init", "pid=1")
    vm.wait_moved(node)
    log = node.pacemaker_log.read_text(errors="replace")
    assert "vm1: not shut down, the system inside is gone: out of memory: init[1]" in log
