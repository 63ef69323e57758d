# SPDX-License-Identifier: GPL-2.0-or-later
"""A host that exists in this process alone: toolstack, vesperd and clock are scripted.

The agents' own code runs on it, down to the words of ``xl`` and ``virsh`` that
it reads and writes.  Time passes only where somebody waits, so thousands of
situations take seconds.  (tests/unit/ocf/support/host.py has processes and real time.)
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vesper_monitor.client import DaemonError, DaemonUnavailableError
from vesper_monitor.ocf import arrival, start, toolstack, validate
from vesper_monitor.ocf.actions import ACTIONS, STRICT
from vesper_monitor.ocf.agent import Agent
from vesper_monitor.ocf.carried_fault import pack_fault
from vesper_monitor.ocf.invocation import OcfExit, OcfInvocation
from vesper_monitor.ocf.libvirt import migrate, virsh, virsh_call
from vesper_monitor.ocf.libvirt import parameters as libvirt_parameters
from vesper_monitor.ocf.xen import parameters as xen_parameters
from vesper_monitor.ocf.xen import xl
from vesper_monitor.ocf.xen.xl import Xl

__all__ = ["VirtualHost", "VirtualLibvirtHost", "VirtualXenHost", "ident_of"]

HEADER = "Name                                        ID   Mem VCPUs\tState\tTime(s)\n"


def ident_of(kind: type[VirtualHost], name: str) -> str:
    """What a domain of that name is identified by."""
    digest = hashlib.md5(name.encode()).hexdigest()
    return str(int(digest[:3], 16) + 1) if kind is VirtualXenHost else str(uuid.UUID(digest))


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def sleep(self, seconds: float) -> None:
        self.now += max(0.0, seconds)


class Job:
    """Stands in for toolstack.Background."""

    def __init__(self, clock: Clock, code: int | None, said: str) -> None:
        self._clock, self._code, self._said = clock, code, said
        self.pid = 0

    def wait_for_exit(self, limit: float) -> int | None:
        self._clock.sleep(limit if self._code is None else 0.01)
        return self._code

    def read_output(self) -> str:
        return self._said

    def close(self) -> None:
        pass


class ScriptedClient:
    """Stands in for the client of vesperd's socket; ``answer`` decides."""

    path = "/nowhere"

    def __init__(self, clock: Clock, answer: Callable[[dict[str, Any]], Any]) -> None:
        self._clock, self._answer = clock, answer
        self._asked: dict[str, Any] = {}

    def __enter__(self) -> ScriptedClient:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def call_vesperd(self, op: str, *, reply_timeout: float = 3.0, **fields: Any) -> dict[str, Any]:
        self.begin_request(op, **fields)
        return self.finish_request(reply_timeout)

    def begin_request(self, op: str, **fields: Any) -> int:
        self._asked = {"op": op, **fields}
        return 0

    def finish_request(self, reply_timeout: float = 3.0) -> dict[str, Any]:
        answer = self._answer(self._asked)
        if answer is None:
            self._clock.sleep(reply_timeout)
            raise DaemonUnavailableError("vesperd did not answer")
        if isinstance(answer, str):
            raise (
                DaemonUnavailableError if answer == "dead" else DaemonError("no-transport", answer)
            )
        if self._asked["op"] == "wait" and answer.get("result") == "fine":
            self._clock.sleep(self._asked["timeout"])
        return {"ok": True, **answer}


class VirtualHost:
    """One host; a subclass for each toolstack."""

    name: str
    config_parameter: str
    module: Any

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.config = folder / "vm1.conf"
        self.resource = "r1"
        self.clock = Clock()
        #: names of the domains that run
        self.running: set[str] = set()
        #: "fine", "cut", "hangs", "german"
        self.mood = "fine"
        #: until when each call of the toolstack hangs
        self.hangs_until = 0.0
        #: commands that hang, and commands that nothing comes of
        self.hanging: set[str] = set()
        self.deaf: set[str] = set()
        #: seconds that a call takes
        self.call_takes = 0.05
        #: what was done to which domain: (command, name)
        self.done: list[tuple[str, str]] = []
        #: what was sent to this node: the value of its attribute; None: there is none
        self.sent: str | None = None
        self.vesperd: Callable[[dict[str, Any]], Any] = lambda _: "dead"
        monkeypatch.setattr(time, "sleep", self.clock.sleep)
        monkeypatch.setattr(time, "monotonic", lambda: self.clock.now)
        monkeypatch.setattr(time, "clock_gettime", lambda _: self.clock.now)
        for module in (arrival, toolstack, virsh, virsh_call, migrate, xl):
            monkeypatch.setattr(module, "spawn_command", self._spawn)
        monkeypatch.setenv("VESPER_QEMU_RUN", str(folder / "qemu"))
        monkeypatch.setenv("VESPER_IVSHMEM", str(folder / "ivshmem"))
        for module in (start, validate):
            monkeypatch.setattr(module, "check_node", lambda _: None)
        monkeypatch.setattr(Xl, "is_absent", lambda _: False)

    def ident(self, name: str) -> str:
        return ident_of(type(self), name)

    def write_config(self, name: str) -> None:
        raise NotImplementedError

    def remember(self, resource: str, name: str) -> None:
        path = self.folder / f"vesper-{resource}.domain"
        path.write_text(f"{name}\n{self.ident(name)}\n\n")

    def call(self, action: str, interval: float = 0.0, timeout: float = 60.0) -> tuple[int, str]:
        """Exit code and reason of one call."""
        environ = {
            "HA_RSCTMP": str(self.folder),
            "OCF_RESOURCE_INSTANCE": self.resource,
            f"OCF_RESKEY_{self.config_parameter}": str(self.config),
            "OCF_RESKEY_CRM_meta_interval": str(int(interval * 1000)),
            "OCF_RESKEY_CRM_meta_timeout": str(int(timeout * 1000)),
            "OCF_RESKEY_CRM_meta_migrate_target": "node2",
            "OCF_RESKEY_add_device": "false",
            **{f"OCF_RESKEY_autoset_utilization_{name}": "false"
               for name in ("cpu", "host_memory", "hv_memory")},
        }  # fmt: skip
        begun = self.clock.now
        try:
            call = OcfInvocation(action, environ)
            client: Any = ScriptedClient(self.clock, lambda asked: self.vesperd(asked))
            agent = self._agent(call, action in STRICT, client)
            ACTIONS[action](agent)
            code, reason = 0, ""
        except OcfExit as end:
            code, reason = int(end.code), end.reason
        took = self.clock.now - begun
        assert took <= timeout, f"{action}: {took:.1f} s of {timeout:.0f} s"
        return code, reason

    def _agent(self, call: OcfInvocation, strict: bool, client: Any) -> Agent:
        raise NotImplementedError

    def send(self, name: str) -> None:
        """Another node has sent a domain here for the resource."""
        ident = self.ident(name) if self.config_parameter == "config" else ""
        self.sent = pack_fault({"vm": name, "ident": ident, "fault": None})

    def _spawn(self, command: list[str], *_: Any, **__: Any) -> Job:
        if command[0] == "attrd_updater":
            if "--query" not in command:
                self.sent = None if "--delete" in command else self.sent
                return Job(self.clock, 0, "")
            if self.sent is None:
                return Job(self.clock, 6, "Could not query value of x: does not exist")
            return Job(self.clock, 0, f'name="x" host="node1" value="{self.sent}"')
        if self.mood == "hangs" or self.clock.now < self.hangs_until or self.hanging & set(command):
            return Job(self.clock, None, "")
        self.clock.sleep(self.call_takes)
        if self.deaf & set(command):
            self.done += [(word, "") for word in self.deaf & set(command)]
            return Job(self.clock, 0, "")
        code, said = self._run(command)
        return Job(self.clock, code, said)

    def _run(self, command: list[str]) -> tuple[int, str]:
        raise NotImplementedError

    def _named(self, ident: str) -> str:
        """The running domain with that identifier; empty: none."""
        return next((name for name in self.running if self.ident(name) == ident), "")

    def _end(self, command: str, ident: str) -> tuple[int, str]:
        name = self._named(ident)
        if not name:
            return 1, f"error: no domain {ident}"
        self.done.append((command, name))
        self.running.discard(name)
        return 0, ""


class VirtualXenHost(VirtualHost):
    name = "XenVM"
    config_parameter = "xmfile"

    def write_config(self, name: str) -> None:
        self.config.write_text(f'memory = 160\nname = "{name}"\n')

    def _agent(self, call: OcfInvocation, strict: bool, client: Any) -> Agent:
        found = xen_parameters.read_settings(call, strict=strict)
        return Agent(call, found, Xl(str(self.folder), power_button=False), client)

    def _run(self, command: list[str]) -> tuple[int, str]:
        match command[1:]:
            case ["list"]:
                return 0, self._list()
            case ["list", "-l", _]:
                return 0, "[]"
            case ["create", _, override, *_]:
                name = override.partition('"')[2].rstrip('"')
                self.done.append(("create", name))
                self.running.add(name)
                return 0, ""
            case ["shutdown" | "destroy" as word, ident]:
                return self._end(word, ident)
            case ["migrate", ident, _]:
                return self._end("migrate", ident)
        return 1, f"error: {command}"

    def _list(self) -> str:
        if self.mood == "german":
            return "Gastsysteme: 3\n" + "".join(f"{name} läuft\n" for name in self.running)
        names = sorted(self.running - {"vm1"}) + sorted(self.running & {"vm1"})
        lines = [f"{'Domain-0':40} {0:5} {512:5} {1:5}     r-----    1.0\n"]
        lines += [f"{n:40} {self.ident(n):>5} {160:5} {1:5}     -b----    1.0\n" for n in names]
        text = HEADER + "".join(lines)
        return text[:-30] if self.mood == "cut" else text


class VirtualLibvirtHost(VirtualHost):
    name = "LibvirtVM"
    config_parameter = "config"

    def write_config(self, name: str) -> None:
        self.config.write_text(f"<domain type='kvm'>\n<name>{name}</name>\n<devices/>\n</domain>\n")

    def _agent(self, call: OcfInvocation, strict: bool, client: Any) -> Agent:
        found, options = libvirt_parameters.read_settings(call, strict=strict)
        return Agent(call, found, virsh.Virsh(options), client)

    def _run(self, command: list[str]) -> tuple[int, str]:
        match command[3:]:
            case ["domstats", "--state"]:
                return 0, self._stats()
            case ["list", "--all", "--uuid", "--name"]:
                return 0, "".join(f"{self.ident(name)} {name}\n" for name in sorted(self.running))
            case ["create", path]:
                text = Path(path).read_text()
                name = text.partition("<name>")[2].partition("</name>")[0].strip()
                self.done.append(("create", name))
                self.running.add(name)
                return 0, ""
            case ["shutdown" | "destroy" as word, ident, *_]:
                return self._end(word, ident)
            case ["dumpxml", *_]:
                return 0, "<domain type='kvm'><name>vm1</name><devices/></domain>"
            case ["migrate", "--live", *_, ident, _]:
                return self._end("migrate", ident)
            case [("help" | "domxml-to-native" | "autostart"), *_]:
                return 0, ""
        return 1, f"error: {command}"

    def _stats(self) -> str:
        word = "Domäne" if self.mood == "german" else "Domain"
        names = sorted(self.running - {"vm1"}) + sorted(self.running & {"vm1"})
        records = [f"{word}: '{n}'\n  state.state=1\n  state.reason=1\n" for n in names]
        text = "\n".join(records)
        return text[:-6] if self.mood == "cut" else text
