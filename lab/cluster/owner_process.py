# SPDX-License-Identifier: GPL-2.0-or-later
"""The process that owns a lab of namespace nodes, brought up from the command line.

The lab dies with it.  It ends on SIGTERM, and powers a node on when it finds
a file ``NODE/power-on`` in the lab's folder (only the owner of a node can
start it).  It is ``python3 -m lab.cluster.owner_process NODES``, and for the KVM lab
:mod:`lab.kvm.owner_process`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from lab.cluster.lab import STATE, ClusterLab
from lab.cluster.node import ClusterError, Node, wait_until

__all__ = ["LabOwner"]

_POLL_INTERVAL_S = 0.1


class LabOwner:
    """The owner process of one lab, as seen from the command line.

    :param name: of the lab: ``cluster`` or ``kvm``.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        #: PID of the owner process, and the nodes; exists while the lab is up
        self.file = STATE / f"{name}.json"
        self.log = STATE / f"{name}.log"
        self._module = f"lab.{name}.owner_process"

    def _find_owner_pid(self) -> int | None:
        """Return the PID of the owner process; None: it does not run."""
        try:
            pid = int(json.loads(self.file.read_text())["pid"])
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError, KeyError):
            return None
        return pid if f"{self._module}\0".encode() in command else None

    def attach_to_lab(self) -> list[Node]:
        """Return the nodes of the lab that is up.

        :raises ClusterError: no lab is up.
        """
        if self._find_owner_pid() is None:
            raise ClusterError(
                f"the lab is not up; bring it up with: python3 -m lab {self.name} up"
            )
        nodes = json.loads(self.file.read_text())["nodes"]
        return [Node(n["name"], n["number"], Path(n["directory"]), n["init"]) for n in nodes]

    def find_node(self, name: str, *, running: bool = True) -> Node:
        """Return the node of that name.

        :param running: require that it runs.
        :raises ClusterError: there is no such node, or it is off and must run.
        """
        nodes = self.attach_to_lab()
        for node in nodes:
            if node.name == name:
                if running and not node.is_running():
                    raise ClusterError(
                        f"{name} is off; start it: python3 -m lab {self.name} start {name}"
                    )
                return node
        raise ClusterError(f"no node {name}; there are {', '.join(n.name for n in nodes)}")

    def bring_lab_up(self, nodes: int, timeout: float) -> None:
        """Start the owner process and wait until its lab is up; show its progress.

        :raises ClusterError: the lab is up already, or it does not come up.
        """
        if self._find_owner_pid() is not None:
            raise ClusterError(
                f"the lab is up already; take it down with: python3 -m lab {self.name} down"
            )
        STATE.mkdir(parents=True, exist_ok=True)
        self.file.unlink(missing_ok=True)
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", self._module, str(nodes)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=Path(__file__).parents[2],
            )
        try:
            with self.log.open(errors="replace") as progress:
                what = f"{self.name} lab up (see {self.log})"
                for _ in wait_until(what, timeout, _POLL_INTERVAL_S):
                    sys.stderr.write(progress.read())
                    if self.file.exists():
                        break
                    if process.poll() is not None:
                        raise ClusterError(f"the lab does not come up:\n{progress.read()}")
        except BaseException:
            if process.poll() is None:
                process.terminate()
                process.wait(20)
            raise

    def take_lab_down(self) -> bool:
        """End the owner process, and with it the lab; return False if it was not up."""
        pid = self._find_owner_pid()
        if pid is None:
            return False
        os.kill(pid, signal.SIGTERM)
        for _ in wait_until("end of the lab", 30):
            if self._find_owner_pid() is None:
                break
        return True

    def power_node_on(self, node: Node) -> None:
        """Have the owner process start a node that is off."""
        if node.is_running():
            raise ClusterError(f"{node.name} runs")
        (node.directory / "power-on").touch()
        for _ in wait_until(f"{node.name}: start", 30):
            if any(n.name == node.name and n.init != node.init for n in self.attach_to_lab()):
                return

    # -- the process itself ----------------------------------------------------

    def own_lab_until_sigterm(self, make_lab: Callable[[int], ClusterLab], count: int) -> None:
        """Bring up a lab of ``count`` nodes and keep it until SIGTERM."""
        signal.signal(signal.SIGTERM, _exit_on_signal)
        try:
            with make_lab(count) as lab:
                self._write_state(lab)
                while True:
                    time.sleep(_POLL_INTERVAL_S)
                    for node in list(lab.nodes):
                        wish = node.directory / "power-on"
                        if wish.exists():
                            wish.unlink()
                            new = lab.power_on(node)
                            self._write_state(lab)
                            lab.start_services(new)
        finally:
            self.file.unlink(missing_ok=True)

    def _write_state(self, lab: ClusterLab) -> None:
        nodes = [
            {"name": n.name, "number": n.number, "directory": str(n.directory), "init": n.init}
            for n in lab.nodes
        ]
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps({"pid": os.getpid(), "nodes": nodes}))
        new.rename(self.file)


def _exit_on_signal(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)


if __name__ == "__main__":
    LabOwner("cluster").own_lab_until_sigterm(ClusterLab, int(sys.argv[1]))
