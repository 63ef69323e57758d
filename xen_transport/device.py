# SPDX-License-Identifier: GPL-2.0-or-later
"""The VESPER device of one guest in xenstore: its nodes and its states.

==================  ==============================================
frontend, guest's   ``/local/domain/DOMID/device/vesper/0``
backend, host's     ``/local/domain/0/backend/vesper/DOMID/0``
==================  ==============================================

States are those of xen/include/public/io/xenbus.h. The host creates both
(frontend 1, backend 2); the guest publishes page and port, 3; the host maps
and binds, 4; the guest, 4. Closing: 5, 6.
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
#: s for the guest to close its end; it may be dead.
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


#: No frontend has the device: it has let go, or none has come yet.
_UNUSED_STATES = (XenbusState.UNKNOWN, XenbusState.INITIALISING, XenbusState.CLOSED)


class PublishedChannel(NamedTuple):
    """What the frontend has published."""

    ring_ref: int
    event_channel: int


class Device:
    """The nodes of one guest's device."""

    def __init__(self, store: XenStore, domid: int, name: str) -> None:
        """:param name: of the domain, for messages."""
        self._store = store
        self._domid = domid
        self._name = name
        self.frontend = f"/local/domain/{domid}/device/vesper/0"
        self.backend = f"{BACKENDS}/{domid}/0"
        #: what to watch to learn of the frontend's changes
        self.frontend_state_path = f"{self.frontend}/state"

    async def create_nodes(self) -> None:
        """Make both ends' nodes anew: a guest that listens connects."""
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

    async def remove_device(self, let_go: Callable[[], None] = lambda: None) -> None:
        """Close in order, so that the guest has let go before the nodes do.

        :param let_go: called once the guest has been told.
        """
        await self.set_backend(XenbusState.CLOSING)
        let_go()
        await self.wait_closed()
        await self._store.remove_node(self.frontend)
        await self._store.remove_node(f"{BACKENDS}/{self._domid}")

    async def set_backend(self, state: XenbusState) -> None:
        await self._store.write_node(f"{self.backend}/state", state.value)

    async def backend_state(self) -> XenbusState:
        return _parse_state(await self._store.read_node(f"{self.backend}/state"))

    async def frontend_state(self) -> XenbusState:
        return _parse_state(await self._store.read_node(self.frontend_state_path))

    async def wait_closed(self) -> None:
        """Until the guest has let go, or has had time enough."""
        end = asyncio.get_running_loop().time() + _CLOSE_TIMEOUT_S
        while await self.frontend_state() not in _UNUSED_STATES:
            if asyncio.get_running_loop().time() > end:
                _log.warning("%s: the guest has not closed its device", self._name)
                break
            await asyncio.sleep(0.05)

    async def read_published(self) -> PublishedChannel:
        """:raises TransportError: the guest has published nonsense."""
        keys = "ring-ref", "event-channel"
        values = [await self._store.read_node(f"{self.frontend}/{key}") for key in keys]
        numbers = [_parse_number(value) for value in values]
        if None in numbers:
            raise TransportError(
                f"{self._name}: the guest's frontend has published no usable "
                f"ring-ref and event-channel, but {values[0]!r:.40} and {values[1]!r:.40}"
            )
        return PublishedChannel(numbers[0] or 0, numbers[1] or 0)


def _parse_number(text: str | None) -> int | None:
    """A grant reference or port: 32 bits."""
    if text is None or not text.isascii() or not text.isdecimal() or len(text) > 10:
        return None
    return int(text) if int(text) < 1 << 32 else None


def _parse_state(text: str | None) -> XenbusState:
    number = _parse_number(text)
    return XenbusState(number) if number is not None and number <= 6 else XenbusState.UNKNOWN
