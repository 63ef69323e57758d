# SPDX-License-Identifier: GPL-2.0-or-later
"""A vesperd in the test's own process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from lab.standin.image import make_store
from tests.unit.support.daemons import (
    MONITOR,
)
from vesper_monitor.client import Client
from vesper_monitor.daemon.config import Config
from vesper_monitor.daemon.daemon import Daemon


class Running:
    """A daemon in this process."""

    def __init__(self, directory: Path) -> None:
        (directory / "domains").mkdir()
        make_store(directory / "probes")
        self.config = Config(
            socket=str(directory / "socket"),
            journal=str(directory / "journal"),
            probes_dir=str(directory / "probes"),
            activate_timeout=0.5,
        )

    async def begin(self, transports: dict[str, Any]) -> Daemon:
        daemon = Daemon(self.config, transports)
        await daemon.start()
        return daemon

    async def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        with Client(self.config.socket, timeout=20.0) as client:
            return await asyncio.to_thread(client.call_vesperd, op, **fields)

    async def monitor(self, **changes: Any) -> dict[str, Any]:
        return await self.ask("wait", **{**MONITOR, "first": False, **changes})


def run(body: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(body(), 60)

    asyncio.run(limited())


def collects(daemon: Daemon, vm: str = "vm1") -> bool:
    session = daemon.sessions.session_of(vm)
    return session is not None and len(session._reader.channels) == 2
