# SPDX-License-Identifier: GPL-2.0-or-later
"""One activated Xen guest: its pages mapped, its event channel bound."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable

from vesper_monitor.guest import abi
from vesper_monitor.hypervisor.transport import Domain, TransportError
from xen_transport.device import Device, PublishedChannel, XenbusState
from xen_transport.evtchn import EventChannel
from xen_transport.gntdev import GrantDevice, GrantMapping
from xen_transport.xenstore import XenStore, XenStoreError

__all__ = ["XenLink"]

_log = logging.getLogger(__name__)


class XenLink:
    """See :class:`vesper_monitor.hypervisor.transport.Link`."""

    def __init__(
        self, store: XenStore, device: Device, domain: Domain, published: PublishedChannel
    ) -> None:
        """:raises TransportError: what the guest published is not to be had."""
        self.domain = domain
        self._store = store
        self._device = device
        self._mappings: list[GrantMapping] = []
        self._notified: Callable[[], None] | None = None
        self._on_lost: Callable[[str], None] | None = None
        self._lost: str | None = None
        self._token: str | None = None
        self._checking: asyncio.Task[None] | None = None
        try:
            self._grants = GrantDevice()
        except OSError as error:
            raise TransportError(
                f"cannot map guests' pages: {error}; is xen-gntdev loaded?"
            ) from None
        try:
            self._cchan = self._map_guest_pages([published.ring_ref], "C-chan page", writable=True)
            self._channel = self._bind_event_channel(published.event_channel)
        except TransportError:
            self._release_all()
            raise

    async def follow_frontend(self) -> None:
        """Begin to watch the guest's end. :raises TransportError:"""
        self._token = await self._store.watch_path(
            self._device.frontend_state_path, self.check_frontend
        )

    @property
    def cchan(self) -> GrantMapping:
        return self._cchan

    def map_region(self, handle: int, pages: int, *, writable: bool = False) -> GrantMapping:
        """The handle is the grant of a ``struct vsp_xen_dir``, copied before use."""
        if not 0 < pages <= abi.MAX_REGION_PAGES or not 0 < handle < 1 << 32:
            raise TransportError(
                f"{self.domain.name}: impossible region: handle {handle:#x}, {pages} pages"
            )
        page = self._map_guest_pages([handle], "region's directory", writable=False)
        directory = abi.XenDir.from_buffer_copy(page.view)
        self._close_mapping(page)
        if directory.pages < pages:
            raise TransportError(
                f"{self.domain.name}: region {handle:#x} has {directory.pages} pages, not {pages}"
            )
        return self._map_guest_pages(
            list(directory.ref[:pages]), f"region {handle:#x}", writable=writable
        )

    def notify_guest(self) -> None:
        try:
            self._channel.notify_port()
        except OSError as error:
            _log.warning("%s: cannot notify the guest: %s", self.domain.name, error)

    def on_notify(self, callback: Callable[[], None] | None) -> None:
        self._notified = callback

    def on_lost(self, callback: Callable[[str], None] | None) -> None:
        self._on_lost = callback
        if callback is not None and self._lost is not None:
            callback(self._lost)

    def check_frontend(self) -> None:
        """Something has changed: is the guest's end still there?"""
        if self._checking is None and self._lost is None:
            self._checking = asyncio.ensure_future(self._check_frontend_state())

    async def close(self, *, deactivate: bool) -> None:
        if self._checking is not None:
            self._checking.cancel()
        self._lost = self._lost or "closed"
        # Memory first: a domain with mapped pages cannot die.
        if not deactivate:
            self._release_all()
        try:
            if self._token is not None:
                token, self._token = self._token, None
                await self._store.unwatch_path(token)
            await (
                self._device.remove_device(self._release_all)
                if deactivate
                else self._leave_device_to_guest()
            )
        except XenStoreError as error:
            _log.warning("%s: %s", self.domain.name, error)
        finally:
            self._release_all()

    async def _leave_device_to_guest(self) -> None:
        """The device stays; but where the guest closes its end, so do we.

        Closing before closed: a guest that shuts down looks for that state
        only, and waits 5 s for it (xenbus_otherend_changed() and
        xenbus_dev_shutdown(), drivers/xen/xenbus/xenbus_probe.c, Linux 6.1).
        """
        state = await self._device.frontend_state()
        if state is XenbusState.CLOSING:
            await self._device.set_backend(XenbusState.CLOSING)
            await self._device.wait_closed()
        if state in (XenbusState.CLOSING, XenbusState.CLOSED):
            await self._device.set_backend(XenbusState.CLOSED)

    async def _check_frontend_state(self) -> None:
        reason = None
        try:
            state = await self._device.frontend_state()
        except XenStoreError as error:
            _log.warning("%s: %s", self.domain.name, error)
        else:
            if state is XenbusState.UNKNOWN:
                reason = "the domain has gone"
            elif state not in (XenbusState.INITIALISED, XenbusState.CONNECTED):
                reason = "the guest has closed its VESPER device"
        self._checking = None
        if reason is not None and self._lost is None:
            self._lost = reason
            if self._on_lost is not None:
                self._on_lost(reason)

    def _map_guest_pages(self, refs: list[int], what: str, *, writable: bool) -> GrantMapping:
        try:
            mapping = self._grants.map_grant_refs(self.domain.domid, refs, writable=writable)
        except OSError as error:
            why = (
                "the guest has not granted it"
                if error.errno == errno.EINVAL
                else error.strerror or str(error)
            )
            raise TransportError(f"{self.domain.name}: cannot map the {what}: {why}") from None
        self._mappings = [old for old in self._mappings if old.is_open]
        self._mappings.append(mapping)
        return mapping

    def _bind_event_channel(self, port: int) -> EventChannel:
        try:
            return EventChannel(self.domain.domid, port, self._handle_event)
        except OSError as error:
            raise TransportError(
                f"{self.domain.name}: cannot bind to the guest's event channel {port}: "
                f"{error.strerror}; is xen-evtchn loaded?"
            ) from None

    def _handle_event(self) -> None:
        if self._notified is not None:
            self._notified()

    def _close_mapping(self, mapping: GrantMapping) -> None:
        mapping.close()
        self._mappings.remove(mapping)

    def _release_all(self) -> None:
        """Event channel and pages. May be called twice."""
        if hasattr(self, "_channel"):
            self._channel.close()
        for mapping in self._mappings:
            try:
                mapping.close()
            except (BufferError, OSError) as error:
                _log.error("%s: a page stays mapped: %s", self.domain.name, error)
        self._mappings.clear()
        self._grants.close()
