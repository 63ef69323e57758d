# SPDX-License-Identifier: GPL-2.0-or-later
"""Degraded monitors that are over do not stay on record, and keep no monitor away."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from tests.unit.faults.test_activation import RECORD, make, watch_changes
from tests.unit.support.standins import until
from vesper_monitor.faults import stalled_monitors
from vesper_monitor.faults.activation import ResourceActivation, Result, Waiter
from vesper_monitor.pacemaker.commands import DegradedRecord, PacemakerError


class Cluster:
    """Its records, and what was asked of it."""

    def __init__(self, *records: DegradedRecord) -> None:
        self.records = list(records)
        self.asked = 0
        self.away = 0

    async def query(self) -> list[DegradedRecord]:
        self.asked += 1
        if self.away:
            self.away -= 1
            raise PacemakerError("not now")
        return list(self.records)

    async def own_name(self) -> str:
        return "node1"

    async def remove(self, record: DegradedRecord) -> None:
        self.records.remove(record)

    def keep(
        self, instances: list[ResourceActivation], left: dict[str, str] | None = None
    ) -> asyncio.Task[None]:
        arguments = (lambda: instances), left if left is not None else {}
        work = stalled_monitors.keep_monitored(*arguments, self.query, self.own_name, self.remove)
        return asyncio.create_task(work)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stalled_monitors, "LOOK_PAUSE_S", 0.01)


def record(resource: str, node: str = "node1", *, over: bool = False) -> DegradedRecord:
    return DegradedRecord(resource, node, "100", over)


def instance(
    resource: str, *, waits: bool = False, degraded: str | None = None
) -> tuple[ResourceActivation, Waiter]:
    """That an earlier daemon had."""
    found = make(dataclasses.replace(RECORD, resource=resource, monitored=True))
    watch_changes(found, degraded, -1000.0)
    found.turns._gap_since = -1000.0
    waiter = Waiter()
    if waits:
        found.node = "node1"
        found.monitor_begins(waiter, 0.0, 1.0, first=False)
    return found, waiter


def test_where_no_monitor_comes_the_record_goes(caplog: pytest.LogCaptureFixture) -> None:
    cluster = Cluster(record("a"), record("b", "node2"))
    cluster.away = 3
    caplog.set_level("INFO")

    async def body() -> None:
        # As after maintenance mode in which vesperd was restarted: nobody has told the node.
        task = cluster.keep([instance("a")[0], instance("b")[0], instance("c")[0]])
        await until(lambda: len(cluster.records) == 1, "it is removed")
        task.cancel()

    asyncio.run(asyncio.wait_for(body(), 20))
    assert cluster.records == [record("b", "node2")]
    assert caplog.messages[0] == "cannot tell whether degraded monitors are on record: not now"
    assert caplog.messages[1].startswith("a: Pacemaker ran no monitor any more")
    assert len(caplog.messages) == 2


def test_what_is_over_goes_once_pacemaker_has_heard_so() -> None:
    cluster = Cluster(record("a"))

    async def body() -> None:
        well, waiter = instance("a", waits=True)
        task = cluster.keep([well])
        await until(lambda: waiter.answer is not None, "the monitor that waits is answered")
        assert waiter.answer is not None
        assert waiter.answer.result is Result.FINE
        assert cluster.records == [record("a")]
        well.monitor_ends(waiter, 0.0, delivered=True)
        well.monitor_begins(Waiter(), 1.0, 1.0, first=False)
        cluster.records = [record("a", over=True)]
        await until(lambda: not cluster.records, "it is removed")
        await until(lambda: not well.turns.may_be_on_record, "that is known")
        asked = cluster.asked
        await asyncio.sleep(0.1)
        assert cluster.asked == asked  # nobody is bothered any more
        task.cancel()

    asyncio.run(asyncio.wait_for(body(), 20))


def test_a_monitor_is_not_answered_again_and_again() -> None:
    """Its agent may have something of its own to say."""
    cluster = Cluster(record("a"))

    async def body() -> None:
        well, waiter = instance("a", waits=True)
        task = cluster.keep([well])
        await until(lambda: waiter.answer is not None, "it is answered")
        well.monitor_ends(waiter, 0.0, delivered=True)
        second = Waiter()
        well.monitor_begins(second, 1.0, 1.0, first=False)
        asked = cluster.asked
        await until(lambda: cluster.asked > asked + 3, "it is looked at")
        assert second.answer is None
        assert cluster.records == [record("a")]
        task.cancel()

    asyncio.run(asyncio.wait_for(body(), 20))


@pytest.mark.parametrize("why", ["degraded", "refused", "paused"])
def test_what_is_not_over_stays(why: str) -> None:
    cluster = Cluster(record("a", over=True), record("b", over=True))

    async def body() -> None:
        ill, _ = instance("a", waits=True, degraded="no" if why == "degraded" else None)
        ill.refused = "wrong" if why == "refused" else None
        ill.paused = why == "paused"
        task = cluster.keep([ill, instance("b", waits=True)[0]])
        await until(lambda: cluster.records == [record("a", over=True)], "the other one goes")
        task.cancel()

    asyncio.run(asyncio.wait_for(body(), 20))


def test_a_resource_that_was_stopped_here_leaves_none() -> None:
    cluster = Cluster(record("a"), record("a", "node2"), record("b"))

    async def body() -> None:
        left = {"a": "node1"}
        task = cluster.keep([], left)
        await until(lambda: not left, "it is looked at")
        task.cancel()

    asyncio.run(asyncio.wait_for(body(), 20))
    assert cluster.records == [record("a", "node2"), record("b")]
