# SPDX-License-Identifier: GPL-2.0-or-later
"""The group's port, root's own socket, and how clients come to them."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import resource
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.unit.support.standins import until
from vesper_monitor.client import Client, DaemonUnavailableError, root_path
from vesper_monitor.daemon import group_port, share
from vesper_monitor.daemon import server as server_module
from vesper_monitor.daemon.connection import MAX_LINE_BYTES
from vesper_monitor.daemon.server import Connection, Server
from vesper_monitor.daemon.share import Share
from vesper_monitor.ocf import fast_monitor

Request = dict[str, Any]


@asynccontextmanager
async def served(
    path: Path, handler: Callable[[Connection, Request], Any], max_clients: int = 8
) -> AsyncIterator[Server]:
    server = Server(path, handler, group="", max_clients=max_clients)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
def as_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes to the group's socket is not root."""
    monkeypatch.setattr(server_module, "peer_of", lambda _: (1, 65534))


async def echo(connection: Connection, request: Request) -> None:
    await connection.send_answers({"ok": True, "privileged": connection.privileged, **request})


async def ask(path: Path, data: bytes, *, half_close: bool = True) -> list[Request]:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(data)
    if half_close:
        writer.write_eof()
    async with asyncio.timeout(10):
        lines = (await reader.read()).splitlines()
    writer.close()
    return [json.loads(line) for line in lines]


def test_requests_may_come_in_pieces_or_together_but_not_too_long(
    tmp_path: Path, as_the_group: None
) -> None:
    path = tmp_path / "sock"

    async def run() -> None:
        async with served(path, echo):
            # As `echo .. | socat - UNIX:..` does: all that was asked is answered.
            answers = await ask(path, b'{"a":1}\n{"a":2}\n{"a":3}\n')
            assert [(answer["a"], answer["privileged"]) for answer in answers] == [
                (1, False), (2, False), (3, False),
            ]  # fmt: skip
            assert await ask(path, b'{"a":') == []
            reader, writer = await asyncio.open_unix_connection(str(path))
            for piece in (b'{"', b'a":', b"5}", b"\n"):
                writer.write(piece)
                await asyncio.sleep(0.01)
            assert json.loads(await reader.readline())["a"] == 5
            writer.close()
            long = await ask(path, b"x" * (MAX_LINE_BYTES + 100), half_close=False)
            assert "a line of more than" in long[0]["error"]
            assert len(await ask(path, b'{"a":"' + b"x" * (MAX_LINE_BYTES - 100) + b'"}\n')) == 1

    asyncio.run(run())


def test_an_answer_longer_than_the_sockets_buffer_arrives_whole(
    tmp_path: Path, as_the_group: None
) -> None:
    async def much(connection: Connection, request: Request) -> None:
        for _ in range(20):
            await connection.send_answers({"x": "y" * 200_000})

    async def run() -> None:
        async with served(tmp_path / "sock", much):
            assert len(await ask(tmp_path / "sock", b"{}\n")) == 20

    asyncio.run(run())


def test_a_follower_that_leaves_gets_nothing_more(tmp_path: Path, as_the_group: None) -> None:
    """Also with another request behind the one that goes on."""
    begun, ended = asyncio.Event(), asyncio.Event()

    async def follow(connection: Connection, request: Request) -> None:
        connection.until_closed = True
        connection.end_turn()
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def run() -> None:
        for data in (b"{}\n", b"{}\n{}\n{}\n"):
            begun.clear()
            ended.clear()
            async with served(tmp_path / "sock", follow), asyncio.timeout(10):
                _, writer = await asyncio.open_unix_connection(str(tmp_path / "sock"))
                writer.write(data)
                await begun.wait()
                writer.close()
                await ended.wait()

    asyncio.run(run())


def test_who_does_not_read_is_dropped(
    tmp_path: Path, as_the_group: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_port, "SEND_TIMEOUT_S", 0.1)
    dropped: asyncio.Queue[str] = asyncio.Queue()

    async def flood(connection: Connection, request: Request) -> None:
        try:
            while True:
                await connection.send_answers({"x": "y" * 10000})
        except ConnectionError as error:
            dropped.put_nowait(str(error))
            raise

    async def run() -> None:
        async with served(tmp_path / "sock", flood), asyncio.timeout(10):
            with socket.socket(socket.AF_UNIX) as deaf:
                deaf.connect(str(tmp_path / "sock"))
                deaf.sendall(b"{}\n")
                assert "does not read" in await dropped.get()

    asyncio.run(run())


def test_what_waits_for_all_that_do_not_read_is_bounded(
    tmp_path: Path, as_the_group: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who reads, or asks for little, is served all the same."""
    monkeypatch.setattr(group_port, "MAX_UNSENT_BYTES", 3_000_000)
    ended: asyncio.Queue[str] = asyncio.Queue()

    async def much(connection: Connection, request: Request) -> None:
        try:
            await connection.send_answers({"x": "y" * request["bytes"]})
        except ConnectionError as error:
            ended.put_nowait(str(error))
            raise

    async def run() -> None:
        async with served(tmp_path / "sock", much, 20) as server, asyncio.timeout(20):
            deaf = [socket.socket(socket.AF_UNIX) for _ in range(5)]
            for client in deaf:
                client.connect(str(tmp_path / "sock"))
                client.sendall(b'{"bytes": 1000000}\n')
            for _ in range(2):
                assert "too much waits" in await ended.get()
            assert server._port is not None
            assert 2_000_000 < server._port.unsent <= 3_000_000
            assert len(await ask(tmp_path / "sock", b'{"bytes": 100}\n')) == 1
            for client in deaf:
                client.close()
            port = server._port
            await until(lambda: port.unsent == 0, "nothing waits any more")

    asyncio.run(run())


def test_the_group_is_half_of_all_and_root_comes_in(tmp_path: Path, as_the_group: None) -> None:
    path = tmp_path / "sock"

    async def run() -> None:
        async with served(path, echo, max_clients=8):
            group = [await asyncio.open_unix_connection(str(path)) for _ in range(4)]
            for reader, writer in group:
                writer.write(b"{}\n")
                assert json.loads(await reader.readline())["ok"]
            assert "too many" in (await ask(path, b""))[0]["error"]
            root = await ask(Path(root_path(str(path))), b"{}\n")
            assert root == [{"ok": True, "privileged": True}]
            for _, writer in group:
                writer.close()
            end = time.monotonic() + 10
            while await ask(path, b""):  # refused as yet
                assert time.monotonic() < end

    asyncio.run(run())
    assert not path.exists()
    assert not Path(root_path(str(path))).exists()


def test_without_a_descriptor_left_nothing_spins(tmp_path: Path, as_the_group: None,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """asyncio's own loop went on a backlog's length of times, each with a message."""
    monkeypatch.setattr(group_port, "NO_FILES_PAUSE_S", 0.05)
    path = tmp_path / "sock"

    async def run() -> None:
        async with served(path, echo):
            clients = [socket.socket(socket.AF_UNIX) for _ in range(5)]
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")), hard))
            try:
                for client in clients:
                    client.connect(str(path))
                await asyncio.sleep(0.2)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            told = [record for record in caplog.records if "is accepted" in record.getMessage()]
            assert len(told) == 1
            for client in clients:
                client.close()
            assert (await ask(path, b'{"a":1}\n'))[0]["a"] == 1

    asyncio.run(run())


def test_who_is_refused_and_has_gone_is_no_ones_trouble(
    tmp_path: Path, as_the_group: None, caplog: pytest.LogCaptureFixture
) -> None:
    """What could not be sent to one ended another one's request, and left a turn behind."""
    path = tmp_path / "sock"

    async def run() -> None:
        async with served(path, echo, max_clients=4):
            clients = [await asyncio.open_unix_connection(str(path)) for _ in range(2)]
            for _ in range(50):
                with socket.socket(socket.AF_UNIX) as knock:
                    knock.setblocking(False)
                    knock.connect_ex(str(path))
                for number, (reader, writer) in enumerate(clients):
                    writer.write(b'{"a":%d}\n' % number)
                    async with asyncio.timeout(5):
                        assert json.loads(await reader.readline())["a"] == number
            for _, writer in clients:
                writer.close()

    begin = time.monotonic()
    asyncio.run(run())
    assert time.monotonic() - begin < 10
    assert not [record for record in caplog.records if record.exc_info]


# ------------------------------------------------------------ turns


def test_turns_are_in_order_and_leave_most_of_the_time() -> None:
    async def run() -> None:
        mine, order = Share(), []

        async def work(number: int) -> None:
            turn = await mine.take_turn()
            order.append(number)
            end = time.thread_time() + 0.004
            while time.thread_time() < end:
                pass
            turn.end_turn()
            turn.end_turn()  # once is enough

        begin = time.monotonic()
        await asyncio.gather(*(work(number) for number in range(10)))
        assert order == list(range(10))
        assert time.monotonic() - begin >= 9 * 0.004 * (1 + share.REST_PER_TURN) * 0.9

    asyncio.run(run())


def test_a_turn_that_is_not_ended_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(share, "TURN_LIMIT_S", 0.01)

    async def run() -> None:
        mine = Share()
        await mine.take_turn()
        waiting = asyncio.create_task(mine.take_turn())
        gone = asyncio.create_task(mine.take_turn())
        await asyncio.sleep(0)
        gone.cancel()
        async with asyncio.timeout(10):
            await waiting
            called = asyncio.Event()
            mine.call_in_turn(called.set)
            await called.wait()
            await mine.take_turn()

    asyncio.run(run())


def test_who_has_waited_longer_than_a_turn_takes_another_one(
    tmp_path: Path, as_the_group: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it does then is not done outside of the group's share."""
    monkeypatch.setattr(share, "TURN_LIMIT_S", 0.01)
    turns = []

    async def slow(connection: Connection, request: Request) -> None:
        await connection.take_turn()
        first = connection._turn
        assert first is not None
        await until(lambda: first.is_over, "the end of the turn")  # as of a hypervisor's answer
        await connection.take_turn()
        turns.append((connection._turn, first))
        await connection.send_answers({"ok": True})

    async def run() -> None:
        async with served(tmp_path / "sock", slow):
            assert await ask(tmp_path / "sock", b"{}\n") == [{"ok": True}]
        ((second, first),) = turns
        assert second is not None
        assert second is not first

    asyncio.run(run())


# ------------------------------------------------------------ clients


def test_a_client_talks_to_an_older_vesperd(tmp_path: Path) -> None:
    """It has one socket; what a newer one has left of its own does not answer."""
    path = tmp_path / "sock"

    def serve(listener: socket.socket) -> None:
        for _ in range(4):
            peer, _ = listener.accept()
            with peer:
                peer.recv(1000)
                peer.sendall(b'{"ok": true, "alive": true}\n')

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(8)
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        for left_over in (False, True):
            if left_over:
                with socket.socket(socket.AF_UNIX) as stale:
                    stale.bind(root_path(str(path)))
            with Client(str(path), timeout=10.0) as client:
                assert client.call_vesperd("hello")["ok"]
            environment = {"VESPER_SOCKET": str(path)}
            assert fast_monitor._ask_vesperd(environment, b"{}\n", 5.0) == fast_monitor.ALIVE
        thread.join(10)


@pytest.mark.parametrize("suffix", ["", ".root"])
def test_a_client_waits_for_a_full_queue(tmp_path: Path, suffix: str) -> None:
    """With a time limit, connect(2) says EAGAIN at once where a queue is full."""
    path = tmp_path / "sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{path}{suffix}")
        listener.listen(0)
        held = [socket.socket(socket.AF_UNIX)]
        held[0].connect(f"{path}{suffix}")
        with socket.socket(socket.AF_UNIX) as full:
            full.setblocking(False)
            assert full.connect_ex(f"{path}{suffix}") == errno.EAGAIN
        with pytest.raises(DaemonUnavailableError, match="does not accept"):
            Client(str(path), timeout=0.1).connect_to_vesperd()
        thread = threading.Timer(0.2, lambda: held.extend(listener.accept()[:1]))
        thread.start()
        with Client(str(path), timeout=10.0) as client:
            client.connect_to_vesperd()
        thread.join(10)
        for sock in held:
            sock.close()
