# SPDX-License-Identifier: GPL-2.0-or-later
"""One activation of vm1 through what administrators and accidents do to it."""

from __future__ import annotations

import time

from lab.cluster import Node
from lab.cluster.node import wait_until
from tests.cluster.support.vm import VirtualMachine

#: s in which nothing must happen.
QUIET_S = 3.0


class Life:
    """One activation of vm1, and what was done to it since this object was made."""

    def __init__(self, vm: VirtualMachine, node: Node) -> None:
        vm.wait_watched(node)
        self.vm, self.node = vm, node
        self._domid = vm.find_domid(node)
        self._stops = vm.count_operations(node, "stop")
        self._faults = len(vm.list_faults(node))

    def assert_unharmed(self) -> None:
        """Check that it runs here only, and that nobody stopped it."""
        assert self.vm.find_node().name == self.node.name
        assert self.vm.find_domid(self.node) == self._domid
        assert self.vm.count_operations(self.node, "stop") == self._stops

    def assert_well(self) -> None:
        """Check that it is unharmed, that there is no failure, and that a monitor waits."""
        self.vm.wait_watched(self.node)
        self.assert_unharmed()
        assert self.vm.list_failures() == []

    def count_faults(self) -> int:
        """Return the number of faults since then."""
        return len(self.vm.list_faults(self.node)) - self._faults

    def wait_fault(self) -> None:
        """Wait until a fault is in the journal."""
        for _ in wait_until("the fault in the journal", 20):
            if self.count_faults():
                return

    def wait_ended(self) -> Life:
        """Wait until it was stopped once for one fault, and return the next activation.

        Without a DC at that moment Pacemaker 2.1 recovers in place, and counts nothing.
        """
        for _ in wait_until("the end of the faulty instance", 60):
            faults = self.vm.list_faults(self.node)
            if faults and faults[-1]["ended_by"] == "stop":
                break
        self.vm.wait_settled()
        new = Life(self.vm, self.vm.find_node())
        assert self.count_faults() == 1
        assert self.vm.count_operations(self.node, "stop") == self._stops + 1
        time.sleep(QUIET_S)
        new.assert_unharmed()
        return new

    def wait_failed_over(self) -> Life:
        """Wait until it was stopped once, for one fault, and return that on the other node."""
        new = self.vm.wait_moved(self.node, 60)
        assert self.vm.count_operations(self.node, "stop") == self._stops + 1
        assert self.count_faults() == 1
        fault = self.vm.list_faults(self.node)[-1]
        assert fault["told"] is not None
        assert fault["ended_by"] == "stop"
        (failure,) = self.vm.list_failures()
        assert failure.node == self.node.name
        assert failure.operation.startswith("vm1_monitor_")
        assert failure.reason.startswith("httpd[97] killed by SIGSEGV")
        assert self.vm.read_fail_count(self.node) == 1
        assert self.vm.read_fail_count(new) == 0
        return Life(self.vm, new)

    def fail_over(self) -> Life:
        self.vm.kill_httpd(self.node)
        return self.wait_failed_over()
