# SPDX-License-Identifier: GPL-2.0-or-later
"""What is broken in a round."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass

from lab.cluster import ClusterError, ClusterLab

__all__ = ["KINDS", "Break"]

DAEMONS = ("controld", "execd", "attrd", "based", "fenced", "schedulerd")

#: What may break, and how often relative to each other. The daemons: killed,
#: pacemakerd starts them again. pacemakerd: killed, the system's manager starts
#: it again. stack: all of these at once. corosync: likewise. cut: the node's
#: cable is pulled for some seconds. power: as it says; it comes back.
KINDS = {
    "controld": 6, "execd": 6, "attrd": 1, "based": 1, "fenced": 1, "schedulerd": 1,
    "pacemakerd": 2, "stack": 2, "corosync": 3, "cut": 5, "power": 2,
}  # fmt: skip


@dataclass(frozen=True)
class Break:
    kind: str  #: of :data:`KINDS`
    node: str
    seconds: float = 0.0  #: how long the cable is out

    def __str__(self) -> str:
        return f"{self.kind} {self.node}" + (f" {self.seconds:.1f} s" if self.seconds else "")

    @property
    def of_node(self) -> bool:
        """The others may lose the whole node, and Pacemaker then fences it."""
        return self.kind not in DAEMONS

    def do(self, lab: ClusterLab) -> None:
        """Do it, and undo what is undone. What is dead already is no error."""
        assert lab.power is not None
        node = lab.find_node(self.node)
        with contextlib.suppress(ClusterError):
            match self.kind:
                case "cut":
                    lab.cut_off(node)
                    time.sleep(self.seconds)
                    lab.reconnect_node(lab.find_node(self.node))
                case "power":
                    lab.power.handle_request("reboot", self.node)
                case "stack":
                    node.kill_daemon("(pacemakerd|/usr/lib/pacemaker/pacemaker-[a-z]*)")
                case "pacemakerd" | "corosync":
                    node.kill_daemon(self.kind)
                case _:
                    node.kill_daemon(f"/usr/lib/pacemaker/pacemaker-{self.kind}")
