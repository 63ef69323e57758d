# SPDX-License-Identifier: GPL-2.0-or-later
"""The socket (docs/api.md): connections, lines, and who may ask for what.

What the requests mean is in vesper_monitor/daemon/api.py.  No client can hold the
daemon up: the number of clients, the length of a line, and what waits to be
sent to one of them are bounded, and a client that does not read for
:data:`SEND_TIMEOUT` seconds is dropped.
"""

from __future__ import annotations

import asyncio
import grp
import json
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

__all__ = ["Connection", "Handler", "RequestError", "Server"]

_log = logging.getLogger(__name__)

#: Bytes of a request.
MAX_LINE = 64 << 10
#: s for a client to take what was sent to it.
SEND_TIMEOUT = 30.0
_UCRED = struct.Struct("iII")  # struct ucred, unix(7)


class RequestError(Exception):
    """The request is answered with an error.

    :param code: one of the words of docs/api.md.
    :param more: further keys of the answer.
    """

    def __init__(self, code: str, text: str, **more: Any) -> None:
        super().__init__(text)
        self.code = code
        self.more = more


class Connection:
    """One client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        peer: socket.socket = writer.get_extra_info("socket")
        raw = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        self.pid, self.uid, _ = _UCRED.unpack(raw)
        #: the present request lasts until the client closes its end; others
        #: are answered even if it does (``echo ... | socat - UNIX:...``)
        self.until_closed = False

    @property
    def privileged(self) -> bool:
        """Root, or the daemon's own user where that is another (tests)."""
        return self.uid in (0, os.geteuid())

    async def send(self, answer: dict[str, Any]) -> None:
        """Send a line and wait until the client's buffer has room again.

        :raises ConnectionError: the client is gone, or does not read.
        """
        if self._writer.is_closing() or (self.until_closed and self._reader.at_eof()):
            raise ConnectionResetError("the client has closed the connection")
        self._writer.write(json.dumps(answer).encode() + b"\n")
        try:
            async with asyncio.timeout(SEND_TIMEOUT):
                await self._writer.drain()
        except TimeoutError:
            self._writer.transport.abort()
            raise ConnectionAbortedError(
                f"client (pid {self.pid}) does not read what it asked for"
            ) from None

    async def line(self) -> bytes | None:
        """The next request; None at the end."""
        try:
            line = await self._reader.readline()
        except ConnectionError:
            return None
        return line or None

    async def close(self) -> None:
        self._writer.close()
        try:
            async with asyncio.timeout(1.0):
                await self._writer.wait_closed()
        except (TimeoutError, OSError):
            self._writer.transport.abort()


#: Serves one request: sends its answers itself, or raises RequestError.
Handler = Callable[[Connection, dict[str, Any]], Awaitable[None]]


class Server:
    """
    :param group: may send requests that only read; "" or unknown: nobody but root.
    """

    def __init__(self, path: Path, handler: Handler, *, group: str, max_clients: int) -> None:
        self._path = path
        self._handler = handler
        self._group = group
        self._max = max_clients
        self._server: asyncio.Server | None = None
        self._clients: dict[asyncio.Task[None], bool] = {}

    async def start(self) -> None:
        """Listen.

        :raises OSError: another daemon listens there, or the path cannot be used.
        """
        self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _remove_stale(self._path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            old = os.umask(0o177)
            try:
                listener.bind(str(self._path))
            finally:
                os.umask(old)
            self._give_to_group()
        except BaseException:
            listener.close()
            raise
        # Where connections wait to be accepted none may be refused: a monitor of
        # each of a thousand VMs may come at once.
        self._server = await asyncio.start_unix_server(
            self._serve, sock=listener, limit=MAX_LINE, backlog=self._max
        )

    async def stop(self) -> None:
        """Close all connections."""
        if self._server is not None:
            self._server.close()
        for task in self._clients:
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        if self._server is not None:
            self._path.unlink(missing_ok=True)

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

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(reader, writer)
        task = asyncio.current_task()
        assert task is not None
        others = sum(not privileged for privileged in self._clients.values())
        full = len(self._clients) >= self._max or (
            not connection.privileged and others >= self._max // 2
        )
        self._clients[task] = connection.privileged
        try:
            if full:
                await connection.send(_error("internal", "too many connections; try again later"))
            else:
                await self._requests(connection)
        except ConnectionError as error:
            _log.debug("%s", error)
        except asyncio.CancelledError:
            pass  # stop()
        except Exception:
            _log.exception("internal error on a connection")
        finally:
            await connection.close()
            del self._clients[task]

    async def _requests(self, connection: Connection) -> None:
        """One request after the other; the end of the connection ends the present one."""
        loop = asyncio.get_running_loop()
        reading = loop.create_task(connection.line())
        try:
            while True:
                try:
                    line = await reading
                except ValueError:  # asyncio: longer than the limit
                    await connection.send(
                        _error("bad-request", f"a line of more than {MAX_LINE} bytes")
                    )
                    return
                if line is None:
                    return
                reading = loop.create_task(connection.line())
                work = loop.create_task(self._request(connection, line))
                try:
                    await asyncio.wait({work, reading}, return_when=asyncio.FIRST_COMPLETED)
                    if not work.done() and connection.until_closed and _ended(reading):
                        return
                    await work
                finally:
                    work.cancel()
                    await asyncio.gather(work, return_exceptions=True)
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _request(self, connection: Connection, line: bytes) -> None:
        try:
            try:
                request = json.loads(line)
            except (ValueError, RecursionError):
                raise RequestError("bad-request", "the request is not JSON") from None
            if not isinstance(request, dict):
                raise RequestError("bad-request", "the request is not a JSON object")
            await self._handler(connection, request)
        except RequestError as error:
            await connection.send(_error(error.code, str(error), **error.more))
        except ConnectionError:
            raise
        except Exception as error:
            _log.exception("internal error in a request")
            await connection.send(_error("internal", f"{type(error).__name__}: {error}"))


def _ended(reading: asyncio.Task[bytes | None]) -> bool:
    """The client has closed, or sent something too long."""
    return reading.done() and (reading.exception() is not None or reading.result() is None)


def _error(code: str, text: str, **more: Any) -> dict[str, Any]:
    return {"ok": False, "code": code, "error": text, **more}


def _remove_stale(path: Path) -> None:
    """Remove the socket of a daemon that is gone.

    :raises OSError: one is there.
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
