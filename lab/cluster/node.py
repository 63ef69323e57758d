# SPDX-License-Identifier: GPL-2.0-or-later
"""One node: commands in it, and what breaks it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from lab.confine import confine_like
from lab.host import LabError

__all__ = ["ClusterError", "Node", "wait_until"]

#: Environment of each process in a node.
ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/root",
    "VESPER_STANDIN_DIR": "/run/vesper-standin",
    "VESPER_STANDIN_HISTORY": "/var/log/vesper-standin/history",
}


class ClusterError(LabError):
    """The lab cannot do what was asked. The text says what was tried, on which node."""


def wait_until(what: str, timeout: float, pause: float = 0.05) -> Iterator[None]:
    """Poll until a time limit: ``for _ in wait_until("...", 5): if condition: break``

    :raises ClusterError: the time is up, and the loop was not left.
    """
    end = time.monotonic() + timeout
    while True:
        yield
        if time.monotonic() >= end:
            raise ClusterError(f"{what}: not within {timeout:.0f} s")
        time.sleep(pause)


class Node:
    """One node that runs, or has run.

    :param directory: its files on this machine: ``log``, ``state``.
    :param init: its PID 1, as this machine numbers it.
    """

    def __init__(self, name: str, number: int, directory: Path, init: int) -> None:
        self.name = name
        self.number = number
        self.directory = directory
        self.init = init

    # -- commands -------------------------------------------------------------

    def build_command(self, *words: str, limit: float | None = None) -> list[str]:
        """Return the command line, on this machine, that runs a command in the node.

        :param limit: seconds; then it is killed from inside (nsenter's own
            end would leave it running).
        """
        inside = ["timeout", "-k", "1", str(limit), *words] if limit is not None else list(words)
        # fmt: off
        return [
            "nsenter", "-t", str(self.init), "-n", "-m", "-u", "-i", "-p", "-r", "-w", "--",
            *inside,
        ]
        # fmt: on

    def start_command(
        self,
        *words: str,
        stdin: int | None = subprocess.DEVNULL,
        stdout: int | None = subprocess.PIPE,
        stderr: int | None = subprocess.STDOUT,
        limit: float | None = None,
        environment: dict[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        """Start a command. It ends with the node at the latest."""
        return subprocess.Popen(
            self.build_command(*words, limit=limit),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            text=True,
            errors="replace",
            env={**ENVIRONMENT, **(environment or {})},
        )

    def run(
        self,
        *words: str,
        timeout: float = 30.0,
        check: bool = True,
        input: str | None = None,
        environment: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end.

        :raises ClusterError: it failed (if ``check``), or was not done in time.
        """
        done = subprocess.run(
            self.build_command(*words, limit=timeout),
            input="" if input is None else input,
            capture_output=True,
            text=True,
            errors="replace",
            env={**ENVIRONMENT, **(environment or {})},
        )
        if done.returncode in (124, 137):
            raise ClusterError(f"{self.name}: {' '.join(words)}: not done after {timeout:.0f} s")
        if check and done.returncode != 0:
            said = (done.stderr + done.stdout).strip()[-2000:]
            raise ClusterError(
                f"{self.name}: {' '.join(words)}: exit status {done.returncode}\n{said}"
            )
        return done

    # -- files ----------------------------------------------------------------

    def host_path(self, inside: str) -> Path:
        """Return the path on this machine of a file in the running node.

        Absolute symbolic links in it lead astray.
        """
        return Path(f"/proc/{self.init}/root") / inside.lstrip("/")

    def write_file(self, inside: str, text: str) -> None:
        path = self.host_path(inside)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    @property
    def pacemaker_log(self) -> Path:
        """Outlives the node."""
        return self.directory / "log/pacemaker/pacemaker.log"

    # -- life -----------------------------------------------------------------

    def is_running(self) -> bool:
        return Path(f"/proc/{self.init}/ns").exists()

    def cut_power(self) -> None:
        """Kill all that runs in the node, as a power cut does."""
        try:
            os.kill(self.init, signal.SIGKILL)
        except ProcessLookupError:
            return
        for _ in wait_until(f"{self.name}: end of PID 1", 10):
            if not self.is_running():
                return

    # -- the cluster's daemons -------------------------------------------------

    def find_process_pids(self, path: str) -> list[int]:
        """Return the PIDs of a program, as the node numbers them.

        :param path: with which it was started.
        """
        found = self.run("pgrep", "-f", f"^{path}( |$)", check=False)
        return [int(line) for line in found.stdout.split()]

    def kill_daemon(self, path: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Kill a daemon of the cluster. :raises ClusterError: it does not run."""
        pids = self.find_process_pids(path)
        if not pids:
            raise ClusterError(f"{self.name}: {path} does not run")
        self.run("kill", f"-{int(number)}", *map(str, pids))

    def stop_cluster(self) -> None:
        """Stop Pacemaker, and what it manages, then Corosync."""
        for path in ("pacemakerd", "corosync"):
            self.kill_daemon(path, signal.SIGTERM)
            for _ in wait_until(f"{self.name}: end of {path}", 60):
                if not self.find_process_pids(path):
                    break

    def start_cluster(self) -> None:
        """Start what :meth:`stop_cluster` has stopped."""
        with (self.directory / "log/init.log").open("a") as log:
            self.start_command(
                "sh", "/run/lab/node-cluster", stdout=log.fileno(), stderr=log.fileno()
            )

    # -- vesperd --------------------------------------------------------------

    @property
    def vesperd_log(self) -> Path:
        return self.directory / "log/vesperd.log"

    def vesperd_pids(self) -> list[int]:
        """Return the PIDs of vesperd, as the node numbers them."""
        return self.find_process_pids("/usr/bin/python3.* /usr/sbin/vesperd")

    def start_vesperd(self, *, wait: float = 20.0) -> None:
        """Start it, and wait until it answers.

        :param wait: seconds; 0 does not wait.
        """
        with self.vesperd_log.open("a") as log:
            command = ["setsid", *confine_like(), "/usr/sbin/vesperd"]
            self.start_command(*command, stdout=log.fileno(), stderr=log.fileno())
        if not wait:
            return
        for _ in wait_until(f"{self.name}: answer of vesperd (see {self.vesperd_log})", wait):
            if self.run("vesper", "status", "--json", check=False).returncode == 0:
                return

    def signal_vesperd(self, number: signal.Signals) -> None:
        """Send vesperd a signal. :raises ClusterError: it does not run."""
        pids = self.vesperd_pids()
        if not pids:
            raise ClusterError(f"{self.name}: vesperd does not run; see {self.vesperd_log}")
        self.run("kill", f"-{int(number)}", *map(str, pids))

    def stop_vesperd(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it with that signal and wait until it has ended."""
        self.signal_vesperd(number)
        for _ in wait_until(f"{self.name}: end of vesperd", 20):
            if not self.vesperd_pids():
                return
