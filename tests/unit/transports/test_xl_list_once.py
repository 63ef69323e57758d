# SPDX-License-Identifier: GPL-2.0-or-later
"""One ``xl list`` serves all who asked before it began."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from vesper_monitor.daemon.session_manager_listener import SessionManagerListener
from vesper_monitor.daemon.sessions import SessionManager
from vesper_monitor.daemon.watched_domain import WatchedDomain
from vesper_monitor.hypervisor.domain_state import DomainState
from vesper_monitor.hypervisor.transport import Domain, DomainEvent, TransportError
from xen_transport import toolstack
from xen_transport.toolstack import DomainList
from xen_transport.transport import XenTransport

HEAD = "Name                        ID   Mem VCPUs\tState\tTime(s)\n"


class Xl:
    """In the place of the command: each run ends when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.runs: list[asyncio.Future[str]] = []
        monkeypatch.setattr(toolstack, "_run_xl_command", self)

    async def __call__(self, *command: str) -> str:
        assert command == ("list",)
        self.runs.append(asyncio.get_running_loop().create_future())
        return await self.runs[-1]

    async def begun(self, count: int) -> None:
        for _ in range(1000):
            if len(self.runs) == count:
                return
            await asyncio.sleep(0)
        raise AssertionError(f"{len(self.runs)} runs, not {count}")

    def end(self, domid: int) -> None:
        self.runs[-1].set_result(f"{HEAD}vm1   {domid}   160     1     -b----       4.0\n")


def test_who_asks_later_gets_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        xl, domains = Xl(monkeypatch), DomainList()
        first = [asyncio.create_task(domains.list_reports()) for _ in range(50)]
        await xl.begun(1)
        second = [asyncio.create_task(domains.list_reports()) for _ in range(50)]
        second[0].cancel()  # the others have it all the same
        for _ in range(10):
            await asyncio.sleep(0)
        assert len(xl.runs) == 1  # never two at once
        xl.end(1)
        assert all(set(found) == {1} for found in await asyncio.gather(*first))
        await xl.begun(2)
        xl.end(2)
        assert all(set(found) == {2} for found in await asyncio.gather(*second[1:]))
        third = asyncio.create_task(domains.list_reports())
        await xl.begun(3)
        xl.runs[-1].set_exception(TransportError("xl hangs"))
        with pytest.raises(TransportError, match="hangs"):
            await third
        fourth = asyncio.create_task(domains.list_reports())
        await xl.begun(4)
        xl.end(4)
        assert set(await fourth) == {4}

    asyncio.run(run())


class Seen:
    """In the place of the listener: notes which domains are seen to run."""

    def __init__(self, seen: Callable[[Domain], None]) -> None:
        self.note_domain_runs = seen

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None

    async def watch_arrivals(self, transport: object) -> None:
        pass


def test_one_event_of_xenstore_is_one_list_for_a_hundred_domains(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def run() -> None:
        xl, transport = Xl(monkeypatch), XenTransport()
        everybody, seen = asyncio.Event(), set()

        def note(domain: Domain) -> None:
            seen.add(domain)
            if len(seen) == 100:
                everybody.set()

        manager = SessionManager(cast(Any, None), cast(Any, None), activate_timeout=1.0)
        manager.listener = cast(SessionManagerListener, Seen(note))
        for number in range(1, 101):
            domain = Domain(f"vm{number}", number, f"u{number}")
            manager._watched[domain.key] = WatchedDomain(transport, domain, None)

        async def follow() -> None:
            async for event in transport.follow_events():
                manager.note_transport_event(transport, event)

        following = asyncio.create_task(follow())
        await asyncio.sleep(0)
        for queue in transport._queues:
            queue.put_nowait(DomainEvent(None))
        await xl.begun(1)
        lines = [f"vm{n}   {n}   160     1     -b----       4.0\n" for n in range(1, 101)]
        xl.runs[-1].set_result(HEAD + "".join(lines))
        async with asyncio.timeout(10):
            await everybody.wait()
        assert len(xl.runs) == 1
        following.cancel()
        watched = list(manager._watched.values())
        assert {one.report.state for one in watched} == {DomainState.RUNNING}

    asyncio.run(run())
