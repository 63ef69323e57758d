# SPDX-License-Identifier: GPL-2.0-or-later
"""A small synchronous client of vesperd's socket (docs/api.md).

The OCF agent imports this on every monitor, so it must start fast: the
standard library only, and little of it.

>>> with Client() as vesperd:
...     vesperd.call_vesperd("state", vm="vm1")["watch"]
"""

from __future__ import annotations

import json
import os
import socket
import time

from vesper_monitor.util.errors import VesperError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Any

__all__ = [
    "SOCKET_PATH", "Client", "DaemonError", "DaemonUnavailableError", "default_path", "root_path",
]  # fmt: skip

SOCKET_PATH = "/run/vesper/vesperd.sock"

#: Bytes of one line of an answer; a whole status of many guests is one line.
MAX_ANSWER_BYTES = 16 << 20
#: s between two tries to connect where too many others wait to be accepted.
CONNECT_PAUSE_S = 0.02


def default_path() -> str:
    """The socket's path: ``$VESPER_SOCKET`` or :data:`SOCKET_PATH`."""
    return os.environ.get("VESPER_SOCKET") or SOCKET_PATH


def root_path(path: str) -> str:
    """The path of root's own socket, beside the one that the group may open."""
    return f"{path}.root"


class DaemonUnavailableError(VesperError):
    """No answer: vesperd is not running, went away meanwhile, or hangs."""


class DaemonError(VesperError):
    """vesperd answered that it could not do it."""

    def __init__(self, code: str, text: str, answer: dict[str, Any] | None = None) -> None:
        super().__init__(text)
        #: one of the words of docs/api.md
        self.code = code
        self.text = text
        #: the whole answer (e.g. ``errno``)
        self.answer = answer or {}


class Client:
    """One connection, made when first needed, and made anew after an error.

    :param path: of the socket; default :func:`default_path`.
    :param timeout: seconds to wait for the connection and for each answer.
    """

    def __init__(self, path: str | None = None, timeout: float | None = 5.0) -> None:
        self.path = path or default_path()
        self.timeout = timeout
        self._socket: socket.socket | None = None
        self._buffer = bytearray()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def connect_to_vesperd(self) -> None:
        """Connect, if not connected: root to its own socket, if there is one.

        :raises DaemonUnavailableError:
        """
        if self._socket is not None:
            return
        deadline = None if self.timeout is None else time.monotonic() + self.timeout
        try:
            self._socket = _connect_until(root_path(self.path), deadline)
        except TimeoutError as error:
            raise DaemonUnavailableError(_why_no_connection(self.path, error)) from error
        except OSError:  # we are not root, or vesperd is an older one
            try:
                self._socket = _connect_until(self.path, deadline)
            except OSError as error:
                raise DaemonUnavailableError(_why_no_connection(self.path, error)) from error
        self._buffer.clear()

    def close(self) -> None:
        """End the connection, and with it what is under way. May be called twice."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def call_vesperd(
        self, op: str, *, reply_timeout: float | None = None, **fields: Any
    ) -> dict[str, Any]:
        """Send a request and return its one answer.

        :param reply_timeout: seconds, instead of the client's; ``wait`` needs
            more than its own ``timeout`` field.
        :raises DaemonUnavailableError: no connection or no answer in time; the
            connection is closed, the next call makes a new one.
        :raises DaemonError: the answer was an error.
        """
        self.begin_request(op, **fields)
        return self.finish_request(reply_timeout)

    def begin_request(self, op: str, **fields: Any) -> int:
        """Send a request only; :meth:`finish_request` takes the answer.

        :returns: a descriptor that becomes readable when there is something.
        :raises DaemonUnavailableError:
        """
        self._send_request(op, fields)
        assert self._socket is not None
        return self._socket.fileno()

    def finish_request(self, reply_timeout: float | None = None) -> dict[str, Any]:
        """The answer to :meth:`begin_request`; raises as :meth:`call_vesperd` does."""
        return self._read_answer(reply_timeout)

    def stream_answers(self, op: str, **fields: Any) -> Iterator[dict[str, Any]]:
        """Send a request and yield its answers, until one has ``end`` or vesperd closes.

        There is no time limit on an answer: events come when they come.

        :raises DaemonUnavailableError: no connection, or vesperd went away.
        :raises DaemonError: one of the answers was an error.
        """
        self._send_request(op, fields)
        if self._socket is not None:
            self._socket.settimeout(None)
        try:
            while not (answer := self._read_answer(None, unlimited=True)).get("end"):
                yield answer
        finally:
            self.close()

    def _send_request(self, op: str, fields: dict[str, Any]) -> None:
        self.connect_to_vesperd()
        assert self._socket is not None
        line = json.dumps({"op": op, **fields}).encode() + b"\n"
        try:
            self._socket.settimeout(self.timeout)
            self._socket.sendall(line)
        except OSError as error:
            self.close()
            raise DaemonUnavailableError(f"{self.path}: sending {op}: {error}") from error

    def _read_answer(self, reply_timeout: float | None, unlimited: bool = False) -> dict[str, Any]:
        limit = self.timeout if reply_timeout is None else reply_timeout
        return self.understand_answer(self._read_line(None if unlimited else limit))

    def understand_answer(self, line: bytes) -> dict[str, Any]:
        """An answer, of this connection or another; raises as :meth:`call_vesperd` does."""
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError) as error:
            self.close()
            raise DaemonUnavailableError(
                f"{self.path}: answer is not JSON: {line[:80]!r}"
            ) from error
        if not isinstance(answer, dict):
            self.close()
            raise DaemonUnavailableError(f"{self.path}: answer is not an object: {line[:80]!r}")
        if answer.get("ok") is False:
            raise DaemonError(
                str(answer.get("code", "internal")), str(answer.get("error", "")), answer
            )
        return answer

    def _read_line(self, limit: float | None) -> bytes:
        """One line without its end.

        The limit is for the whole line, not for each piece of it.
        """
        assert self._socket is not None
        deadline = None if limit is None else time.monotonic() + limit
        searched = 0
        try:
            while (end := self._buffer.find(b"\n", searched)) < 0:
                searched = len(self._buffer)
                if searched > MAX_ANSWER_BYTES:
                    raise OSError(f"an answer of more than {MAX_ANSWER_BYTES} bytes")
                if deadline is not None:
                    left = deadline - time.monotonic()
                    if left <= 0:
                        raise TimeoutError
                    self._socket.settimeout(left)
                data = self._socket.recv(65536)
                if not data:
                    raise OSError("vesperd closed the connection")
                self._buffer += data
        except TimeoutError as error:
            self.close()
            raise DaemonUnavailableError(
                f"{self.path}: vesperd did not answer within {limit:.1f} s; "
                "see: systemctl status vesperd"
            ) from error
        except OSError as error:
            self.close()
            raise DaemonUnavailableError(f"{self.path}: {error}") from error
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line


def _connect_until(path: str, deadline: float | None) -> socket.socket:
    """A connection, waited for where too many others wait to be accepted.

    :param deadline: by the monotonic clock; None: no limit.
    :raises OSError:
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        while True:
            # With a limit, connect(2) does not wait for room in the queue.
            left = None if deadline is None else max(0.001, deadline - time.monotonic())
            sock.settimeout(left)
            try:
                sock.connect(path)
                return sock
            except BlockingIOError:
                if left is not None and left <= CONNECT_PAUSE_S:
                    raise TimeoutError("too many wait to be accepted") from None
                time.sleep(CONNECT_PAUSE_S)
    except BaseException:
        sock.close()
        raise


def _why_no_connection(path: str, error: OSError) -> str:
    if isinstance(error, (FileNotFoundError, ConnectionRefusedError)):
        return f"{path}: vesperd is not running; start it with: systemctl start vesperd"
    if isinstance(error, PermissionError):
        return f"{path}: not permitted; be root or a member of the group vesper"
    if isinstance(error, TimeoutError):
        return f"{path}: vesperd does not accept connections; see: systemctl status vesperd"
    return f"{path}: cannot connect: {error}"
