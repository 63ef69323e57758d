# SPDX-License-Identifier: GPL-2.0-or-later
"""A connection of one client: its lines, and who the client is."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from vesper_monitor.daemon.share import Share, Turn

__all__ = [
    "MAX_LINE_BYTES", "SEND_TIMEOUT_S", "Connection", "StreamConnection", "encode_answers",
    "is_privileged",
    "peer_of",
]  # fmt: skip

#: Longest request.
MAX_LINE_BYTES = 64 << 10
#: s for a client to take what was sent to it.
SEND_TIMEOUT_S = 30.0
#: s for the last bytes to be sent when a connection is closed.
CLOSE_TIMEOUT_S = 1.0
_UCRED = struct.Struct("iII")  # struct ucred, unix(7)


def peer_of(peer: socket.socket) -> tuple[int, int]:
    """Return the process and the user at the other end (SO_PEERCRED)."""
    raw = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, _ = _UCRED.unpack(raw)
    return pid, uid


def is_privileged(uid: int) -> bool:
    """Return whether a user is root, or vesperd's own user where that is another (tests)."""
    return uid in (0, os.geteuid())


class Connection(ABC):
    """A connection of one client.

    :param share: work for the client is done in its turns; None: at any time.
    """

    def __init__(self, pid: int, uid: int, share: Share | None = None) -> None:
        self.pid, self.uid = pid, uid
        self._share = share
        self._turn: Turn | None = None
        #: the present request ends when the client closes its end; other requests
        #: are answered even then (``echo ... | socat - UNIX:...``)
        self.until_closed = False
        #: it was noticed that nothing can be sent to the client any more
        self.is_gone = False
        #: is called when that is noticed
        self.on_gone: Callable[[], object] | None = None

    @property
    def privileged(self) -> bool:
        """Whether the client is root."""
        return is_privileged(self.uid)

    async def send_answers(self, *answers: dict[str, Any]) -> None:
        """Send lines, and wait until the client's buffer has room again.

        :raises ConnectionError: the client has disconnected, or does not read.
        """
        await self.take_turn()
        try:
            data = encode_answers(*answers)
        except BaseException:
            self.end_turn()
            raise
        await self.send_lines(data)

    async def send_lines(self, data: bytes) -> None:
        """Like :meth:`send_answers`, but send lines that are encoded already."""
        await self.take_turn()
        try:
            if self.is_over:
                raise ConnectionResetError("the client has closed the connection")
            self.write_data(data)
        finally:
            self.end_turn()
        await self.drain_buffer()

    async def take_turn(self) -> None:
        """Wait until work may be done for this client.

        The turn lasts until something is sent. Idempotent until then.
        """
        if self._share is not None and (self._turn is None or self._turn.is_over):
            self._turn = await self._share.take_turn()

    def end_turn(self) -> None:
        """Give the turn up, before this client waits for something."""
        turn, self._turn = self._turn, None
        if turn is not None:
            turn.end_turn()

    def count_cpu_time(self, seconds: float) -> None:
        """Add CPU seconds that another process has spent in the present turn."""
        if self._turn is not None:
            self._turn.add_cpu_time(seconds)

    @property
    @abstractmethod
    def is_over(self) -> bool:
        """Whether nothing can or need be sent any more."""

    @abstractmethod
    async def read_line(self) -> bytes | None:
        """Return the next request, or None at the end.

        :raises ValueError: it is too long.
        """

    @abstractmethod
    def write_data(self, data: bytes) -> None:
        """Add data to the client's buffer."""

    @abstractmethod
    async def drain_buffer(self) -> None:
        """Wait until the client's buffer has room.

        :raises ConnectionError: the client has disconnected, or does not read.
        """

    @abstractmethod
    async def close(self) -> None:
        """Close the connection."""


def encode_answers(*answers: dict[str, Any]) -> bytes:
    """Return the lines of some answers."""
    return b"".join(json.dumps(answer).encode() + b"\n" for answer in answers)


class StreamConnection(Connection):
    """A connection of root's, on asyncio's streams."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__(*peer_of(writer.get_extra_info("socket")))
        self._reader = reader
        self._writer = writer

    @property
    def is_over(self) -> bool:
        return self._writer.is_closing() or (self.until_closed and self._reader.at_eof())

    def write_data(self, data: bytes) -> None:
        self._writer.write(data)

    async def drain_buffer(self) -> None:
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await self._writer.drain()
        except TimeoutError:
            self._writer.transport.abort()
            raise ConnectionAbortedError(
                f"client (pid {self.pid}) does not read its answers"
            ) from None

    async def read_line(self) -> bytes | None:
        try:
            line = await self._reader.readline()
        except ConnectionError:
            return None
        return line or None

    async def close(self) -> None:
        self._writer.close()
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._writer.wait_closed()
        except (TimeoutError, OSError):
            self._writer.transport.abort()
