# SPDX-License-Identifier: GPL-2.0-or-later
"""The VESPER device of one guest in xenstore: its nodes and their states.

==================  ==============================================
frontend, guest's   ``/local/domain/DOMID/device/vesper/0``
backend, host's     ``/local/domain/0/backend/vesper/DOMID/0``
==================  ==============================================

The states are those of xen/include/public/io/xenbus.h.  The host creates both ends
(frontend 1, backend 2).  The guest publishes a page and a port (3).  The host maps the
page and binds the port (4), then the guest is connected, too (4).  To close: 5, then 6.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Callable
from typing import NamedTuple

from vesper_monitor.hypervisor.transport import TransportError
from xen_transport.xenstore import Transaction, XenStore

__all__ = ["BACKENDS", "Device", "PublishedChannel", "XenbusState"]

_log = logging.getLogger(__name__)

BACKENDS = "/local/domain/0/backend/vesper"
#: For the guest to close its end; it may be dead.
_CLOSE_TIMEOUT_S = 3.0


class XenbusState(enum.IntEnum):
    """enum xenbus_state"""

    UNKNOWN = 0  # also: no such node
    INITIALISING = 1
    INIT_WAIT = 2
    INITIALISED = 3
    CONNECTED = 4
    CLOSING = 5
    CLOSED = 6


#: No frontend uses the device: it has closed it, or has not opened it yet.
_UNUSED_STATES = (XenbusState.UNKNOWN, XenbusState.INITIALISING, XenbusState.CLOSED)


class PublishedChannel(NamedTuple):
    """The C-chan page and the event channel that the frontend has published."""

    ring_ref: int
    event_channel: int


class Device:
    """The nodes of one guest's device in xenstore."""

    def __init__(self, store: XenStore, domid: int, name: str) -> None:
        """:param name: of the domain, for messages."""
        self._store = store
        self._domid = domid
        self._name = name
        self.frontend = f"/local/domain/{domid}/device/vesper/0"
        self.backend = f"{BACKENDS}/{domid}/0"
        #: to watch for changes of the frontend
        self.frontend_state_path = f"{self.frontend}/state"

    async def create_nodes(self) -> None:
        """Create both ends' nodes again. A guest with a frontend then connects."""
        domid, frontend, backend = self._domid, self.frontend, self.backend

        def write_nodes(transaction: Transaction) -> None:
            transaction.remove_node(frontend)
            transaction.remove_node(backend)
            transaction.make_node(backend, owner=0, reader=domid)
            transaction.make_node(frontend, owner=domid, reader=0)
            for path, value in (
                (f"{backend}/frontend", frontend),
                (f"{backend}/frontend-id", domid),
                (f"{backend}/online", 1),
                (f"{backend}/state", XenbusState.INIT_WAIT.value),
                (f"{frontend}/backend", backend),
                (f"{frontend}/backend-id", 0),
                (f"{frontend}/state", XenbusState.INITIALISING.value),
            ):
                transaction.write_node(path, value)

        await self._store.run_transaction(f"creating the device of {self._name}", write_nodes)

    async def remove_device(self, release: Callable[[], None] = lambda: None) -> None:
        """Close the device, wait for the guest to close its end, and remove the nodes.

        :param release: called when the guest can see that the host closes.
        """
        await self.set_backend(XenbusState.CLOSING)
        release()
        await self.wait_closed()
        await self._store.remove_node(self.frontend)
        await self._store.remove_node(f"{BACKENDS}/{self._domid}")

    async def set_backend(self, state: XenbusState) -> None:
        """Write the backend's state."""
        await self._store.write_node(f"{self.backend}/state", state.value)

    async def backend_state(self) -> XenbusState:
        """Return the backend's state."""
        return _parse_state(await self._store.read_node(f"{self.backend}/state"))

    async def frontend_state(self) -> XenbusState:
        """Return the frontend's state."""
        return _parse_state(await self._store.read_node(self.frontend_state_path))

    async def wait_closed(self) -> None:
        """Wait until the guest has closed its end, for :data:`_CLOSE_TIMEOUT_S` at most."""
        end = asyncio.get_running_loop().time() + _CLOSE_TIMEOUT_S
        while await self.frontend_state() not in _UNUSED_STATES:
            if asyncio.get_running_loop().time() > end:
                _log.warning("%s: the guest does not close its VESPER device", self._name)
                break
            await asyncio.sleep(0.05)

    async def read_published(self) -> PublishedChannel:
        """Return what the frontend has published.

        :raises TransportError: these are no numbers.
        """
        keys = "ring-ref", "event-channel"
        values = [await self._store.read_node(f"{self.frontend}/{key}") for key in keys]
        numbers = [_parse_number(value) for value in values]
        if None in numbers:
            raise TransportError(
                f"{self._name}: the guest's frontend has published an unusable ring-ref "
                f"({values[0]!r:.40}) or event-channel ({values[1]!r:.40})"
            )
        return PublishedChannel(numbers[0] or 0, numbers[1] or 0)


def _parse_number(text: str | None) -> int | None:
    """Return a grant reference or port; None if the text is no number of 32 bits."""
    if text is None or not text.isascii() or not text.isdecimal() or len(text) > 10:
        return None
    return int(text) if int(text) < 1 << 32 else None


def _parse_state(text: str | None) -> XenbusState:
    number = _parse_number(text)
    return XenbusState(number) if number is not None and number <= 6 else XenbusState.UNKNOWN
