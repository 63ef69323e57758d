# SPDX-License-Identifier: GPL-2.0-or-later
"""The sockets (docs/api.md): connections and lines.

vesper_monitor/daemon/api.py serves the requests.  No client can block vesperd:
the number of clients, the length of a line, and the unsent answers of a client
are bounded, and a client that does not read for ``SEND_TIMEOUT_S`` is dropped.

There are two sockets.  The group of readers may open one, root alone the other.
Agents use root's, so that no request of the group is before theirs in a queue.
Requests of the group are served in turns (vesper_monitor/daemon/share.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import grp
import json
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from vesper_monitor.client import root_path
from vesper_monitor.daemon.connection import (
    MAX_LINE_BYTES,
    Connection,
    StreamConnection,
    encode_answers,
    is_privileged,
    peer_of,
)
from vesper_monitor.daemon.group_port import GroupConnection, GroupPort
from vesper_monitor.util.errors import VesperError

__all__ = ["Connection", "Handler", "RequestError", "Server"]

_log = logging.getLogger(__name__)

#: Connections that are accepted at once.  Where no descriptor is left, asyncio still tries
#: this often.
MAX_ACCEPTED_AT_ONCE = 32
_FULL_TEXT = "too many connections; try again later"


class RequestError(VesperError):
    """A request that is answered with an error.

    :param code: one of the words of docs/api.md.
    :param more: further keys of the answer.
    """

    def __init__(self, code: str, text: str, **more: Any) -> None:
        super().__init__(text)
        self.code = code
        self.more = more


#: Serves one request: sends its answers itself, or raises RequestError.
Handler = Callable[[Connection, dict[str, Any]], Awaitable[None]]


class Server:
    """Listens on both sockets, and serves each client's requests one after the other.

    :param path: the socket that the group may open; root's is beside it.
    :param handler: serves one request.
    :param group: may send requests that only read; empty or unknown: root alone.
    """

    def __init__(self, path: Path, handler: Handler, *, group: str, max_clients: int) -> None:
        self._path = path
        self._root_path = Path(root_path(str(path)))
        self._handler = handler
        self._group = group
        self._max = max_clients
        self._server: asyncio.Server | None = None
        self._port: GroupPort | None = None
        #: a task for each, and whether it is root's
        self._clients: dict[asyncio.Task[None], bool] = {}
        self._connecting: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen.

        :raises OSError: another vesperd listens there, or the path cannot be used.
        """
        self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        for path in (self._path, self._root_path):
            _remove_stale(path)
        # The queue must have room for all of root's clients: the monitors of a thousand
        # VMs may connect at once.
        listener = _bind_socket(self._root_path)
        self._server = await asyncio.start_unix_server(
            self._serve_stream, sock=listener, limit=MAX_LINE_BYTES, backlog=MAX_ACCEPTED_AT_ONCE
        )
        listener.listen(self._max)
        listener = _bind_socket(self._path)
        try:
            self._give_to_group()
            self._port = GroupPort(listener, self._max, self._handle_accepted)
        except BaseException:
            listener.close()
            raise

    async def stop(self) -> None:
        """Close all connections."""
        if self._server is not None:
            self._server.close()
        clients = list(self._clients)
        for task in clients:
            task.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        if self._port is not None:
            self._port.close()
            self._path.unlink(missing_ok=True)
        if self._server is not None:
            self._root_path.unlink(missing_ok=True)

    def _give_to_group(self) -> None:
        if not self._group:
            return
        try:
            gid = grp.getgrnam(self._group).gr_gid
            os.chown(self._path, -1, gid)
            self._path.chmod(0o660)
        except KeyError:
            _log.info("no group %s: the socket is for root alone", self._group)
        except PermissionError as error:
            _log.warning("%s: cannot give it to the group %s: %s", self._path, self._group, error)

    def _handle_accepted(self, peer: socket.socket) -> None:
        """Serve a client of the group's socket. Older agents connect there as root."""
        assert self._port is not None
        pid, uid = peer_of(peer)
        loop = asyncio.get_running_loop()
        if is_privileged(uid):
            connecting = loop.create_task(self._serve_accepted(peer))
            self._connecting.add(connecting)
            connecting.add_done_callback(self._connecting.discard)
            return
        others = sum(not privileged for privileged in self._clients.values())
        if others >= self._max // 2 or len(self._clients) >= self._max:
            with peer, contextlib.suppress(OSError):  # it may have disconnected
                peer.send(encode_answers(_error_answer("internal", _FULL_TEXT)))
            return
        connection = GroupConnection(self._port, peer, pid, uid)
        self._note_task(loop.create_task(self._serve_client(connection)), False)

    def _note_task(self, task: asyncio.Task[None], privileged: bool) -> None:
        self._clients[task] = privileged
        task.add_done_callback(lambda _: self._clients.pop(task, None))

    async def _serve_accepted(self, peer: socket.socket) -> None:
        reader = asyncio.StreamReader(limit=MAX_LINE_BYTES)
        protocol = asyncio.StreamReaderProtocol(reader, self._serve_stream)
        await asyncio.get_running_loop().connect_accepted_socket(lambda: protocol, peer)

    async def _serve_stream(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        connection = StreamConnection(reader, writer)
        full = len(self._clients) >= self._max
        self._note_task(task, True)
        await self._serve_client(connection, full=full)

    async def _serve_client(self, connection: Connection, *, full: bool = False) -> None:
        try:
            if full:
                await connection.send_answers(_error_answer("internal", _FULL_TEXT))
            else:
                await self._serve_requests(connection)
        except ConnectionError as error:
            _log.debug("%s", error)
        except asyncio.CancelledError:
            pass  # stop()
        except Exception:
            _log.exception("internal error on a connection")
        finally:
            await connection.close()

    async def _serve_requests(self, connection: Connection) -> None:
        """Serve one request after the other; a disconnect cancels the present one."""
        loop = asyncio.get_running_loop()
        reading = loop.create_task(connection.read_line())
        try:
            while True:
                try:
                    line = await reading
                except ValueError:  # asyncio: longer than the limit
                    await connection.send_answers(
                        _error_answer("bad-request", f"a line of more than {MAX_LINE_BYTES} bytes")
                    )
                    return
                if line is None:
                    return
                reading = loop.create_task(connection.read_line())
                work = loop.create_task(self._serve_request(connection, line))
                connection.on_gone = work.cancel  # also with another request behind this one
                if connection.is_gone:
                    work.cancel()
                try:
                    await asyncio.wait({work, reading}, return_when=asyncio.FIRST_COMPLETED)
                    if not work.done() and connection.until_closed and _has_ended(reading):
                        return
                    await work
                finally:
                    connection.on_gone = None
                    work.cancel()
                    await asyncio.gather(work, return_exceptions=True)
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _serve_request(self, connection: Connection, line: bytes) -> None:
        await connection.take_turn()
        try:
            try:
                request = json.loads(line)
            except (ValueError, RecursionError):
                raise RequestError("bad-request", "the request is not JSON") from None
            if not isinstance(request, dict):
                raise RequestError("bad-request", "the request is not a JSON object")
            await self._handler(connection, request)
        except RequestError as error:
            await connection.send_answers(_error_answer(error.code, str(error), **error.more))
        except ConnectionError:
            raise
        except Exception as error:
            _log.exception("internal error in a request")
            await connection.send_answers(
                _error_answer("internal", f"{type(error).__name__}: {error}")
            )
        finally:
            connection.end_turn()


def _has_ended(reading: asyncio.Task[bytes | None]) -> bool:
    """Return whether the client has disconnected, or sent a line that is too long."""
    return reading.done() and (reading.exception() is not None or reading.result() is None)


def _error_answer(code: str, text: str, **more: Any) -> dict[str, Any]:
    return {"ok": False, "code": code, "error": text, **more}


def _bind_socket(path: Path) -> socket.socket:
    """Return a socket at a path that only root may open.

    :raises OSError: it names the path.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    old = os.umask(0o177)
    try:
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None
    finally:
        os.umask(old)
    return listener


def _remove_stale(path: Path) -> None:
    """Remove the socket of a vesperd that has ended.

    :raises OSError: a vesperd listens there.
    """
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except TimeoutError:
            pass
    raise OSError(f"{path}: another vesperd is listening there")
