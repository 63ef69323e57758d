# SPDX-License-Identifier: GPL-2.0-or-later
"""The socket: no client can hold the daemon up, or fill its memory."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from vesper_monitor.daemon import connection as connection_module
from vesper_monitor.daemon.followers import MAX_WAITING_EVENTS, Followers
from vesper_monitor.daemon.server import Connection, Server
from vesper_monitor.guest.event import Event


def event(number: int) -> Event:
    return Event("vm1", 1, "p", "e", 0, number, 0, 0.0, {}, "t", number)


def test_a_slow_follower_loses_events_with_a_count() -> None:
    async def run() -> None:
        followers = Followers()
        slow, other = followers.add_follower("vm1"), followers.add_follower("vm2")
        for number in range(MAX_WAITING_EVENTS + 5):
            followers.put_events([event(number)])
        events, dropped = await slow.take_events()
        assert [e.id for e in events] == list(range(MAX_WAITING_EVENTS))
        assert dropped == 5
        followers.put_events([event(7)])
        assert await slow.take_events() == ([event(7)], 0)
        followers.remove_follower(slow)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await other.take_events()

    asyncio.run(run())


def test_a_client_that_does_not_read_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "SEND_TIMEOUT_S", 0.2)
    outcome: asyncio.Queue[ConnectionError] = asyncio.Queue()

    async def flood(connection: Connection, request: dict[str, Any]) -> None:
        try:
            while True:
                await connection.send_answers({"x": "y" * 10000})
        except ConnectionError as error:
            outcome.put_nowait(error)
            raise

    async def run() -> None:
        server = Server(tmp_path / "sock", flood, group="", max_clients=4)
        await server.start()
        _, writer = await asyncio.open_unix_connection(str(tmp_path / "sock"), limit=1)
        writer.write(b"{}\n")
        async with asyncio.timeout(20):
            assert "does not read" in str(await outcome.get())
        writer.close()
        await server.stop()

    asyncio.run(run())


def test_clients_are_bounded_and_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "sock"

    async def answer(connection: Connection, request: dict[str, Any]) -> None:
        await connection.send_answers({"ok": True})

    async def run() -> None:
        server = Server(path, answer, group="no-such-group", max_clients=2)
        await server.start()
        clients = []
        for _ in range(2):
            reader, writer = await asyncio.open_unix_connection(str(path))
            writer.write(b"{}\n")
            assert json.loads(await reader.readline())["ok"]
            clients.append(writer)
        reader, writer = await asyncio.open_unix_connection(str(path))
        assert "too many connections" in (await reader.readline()).decode()
        for client in (*clients, writer):
            client.close()
        with pytest.raises(OSError, match="another vesperd"):
            await Server(path, answer, group="", max_clients=2).start()
        await server.stop()

    asyncio.run(run())
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    asyncio.run(run())
