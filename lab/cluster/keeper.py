# SPDX-License-Identifier: GPL-2.0-or-later
"""The process that owns a cluster lab which was brought up from the command line.

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

__all__ = ["attach", "begin", "end", "power_on"]

#: pid of the keeper and the nodes, once the lab is up.
FILE = STATE / "cluster.json"
LOG = STATE / "cluster.log"
POLL = 0.1


def _keeper() -> int | None:
    """Its pid, if there is one."""
    try:
        pid = int(json.loads(FILE.read_text())["pid"])
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError, KeyError):
        return None
    return pid if b"lab.cluster.keeper" in command else None


def attach() -> list[Node]:
    """The nodes of the lab that is up.

    :raises ClusterError: none is.
    """
    if _keeper() is None:
        raise ClusterError("the lab is not up; bring it up with: python3 -m lab cluster up")
    nodes = json.loads(FILE.read_text())["nodes"]
    return [Node(n["name"], n["number"], Path(n["directory"]), n["init"]) for n in nodes]


def begin(nodes: int, timeout: float) -> None:
    """Start a keeper and wait until its lab is up, showing its progress.

    :raises ClusterError: there is a lab already, or it does not come up.
    """
    if _keeper() is not None:
        raise ClusterError("the lab is up already; take it down with: python3 -m lab cluster down")
    STATE.mkdir(parents=True, exist_ok=True)
    FILE.unlink(missing_ok=True)
    with LOG.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "lab.cluster.keeper", str(nodes)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=Path(__file__).parents[2],
        )
    try:
        with LOG.open(errors="replace") as progress:
            for _ in wait_until(f"cluster lab up (see {LOG})", timeout, POLL):
                sys.stderr.write(progress.read())
                if FILE.exists():
                    break
                if process.poll() is not None:
                    raise ClusterError(f"the lab does not come up:\n{progress.read()}")
    except BaseException:
        if process.poll() is None:
            process.terminate()
            process.wait(20)
        raise


def end() -> bool:
    """End the keeper, and with it the lab; False if there was none."""
    pid = _keeper()
    if pid is None:
        return False
    os.kill(pid, signal.SIGTERM)
    for _ in wait_until("end of the lab", 30):
        if _keeper() is None:
            break
    return True


def power_on(node: Node) -> None:
    """Start a node that was killed."""
    if node.running():
        raise ClusterError(f"{node.name} runs")
    (node.directory / "power-on").touch()
    for _ in wait_until(f"{node.name}: start", 30):
        if any(n.name == node.name and n.init != node.init for n in attach()):
            return


def _write(lab: ClusterLab) -> None:
    nodes = [
        {"name": n.name, "number": n.number, "directory": str(n.directory), "init": n.init}
        for n in lab.nodes
    ]
    new = FILE.with_suffix(".new")
    new.write_text(json.dumps({"pid": os.getpid(), "nodes": nodes}))
    new.rename(FILE)


def _terminate(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)


def _keep(count: int) -> None:
    signal.signal(signal.SIGTERM, _terminate)
    try:
        with ClusterLab(count) as lab:
            _write(lab)
            while True:
                time.sleep(POLL)
                for node in list(lab.nodes):
                    wish = node.directory / "power-on"
                    if wish.exists():
                        wish.unlink()
                        new = lab.power_on(node)
                        _write(lab)
                        new.start_vesperd(wait=0)
    finally:
        FILE.unlink(missing_ok=True)


if __name__ == "__main__":
    _keep(int(sys.argv[1]))
