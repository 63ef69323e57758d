# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's control socket (QEMU Machine Protocol), as far as the lab needs it."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from vesper_monitor.util.errors import VesperError

__all__ = ["Qmp", "QmpError"]


class QmpError(VesperError):
    """QEMU refused a command, or does not answer."""


class Qmp:
    """A connection to QEMU, which serves one at a time: close it soon."""

    def __init__(self, path: Path, *, timeout: float = 20.0) -> None:
        """:param timeout: seconds for each command, and for QEMU to listen."""
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout)
        deadline = time.monotonic() + timeout
        while True:
            try:
                self._socket.connect(str(path))
                break
            except (FileNotFoundError, ConnectionRefusedError) as error:
                if time.monotonic() > deadline:
                    raise QmpError(f"{path}: QEMU does not listen: {error}") from error
                time.sleep(0.02)
        self._lines = self._socket.makefile("rb")
        self._read_message()  # its greeting
        self.execute_command("qmp_capabilities")

    def __enter__(self) -> Qmp:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._lines.close()
        self._socket.close()

    def _read_message(self) -> dict[str, Any]:
        try:
            line = self._lines.readline()
        except OSError as error:
            raise QmpError(f"{self._path}: {error}") from error
        if not line:
            raise QmpError(f"{self._path}: QEMU has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def execute_command(self, word: str, /, **arguments: Any) -> Any:
        """Execute a command; events that come meanwhile are dropped.

        :raises QmpError: with QEMU's words.
        """
        request: dict[str, Any] = {"execute": word}
        if arguments:
            request["arguments"] = {key.replace("_", "-"): arguments[key] for key in arguments}
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        while True:
            answer = self._read_message()
            if "error" in answer:
                raise QmpError(f"{self._path}: {word}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]

    def wait_status(self, *wanted: str, timeout: float) -> None:
        """Wait until the machine's run state is one of those."""
        deadline = time.monotonic() + timeout
        while (status := self.execute_command("query-status")["status"]) not in wanted:
            if time.monotonic() > deadline:
                raise QmpError(f"{self._path}: {status} and not {wanted} after {timeout:.0f} s")
            time.sleep(0.02)

    def save_machine(self, path: Path, *, timeout: float) -> None:
        """Write the stopped machine's memory and devices into a file."""
        self.execute_command("migrate-set-parameters", max_bandwidth=10 << 30)
        self.execute_command("migrate", uri=f"exec:cat > '{path}'")
        deadline = time.monotonic() + timeout
        while (state := self.execute_command("query-migrate"))["status"] != "completed":
            if state["status"] in ("failed", "cancelled") or time.monotonic() > deadline:
                raise QmpError(f"{self._path}: cannot save the machine: {state}")
            time.sleep(0.05)
