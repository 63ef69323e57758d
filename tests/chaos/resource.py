# SPDX-License-Identifier: GPL-2.0-or-later
"""What Pacemaker does with one resource, in one host and without Pacemaker.

The agent is the real one (``ocf/XenVM``), the guest a stand-in that the
agent's own start creates.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lab.standin.registry import DomainDirectory

PROJECT = Path(__file__).parents[2]
#: s, as in the operations of a resource.
TIMEOUT_S, STOP_TIMEOUT_S, INTERVAL_S = 30, 60, 0.2

OK, FAILED, NOT_RUNNING, DEGRADED = 0, 1, 7, 190


@dataclass(frozen=True)
class Report:
    """A monitor that failed."""

    vm: str
    at: float  #: s, CLOCK_MONOTONIC: the end of its process
    code: int
    reason: str


class Resource(threading.Thread):
    """A thread that runs start and monitors, and after a failed monitor stop and start again.

    :param environment: of the agent: the daemon's socket, the stand-ins' folder, PATH.
    """

    def __init__(self, name: str, directory: Path, environment: Mapping[str, str]) -> None:
        super().__init__(daemon=True)
        self.name = name
        self.place = DomainDirectory(name)
        self.reports: list[Report] = []
        #: what no action but a monitor may come to
        self.wrong: list[str] = []
        #: lives of the VM, and monitors that were degraded
        self.lives = self.degraded = 0
        self._ending = threading.Event()
        #: the process of a monitor; None while another action is under way
        self._monitoring: subprocess.Popen[str] | None = None
        config = directory / f"{name}.cfg"
        config.write_text(f'name = "{name}"\nmemory = 64\n')
        self._environment = {
            **environment,
            "OCF_ROOT": "/usr/lib/ocf",
            "OCF_RESOURCE_INSTANCE": name,
            "OCF_RESKEY_xmfile": str(config),
            "OCF_RESKEY_services": "httpd",
            "OCF_RESKEY_CRM_meta_on_node": "node1",
            "HA_RSCTMP": str(directory / "rsctmp"),
        }

    @property
    def runs(self) -> bool:
        """Whether it was started, and nobody is about to stop it."""
        return self.lives > len(self.reports)

    def run(self) -> None:
        while not self._ending.is_set():
            self._action("start")
            self.lives += 1
            # Pacemaker waits for the first one.
            while not self._ending.is_set() and self._monitor():
                self._ending.wait(INTERVAL_S)
            self._action("stop")

    def end(self) -> None:
        """Stop the VM, whatever is under way."""
        self._ending.set()
        if self._monitoring is not None:
            self._monitoring.terminate()
        self.join(STOP_TIMEOUT_S)

    def _monitor(self) -> bool:
        """Run a monitor, and return whether it needs no recovery."""
        code, reason = self._call("monitor", TIMEOUT_S, "1000")
        if self._ending.is_set():
            return False
        if code in (OK, DEGRADED):
            self.degraded += code == DEGRADED
            return True
        self.reports.append(Report(self.name, time.monotonic(), code, reason))
        return False

    def _action(self, action: str) -> None:
        code, reason = self._call(action, STOP_TIMEOUT_S, "0")
        if code != OK:
            self.wrong.append(f"{self.name}: {action}: exit {code}: {reason}")

    def _call(self, action: str, timeout: int, interval: str) -> tuple[int, str]:
        process = subprocess.Popen(
            [str(PROJECT / "ocf/XenVM"), action],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            env={
                **self._environment,
                "OCF_RESKEY_CRM_meta_timeout": f"{timeout}000",
                "OCF_RESKEY_CRM_meta_interval": interval,
            },
        )  # fmt: skip
        self._monitoring = process if action == "monitor" else None
        try:
            _, said = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return -signal.SIGKILL, f"not done after {timeout} s"
        mark = "ocf-exit-reason:"
        reasons = [line.removeprefix(mark) for line in said.splitlines() if line.startswith(mark)]
        return process.returncode, reasons[-1] if reasons else said[-500:]

    def kill_guest(self) -> None:
        """Kill the guest, at the end of the test."""
        record = self.place.read_record()
        if record is not None:
            os.kill(record.pid, signal.SIGKILL)
