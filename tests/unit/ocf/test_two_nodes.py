# SPDX-License-Identifier: GPL-2.0-or-later
"""Sequences of what can happen to one resource on two nodes, against the laws.

The nodes' files may differ, and somebody may run domains of their names by hand.
A migration is refused, goes, or goes and says that it has failed; Pacemaker recovers
from each as its scheduler does, or aborts its transition between two actions.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Any

import pytest

from tests.unit.ocf.support.virtual_host import (
    Job,
    ScriptedClient,
    VirtualHost,
    VirtualLibvirtHost,
    VirtualXenHost,
)
from vesper_monitor.ocf import arrival, toolstack
from vesper_monitor.ocf.actions import ACTIONS, STRICT
from vesper_monitor.ocf.invocation import OcfExit, OcfInvocation
from vesper_monitor.ocf.libvirt import migrate, virsh, virsh_call
from vesper_monitor.ocf.xen import xl

SUCCESS, NOT_RUNNING, DEGRADED = 0, 7, 190
NODES = ("n1", "n2")
SEQUENCES, STEPS = 150, 25


class Life:
    """One domain, also on its way from one node to the other."""

    def __init__(self, name: str, *, is_ours: bool) -> None:
        self.name = name
        self.is_ours = is_ours  # r1's; else somebody's who runs it by hand


class Node(VirtualHost):
    """Its domains have other identifiers than those of the same name on the other node."""

    world: World
    node: str

    def join(self, world: World, node: str) -> None:
        self.world, self.node = world, node
        self.lives: dict[str, Life] = {}
        self.numbers: dict[str, str] = {}
        self.attributes: dict[str, str] = {}
        self.named = "vm1"
        self.vesperd = lambda _: "dead"
        self.write_config(self.named)

    def ident(self, name: str) -> str:
        return self.numbers.get(name, "9999")

    def add(self, life: Life, uuid: str = "") -> None:
        self.lives[life.name] = life
        self.world.count += 1
        on_xen = isinstance(self, VirtualXenHost)
        number = str(self.world.count)
        self.numbers[life.name] = (
            number if on_xen else uuid or f"{number:0>8}-0000-4000-8000-000000000000"
        )

    def act(self, action: str, interval: float) -> tuple[int, str]:
        environ = {
            "HA_RSCTMP": str(self.folder),
            "OCF_RESOURCE_INSTANCE": "r1",
            f"OCF_RESKEY_{self.config_parameter}": str(self.config),
            "OCF_RESKEY_CRM_meta_interval": str(int(interval * 1000)),
            "OCF_RESKEY_CRM_meta_timeout": "60000",
            "OCF_RESKEY_CRM_meta_migrate_target": self.world.other(self).node,
            "OCF_RESKEY_CRM_meta_on_node": self.node,
            "OCF_RESKEY_add_device": "false",
        }
        client: Any = ScriptedClient(self.clock, lambda asked: self.vesperd(asked))
        try:
            call = OcfInvocation(action, environ)
            ACTIONS[action](self._agent(call, action in STRICT, client))
        except OcfExit as end:
            return int(end.code), end.reason
        return SUCCESS, ""

    def _spawn(self, command: list[str], *more: Any, **named: Any) -> Job:
        if command[0] == "attrd_updater":
            return self._use_cluster(command)
        if command[0] == "crm_attribute":
            return Job(self.clock, 0, "")
        before = set(self.lives)
        self.running = set(before)
        job = super()._spawn(command, *more, **named)
        for name in self.running - before:
            self.add(Life(name, is_ours=True))
        for name in before - self.running:
            del self.lives[name]
        return job

    def _use_cluster(self, command: list[str]) -> Job:
        name = command[command.index("--name") + 1]
        node = command[command.index("--node") + 1] if "--node" in command else self.node
        attributes = self.world.nodes[node].attributes
        if "--query" in command and name not in attributes:
            return Job(self.clock, 6, "Could not query value of x: does not exist")
        if "--query" in command:
            return Job(self.clock, 0, f'name="x" host="n" value="{attributes[name]}"')
        if "--delete" in command:
            attributes.pop(name, None)
        else:
            attributes[name] = command[command.index("--update") + 1]
        return Job(self.clock, 0, "")

    def _end(self, command: str, ident: str) -> tuple[int, str]:
        name, target = self._named(ident), self.world.other(self)
        if command != "migrate" or not name:
            return super()._end(command, ident)
        self.done.append((command, name))
        if self.world.migration == "refused" or name in target.lives:
            return 1, "error: refused"
        target.add(self.lives[name], self.ident(name))
        self.running.discard(name)
        return (1, "error: reset") if self.world.migration == "goes, and fails" else (0, "")


class XenNode(Node, VirtualXenHost):
    pass


class LibvirtNode(Node, VirtualLibvirtHost):
    pass


class World:
    """Two nodes, and Pacemaker."""

    def __init__(
        self, kind: type[Node], folder: Path, patch: pytest.MonkeyPatch, seed: int
    ) -> None:
        self.chance = random.Random(seed)
        self.count = 0
        self.migration = "goes"
        self.nodes: dict[str, Node] = {}
        self.said: list[str] = []
        #: where Pacemaker thinks that it runs
        self.believed: set[str] = set()
        for node in NODES:
            place = folder / f"{seed}-{node}"
            place.mkdir()
            self.nodes[node] = kind(place, patch)
            self.nodes[node].join(self, node)
        self.at = self.nodes["n1"]
        clock = self.at.clock
        self.nodes["n2"].clock = clock
        patch.setattr(time, "sleep", clock.sleep)
        patch.setattr(time, "monotonic", lambda: clock.now)
        patch.setattr(time, "clock_gettime", lambda _: clock.now)
        for module in (arrival, toolstack, virsh, virsh_call, migrate, xl):
            patch.setattr(module, "spawn_command", lambda *a, **k: self.at._spawn(*a, **k))

    def other(self, node: VirtualHost) -> Node:
        return self.nodes["n2" if node is self.nodes["n1"] else "n1"]

    def ours(self) -> list[Life]:
        return [life for node in self.nodes.values() for life in node.lives.values()
                if life.is_ours]  # fmt: skip

    def perform(self, at: str, action: str, interval: float = 0.0) -> int:
        node = self.at = self.nodes[at]
        node.done.clear()
        record, before = node.folder / "vesper-r1.domain", dict(node.lives)
        known = record.read_text().split("\n")[0] if record.exists() else node.named
        code, reason = node.act(action, interval)
        self.said.append(f"{at} {action} {code} {reason} {node.done} {list(node.lives)}")
        if record.exists() and (found := record.read_text().split("\n")[0]) in node.lives:
            node.lives[found].is_ours = True  # what its file names is its own where it runs
        for command, name in node.done:
            life = before.get(name)
            foreign = life is not None and not life.is_ours and name not in (node.named, known)
            assert command == "create" or not foreign, f"another's domain: {self.said}"
        mine = [life for life in before.values() if life.is_ours]
        if mine and all(node.lives.get(life.name) is life for life in mine):
            assert code != NOT_RUNNING, f"runs: {self.said}"
            assert not (action == "stop" and code == SUCCESS), f"runs on: {self.said}"
        is_new = any(command == "create" for command, _ in node.done)
        assert not is_new or len(self.ours()) == 1, f"runs twice: {self.said}"
        return code

    # -- Pacemaker ------------------------------------------------------------------

    def stop(self, *nodes: str) -> None:
        for at in nodes:
            if self.perform(at, "stop") != SUCCESS:
                node = self.nodes[at]  # is fenced
                node.lives.clear()
                node.attributes.clear()
                for path in node.folder.glob("vesper-*"):
                    path.unlink()
            self.believed.discard(at)

    def start(self, at: str) -> None:
        if self.perform(at, "start") == SUCCESS:
            self.believed.add(at)
        else:
            self.stop(at)

    def probe(self, at: str) -> None:
        code = self.perform(at, "monitor")
        if code == SUCCESS:
            self.believed.add(at)
            if len(self.believed) == len(NODES):
                self.stop(*NODES)
        elif code == NOT_RUNNING:
            self.believed.discard(at)
        else:
            self.stop(at)

    def migrate(self, source: str, target: str, how: str) -> None:
        if self.perform(source, "migrate_to") != SUCCESS:
            self.stop(source, target)
        elif how == "aborted":
            self.stop(source)
            self.start(target)
        elif self.perform(target, "migrate_from") != SUCCESS:
            self.stop(target, source)
        else:
            self.stop(source)
            self.believed.add(target)

    # -- what happens -----------------------------------------------------------------

    def step(self) -> None:
        choose, at = self.chance.choice, self.chance.choice(NODES)
        match choose(
            ["cluster"] * 5
            + ["file", "file", "by hand", "by hand", "dies", "link", "link", "probe"]
        ):
            case "file":
                node = self.nodes[at]
                node.named = choose(["vm1", "vm2", "vm3"])
                node.write_config(node.named)
                node.clock.sleep(1.0)
                os.utime(node.config, (node.clock.now, node.clock.now))
            case "by hand":
                name, used = choose(["vm1", "vm2"]), [life.name for life in self.ours()]
                if name not in (*self.nodes[at].lives, *used, self.nodes[at].named):
                    self.nodes[at].add(Life(name, is_ours=False))
            case "dies" if self.nodes[at].lives:
                del self.nodes[at].lives[choose(list(self.nodes[at].lives))]
            case "link":
                self.migration = choose(["goes", "refused", "goes, and fails", "goes, and fails"])
            case "probe":
                self.probe(at)
            case "cluster" if not self.believed:
                self.start(at)
            case "cluster":
                (source,) = self.believed
                match choose(["monitor", "stop", "whole", "whole", "whole", "aborted"]):
                    case "monitor":
                        if self.perform(source, "monitor", 10.0) not in (SUCCESS, DEGRADED):
                            self.stop(source)
                    case "stop":
                        self.stop(source)
                    case how:
                        self.migrate(source, self.other(self.nodes[source]).node, how)


@pytest.mark.parametrize("kind", [XenNode, LibvirtNode])
def test_random_sequences_of_actions_keep_the_invariants(tmp_path: Path, kind: type[Node]) -> None:
    for seed in range(SEQUENCES):
        with pytest.MonkeyPatch.context() as patch:
            world = World(kind, tmp_path, patch, seed)
            for _ in range(STEPS):
                world.step()
