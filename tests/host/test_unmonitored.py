# SPDX-License-Identifier: GPL-2.0-or-later
"""Resources whose monitor Pacemaker has ceased to run are found."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from tests.host.standins import until
from tests.host.test_instance import RECORD, make
from vesper_monitor.faults import unmonitored
from vesper_monitor.faults.instance import Instance, Waiter
from vesper_monitor.faults.pacemaker import PacemakerError


def instance(resource: str, *, waits: bool = False) -> Instance:
    """That an earlier daemon had."""
    found = make(dataclasses.replace(RECORD, resource=resource, monitored=True))
    found._gap_since = -1000.0
    found.node = "node1"
    if waits:
        found.monitor_begins(Waiter(), 0.0, 1.0)
    return found


def test_who_has_none_and_again_and_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[list[tuple[str, str | None]]] = []
    caplog.set_level("INFO")
    monkeypatch.setattr(unmonitored, "EVERY", 0.01)

    async def run_again(resources: list[tuple[str, str | None]]) -> None:
        asked.append(resources)
        if len(asked) < 4:
            raise PacemakerError("not now")

    async def body() -> None:
        some = [instance("a"), instance("b"), instance("c", waits=True)]
        task = asyncio.create_task(unmonitored.keep_monitored(lambda: some, run_again))
        await until(lambda: len(asked) >= 5, "they are asked for")
        task.cancel()

    asyncio.run(asyncio.wait_for(body(), 20))
    assert asked[:5] == [[("a", "node1"), ("b", "node1")]] * 5
    assert caplog.messages == ["a: no monitor comes; of the cluster: not now"]
