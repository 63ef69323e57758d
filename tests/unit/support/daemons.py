# SPDX-License-Identifier: GPL-2.0-or-later
"""A real vesperd as a child, on the stand-in transport."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lab.standin.image import make_store
from vesper_monitor.client import Client, DaemonUnavailableError

PROJECT = Path(__file__).parents[3]


class DaemonProcess:
    """A vesperd process with all its files below one directory."""

    def __init__(self, directory: Path, config: str = "", journal: Path | None = None) -> None:
        self.directory = directory
        self.socket = directory / "vesperd.sock"
        self.journal = journal or directory / "journal.sqlite"
        self.images = directory / "images"
        self.log = directory / "log"
        self._config = directory / "vesperd.toml"
        self._config.write_text(
            f'socket = "{self.socket}"\njournal = "{self.journal}"\n'
            f'probes_dir = "{self.images}"\ntransports = ["standin"]\n{config}\n'
        )
        make_store(self.images)
        # What an installed transport has: an entry point.
        info = directory / "path" / "standin-0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: standin\nVersion: 0\n")
        (info / "entry_points.txt").write_text(
            "[vesper.transports]\nstandin = lab.standin.transport:StandinTransport\n"
        )
        self._environment = {
            **os.environ,
            "PYTHONPATH": f"{directory / 'path'}:{PROJECT}",
            "VESPER_SOCKET": str(self.socket),
        }
        self.process: subprocess.Popen[bytes] | None = None

    def spawn(self) -> None:
        """Start vesperd without waiting until it answers."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "vesper_monitor.daemon.main", "-c", str(self._config)],
                env=self._environment,
                stderr=log,
            )

    def start(self, *, usable: bool = True) -> None:
        """
        :param usable: wait until the transport is up, not only for the socket.
        """
        self.spawn()
        assert self.process is not None
        end = time.monotonic() + 30
        while True:
            try:
                hello = self.call("hello")
                if hello["pid"] == self.process.pid and (
                    not usable or hello["transports"] == {"standin": None}
                ):
                    return
            except DaemonUnavailableError:
                pass
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.02)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop vesperd by a signal.

        :returns: its exit status.
        """
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(30)

    def call(self, op: str, **fields: Any) -> dict[str, Any]:
        with Client(str(self.socket), timeout=30.0) as client:
            return client.call_vesperd(op, **fields)

    def vesper(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command ``vesper``."""
        return subprocess.run(
            [sys.executable, "-m", "vesper_monitor.command.main", *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def events(self, **fields: Any) -> list[dict[str, Any]]:
        with Client(str(self.socket), timeout=30.0) as client:
            return [answer["event"] for answer in client.stream_answers("events", **fields)]


def serve(daemon: DaemonProcess) -> Iterator[DaemonProcess]:
    """Run vesperd for a fixture, and check that its log has no traceback."""
    (daemon.directory / "domains").mkdir()
    daemon.start()
    try:
        yield daemon
    finally:
        assert daemon.process is not None
        if daemon.process.poll() is None:
            daemon.stop()
        print(daemon.log.read_text())
    assert "Traceback" not in daemon.log.read_text()


def wait_collecting(daemon: DaemonProcess, probes: int, limit: float = 30.0) -> None:
    """Wait until so many probes collect, in all guests together."""
    end = time.monotonic() + limit
    while True:
        vms = daemon.call("status")["vms"]
        if sum(p["state"] == "collecting" for vm in vms for p in vm["probes"]) == probes:
            return
        assert time.monotonic() < end, vms
        time.sleep(0.02)


class Monitor(threading.Thread):
    """A waiting monitor. ``join()``, then look at ``answer`` and ``error``."""

    def __init__(self, daemon: DaemonProcess, **changes: Any) -> None:
        super().__init__(daemon=True)
        self._path = str(daemon.socket)
        self._fields = {**MONITOR, **changes}
        self.answer: dict[str, Any] = {}
        self.error: Exception | None = None
        self.client = Client(self._path, timeout=60.0)
        self.start()

    def run(self) -> None:
        try:
            self.answer = self.client.call_vesperd("wait", **self._fields)
        except Exception as error:
            self.error = error
        finally:
            self.client.close()

    def result(self) -> str:
        self.join(60)
        assert self.error is None, self.error
        return str(self.answer["result"])


RESOURCE = {
    "resource": "r1",
    "vm": "vm1",
    "probes": ["send_signal", "out_of_memory"],
    "services": ["httpd"],
}
MONITOR = {**RESOURCE, "interval": 1, "timeout": 20, "node": "node1"}
