# SPDX-License-Identifier: GPL-2.0-or-later
"""One client of the socket: its lines, and who it is."""

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

#: Bytes of a request.
MAX_LINE_BYTES = 64 << 10
#: s for a client to take what was sent to it.
SEND_TIMEOUT_S = 30.0
_UCRED = struct.Struct("iII")  # struct ucred, unix(7)


def peer_of(peer: socket.socket) -> tuple[int, int]:
    """Return the process and the user at the other end (SO_PEERCRED)."""
    raw = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, _ = _UCRED.unpack(raw)
    return pid, uid


def is_privileged(uid: int) -> bool:
    """Whether that user is root, or the daemon's own where that is another (tests)."""
    return uid in (0, os.geteuid())


class Connection(ABC):
    """One client.

    :param share: what is done for it is done in turns of that one; None: at any time.
    """

    def __init__(self, pid: int, uid: int, share: Share | None = None) -> None:
        self.pid, self.uid = pid, uid
        self._share = share
        self._turn: Turn | None = None
        #: the present request lasts until the client closes its end; others
        #: are answered even if it does (``echo ... | socat - UNIX:...``)
        self.until_closed = False
        #: nothing can be sent to the client any more, as far as that is noticed
        self.is_gone = False
        #: called when it is
        self.on_gone: Callable[[], object] | None = None

    @property
    def privileged(self) -> bool:
        return is_privileged(self.uid)

    async def send_answers(self, *answers: dict[str, Any]) -> None:
        """Send lines and wait until the client's buffer has room again.

        :raises ConnectionError: the client is gone, or does not read.
        """
        await self.take_turn()
        try:
            data = encode_answers(*answers)
        except BaseException:
            self.end_turn()
            raise
        await self.send_lines(data)

    async def send_lines(self, data: bytes) -> None:
        """Send what :func:`encode_answers` has made, as :meth:`send_answers` does."""
        await self.take_turn()
        try:
            if self.is_over:
                raise ConnectionResetError("the client has closed the connection")
            self.write_data(data)
        finally:
            self.end_turn()
        await self.drain_buffer()

    async def take_turn(self) -> None:
        """Return when something may be done for this client.

        The turn lasts until something is sent; it may be taken again before.
        """
        if self._share is not None and (self._turn is None or self._turn.is_over):
            self._turn = await self._share.take_turn()

    def end_turn(self) -> None:
        """Let others have their turn, before this client has to wait for something."""
        turn, self._turn = self._turn, None
        if turn is not None:
            turn.end_turn()

    def count_cpu_time(self, seconds: float) -> None:
        """Count what another thread has computed in the present turn."""
        if self._turn is not None:
            self._turn.add_cpu_time(seconds)

    @property
    @abstractmethod
    def is_over(self) -> bool:
        """Whether nothing can be sent any more, or need be."""

    @abstractmethod
    async def read_line(self) -> bytes | None:
        """The next request; None at the end. :raises ValueError: it is too long."""

    @abstractmethod
    def write_data(self, data: bytes) -> None: ...

    @abstractmethod
    async def drain_buffer(self) -> None:
        """:raises ConnectionError: the client is gone, or does not read."""

    @abstractmethod
    async def close(self) -> None: ...


def encode_answers(*answers: dict[str, Any]) -> bytes:
    """The lines of some answers."""
    return b"".join(json.dumps(answer).encode() + b"\n" for answer in answers)


class StreamConnection(Connection):
    """A client of root's, on asyncio's streams."""

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
                f"client (pid {self.pid}) does not read what it asked for"
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
            async with asyncio.timeout(1.0):
                await self._writer.wait_closed()
        except (TimeoutError, OSError):
            self._writer.transport.abort()
