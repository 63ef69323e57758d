# SPDX-License-Identifier: GPL-2.0-or-later
"""The agent killed at a point of an action, and what Pacemaker does then."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from tests.failpoints.host import Order
from tests.unit.support.daemons import PROJECT, DaemonProcess

__all__ = ["ACTIONS", "Cluster"]

OK, NOT_RUNNING = 0, 7
ACTIONS = ("start", "monitor", "stop")
#: s of an action.
LIMIT_S = 60.0


class Cluster:
    """One resource, by the real agent.

    :ivar wrong: what must not be.
    """

    def __init__(self, directory: Path, daemon: DaemonProcess) -> None:
        self.order = Order(directory)
        self.wrong: list[str] = []
        self.kills = 0
        self._state = directory / "rsctmp"
        self._domains = Path(os.environ["VESPER_STANDIN_DIR"])
        bin = directory / "bin"
        bin.mkdir()
        (bin / "xl").symlink_to(PROJECT / "lab/standin/xl")
        config = directory / "vm1.cfg"
        config.write_text('name = "vm1"\nmemory = 64\n')
        self._environment = {
            "PATH": f"{bin}:/usr/bin:/bin",
            "VESPER_SOCKET": str(daemon.socket),
            "VESPER_STANDIN_DIR": str(self._domains),
            "OCF_ROOT": "/usr/lib/ocf",
            "OCF_RESOURCE_INSTANCE": "vm1",
            "OCF_RESKEY_xmfile": str(config),
            "OCF_RESKEY_services": "httpd",
            "OCF_RESKEY_CRM_meta_on_node": "node1",
            "HA_RSCTMP": str(self._state),
        }

    def note(self) -> dict[str, list[str]]:
        """The points of each action."""
        found = {}
        for action in ACTIONS:
            with self.order.noting() as points:
                self._must(action, "without a kill")
            found[action] = points
        return found

    def round(self, killed: str, point: str) -> None:
        """One action is killed at a point; Pacemaker stops after a start that failed."""
        what = f"{killed} killed at {point}"
        for action in ACTIONS:
            if action != killed:
                self._must(action, what)
                continue
            with self.order.killing(point):
                code = self._call(action)
            if code == -signal.SIGKILL:
                self.kills += 1
            elif code != OK:
                self.wrong.append(f"{what}: not there: exit {code}")
            if action == "start":
                self._must("stop", what)
            self._must(action, what)
        if (code := self._call("monitor", "0")) != NOT_RUNNING:
            self.wrong.append(f"{what}: after the stop, a probe: exit {code}")
        names = [path.name for path in self._state.rglob("*")]
        left = [name for name in names if name.endswith((".new", "-new"))]
        if left:
            self.wrong.append(f"{what}: left: {left}")

    def _must(self, action: str, what: str) -> None:
        if (code := self._call(action)) != OK:
            self.wrong.append(f"{what}: {action}: exit {code}: {self.said}")

    def _call(self, action: str, interval: str = "1000") -> int:
        # One that was the first, and killed, is followed by one that waits.
        monitors = action == "monitor"
        first = {"OCF_RESKEY_CRM_meta_interval": interval if monitors else "0",
                 "OCF_RESKEY_CRM_meta_timeout": "4000" if monitors else "40000"}  # fmt: skip
        command = ["/usr/bin/python3", "-SEXutf8", str(PROJECT / "tests/failpoints/agent.py"),
                   str(self.order.path), str(PROJECT / "ocf/XenVM"), action]  # fmt: skip
        done = subprocess.run(
            command, env={**self._environment, **first}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=LIMIT_S, check=False,
        )  # fmt: skip
        self.said = done.stderr[-300:]
        return done.returncode
