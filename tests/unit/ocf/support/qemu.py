# SPDX-License-Identifier: GPL-2.0-or-later
"""Stands in for libvirt's QEMU processes, and for vesper-ivshmem."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

#: What vesperd says of a domain without VESPER's device (kvm_transport/link.py).
NO_DEVICE = "vm1: its QEMU (process 12) has no VESPER device: no memory; add one and start it again"

#: As libvirt starts it: it locks its pid file and becomes QEMU.
QEMU = """
import fcntl, os, signal, sys
_, path, deaf = sys.argv[:3]
file = open(path, "w")
os.set_inheritable(file.fileno(), True)
fcntl.lockf(file, fcntl.LOCK_EX)
file.write(str(os.getpid()))
file.flush()
if deaf == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
os.execv("/bin/sh", ["qemu-system-x86_64", "-c", "sleep 600 & wait", *sys.argv[3:]])
"""


class Qemu:
    """A process of a domain. Close it."""

    def __init__(self, folder: Path, name: str = "vm1", *, deaf: bool = False) -> None:
        folder.mkdir(exist_ok=True)
        self.pid_file = folder / f"{name}.pid"
        words = ["-name", f"guest={name.replace(',', ',,')},debug-threads=on", "-S"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", QEMU, self.pid_file, "deaf" if deaf else "", *words],
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"up\n"
        command = Path(f"/proc/{self.process.pid}/cmdline")
        while not command.read_bytes().startswith(b"qemu-system-"):
            time.sleep(0.01)  # it says that it is up before it becomes QEMU

    def runs(self) -> bool:
        return self.process.poll() is None

    def close(self) -> None:
        import os
        import signal

        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


class Monitor:
    """QEMU's, with one client at a time. The guest hears its power button at once.

    :param greets: False: another client, who never goes, has it.
    """

    def __init__(self, qemu: Qemu, *, greets: bool = True) -> None:
        self.asked: list[str] = []
        self._qemu = qemu
        self._status = "running"
        path = qemu.pid_file.with_suffix(".monitor")
        qemu.pid_file.with_suffix(".xml").write_text(
            f"<domstatus><monitor path='{path}' type='unix'/><domain/></domstatus>"
        )
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        if greets:
            threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rwb", buffering=0) as stream:
                stream.write(b'{"QMP": {"version": {}, "capabilities": []}}\r\n')
                for line in stream:
                    command = json.loads(line)["execute"]
                    self.asked.append(command)
                    stream.write(b'{"event": "NICE", "timestamp": {}}\r\n')
                    answer = {"status": self._status} if command == "query-status" else {}
                    stream.write(json.dumps({"return": answer}).encode() + b"\r\n")
                    if command == "system_powerdown":
                        self._status = "shutdown"
                    elif command == "quit":
                        self._qemu.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


class StandinIvshmemServer:
    """Answers ``ping``.

    :param answer: None: it listens, and says nothing.
    """

    def __init__(self, folder: Path, answer: Mapping[str, object] | None) -> None:
        folder.mkdir(exist_ok=True)
        self.asked = 0
        self._answer = answer
        self._path = folder / "control.sock"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self._path))
        self._listener.listen()
        self._kept: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._kept.append(connection)
            line = connection.recv(100)
            self.asked += line == b"ping\n"
            if self._answer is not None:
                connection.sendall(json.dumps(self._answer).encode() + b"\n")

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._kept:
            connection.close()
        self._path.unlink()
