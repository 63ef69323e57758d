# SPDX-License-Identifier: GPL-2.0-or-later
"""What waits for a slow journal: one guest's flood takes no other's place."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from vesper_monitor.daemon import event_pipeline
from vesper_monitor.daemon.config import Config
from vesper_monitor.daemon.daemon import Daemon
from vesper_monitor.guest.event import Event
from vesper_monitor.hypervisor.transport import Domain
from vesper_monitor.journal.journal import Journal

FLOOD, OTHER = Domain("flood", 1, "u1"), Domain("other", 2, "u2")


def events(domain: Domain, count: int) -> list[Event]:
    return [
        Event(domain.name, domain.domid, "send_signal", "send_signal", 0, seq, 5, 1.5, {}, "text")
        for seq in range(count)
    ]


def test_one_guests_events_have_a_part_of_the_backlog(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(event_pipeline, "MAX_BACKLOG_EVENTS_OF_VM", 100)
    monkeypatch.setattr(event_pipeline, "MAX_BACKLOG_EVENTS", 300)
    monkeypatch.setattr(event_pipeline, "SPARE_HOST_EVENTS", 0)  # these stand for a guest's

    async def body() -> None:
        daemon = Daemon(
            Config(journal=str(tmp_path / "journal.sqlite"), socket=str(tmp_path / "s"))
        )

        async def kept(domain: Domain) -> int:
            found = await daemon.journal.run_on_journal(
                Journal.read_events, vm=domain.name, limit=10_000
            )
            return len(found)

        daemon.pipeline.begin_numbering(0, 0)
        # The journal's process gets no turn meanwhile.
        for _ in range(10):
            daemon.pipeline.record_events(FLOOD, events(FLOOD, 60))
        daemon.pipeline.record_events(OTHER, events(OTHER, 60))
        assert (await kept(FLOOD), await kept(OTHER)) == (120, 60)
        assert "flood, perhaps others: too many events" in caplog.text
        assert not daemon.pipeline._backlog_of
        for domain in (FLOOD, OTHER):
            daemon.pipeline.record_events(domain, events(domain, 60))
        assert "the journal keeps events again; 480 are not in it" in caplog.text
        assert (await kept(FLOOD), await kept(OTHER)) == (180, 120)
        await daemon.stop()

    with caplog.at_level(logging.WARNING):
        asyncio.run(body())
