# SPDX-License-Identifier: GPL-2.0-or-later
"""The outer machine's end of the channel into a dom0 (other end: dom0/hostd.py)."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import Any

from lab.host import ChannelError, CommandFailed, Result

__all__ = ["Channel"]

CHUNK_BYTES = 65536


class Channel:
    """Requests to one host; each uses a connection of its own."""

    def __init__(self, name: str, port: int) -> None:
        """:param port: of 127.0.0.1, forwarded by QEMU."""
        self.name = name
        self._port = port

    def _open_connection(
        self, timeout: float, request: dict[str, Any], data: bytes = b""
    ) -> socket.socket:
        try:
            connection = socket.create_connection(("127.0.0.1", self._port), timeout)
        except OSError as error:
            raise ChannelError(f"{self.name}: cannot reach the host: {error}") from error
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(json.dumps(request).encode() + b"\n" + data)
        except OSError as error:
            connection.close()
            raise ChannelError(f"{self.name}: {request['op']}: {error}") from error
        return connection

    def _read_exactly(self, connection: socket.socket, size: int, deadline: float) -> bytes:
        data = bytearray()
        while len(data) < size:
            left = deadline - time.monotonic()
            if left <= 0:
                raise ChannelError(f"{self.name}: no answer in time")
            connection.settimeout(left)
            try:
                piece = connection.recv(min(CHUNK_BYTES, size - len(data)))
            except TimeoutError as error:
                raise ChannelError(f"{self.name}: no answer in time") from error
            except OSError as error:
                raise ChannelError(f"{self.name}: connection lost: {error}") from error
            if not piece:
                raise ChannelError(f"{self.name}: the host has closed the connection")
            data += piece
        return bytes(data)

    def _read_frames(
        self, connection: socket.socket, deadline: float
    ) -> Iterator[bytes | dict[str, Any]]:
        """Pieces of output, and at last the result."""
        while True:
            head = self._read_exactly(connection, 5, deadline)
            data = self._read_exactly(connection, int.from_bytes(head[1:], "big"), deadline)
            if head[:1] == b"o":
                yield data
                continue
            result: dict[str, Any] = json.loads(data)
            if "error" in result:
                raise ChannelError(f"{self.name}: {result['error']}")
            yield result
            return

    def _read_result(
        self, connection: socket.socket, timeout: float
    ) -> tuple[bytes, dict[str, Any]]:
        output = bytearray()
        with closing(connection):
            for frame in self._read_frames(connection, time.monotonic() + timeout):
                if isinstance(frame, dict):
                    return bytes(output), frame
                output += frame
        raise AssertionError("frames end with a result")

    def run_command(
        self, command: str, *, timeout: float = 60.0, stdin: bytes = b"", check: bool = False
    ) -> Result:
        """See :meth:`lab.host.Host.run_command`."""
        request = {"op": "run", "command": command, "stdin": len(stdin), "timeout": timeout}
        connection = self._open_connection(timeout, request, stdin)
        raw, result = self._read_result(connection, timeout + 10)
        output = raw.decode(errors="replace")
        if result["rc"] is None:
            raise ChannelError(f"{self.name}: {command!r}: not done in {timeout:.0f} s:\n{output}")
        if check and result["rc"] != 0:
            raise CommandFailed(f"{self.name}: {command!r}: exit status {result['rc']}:\n{output}")
        return Result(result["rc"], output)

    def follow_command(
        self, command: str, *, timeout: float = 86400.0
    ) -> tuple[Callable[[], None], Iterator[bytes]]:
        """See :meth:`lab.host.Host.follow_command`."""
        connection = self._open_connection(
            10, {"op": "run", "command": command, "timeout": timeout}
        )

        def read_pieces() -> Iterator[bytes]:
            for frame in self._read_frames(connection, time.monotonic() + timeout):
                if isinstance(frame, bytes):
                    yield frame

        def close_connection() -> None:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

        return close_connection, read_pieces()

    def put_file(self, path: str, data: bytes, *, mode: int = 0o644, timeout: float = 60.0) -> None:
        """Write a file in the host; folders are made."""
        request = {"op": "put", "path": path, "mode": mode, "size": len(data)}
        self._read_result(self._open_connection(timeout, request, data), timeout)

    def get_file(self, path: str, *, timeout: float = 60.0) -> bytes:
        """Read a file of the host."""
        return self._read_result(
            self._open_connection(timeout, {"op": "get", "path": path}), timeout
        )[0]

    def connect_to(self, host: str, port: int, *, timeout: float = 10.0) -> socket.socket:
        """A connection to somewhere the host can reach, e.g. into the guest."""
        request = {"op": "connect", "host": host, "port": port, "timeout": timeout}
        connection = self._open_connection(timeout, request)
        try:
            for _frame in self._read_frames(connection, time.monotonic() + timeout + 1):
                pass
        except ChannelError:
            connection.close()
            raise
        connection.settimeout(timeout)
        return connection

    def connect_to_clock(self, *, timeout: float = 10.0) -> socket.socket:
        """A connection that answers each line with the host's CLOCK_REALTIME (ns)."""
        return self._open_connection(timeout, {"op": "clock"})

    def open_shell(self, command: str = "exec bash -i") -> socket.socket:
        """A terminal in the host: raw bytes in both directions."""
        connection = self._open_connection(10, {"op": "shell", "command": command})
        connection.settimeout(None)
        return connection

    def set_host_time(self) -> None:
        """Set the host's clock to this machine's."""
        request = {"op": "settime", "ns": time.time_ns()}
        self._read_result(self._open_connection(10, request), 10)

    def is_connected(self) -> bool:
        """Whether it answers within two seconds."""
        try:
            return self.run_command("true", timeout=2).rc == 0
        except ChannelError:
            return False
