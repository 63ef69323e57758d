# SPDX-License-Identifier: GPL-2.0-or-later
"""Node attributes: set in the background, again if need be, and in order."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.unit.support.standins import until
from vesper_monitor.pacemaker import node_attributes as module
from vesper_monitor.pacemaker.commands import PacemakerError
from vesper_monitor.pacemaker.node_attributes import MAX_UPDATES_AT_ONCE, NodeAttributes


class Cluster:
    """Node attributes as attrd would have them; ``refuse`` times it fails."""

    def __init__(self, refuse: int = 0) -> None:
        self.attributes: dict[str, str] = {}
        self.refuse = refuse

    async def set(self, name: str, value: str | None) -> None:
        if self.refuse:
            self.refuse -= 1
            raise PacemakerError("not connected")
        if value is None:
            self.attributes.pop(name, None)
        else:
            self.attributes[name] = value


async def settle(condition: object = None, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while callable(condition) and not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.02)


async def refused() -> None:
    cluster = Cluster(refuse=2)
    kept = NodeAttributes(cluster.set)
    kept.set_attribute("vesper-fault-vm1", "gone")
    await settle(lambda: cluster.attributes)
    assert cluster.attributes == {"vesper-fault-vm1": "gone"}
    await kept.close()


def test_a_cluster_that_does_not_answer_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_PAUSE_S", 0.01)
    asyncio.run(refused())


async def later() -> None:
    cluster = Cluster()
    kept = NodeAttributes(cluster.set)
    kept.set_attribute("a", "first", after=0.05)
    kept.set_attribute("a", "second", after=0.05)
    kept.set_attribute("b", "other", after=3600)
    await settle(lambda: cluster.attributes)
    await asyncio.sleep(0.1)
    assert cluster.attributes == {"a": "second"}
    await kept.close()


def test_the_last_value_counts_and_none_comes_early() -> None:
    asyncio.run(later())


def test_not_all_commands_at_once() -> None:
    running: list[int] = []
    told: list[str] = []
    most = 0

    async def tell(name: str, value: str | None) -> None:
        nonlocal most
        running.append(1)
        most = max(most, len(running))
        await asyncio.sleep(0)
        running.pop()
        told.append(name)

    async def run() -> None:
        attributes = NodeAttributes(tell)
        for number in range(50):
            attributes.set_attribute(f"a{number}", "x")
        await until(lambda: len(told) == 50, "all are set")
        await attributes.close()

    asyncio.run(run())
    assert most == MAX_UPDATES_AT_ONCE


def test_what_pacemaker_has_forgotten_is_set_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is started anew, or was away for longer than anybody waits."""
    monkeypatch.setattr(module, "RETRY_PAUSE_S", 0.001)
    monkeypatch.setattr(module, "SET_AGAIN_S", 0.01)

    async def run() -> None:
        cluster = Cluster(refuse=module.MAX_TRIES + 3)
        kept = NodeAttributes(cluster.set)
        kept.set_attribute("a", "x")
        await until(lambda: cluster.attributes, "it is set at last")
        cluster.attributes.clear()
        await until(lambda: cluster.attributes, "it is set again")
        kept.set_attribute("a", None)
        await until(lambda: not kept._tellers, "nothing is set any more")
        assert not cluster.attributes
        await kept.close()

    asyncio.run(run())
