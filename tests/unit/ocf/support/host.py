# SPDX-License-Identifier: GPL-2.0-or-later
"""The agents alone: a scripted toolstack, and a scripted vesperd at the socket's other end."""

from __future__ import annotations

import atexit
import functools
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).resolve().parents[4]

#: A scripted answer: a dict, None (close the connection), or seconds to stay silent.
Answer = dict[str, Any] | None | float

#: A time in seconds. A string is converted, so that mypy takes ``**{name: value}`` after it.
Seconds = float | str


@functools.cache
def other_commands() -> Path:
    """A folder with all commands of this machine but those of a toolstack or a cluster."""
    folder = Path(tempfile.mkdtemp(prefix="vesper-commands-"))
    atexit.register(shutil.rmtree, folder)
    for command in sorted(Path("/usr/bin").iterdir()):
        if not command.name.startswith(("xl", "virsh", "virt-", "crm", "attrd", "csync2")):
            (folder / command.name).symlink_to(command)
    return folder


class ScriptedVesperd:
    """Answers each request with what a test has written for its ``op``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.requests: list[dict[str, Any]] = []
        self.answers: dict[str, Callable[[dict[str, Any]], Answer]] = {}
        self._listener: socket.socket | None = None

    def listen(self) -> None:
        if self._listener is not None:
            return
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
                respond = self.answers.get(request["op"])
                answer = respond(request) if respond is not None else {}
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
    """One host as an agent sees it."""

    #: the agent's name
    name: str
    #: the toolstack's command
    command: str
    #: the parameter with the domain's configuration, and its text
    config_parameter: str
    config_text: str
    #: a configuration that the toolstack does not take
    broken_text: str
    #: parameters that each call gets, if a test does not say otherwise
    parameters: dict[str, str]
    #: how a domain looks in the toolstack's list: by state
    flags: dict[str, str]
    #: what it asks to know the states, and to end a domain that hangs
    look: str

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fake = folder / self.command
        self.bin = folder / "bin"
        self.fake.mkdir()
        self.bin.mkdir()
        self.agent = PROJECT / "ocf" / self.name
        self.tool = self.bin / self.command
        shutil.copy(Path(__file__).parent / f"fake_{self.command}", self.tool)
        self.config = folder / "vm1.conf"
        self.config.write_text(self.config_text)
        self.vesperd = ScriptedVesperd(folder / "vesperd.sock")

    def vm(self, name: str = "vm1", state: str = "running") -> str:
        """Its line in the toolstack's list."""
        return f"{name} {self.flags[state]}"

    def have(self, **states: str) -> None:
        """Domains by name, and their states."""
        self.domains(*(self.vm(name, state) for name, state in states.items()))

    def domains(self, *lines: str) -> None:
        (self.fake / "domains").write_text("".join(line + "\n" for line in lines))

    def listed(self) -> list[str]:
        path = self.fake / "domains"
        return path.read_text().splitlines() if path.exists() else []

    def running(self) -> list[str]:
        """Names of the domains that run."""
        end = f" {self.flags['running']}"
        return [line.removesuffix(end) for line in self.listed() if line.endswith(end)]

    def calls(self, word: str = "") -> list[str]:
        """Of the toolstack; those that begin with that word."""
        path = self.fake / "calls"
        calls = path.read_text().splitlines() if path.exists() else []
        return [call for call in calls if not word or call.split()[0] == word]

    def raw_calls(self) -> list[str]:
        """The toolstack's calls with identifiers in place of names, as they were made."""
        path = self.fake / "raw"
        return path.read_text().splitlines() if path.exists() else []

    def ident(self, name: str) -> str:
        """What the toolstack identifies a domain by."""
        raise NotImplementedError

    def break_config(self) -> None:
        """The toolstack does not take the configuration."""
        self.config.write_text(self.broken_text)

    def script(self, name: str, text: str) -> Path:
        """An executable, in place of a command or as a monitor script."""
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return path

    def wrap(self, text: str) -> None:
        """Put a script before the toolstack, which is ``real`` for it."""
        real = self.bin / "real"
        shutil.copy(self.tool, real)
        real.chmod(0o755)
        self.script(self.command, text)

    def be(self, *moods: str) -> None:
        """Set what the toolstack does wrong; see fake_xl, fake_virsh."""
        for mood in moods:
            (self.fake / mood).touch()

    def environment(
        self, timeout: Seconds | None, interval: Seconds, **extra: str
    ) -> dict[str, str]:
        environment = {
            "PATH": f"{self.bin}:{other_commands()}",
            f"FAKE_{self.command.upper()}": str(self.fake),
            # No QEMU of this machine's libvirt, if there is one.
            "VESPER_QEMU_RUN": str(self.folder / "qemu"),
            "VESPER_IVSHMEM": str(self.folder / "ivshmem"),
            "VESPER_SOCKET": str(self.vesperd.path),
            "HA_RSCTMP": str(self.folder / "rsctmp"),
            "OCF_ROOT": "/usr/lib/ocf",
            "OCF_RESOURCE_INSTANCE": "r1",
            f"OCF_RESKEY_{self.config_parameter}": str(self.config),
            "OCF_RESKEY_CRM_meta_on_node": "node1",
            "OCF_RESKEY_CRM_meta_interval": str(int(float(interval) * 1000)),
            **self.parameters,
            **extra,
        }
        if timeout is not None:
            environment["OCF_RESKEY_CRM_meta_timeout"] = str(int(float(timeout) * 1000))
        return {key: value for key, value in environment.items() if value != "-"}

    def begin(
        self, action: str, *, timeout: Seconds | None = 20.0, interval: Seconds = 0.0, **extra: str
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(self.agent), action],
            env=self.environment(timeout, interval, **extra),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def call(
        self, action: str, *, timeout: Seconds | None = 20.0, interval: Seconds = 0.0, **extra: str
    ) -> Result:
        """One call. It must keep to its timeout.

        :param extra: environment; ``"-"`` unsets.
        """
        start = time.monotonic()
        process = self.begin(action, timeout=timeout, interval=interval, **extra)
        return self.end(process, start, float(timeout or 60.0))

    def end(self, process: subprocess.Popen[str], start: float, timeout: float = 20.0) -> Result:
        try:
            stdout, stderr = process.communicate(
                timeout=max(0.1, start + timeout - time.monotonic())
            )
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            pytest.fail(f"{process.args!r}: not done within the operation's timeout of {timeout} s")
        return Result(process.returncode, stdout, stderr, time.monotonic() - start)

    def close(self) -> None:
        self.vesperd.close()
        background = self.fake / "background"
        if background.exists():
            for pid in background.read_text().split():
                try:
                    os.kill(int(pid), signal.SIGKILL)
                except ProcessLookupError:
                    pass


class XenHost(Host):
    name = "XenVM"
    command = "xl"
    config_parameter = "xmfile"
    config_text = 'memory = 160\nname = "vm1"\n'
    broken_text = 'name = "vm1"\nbad-config\n'
    parameters: dict[str, str] = {}  # noqa: RUF012
    flags = {  # noqa: RUF012
        "running": "-b----", "paused": "--p---", "crashed": "---sc-", "shut down": "---s--",
    }  # fmt: skip
    look = "list"

    def ident(self, name: str) -> str:
        for line in (self.fake / "ids").read_text().splitlines():
            number, _, known = line.partition(" ")
            if known == name:
                return number
        raise KeyError(name)


class LibvirtHost(Host):
    name = "LibvirtVM"
    command = "virsh"
    config_parameter = "config"
    config_text = "<domain type='kvm'>\n<name>vm1</name>\n<devices>\n</devices>\n</domain>\n"
    broken_text = config_text.replace("<devices>", "<os>bad-config</os><devices>")
    # There is no cluster here to tell of it.
    parameters = {  # noqa: RUF012
        f"OCF_RESKEY_autoset_utilization_{name}": "false"
        for name in ("cpu", "host_memory", "hv_memory")
    }
    flags = {  # noqa: RUF012
        "running": "1 1", "paused": "3 1", "crashed": "6 1", "shut down": "3 8",
    }  # fmt: skip
    look = "domstats --state"

    def ident(self, name: str) -> str:
        return str(uuid.UUID(hashlib.md5(name.encode()).hexdigest()))
