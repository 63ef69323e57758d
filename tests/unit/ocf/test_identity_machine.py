# SPDX-License-Identifier: GPL-2.0-or-later
"""Sequences of what can happen to two resources on one host, against the two laws.

Beside the single situations of test_identity_table.py: what one action leaves
behind is what the next one finds.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from tests.unit.ocf.support.virtual_host import VirtualHost, VirtualLibvirtHost, VirtualXenHost

SUCCESS, NOT_RUNNING, DEGRADED = 0, 7, 190
RESOURCES = st.sampled_from(["r1", "r2"])
NAMES = st.sampled_from(["vm1", "vm2"])
GAP_S = 2.0


class Killed(BaseException):
    """Pacemaker kills the agent."""


class Life:
    """One domain from its creation to its end; a guest that reboots keeps it."""

    def __init__(self, name: str, ident: str) -> None:
        self.name = name
        self.ident = ident
        self.owner = ""  # resource


class Vesperd:
    """What the daemon would answer, with sessions for all domains that it was told of."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.mood = "alive"
        self.instances: dict[str, tuple[str, str]] = {}
        self.hears = True

    def answer(self, asked: dict[str, Any]) -> Any:
        if self.mood != "alive":
            return "dead" if self.mood == "dead" else None
        vm, ident = asked.get("vm"), asked.get("domain")
        resource = asked.get("resource", "")
        known = self.instances.get(resource)
        matches = known is not None and vm in (None, known[0]) and ident in (None, known[1])
        live = self.machine.host.lives.get(vm or "")
        match asked["op"]:
            case "life" if "resource" in asked:
                if known is None:
                    return {"age": None}
                return {"vm": known[0], "domid": known[1], "uuid": known[1], "age": None}
            case "life":
                heard = any(i == (vm, ident) for i in self.instances.values())
                runs = live is not None and live.ident == ident and not self.machine.host.away(vm)
                return {"age": 1.0 if self.hears and heard and runs else None}
            case "state":
                if live is None or self.machine.host.away(vm):
                    return {"domain": None}
                return {"domain": {"name": vm, "domid": 1, "uuid": "u", "state": "running"}}
            case "start" | "change":
                if live is None or ident not in (None, live.ident):
                    return "no such vm"
                self.instances[resource] = live.name, live.ident
                return {}
            case "wait":
                if not matches:
                    if live is None or ident not in (None, live.ident):
                        return {"result": "dead", "state": "gone", "reason": "does not run"}
                    self.instances[resource] = known = live.name, live.ident
                assert known is not None
                current = self.machine.host.lives.get(known[0])
                if current is None or current.ident != known[1]:
                    return {"result": "dead", "state": "gone", "reason": "is gone"}
                return {"result": "fine"}
            case "stop":
                if matches:
                    del self.instances[resource]
                return {"fault": None}
        return {}


class LivesHost(VirtualHost):
    """A host whose domains get another identifier in each life on Xen."""

    #: whether a domain that reboots gets another identifier
    renews_idents: ClassVar[bool]
    lives: dict[str, Life]
    back_at: dict[str, float]
    spawns_left: int | None

    def prepare(self) -> None:
        self.lives, self.back_at, self.spawns_left, self.count = {}, {}, None, 0

    def away(self, name: str | None) -> bool:
        return self.clock.now < self.back_at.get(name or "", 0.0)

    def ident(self, name: str) -> str:
        return self.lives[name].ident if name in self.lives else "0"

    def new_ident(self, name: str) -> str:
        self.count += 1
        if self.renews_idents:
            return str(self.count)
        return f"{name.encode().hex():0>8}-0000-4000-8000-000000000000"

    def _spawn(self, command: list[str], *more: Any, **named: Any) -> Any:
        if self.spawns_left is not None:
            self.spawns_left -= 1
            if self.spawns_left < 0:
                raise Killed
        before = {name for name in self.lives if not self.away(name)}
        self.running = set(before)
        job = super()._spawn(command, *more, **named)
        for name in self.running - before:
            self.lives[name] = Life(name, self.new_ident(name))
        for name in before - self.running:
            del self.lives[name]
        return job

    def act(
        self, action: str, resource: str, config: Path, interval: float, timeout: float
    ) -> tuple[int, str]:
        self.config, self.resource = config, resource
        return self.call(action, interval, timeout)


class XenLives(LivesHost, VirtualXenHost):
    renews_idents = True


class LibvirtLives(LivesHost, VirtualLibvirtHost):
    renews_idents = False


class Machine(RuleBasedStateMachine):
    kind: type[Any]

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.temp = tempfile.TemporaryDirectory()
        self.folder = Path(self.temp.name)
        self.host = self.kind(self.folder, self.patch)
        self.host.prepare()
        self.vesperd = Vesperd(self)
        self.host.vesperd = self.vesperd.answer
        self.names = {"r1": "vm1", "r2": "vm2"}  # in the files; "": unreadable
        self.own: dict[str, Life | None] = {"r1": None, "r2": None}
        self.lost: set[str] = set()
        self.fine_while_dead = {"r1": 0, "r2": 0}
        for resource in self.names:
            self.write(resource)

    def teardown(self) -> None:
        self.patch.undo()
        self.temp.cleanup()

    # -- the truth ------------------------------------------------------------------

    def config(self, resource: str) -> Path:
        return self.folder / f"{resource}.conf"

    def write(self, resource: str) -> None:
        self.host.config = self.config(resource)
        if self.names[resource]:
            self.host.write_config(self.names[resource])
        else:
            self.config(resource).write_text("")

    def runs(self, life: Life | None) -> bool:
        return life is not None and self.host.lives.get(life.name) is life

    def domain_of(self, resource: str) -> Life | None:
        """The domain that is the resource's now, if one runs."""
        own = self.own[resource]
        if self.runs(own):
            return own
        named: Life | None = self.host.lives.get(self.named(resource))
        if named is not None and named.owner in ("", resource):
            return named
        # What a start has created that failed afterwards is its resource's, too.
        return next((life for life in self.host.lives.values() if life.owner == resource), None)

    def named(self, resource: str) -> str:
        """What it would start."""
        own = self.own[resource]
        return self.names[resource] or (own.name if own is not None else resource)

    def take(self, resource: str, life: Life) -> None:
        for other, own in self.own.items():
            if own is not None and own.name == life.name and other != resource:
                self.own[other] = None
        self.lost.discard(resource)
        life.owner, self.own[resource] = resource, life

    def perform(
        self, action: str, resource: str, interval: float = 0.0, timeout: float = 60.0
    ) -> tuple[int | None, str]:
        mine = self.domain_of(resource)
        before = dict(self.host.lives)
        mood = self.host.mood
        self.host.done.clear()
        try:
            code: int | None
            code, reason = self.host.act(action, resource, self.config(resource), interval, timeout)
        except Killed:
            code, reason = None, "killed"
        self.host.spawns_left = None
        what = f"{action} of {resource}: {code} {reason}; {self.host.done}"
        touched = [name for _, name in self.host.done if name in before]
        for command, name in self.host.done:
            if command != "create" and name and before.get(name) is not mine:
                assert before.get(name) is None, f"another's domain: {what}"
        if action not in ("stop", "migrate_to"):
            assert not touched, what
        created = [name for command, name in self.host.done if command == "create"]
        assert not (created and mine is not None), f"started twice: {what}"
        if mine is not None and self.runs(mine):
            assert code != NOT_RUNNING, f"runs: {what}"
            assert not (action == "stop" and code == SUCCESS), f"runs on: {what}"
        if mine is None and action == "stop" and mood == "fine" and code is not None:
            foreign = self.host.lives.get(self.named(resource)) is not None
            if self.names[resource] and not foreign:
                assert code == SUCCESS, f"is gone: {what}"
        return code, reason

    # -- actions ----------------------------------------------------------------------

    @rule(resource=RESOURCES)
    def start(self, resource: str) -> None:
        found = self.domain_of(resource) or self.host.lives.get(self.named(resource))
        code, _ = self.perform("start", resource)
        created = [name for command, name in self.host.done if command == "create"]
        for name in created:
            if name in self.host.lives:
                self.host.lives[name].owner = resource
        if code == SUCCESS:
            life = self.host.lives[created[0]] if created else found
            self.take(resource, life)

    @rule(resource=RESOURCES)
    def probe(self, resource: str) -> None:
        mine = self.domain_of(resource)
        found = mine or self.host.lives.get(self.named(resource))
        code, reason = self.perform("monitor", resource)
        if code == SUCCESS:
            assert found is not None, f"a dead one is fine: {reason}"
            self.take(resource, found)
        elif code == NOT_RUNNING and found is not None:
            raise AssertionError(reason)

    @rule(resource=RESOURCES, timeout=st.sampled_from([14.0, 60.0]))
    def monitor(self, resource: str, timeout: float) -> None:
        if self.own[resource] is None:
            return  # Pacemaker monitors what it has started or found
        for name in self.host.back_at:
            self.host.back_at[name] = min(self.host.back_at[name], self.host.clock.now + GAP_S)
        mine = self.domain_of(resource)
        code, reason = self.perform("monitor", resource, 10.0, timeout)
        if mine is None and code in (SUCCESS, DEGRADED) and self.host.mood == "fine":
            named = self.host.lives.get(self.named(resource))
            if named is None:
                self.fine_while_dead[resource] += 1
                assert self.fine_while_dead[resource] < 2, f"dead, and {code} twice: {reason}"
        else:
            self.fine_while_dead[resource] = 0

    @rule(resource=RESOURCES, timeout=st.sampled_from([20.0, 60.0]),
          killed=st.one_of(st.none(), st.integers(0, 6)))  # fmt: skip
    def stop(self, resource: str, timeout: float, killed: int | None) -> None:
        self.host.spawns_left = killed
        code, _ = self.perform("stop", resource, 0.0, timeout)
        if code == SUCCESS:
            self.own[resource] = None
            self.lost.discard(resource)

    @rule(resource=RESOURCES)
    def migrate(self, resource: str) -> None:
        if self.own[resource] is not None:
            self.perform("migrate_to", resource)

    # -- what happens -------------------------------------------------------------------

    @rule(name=NAMES)
    def dies(self, name: str) -> None:
        self.host.lives.pop(name, None)
        self.host.back_at.pop(name, None)

    @rule(name=NAMES, gap=st.sampled_from([0.0, GAP_S]))
    def reboots(self, name: str, gap: float) -> None:
        life = self.host.lives.get(name)
        if life is not None and self.host.renews_idents:
            life.ident = self.host.new_ident(name)
            self.host.back_at[name] = self.host.clock.now + gap

    @rule(resource=RESOURCES, name=st.sampled_from(["vm1", "vm2", "new", ""]))
    def file_edited(self, resource: str, name: str) -> None:
        self.names[resource] = name
        self.write(resource)

    @rule(mood=st.sampled_from(["fine", "fine", "fine", "cut", "hangs", "german"]))
    def toolstack(self, mood: str) -> None:
        self.host.mood = mood

    @rule(mood=st.sampled_from(["alive", "alive", "dead", "away"]), hears=st.booleans())
    def daemon(self, mood: str, hears: bool) -> None:
        if not self.lost:
            self.vesperd.mood = mood
        self.vesperd.hears = hears

    @rule(resource=RESOURCES)
    @precondition(lambda self: self.vesperd.mood == "alive")
    def record_is_cut_off(self, resource: str) -> None:
        path = self.folder / f"vesper-{resource}.domain"
        others = [other for other in self.names if other != resource]
        own, told = self.own[resource], self.vesperd.instances
        shared = own and any(own.name in (self.named(o), told.get(o, ("",))[0]) for o in others)
        if path.exists() and resource in told and not shared:
            path.write_text(path.read_text()[:2])
            self.lost.add(resource)  # now only vesperd knows


class XenMachine(Machine):
    kind = XenLives


class LibvirtMachine(Machine):
    kind = LibvirtLives


LIMITS = settings(
    max_examples=150, stateful_step_count=30, deadline=None, derandomize=True, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


class TestXen(XenMachine.TestCase):  # type: ignore[misc, valid-type]
    settings = LIMITS


class TestLibvirt(LibvirtMachine.TestCase):  # type: ignore[misc, valid-type]
    settings = LIMITS
