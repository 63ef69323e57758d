# SPDX-License-Identifier: GPL-2.0-or-later
"""The process that owns a lab of namespace nodes which was brought up from the command line.

The lab dies with it.  It ends on SIGTERM, and powers a node on when it finds
a file ``NODE/power-on`` in the lab's folder (only the owner of a node can
start it).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

from lab.cluster.lab import STATE, ClusterLab
from lab.cluster.node import ClusterError, Node, wait_until

__all__ = ["Keeper"]

POLL = 0.1


class Keeper:
    """Its hand on this side.

    :param name: of the lab: ``cluster`` or ``kvm``.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        #: pid of the keeper and the nodes, once the lab is up
        self.file = STATE / f"{name}.json"
        self.log = STATE / f"{name}.log"

    def _find_pid(self) -> int | None:
        """The process, if there is one."""
        try:
            pid = int(json.loads(self.file.read_text())["pid"])
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError, KeyError):
            return None
        return pid if b"lab.cluster.owner_process" in command else None

    def attach_to_lab(self) -> list[Node]:
        """The nodes of the lab that is up.

        :raises ClusterError: none is.
        """
        if self._find_pid() is None:
            raise ClusterError(
                f"the lab is not up; bring it up with: python3 -m lab {self.name} up"
            )
        nodes = json.loads(self.file.read_text())["nodes"]
        return [Node(n["name"], n["number"], Path(n["directory"]), n["init"]) for n in nodes]

    def find_node(self, name: str, *, running: bool = True) -> Node:
        """One of them.

        :raises ClusterError: there is none of that name, or it must run and does not.
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

    def begin_lab(self, nodes: int, timeout: float) -> None:
        """Start a keeper and wait until its lab is up, showing its progress.

        :raises ClusterError: there is a lab already, or it does not come up.
        """
        if self._find_pid() is not None:
            raise ClusterError(
                f"the lab is up already; take it down with: python3 -m lab {self.name} down"
            )
        STATE.mkdir(parents=True, exist_ok=True)
        self.file.unlink(missing_ok=True)
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "lab.cluster.owner_process", self.name, str(nodes)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=Path(__file__).parents[2],
            )
        try:
            with self.log.open(errors="replace") as progress:
                for _ in wait_until(f"{self.name} lab up (see {self.log})", timeout, POLL):
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

    def end_lab(self) -> bool:
        """End the keeper, and with it the lab; False if there was none."""
        pid = self._find_pid()
        if pid is None:
            return False
        os.kill(pid, signal.SIGTERM)
        for _ in wait_until("end of the lab", 30):
            if self._find_pid() is None:
                break
        return True

    def power_on(self, node: Node) -> None:
        """Start a node that was killed."""
        if node.is_running():
            raise ClusterError(f"{node.name} runs")
        (node.directory / "power-on").touch()
        for _ in wait_until(f"{node.name}: start", 30):
            if any(n.name == node.name and n.init != node.init for n in self.attach_to_lab()):
                return

    # -- the process itself ----------------------------------------------------

    def keep_lab(self, count: int) -> None:
        """Hold a lab of that many nodes until SIGTERM."""
        signal.signal(signal.SIGTERM, _exit_on_signal)
        try:
            with _make_lab(self.name, count) as lab:
                self._write_state(lab)
                while True:
                    time.sleep(POLL)
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


def _make_lab(name: str, count: int) -> ClusterLab:
    if name == "kvm":
        from lab.kvm import KvmLab

        return KvmLab(count)
    return ClusterLab(count)


if __name__ == "__main__":
    Keeper(sys.argv[1]).keep_lab(int(sys.argv[2]))
