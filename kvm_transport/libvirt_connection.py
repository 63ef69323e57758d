# SPDX-License-Identifier: GPL-2.0-or-later
"""One kept connection to libvirtd, which may hang, end, and come back at any time.

libvirt's client library blocks.  So it has two threads of its own, and the
daemon's loop waits for neither:

- *events*: the library's event loop: reads what libvirtd sends, and notices by
  keep-alive messages that it sends nothing any more;
- *calls*: makes one call after the other.  A call that has not come back in
  time is left to itself; until it has, no other is tried.

Both end with the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from vesper_monitor.util.errors import VesperError

__all__ = ["LibvirtConnection", "LibvirtUnavailableError"]

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

#: s for libvirtd to answer.
CALL_LIMIT_S = 2.0
#: s between two tries to connect: the first, then doubled up to the last.
RETRY_FIRST_S = 0.2
RETRY_LAST_S = 5.0
#: s between two keep-alive messages, and how many may stay without an answer.
KEEPALIVE_INTERVAL_S = 5
MAX_UNANSWERED_KEEPALIVES = 3

#: Of virDomainDiskErrorCode.
_DISK_ERRORS = {1: "error", 2: "no space left"}


class LibvirtUnavailableError(VesperError):
    """libvirtd does not run or does not answer; the text says so."""


class LibvirtConnection:
    """
    :param uri: of libvirt's QEMU driver.
    :param on_event: called on the loop: a domain's UUID, the kind of event as in
        ``VIR_DOMAIN_EVENT_ID_kind``, and its numbers and texts.
    :param on_up: called on the loop when libvirtd is there, again: events may
        have been missed.
    """

    def __init__(
        self,
        uri: str,
        on_event: Callable[[str, str, tuple[Any, ...]], None],
        on_up: Callable[[], None],
    ) -> None:
        self._uri = uri
        self._on_event = on_event
        self._on_up = on_up
        self._connection: Any = None
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._overdue = 0
        self._task: asyncio.Task[None] | None = None
        self._trouble: str | None = "not connected yet"

    def start_connecting(self) -> None:
        self._loop = asyncio.get_running_loop()
        _start_event_loop()
        threading.Thread(target=self._run_queued_calls, name="libvirt-calls", daemon=True).start()
        self._task = asyncio.create_task(self._keep_connected())

    async def close_connection(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        connection, self._connection = self._connection, None
        if connection is not None:
            self._calls.put(connection.close)

    @property
    def trouble(self) -> str | None:
        """Why libvirtd cannot be asked now; None: it can."""
        trouble = "libvirtd does not answer" if self._overdue else self._trouble
        return f"{self._uri}: {trouble}" if trouble is not None else None

    async def read_domain_state(self, uuid: str) -> tuple[int, int, Mapping[str, str]] | None:
        """State, its reason, and the disks with errors; None: it knows no such domain.

        :raises LibvirtUnavailableError:
        """
        connection = self._connection

        def ask_libvirt() -> tuple[int, int, Mapping[str, str]] | None:
            libvirt = _import_libvirt()
            try:
                domain = connection.lookupByUUIDString(uuid)
                state, reason = domain.state()
                paused = state == libvirt.VIR_DOMAIN_PAUSED
                failed = paused and reason == libvirt.VIR_DOMAIN_PAUSED_IOERROR
                errors = domain.diskErrors() if failed else {}
            except libvirt.libvirtError as error:
                if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                    return None
                raise
            return state, reason, {
                disk: _DISK_ERRORS.get(code, f"error {code}") for disk, code in errors.items()
            }  # fmt: skip

        if self.trouble is not None:
            raise LibvirtUnavailableError(self.trouble)
        try:
            async with asyncio.timeout(CALL_LIMIT_S):
                return await self._call_in_thread(ask_libvirt)
        except TimeoutError:
            raise LibvirtUnavailableError(
                f"{self._uri}: no answer from libvirtd within {CALL_LIMIT_S:g} s"
            ) from None
        except _import_libvirt().libvirtError as error:
            raise LibvirtUnavailableError(f"{self._uri}: {error}") from None

    # ------------------------------------------------------------- connecting

    async def _keep_connected(self) -> None:
        pause = RETRY_FIRST_S
        while True:
            closed = asyncio.Event()
            try:
                # A libvirtd that hangs keeps this waiting until it goes on, or ends.
                self._connection = await self._call_in_thread(
                    functools.partial(self._open_connection, closed)
                )
            except _import_libvirt().libvirtError as error:
                self._log_trouble(str(error))
                await asyncio.sleep(pause)
                pause = min(pause * 2, RETRY_LAST_S)
                continue
            pause = RETRY_FIRST_S
            self._trouble = None
            _log.info("%s: connected", self._uri)
            self._on_up()
            await closed.wait()
            connection, self._connection = self._connection, None
            self._calls.put(connection.close)
            self._log_trouble("the connection to libvirtd has ended")

    def _log_trouble(self, trouble: str) -> None:
        if trouble != self._trouble:
            _log.warning("%s: %s; going on with QEMU's processes", self._uri, trouble)
        self._trouble = trouble

    def _open_connection(self, closed: asyncio.Event) -> Any:
        """On the thread for calls. :raises libvirtError:"""
        libvirt = _import_libvirt()
        connection = libvirt.open(self._uri)
        try:
            connection.setKeepAlive(KEEPALIVE_INTERVAL_S, MAX_UNANSWERED_KEEPALIVES)
            connection.registerCloseCallback(lambda *_: self._call_on_loop(closed.set), None)
            for kind in ("LIFECYCLE", "REBOOT", "WATCHDOG", "IO_ERROR_REASON", "MEMORY_FAILURE"):
                number = getattr(libvirt, f"VIR_DOMAIN_EVENT_ID_{kind}")
                connection.domainEventRegisterAny(None, number, self._handle_event, kind)
        except BaseException:
            connection.close()
            raise
        return connection

    # ---------------------------------------------------------------- threads

    def _handle_event(self, _connection: Any, domain: Any, *arguments: Any) -> None:
        """On the thread for events."""
        *said, kind = arguments
        self._call_on_loop(self._on_event, domain.UUIDString(), kind, tuple(said))

    def _call_on_loop(self, callback: Callable[..., object], *arguments: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(callback, *arguments)

    async def _call_in_thread(self, function: Callable[[], _T]) -> _T:
        """On the thread for calls."""
        future: asyncio.Future[_T] = self._loop.create_future()

        def set_outcome(result: _T | None, error: BaseException | None) -> None:
            if future.cancelled():
                self._overdue -= 1
            elif error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type]

        def make_call() -> None:
            try:
                result = function()
            except Exception as error:
                self._call_on_loop(set_outcome, None, error)
            else:
                self._call_on_loop(set_outcome, result, None)

        self._calls.put(make_call)
        try:
            return await future
        except asyncio.CancelledError:
            self._overdue += 1
            raise

    def _run_queued_calls(self) -> None:
        while True:
            call = self._calls.get()
            with contextlib.suppress(Exception):  # of close(): it is closed
                call()


def _import_libvirt() -> Any:
    """Debian's python3-libvirt. Not needed where the transport is not used."""
    import libvirt

    return libvirt


@functools.cache
def _start_event_loop() -> threading.Thread:
    """The library has one for all connections."""
    libvirt = _import_libvirt()
    libvirt.registerErrorHandler(lambda *_: None, None)  # raised as well
    libvirt.virEventRegisterDefaultImpl()

    def run_event_loop() -> None:
        while True:
            try:
                libvirt.virEventRunDefaultImpl()
            except libvirt.libvirtError as error:
                _log.error("libvirt's event loop: %s", error)
                time.sleep(1.0)

    thread = threading.Thread(target=run_event_loop, name="libvirt-events", daemon=True)
    thread.start()
    return thread
