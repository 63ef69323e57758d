# SPDX-License-Identifier: GPL-2.0-or-later
"""The socket that the group of readers may open: its connections, lines and limits.

Many clients may misbehave: half lines, endless connects, answers that they do not
read.  This must not keep the event loop from the guests.  The loop therefore does
not see their descriptors: all are in one epoll(7) of this port, which is polled in
turns (vesper_monitor/daemon/share.py), a few descriptors each time.
"""

from __future__ import annotations

import asyncio
import logging
import select
import socket
from collections.abc import Callable

from vesper_monitor.daemon.connection import MAX_LINE_BYTES, SEND_TIMEOUT_S, Connection
from vesper_monitor.daemon.share import Share

__all__ = ["GroupConnection", "GroupPort"]

_log = logging.getLogger(__name__)

#: Ready descriptors that are served in one turn.
MAX_READY_AT_ONCE = 8
#: Bytes that are read from one descriptor in one turn.
READ_BYTES = 16384
#: Unsent answers of all clients together.  One answer has up to some MiB, and many
#: clients may ask for it and read nothing.
MAX_UNSENT_BYTES = 32 << 20
#: s to accept no connection where no descriptor is left.
NO_FILES_PAUSE_S = 1.0


class GroupConnection(Connection):
    """A connection of a client of the group."""

    def __init__(self, port: GroupPort, peer: socket.socket, pid: int, uid: int) -> None:
        super().__init__(pid, uid, port.share)
        self._port = port
        self._peer = peer
        self._in = bytearray()
        self._out = bytearray()
        self._eof = False
        self._gone: OSError | None = None
        self._closed = False
        self._reading: asyncio.Future[None] | None = None
        self._sending: asyncio.Future[None] | None = None

    # ------------------------------------------------------------ lines

    @property
    def is_over(self) -> bool:
        return self.is_gone or (self.until_closed and self._eof)

    async def read_line(self) -> bytes | None:
        while (end := self._in.find(b"\n")) < 0 or self.is_gone:
            if self._eof:
                return None
            if len(self._in) > MAX_LINE_BYTES:
                raise ValueError("a line that is too long")
            self._reading = asyncio.get_running_loop().create_future()
            self._update_interest()
            try:
                await self._reading
            finally:
                self._reading = None
        line = bytes(self._in[: end + 1])
        del self._in[: end + 1]
        return line

    def write_data(self, data: bytes) -> None:
        self._out += data
        self._port.unsent += len(data)
        self._send_buffered()
        if self._out and self._port.unsent > MAX_UNSENT_BYTES:
            self._close_with_error(
                ConnectionAbortedError("the group leaves too many answers unread")
            )
        self._update_interest()

    async def drain_buffer(self) -> None:
        if not self.is_gone and self._out:
            self._sending = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(SEND_TIMEOUT_S):
                    await self._sending
            except TimeoutError:
                self._end_connection()
                raise ConnectionAbortedError(
                    f"client (pid {self.pid}) does not read its answers"
                ) from None
            finally:
                self._sending = None
        if self._gone is not None:
            raise ConnectionResetError(f"client (pid {self.pid}): {self._gone}")

    async def close(self) -> None:
        self.end_turn()
        self._end_connection()

    # ------------------------------------------------------------ called by the port

    @property
    def wanted(self) -> int:
        """The events to poll for, epoll(7)."""
        reading = select.EPOLLIN if self._reading is not None else 0
        return reading | (select.EPOLLOUT if self._out else 0)

    def handle_readiness(self, events: int) -> None:
        """Read and send as far as the client's descriptor is ready."""
        if events & select.EPOLLOUT:
            self._send_buffered()
        if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
            self._read_available()
        if events & (select.EPOLLHUP | select.EPOLLERR):
            # It has disconnected: epoll reports that again and again, whatever it polls for.
            self._close_with_error(ConnectionResetError("it has disconnected"))
        self._update_interest()

    def _read_available(self) -> None:
        try:
            data = self._peer.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._in += data
        self._eof = self._eof or not data
        # Half a line wakes no reader.
        if self._eof or b"\n" in data or len(self._in) > MAX_LINE_BYTES:
            _wake_future(self._reading)

    def _send_buffered(self) -> None:
        if self.is_gone:
            return
        try:
            sent = self._peer.send(self._out) if self._out else 0
        except BlockingIOError:
            return
        except OSError as error:
            self._close_with_error(error)
            return
        del self._out[:sent]
        self._port.unsent -= sent
        if not self._out:
            _wake_future(self._sending)

    def _close_with_error(self, error: OSError) -> None:
        self._gone = self._gone or error
        self._eof = self.is_gone = True
        self._port.unsent -= len(self._out)
        self._out.clear()
        self._port.forget_peer(self._peer)
        _wake_future(self._sending)
        _wake_future(self._reading)
        if self.on_gone is not None:
            self.on_gone()

    def _update_interest(self) -> None:
        if not self.is_gone:
            self._port.poll_for(self._peer, self.wanted, self)

    def _end_connection(self) -> None:
        if not self._closed:
            self._closed = True
            self._close_with_error(ConnectionAbortedError("closed"))
            self._peer.close()


def _wake_future(waiting: asyncio.Future[None] | None) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(None)


class GroupPort:
    """Listens for the group, and polls its connections.

    :param listener: a bound socket, which this port closes.
    :param accepted: is called with each new connection.
    """

    def __init__(
        self, listener: socket.socket, backlog: int, accepted: Callable[[socket.socket], None]
    ) -> None:
        self.share = Share()
        #: bytes of unsent answers of all clients
        self.unsent = 0
        self._listener = listener
        self._accepted = accepted
        self._epoll = select.epoll()
        self._clients: dict[int, GroupConnection] = {}
        self._loop = asyncio.get_running_loop()
        self._resume: asyncio.TimerHandle | None = None
        self._is_out_of_files = False
        listener.setblocking(False)
        listener.listen(backlog)
        self._epoll.register(listener, select.EPOLLIN)
        self._loop.add_reader(self._epoll, self._handle_readiness)

    def close(self) -> None:
        """Stop accepting and polling connections."""
        if self._epoll.closed:
            return
        if self._resume is not None:
            self._resume.cancel()
        self._loop.remove_reader(self._epoll)
        self._epoll.close()
        self._listener.close()

    def poll_for(self, peer: socket.socket, events: int, client: GroupConnection) -> None:
        """Poll a client's descriptor for those events from now on."""
        if self._epoll.closed:
            return
        known = self._clients.get(peer.fileno())
        self._clients[peer.fileno()] = client
        if known is client:
            self._epoll.modify(peer, events)
        else:
            self._epoll.register(peer, events)

    def forget_peer(self, peer: socket.socket) -> None:
        """Stop polling a descriptor, before it is closed."""
        if self._clients.pop(peer.fileno(), None) is not None and not self._epoll.closed:
            self._epoll.unregister(peer)

    def _handle_readiness(self) -> None:
        self._loop.remove_reader(self._epoll)
        self.share.call_in_turn(self._serve_ready_connections)

    def _serve_ready_connections(self) -> None:
        if self._epoll.closed:
            return
        try:
            for number, events in self._epoll.poll(0, MAX_READY_AT_ONCE):
                client = self._clients.get(number)
                if number == self._listener.fileno():
                    self._accept_connections()
                elif client is not None:
                    client.handle_readiness(events)
        finally:
            self._loop.add_reader(self._epoll, self._handle_readiness)

    def _accept_connections(self) -> None:
        try:
            peer, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            # No descriptor or no memory is left: another try at once would fail, too.
            if not self._is_out_of_files:
                _log.error("no connection of the group can be accepted for now: %s", error.strerror)
            self._is_out_of_files = True
            self._epoll.modify(self._listener, 0)
            self._resume = self._loop.call_later(NO_FILES_PAUSE_S, self._accept_again)
            return
        self._is_out_of_files = False
        peer.setblocking(False)
        self._accepted(peer)

    def _accept_again(self) -> None:
        self._resume = None
        self._epoll.modify(self._listener, select.EPOLLIN)
