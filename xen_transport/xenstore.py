# SPDX-License-Identifier: GPL-2.0-or-later
"""xenstore for asyncio, on pyxs.

pyxs is a blocking client with a thread that reads answers and watch events.
This module adds what a daemon needs:

- Calls have a time limit, and run one after another in a thread of their own
  (pyxs numbers requests without a lock).
- If pyxs's reading thread ends, callers get an error; with pyxs alone they would never
  return.  Then the connection is opened again, with its watches.
- Watch events are passed to the loop and coalesce, because a guest can write its own
  nodes without limit.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pyxs
from pyxs._internal import Op, Packet
from pyxs.connection import UnixSocketConnection
from pyxs.exceptions import PyXSError

from vesper_monitor.hypervisor.transport import TransportError

__all__ = ["Transaction", "XenStore", "XenStoreError"]

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

#: For one call.  xenstored answers within microseconds, but a busy emulated host is slow.
STORE_TIMEOUT_S = 10.0
_RECONNECT_PAUSE_S = 1.0
#: Attempts of a transaction that conflicts with the writes of others.
_MAX_TRANSACTION_TRIES = 20


class XenStoreError(TransportError):
    """xenstored refused a request or did not answer."""


class _Connection(UnixSocketConnection):  # type: ignore[misc]
    def shut_down(self) -> None:
        """Wake the threads that read or write."""
        if self.transport is not None:
            try:
                self.transport.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


class _Router(pyxs.Router):  # type: ignore[misc]
    """A router that wakes all waiting callers when it ends."""

    rvars: dict[int, Any]

    def __init__(self, connection: _Connection, ended: Callable[[], None]) -> None:
        super().__init__(connection)
        self._ended = ended

    def __call__(self) -> None:
        try:
            super().__call__()
        except Exception as error:
            _log.warning("xenstore: connection lost: %s", error)
        finally:
            self._ended()
            with self.send_lock:
                waiting, self.rvars = list(self.rvars.values()), {}
            for rvar in waiting:
                rvar.set(Packet(Op.ERROR, b"ECONNRESET\0", 0))


class _WatchEvents:
    """Takes a watch's events from pyxs; stands in for the queue of pyxs's Monitor."""

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._callback = callback
        self._pending = False

    def put(self, _event: Any) -> None:
        # Runs in the router's thread.  A race on the flag does no harm: the callback reads
        # the store, not the event.
        if not self._pending:
            self._pending = True
            self._loop.call_soon_threadsafe(self._call_callback)

    def _call_callback(self) -> None:
        self._pending = False
        self._callback()


class Transaction:
    """The operations within one transaction."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def read_node(self, path: str) -> str | None:
        return _read_path_or_none(self._client, path)

    def write_node(self, path: str, value: str | int) -> None:
        self._client.write(path.encode(), str(value).encode())

    def make_node(self, path: str, *, owner: int, reader: int) -> None:
        """Create an empty node that belongs to one domain and that another one may read."""
        self._client.mkdir(path.encode())
        self._client.set_perms(path.encode(), [b"n%d" % owner, b"r%d" % reader])

    def remove_node(self, path: str) -> None:
        _remove_path_if_there(self._client, path)


class XenStore:
    """A connection to xenstored that is opened again whenever it ends."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="xenstore")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._router: _Router | None = None
        self._watches: dict[str, tuple[str, _WatchEvents]] = {}  # token → path, sink
        self._monitors: dict[str, Any] = {}
        self._next_token = 0
        self._stopped = False
        self._reconnecting: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """:raises XenStoreError:"""
        self._loop = asyncio.get_running_loop()
        await self._run_in_store_thread("connecting", self._connect_to_xenstored)

    async def stop(self) -> None:
        self._stopped = True
        if self._reconnecting is not None:
            self._reconnecting.cancel()
        if self._router is not None:
            self._router.connection.shut_down()
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def read_node(self, path: str) -> str | None:
        """Return a node's value; None if there is no such node. :raises XenStoreError:"""
        return await self._call_with_client(
            f"reading {path}", lambda client: _read_path_or_none(client, path)
        )

    async def list_nodes(self, path: str) -> tuple[str, ...]:
        """Return the names of the nodes below one; empty if there is no such node.

        :raises XenStoreError:
        """
        return await self._call_with_client(
            f"listing {path}", lambda client: _list_path_or_empty(client, path)
        )

    async def write_node(self, path: str, value: str | int) -> None:
        """:raises XenStoreError:"""
        await self._call_with_client(
            f"writing {path}", lambda client: client.write(path.encode(), str(value).encode())
        )

    async def remove_node(self, path: str) -> None:
        """Remove a node, if it exists, with all nodes below it. :raises XenStoreError:"""
        await self._call_with_client(
            f"removing {path}", lambda client: _remove_path_if_there(client, path)
        )

    async def run_transaction(self, what: str, body: Callable[[Transaction], _T]) -> _T:
        """Run ``body`` as one transaction: in a thread, and again after a conflict.

        :raises XenStoreError:
        """

        def try_transaction(client: Any) -> _T:
            for _ in range(_MAX_TRANSACTION_TRIES):
                client.transaction()
                try:
                    result = body(Transaction(client))
                except BaseException:
                    client.rollback()
                    raise
                if client.commit():
                    return result
            raise XenStoreError(
                f"xenstore: {what}: {_MAX_TRANSACTION_TRIES} attempts conflicted with other writers"
            )

        return await self._call_with_client(what, try_transaction)

    async def watch_path(self, path: str, callback: Callable[[], None]) -> str:
        """Call ``callback`` on the loop now and after each change at the path.

        :returns: a token for :meth:`unwatch_path`.
        :raises XenStoreError:
        """
        assert self._loop is not None
        self._next_token += 1
        token = f"vesper-{self._next_token}"
        self._watches[token] = (path, _WatchEvents(self._loop, callback))
        try:
            await self._run_in_store_thread(f"watching {path}", lambda: self._register_watch(token))
        except XenStoreError:
            del self._watches[token]
            raise
        return token

    async def unwatch_path(self, token: str) -> None:
        """:raises XenStoreError:"""
        path, _ = self._watches.pop(token)
        monitor = self._monitors.pop(token, None)
        if monitor is not None:
            await self._run_in_store_thread(
                f"unwatching {path}", lambda: monitor.unwatch(path.encode(), token.encode())
            )

    # ------------------------------------------------- in the store's thread

    def _connect_to_xenstored(self) -> None:
        assert self._loop is not None
        loop = self._loop
        router: _Router

        def notify_router_end() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._handle_router_end, router)

        router = _Router(_Connection(), notify_router_end)
        router.start()
        self._router = router
        for token in list(self._watches):
            self._register_watch(token)

    def _register_watch(self, token: str) -> None:
        path, sink = self._watches[token]
        monitor = self._make_client().monitor()
        monitor.events = sink
        self._monitors[token] = monitor
        monitor.watch(path.encode(), token.encode())

    def _make_client(self) -> Any:
        if self._router is None:
            raise XenStoreError("xenstore: not connected")
        return pyxs.Client(router=self._router)

    # ------------------------------------------------------------ on the loop

    async def _call_with_client(self, what: str, body: Callable[[Any], _T]) -> _T:
        return await self._run_in_store_thread(what, lambda: body(self._make_client()))

    async def _run_in_store_thread(self, what: str, body: Callable[[], _T]) -> _T:
        assert self._loop is not None
        if self._stopped:
            raise XenStoreError(f"xenstore: {what}: stopped")
        future = self._loop.run_in_executor(self._executor, body)
        try:
            async with asyncio.timeout(STORE_TIMEOUT_S):
                return await future
        except TimeoutError:
            if self._router is not None:
                self._router.connection.shut_down()  # frees the thread
            raise XenStoreError(
                f"xenstore: {what}: xenstored did not answer within {STORE_TIMEOUT_S:.0f} s"
            ) from None
        except PyXSError as error:
            raise XenStoreError(f"xenstore: {what}: {error}") from None
        except OSError as error:
            raise XenStoreError(f"xenstore: {what}: {error}") from None

    def _handle_router_end(self, router: _Router) -> None:
        if router is self._router and not self._stopped and self._reconnecting is None:
            self._router = None
            self._reconnecting = asyncio.ensure_future(self._reconnect_until_done())

    async def _reconnect_until_done(self) -> None:
        while True:
            await asyncio.sleep(_RECONNECT_PAUSE_S)
            try:
                await self._run_in_store_thread("connecting", self._connect_to_xenstored)
            except XenStoreError as error:
                _log.warning("%s", error)
            else:
                self._reconnecting = None
                return


def _has_error_number(error: PyXSError, number: int) -> bool:
    return bool(error.args) and error.args[0] == number


def _read_path_or_none(client: Any, path: str) -> str | None:
    try:
        value: bytes = client.read(path.encode())
    except PyXSError as error:
        if _has_error_number(error, errno.ENOENT):
            return None
        raise
    return value.decode("latin-1")


def _list_path_or_empty(client: Any, path: str) -> tuple[str, ...]:
    try:
        return tuple(name.decode("latin-1") for name in client.list(path.encode()))
    except PyXSError as error:
        if _has_error_number(error, errno.ENOENT):
            return ()
        raise


def _remove_path_if_there(client: Any, path: str) -> None:
    try:
        client.delete(path.encode())
    except PyXSError as error:
        if not _has_error_number(error, errno.ENOENT):
            raise
