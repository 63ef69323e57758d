# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest in QEMU, watched by vesperd's own session."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from lab.session_listener import EventListener
from tests.kernel.support.machine import Machine, MachineTransport
from vesper_monitor.guest.control.images import ImageStore
from vesper_monitor.guest.dynamic_probes.point import DynamicProbe
from vesper_monitor.guest.event import Event
from vesper_monitor.guest.health.heartbeat import HeartbeatReader
from vesper_monitor.guest.session import Session
from vesper_monitor.guest.session_listener import SessionSettings
from vesper_monitor.guest.session_state import SessionState

__all__ = ["HANG_TIMEOUT_S", "WatchedGuest", "watch_guest"]

#: s, the default.
HANG_TIMEOUT_S = 5.0
#: s for a guest to answer.
SESSION_LIMIT_S = 60.0


@dataclass
class WatchedGuest:
    guest: Machine
    transport: MachineTransport
    session: Session

    def read_counters(self) -> list[int]:
        """Interrupts and runs of threads that each CPU of the guest has counted."""
        guest = self.session.guest
        if guest is None:
            return []
        reader = HeartbeatReader(guest.link, guest.hello.life, guest.hello.nr_cpus)
        try:
            return [count for sign in reader.read_signs() for count in (sign.irqs, sign.runs)]
        finally:
            reader.close()


@asynccontextmanager
async def watch_guest(
    guest: Machine,
    tell: Callable[[list[Event]], None],
    *,
    images: ImageStore | None = None,
    points: Mapping[str, DynamicProbe] | None = None,
) -> AsyncIterator[WatchedGuest]:
    """
    :param tell: gets all events.
    :param images: of the probes.
    :param points: of the user's own, by name; may change.
    """
    transport = MachineTransport(guest)
    session = Session(
        transport,
        transport.domain,
        images or ImageStore(Path("/nonexistent")),
        EventListener(tell, hang_timeout_s=HANG_TIMEOUT_S),
        SessionSettings(dynamic_probes=points or {}),
    )
    task = asyncio.create_task(session.run_session())
    try:
        end = time.monotonic() + SESSION_LIMIT_S
        while session.state is not SessionState.ACTIVE:
            if time.monotonic() > end or task.done():
                raise RuntimeError(f"no session with the guest: {session.degraded}")
            await asyncio.sleep(0.02)
        yield WatchedGuest(guest, transport, session)
    finally:
        await session.close_session(deactivate=False)
        await asyncio.wait_for(task, 10)
