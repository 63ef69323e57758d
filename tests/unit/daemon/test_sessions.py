# SPDX-License-Identifier: GPL-2.0-or-later
"""The session manager begins nothing once vesperd ends."""

from __future__ import annotations

import asyncio
from pathlib import Path

from lab.standin.transport import StandinTransport
from vesper_monitor.daemon.sessions import SessionManager
from vesper_monitor.guest.control.images import ImageStore
from vesper_monitor.guest.dynamic_probes.store import DynamicProbeStore
from vesper_monitor.hypervisor.transport import Domain, DomainEvent, DomainReport


class Counting(StandinTransport):
    """Counts how often a domain's state is asked for."""

    asked = 0

    async def report_domain(self, domain: Domain) -> DomainReport:
        type(self).asked += 1
        return await super().report_domain(domain)


def test_an_event_that_comes_while_vesperd_ends_begins_no_look(tmp_path: Path) -> None:
    """It would outlive its transport, which is stopped after it."""

    async def scene() -> None:
        store = DynamicProbeStore(tmp_path / "points.json")
        sessions = SessionManager(ImageStore(tmp_path), store, activate_timeout=1.0)
        transport = Counting()
        sessions.look_without_session(transport, Domain("vm1", 1, "u1"))
        await sessions.close()
        sessions.note_transport_event(transport, DomainEvent(None))
        await asyncio.sleep(0.01)
        assert not transport.asked

    asyncio.run(scene())
