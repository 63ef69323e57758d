# SPDX-License-Identifier: GPL-2.0-or-later
"""The agent alone: a scripted xl, and a scripted vesperd at the other end of the socket."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).resolve().parents[2]
AGENT = PROJECT / "ocf/XenVM"

#: A scripted answer: a dict, None (close the connection), or seconds to stay silent.
Answer = dict[str, Any] | None | float


class ScriptedVesperd:
    """Answers each request with what a test has written for its ``op``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.requests: list[dict[str, Any]] = []
        self.answers: dict[str, Callable[[dict[str, Any]], Answer]] = {}
        self._listener: socket.socket | None = None

    def listen(self) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen()
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def close(self) -> None:
        if self._listener is not None:
            # shutdown() wakes the accept() that close() would leave waiting.
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self.path.unlink()
            self._listener = None

    def asked(self, op: str) -> list[dict[str, Any]]:
        return [request for request in self.requests if request["op"] == op]

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as lines:
            for line in lines:
                request = json.loads(line)
                self.requests.append(request)
                answer = self.answers.get(request["op"], lambda _: {})(request)
                if answer is None:
                    return
                if isinstance(answer, float):
                    time.sleep(answer)
                    return
                try:
                    connection.sendall(json.dumps({"ok": True, **answer}).encode() + b"\n")
                except OSError:  # the agent has gone meanwhile
                    return


class Result:
    """What a call of the agent has come to."""

    def __init__(self, code: int, stdout: str, stderr: str, seconds: float) -> None:
        self.code = code
        self.stdout = stdout
        self.stderr = stderr
        self.seconds = seconds

    @property
    def reason(self) -> str | None:
        """The exit reason; there may be one at most."""
        marked = [
            line.removeprefix("ocf-exit-reason:")
            for line in self.stderr.splitlines()
            if line.startswith("ocf-exit-reason:")
        ]
        assert len(marked) <= 1, self.stderr
        return marked[0] if marked else None

    def __repr__(self) -> str:
        return f"<exit {self.code} after {self.seconds:.1f} s: {self.stderr!r}>"


class Host:
    """One host as the agent sees it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.xl = folder / "xl"
        self.bin = folder / "bin"
        self.xl.mkdir()
        self.bin.mkdir()
        shutil.copy(Path(__file__).parent / "fake_xl", self.bin / "xl")
        self.xmfile = folder / "vm1.cfg"
        self.xmfile.write_text('memory = 160\nname = "vm1"\n')
        self.vesperd = ScriptedVesperd(folder / "vesperd.sock")

    def domains(self, *lines: str) -> None:
        (self.xl / "domains").write_text("".join(line + "\n" for line in lines))

    def running(self) -> str:
        path = self.xl / "domains"
        return path.read_text() if path.exists() else ""

    def calls(self) -> list[str]:
        path = self.xl / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def script(self, name: str, text: str) -> Path:
        """An executable, in place of a command or as a monitor script."""
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return path

    def be(self, *moods: str) -> None:
        """Set what xl does wrong; see fake_xl."""
        for mood in moods:
            (self.xl / mood).touch()

    def environment(self, timeout: float | None, interval: float, **extra: str) -> dict[str, str]:
        environment = {
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "FAKE_XL": str(self.xl),
            "VESPER_SOCKET": str(self.vesperd.path),
            "HA_RSCTMP": str(self.folder / "rsctmp"),
            "OCF_ROOT": "/usr/lib/ocf",
            "OCF_RESOURCE_INSTANCE": "r1",
            "OCF_RESKEY_xmfile": str(self.xmfile),
            "OCF_RESKEY_CRM_meta_on_node": "node1",
            "OCF_RESKEY_CRM_meta_interval": str(int(interval * 1000)),
            **extra,
        }
        if timeout is not None:
            environment["OCF_RESKEY_CRM_meta_timeout"] = str(int(timeout * 1000))
        return {key: value for key, value in environment.items() if value != "-"}

    def begin(
        self, action: str, *, timeout: float | None = 20.0, interval: float = 0.0, **extra: str
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(AGENT), action],
            env=self.environment(timeout, interval, **extra),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def call(
        self, action: str, *, timeout: float | None = 20.0, interval: float = 0.0, **extra: str
    ) -> Result:
        """One call. It must keep to its timeout.

        :param extra: environment; ``"-"`` unsets.
        """
        start = time.monotonic()
        process = self.begin(action, timeout=timeout, interval=interval, **extra)
        return self.end(process, start, timeout or 60.0)

    def end(self, process: subprocess.Popen[str], start: float, timeout: float = 20.0) -> Result:
        try:
            stdout, stderr = process.communicate(
                timeout=max(0.1, start + timeout - time.monotonic())
            )
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            pytest.fail(f"{process.args}: not done within the operation's timeout of {timeout} s")
        return Result(process.returncode, stdout, stderr, time.monotonic() - start)

    def close(self) -> None:
        self.vesperd.close()
        background = self.xl / "background"
        if background.exists():
            for pid in background.read_text().split():
                try:
                    os.kill(int(pid), signal.SIGKILL)
                except ProcessLookupError:
                    pass
