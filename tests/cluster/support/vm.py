# SPDX-License-Identifier: GPL-2.0-or-later
"""One VM of a stand-in guest as a resource of the cluster lab."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from typing import Any

from lab import idle
from lab.cluster import ClusterLab, Node
from lab.cluster.node import wait_until

XMFILE = "/etc/xen/vm1.cfg"
#: Seconds for anything that should happen soon, on a busy machine.
SOON_S = 20.0


@dataclass(frozen=True)
class Failure:
    """A failed operation as ``crm_mon`` shows it."""

    node: str
    operation: str
    code: int
    reason: str


def forget_fail_count(lab: ClusterLab, resource: str) -> None:
    """Delete the fail-count of a resource's monitor, also where no tool shows it.

    When the DC has lost a node it removes that one's attributes from the CIB,
    while pacemaker-attrd keeps them, and may bring a fail-count back.
    """
    count = f"fail-count-{resource}#monitor_1000"
    for node in lab.nodes:
        lab.nodes[0].run("attrd_updater", "-D", "-n", count, "-N", node.name, check=False)


class VirtualMachine:
    """Resource and domain ``vm1``."""

    def __init__(self, lab: ClusterLab) -> None:
        self.lab = lab

    # -- configuration --------------------------------------------------------

    def configure_resource(
        self,
        *,
        interval: str = "1s",
        timeout: str = "600s",  # as advised: nothing else may wait for a monitor
        extra: str = "",
        threshold: int = 1,
        params: tuple[str, ...] = (),
        meta: tuple[str, ...] = (),
        operations: tuple[str, ...] = (),
    ) -> Node:
        """Add the resource, as a user would.

        :param extra: the guest's command line, see lab.standin.
        :param params: more of the agent's, ``name=value``; likewise ``meta``.
        :param operations: words for crmsh, of another monitor.
        :returns: the node it runs on.
        """
        for node in self.lab.nodes:
            node.write_file(XMFILE, f'name = "vm1"\nmemory = 64\nextra = "{extra}"\n')
        # fmt: off
        self.lab.nodes[0].run(
            "crm", "-F", "configure", "primitive", "vm1", "ocf:vesper:XenVM",
            "params", f"xmfile={XMFILE}", "services=httpd", *params,
            "op", "monitor", f"interval={interval}", f"timeout={timeout}",
            *operations,
            "op", "start", "timeout=60s", "op", "stop", "timeout=60s",
            "meta", f"migration-threshold={threshold}", "resource-stickiness=100", *meta,
            timeout=60,
        )
        # fmt: on
        self.wait_settled()
        return self.find_node()

    def remove_resource(self) -> None:
        first = self.lab.nodes[0]
        for node in self.lab.nodes:
            if not node.vesperd_pids():
                node.start_vesperd()
        if first.run("crm_resource", "-r", "vm1", "-q", "-W", check=False).returncode != 6:
            first.run("crm_resource", "-r", "vm1", "--meta", "-p", "target-role", "-v", "Stopped",
                      check=False)  # fmt: skip
            first.run("crm_resource", "--cleanup", "-r", "vm1", check=False)
            self.wait_settled()
            first.run("crm", "-F", "configure", "delete", "vm1", check=False, timeout=60)
            first.run("crm_resource", "--cleanup", check=False)
            forget_fail_count(self.lab, "vm1")
            self.wait_settled()
        for node in self.lab.nodes:
            node.run("xl", "destroy", "vm1", check=False)

    def wait_settled(self) -> None:
        """Wait until the cluster has nothing to do."""
        self.lab.nodes[0].run("sh", "-c", idle.COMMAND, timeout=idle.LIMIT_S + 10)

    # -- where, and how -------------------------------------------------------

    def list_nodes(self) -> list[Node]:
        """Return the nodes on which the domain runs, by their toolstacks."""
        return [node for node in self.lab.nodes if self.find_domid(node) is not None]

    def find_node(self) -> Node:
        """Wait until it runs on one node, and return that."""
        for _ in wait_until("vm1 on one node", SOON_S):
            nodes = self.list_nodes()
            if len(nodes) == 1:
                return nodes[0]
        raise AssertionError

    def other_node(self, node: Node) -> Node:
        (other,) = (n for n in self.lab.nodes if n.name != node.name)
        return other

    def find_domid(self, node: Node) -> int | None:
        found = node.run("xl", "domid", "vm1", check=False)
        return int(found.stdout) if found.returncode == 0 else None

    def wait_moved(self, old: Node, timeout: float = SOON_S) -> Node:
        """Wait until it runs on the other node, and not any more on the old one."""
        new = self.other_node(old)
        for _ in wait_until(f"vm1 on {new.name} instead of {old.name}", timeout):
            if [n.name for n in self.list_nodes()] == [new.name]:
                self.wait_settled()
                return new
        raise AssertionError

    # -- the guest --------------------------------------------------------------

    def tell_guest(self, node: Node, *words: str) -> None:
        node.run("python3", "-m", "lab.standin", "tell", "vm1", *words)

    def kill_httpd(self, node: Node, *more: str) -> None:
        """Let the guest's kernel kill httpd by SIGSEGV."""
        self.tell_guest(node, "emit", "send_signal", "sig=11", "comm=httpd", "fatal=1", *more)

    # -- vesperd ------------------------------------------------------------------

    def read_status(self, node: Node) -> dict[str, Any]:
        """Return vm1's row of ``vesper status``; empty if there is none."""
        answer = json.loads(node.run("vesper", "status", "--json").stdout)
        for vm in answer["vms"]:
            if vm["vm"] == "vm1":
                return dict(vm)
        return {}

    def wait_watched(self, node: Node, *, waiting: bool = True, limit: float = SOON_S) -> None:
        """Wait until both probes collect, and a monitor waits (or none does)."""
        for _ in wait_until(f"{node.name}: vm1 watched, waiting={waiting}", limit):
            status = self.read_status(node)
            probes = status.get("probes", [])
            if len(probes) == 2 and status["degraded"] is None and status["waiting"] is waiting:
                return

    def list_faults(self, node: Node) -> list[dict[str, Any]]:
        """Return all faults of vm1 in that node's journal."""
        command = "vesper", "faults", "--vm", "vm1", "-n", "1000", "--json"
        return list(json.loads(node.run(*command).stdout))

    # -- Pacemaker ------------------------------------------------------------------

    def run_admin_command(self, *words: str, timeout: float = 60.0) -> None:
        """Run a command in the first node, and wait until the cluster has reacted to it."""
        self.lab.nodes[0].run(*words, timeout=timeout)
        self.wait_settled()

    def set_meta_attribute(self, name: str, value: str | None) -> None:
        """Set a meta attribute of the resource, or delete it if the value is None."""
        change = ("-d", name) if value is None else ("-p", name, "-v", value)
        self.run_admin_command("crm_resource", "-r", "vm1", "--meta", *change)

    def list_failures(self) -> list[Failure]:
        status = self.lab.read_status()
        assert status is not None
        return [
            Failure(
                str(f.get("node")),
                str(f.get("op_key")),
                int(f.get("exitcode") or f.get("exitstatus") or -1),
                str(f.get("exitreason")),
            )
            for f in status.iter("failure")
        ]

    def wait_failure(self, timeout: float = SOON_S) -> Failure:
        """Wait for a failure, and return the first."""
        for _ in wait_until("a failure in crm_mon", timeout):
            failures = self.list_failures()
            if failures:
                return failures[0]
        raise AssertionError

    def read_fail_count(self, node: Node) -> int:
        status = self.lab.read_status()
        assert status is not None
        path = f"./node_history/node[@name='{node.name}']/resource_history[@id='vm1']"
        history = status.find(path)
        return int(history.get("fail-count") or 0) if history is not None else 0

    def count_operations(self, node: Node, action: str) -> int:
        """Return how often Pacemaker ran an action of vm1 on a node, by its log."""
        log = node.pacemaker_log.read_text(errors="replace")
        return len(re.findall(rf"executing - rsc:vm1 action:{action} ", log))

    def read_last_monitor(self, node: Node) -> int | None:
        """Return the exit code of the recurring monitor that Pacemaker heard of last.

        (``crm_mon`` mixes it with the last failure, which stays until a cleanup.)
        """
        done = node.run(
            "cibadmin", "-Q", "--xpath", f"//node_state[@uname='{node.name}']", check=False
        )
        if done.returncode != 0:
            return None
        for operation in ElementTree.fromstring(done.stdout).iter("lrm_rsc_op"):
            recurring = operation.get("interval") != "0"
            if str(operation.get("id")).startswith("vm1_monitor_") and recurring:
                return int(operation.get("rc-code") or -1)
        return None
