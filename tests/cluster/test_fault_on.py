# SPDX-License-Identifier: GPL-2.0-or-later
"""The parameter fault_on says what Pacemaker is told."""

from __future__ import annotations

from lab.cluster import Node
from lab.cluster.node import wait_until
from tests.cluster.support.vm import XMFILE, VirtualMachine

#: As a user would write them: blanks, quotes, a semicolon.
RULES = 'send_signal: service == "httpd" and sig == 10; out_of_memory: comm == "cron", 2 in 1h'


def wait_event(node: Node, text: str) -> None:
    for _ in wait_until(f"the event {text}", 20):
        if text in node.run("vesper", "events").stdout:
            return


def test_rules_are_heeded_and_reloaded(vm: VirtualMachine) -> None:
    node = vm.configure_resource(params=(f"fault_on={RULES}",))
    vm.wait_watched(node)
    assert vm.read_status(node)["fault_on"] == RULES
    # What is a fault by default is none now: the signal, and the first OOM kill.
    vm.kill_httpd(node)
    vm.tell_guest(node, "emit", "out_of_memory", "comm=cron", "pid=811")
    wait_event(node, "httpd[97]")
    wait_event(node, "cron[811]")
    vm.wait_settled()
    assert vm.list_failures() == []
    tried = node.run("vesper", "rules", "check", "--vm", "vm1", "-e", "send_signal: default")
    assert "httpd[97] killed by SIGSEGV" in tried.stdout
    advice = node.run("vesper", "advise", "vm1").stdout
    assert "out-of-memory: " in advice
    assert "it is on record once" in advice
    assert "[[symptom]]" in node.run("cat", "/usr/share/vesper/knowledge/symptoms.toml").stdout

    # A wrong text is refused with its place.
    wrong = node.run(
        "crm_resource", "--validate", "--class", "ocf", "--provider", "vesper",
        "--agent", "XenVM", "--option", f"xmfile={XMFILE}",
        "--option", "fault_on=send_signal: fatl", check=False,
    )  # fmt: skip
    assert "line 1, column 14: send_signal has no field fatl" in wrong.stdout + wrong.stderr

    domid, reloads = vm.find_domid(node), vm.count_operations(node, "reload-agent")
    changed = 'send_signal: none; out_of_memory: comm in ["cron", "at"]'
    node.run("crm_resource", "-r", "vm1", "-p", "fault_on", "-v", changed)
    for _ in wait_until("vesperd knows of it", 20):
        if vm.read_status(node).get("fault_on") == changed:
            break
    vm.wait_settled()
    assert (vm.find_domid(node), vm.list_failures()) == (domid, [])
    assert vm.count_operations(node, "reload-agent") == reloads + 1
    vm.wait_watched(node)
    vm.tell_guest(node, "emit", "out_of_memory", "comm=cron", "pid=812")
    vm.wait_moved(node)
    (failure,) = vm.list_failures()
    assert failure.reason.startswith("out of memory: cron[812]")
