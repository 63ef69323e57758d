# SPDX-License-Identifier: GPL-2.0-or-later
"""The link to one guest on QEMU: shared memory, and an eventfd for its notifications."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import Callable

from kvm_transport.doorbells import Doorbells
from kvm_transport.ivshmem_client import (
    Attachment,
    IvshmemClient,
    IvshmemServerError,
    IvshmemServerRefusedError,
)
from kvm_transport.memory import RegionMapping, SharedMemory
from vesper_monitor.guest import abi
from vesper_monitor.hypervisor.transport import (
    Domain,
    FrontendMissingError,
    FrontendSilentError,
    LinkLostError,
    TransportError,
)

__all__ = ["KvmLink", "is_activated"]

_log = logging.getLogger(__name__)

_STATE_OFFSET = abi.field_offset(abi.ShmHead, "state")
_EPOCH_OFFSET = abi.field_offset(abi.ShmHead, "epoch")
_ANSWER_OFFSET = abi.field_offset(abi.ShmHead, "answer")
_WANTED_OFFSET = abi.field_offset(abi.ShmHead, "wanted")

#: For the guest to close its end; it may be dead.
_CLOSE_TIMEOUT_S = 3.0
#: Between two rings of a guest that does not answer.  The first ring may have found
#: another kernel, or memory that a migration has overwritten since.
_RING_INTERVAL_S = 0.5
#: Between two checks whether a QEMU has a device by now.
_DEVICE_POLL_INTERVAL_S = 0.5


async def _attach_to_qemu(server: IvshmemClient, pid: int, domain: Domain) -> Attachment:
    try:
        return await server.attach_to_qemu(pid)
    except IvshmemServerRefusedError:
        raise FrontendMissingError(
            f"{domain.name}: its QEMU (process {pid}) has no VESPER device; VESPER's agent adds it "
            "when it starts the VM again"
        ) from None
    except IvshmemServerError as error:
        raise TransportError(f"{domain.name}: {error}") from None


async def is_activated(server: IvshmemClient, pid: int, domain: Domain) -> bool:
    """Return whether a vesperd has activated this guest and not deactivated it since.

    A client that is attached to the guest loses it.

    :raises TransportError: the guest's memory cannot be read.
    """
    attachment = await _attach_to_qemu(server, pid, domain)
    try:
        memory = SharedMemory(attachment.memory)
        try:
            return abi.load_u32(memory.head.view, _WANTED_OFFSET) != 0
        finally:
            memory.close()
    finally:
        attachment.close()


class KvmLink:
    """See :class:`vesper_monitor.hypervisor.transport.Link`. Made by :meth:`connect_guest`."""

    def __init__(self, domain: Domain, attachment: Attachment, doorbells: Doorbells) -> None:
        """:raises TransportError:"""
        self.domain = domain
        self._attachment = attachment
        self._memory = SharedMemory(attachment.memory)
        self._head = self._memory.head.view
        self._cchan: RegionMapping | None = None
        self._epoch = 0
        self._notified: Callable[[], None] | None = None
        self._on_lost: Callable[[str], None] | None = None
        self._lost: str | None = None
        self._moved = asyncio.Event()  # the guest has rung, or the link is lost
        self._loop = asyncio.get_running_loop()
        self._doorbells = doorbells
        doorbells.add_doorbell(attachment.to_host, self._handle_ring)
        self._loop.add_reader(attachment.connection, self._handle_server_message)

    @classmethod
    async def connect_guest(
        cls,
        server: IvshmemClient,
        pid: int,
        domain: Domain,
        timeout: float,  # noqa: ASYNC109
        doorbells: Doorbells,
    ) -> KvmLink:
        """Activate the guest, or take over its activation.

        :param pid: of its QEMU.
        :param timeout: s for a device to be plugged in, if QEMU has none, and for the
            guest's frontend to answer.
        :param doorbells: of all guests.
        :raises FrontendMissingError: the device or the frontend is missing. The request
            stays in the guest's memory.
        :raises LinkLostError: QEMU has ended.
        :raises TransportError:
        """
        end = asyncio.get_running_loop().time() + timeout
        while True:
            try:
                attachment = await _attach_to_qemu(server, pid, domain)
                break
            except FrontendMissingError:
                if asyncio.get_running_loop().time() + _DEVICE_POLL_INTERVAL_S > end:
                    raise
            await asyncio.sleep(_DEVICE_POLL_INTERVAL_S)
        link = cls._attach_link(domain, attachment, doorbells)
        try:
            await link._activate_guest(end)
        except BaseException:
            await link.close(deactivate=False)
            raise
        return link

    @classmethod
    async def end_activation(
        cls, server: IvshmemClient, pid: int, domain: Domain, doorbells: Doorbells
    ) -> None:
        """Deactivate a guest without a link to it.

        :raises FrontendMissingError: QEMU has no device.
        :raises TransportError:
        """
        link = cls._attach_link(domain, await _attach_to_qemu(server, pid, domain), doorbells)
        await link.close(deactivate=True)

    @classmethod
    def _attach_link(cls, domain: Domain, attachment: Attachment, doorbells: Doorbells) -> KvmLink:
        try:
            return cls(domain, attachment, doorbells)
        except TransportError as error:
            attachment.close()
            raise TransportError(f"{domain.name}: {error}") from None

    @property
    def cchan(self) -> RegionMapping:
        assert self._cchan is not None, "not connected"
        return self._cchan

    def map_region(self, handle: int, pages: int, *, writable: bool = False) -> RegionMapping:
        if not 0 < pages <= abi.MAX_REGION_PAGES:
            raise TransportError(f"{self.domain.name}: impossible region: {pages} pages")
        try:
            return self._memory.map_region(handle, pages, writable=writable)
        except TransportError as error:
            raise TransportError(f"{self.domain.name}: {error}") from None

    def notify_guest(self) -> None:
        try:
            os.eventfd_write(self._attachment.to_guest, 1)
        except BlockingIOError:
            pass  # the counter is full: the guest has not looked for 2^64 rings

    def on_notify(self, callback: Callable[[], None] | None) -> None:
        self._notified = callback

    def on_lost(self, callback: Callable[[str], None] | None) -> None:
        self._on_lost = callback
        if callback is not None and self._lost is not None:
            callback(self._lost)

    def lose_link(self, reason: str) -> None:
        """Report that the guest's end is lost. The transport calls this, too."""
        if self._lost is not None:
            return
        self._lost = reason
        self._moved.set()
        if self._on_lost is not None:
            self._on_lost(reason)

    async def close(self, *, deactivate: bool) -> None:
        if self._attachment.memory < 0:
            return  # closed already
        self._cchan = None
        if deactivate and self._lost is None:
            await self._deactivate_guest()
        self._lost = self._lost or "closed"
        self._doorbells.remove_doorbell(self._attachment.to_host)
        self._loop.remove_reader(self._attachment.connection)
        try:
            self._memory.close()
        except BufferError as error:
            _log.error("%s: its memory stays mapped: %s", self.domain.name, error)
        self._attachment.close()

    # ------------------------------------------------------------- activation

    async def _activate_guest(self, end: float) -> None:
        """Ring the guest until it has answered and shares its memory.

        :param end: by the loop's clock.
        """
        number = 1 + secrets.randbelow((1 << 32) - 1)
        try:
            async with asyncio.timeout_at(end):
                while abi.load_u32(self._head, _ANSWER_OFFSET) != number:
                    abi.store_u32(self._head, _WANTED_OFFSET, number)
                    await self._ring_and_wait()
        except TimeoutError:
            raise FrontendSilentError(
                f"{self.domain.name}: no answer from VESPER in the guest's kernel; load the "
                "modules vesper and vesper_ivshmem there",
                was_active=abi.load_u32(self._head, _STATE_OFFSET) == abi.ShmState.ACTIVE,
            ) from None
        head = abi.ShmHead.from_buffer_copy(self._head)
        if head.magic != abi.SHM_MAGIC or head.state != abi.ShmState.ACTIVE:
            raise TransportError(
                f"{self.domain.name}: VESPER in the guest's kernel cannot share its memory; see "
                "the guest's kernel log"
            )
        if head.version != abi.ABI_VERSION:
            _log.warning("%s: the shared memory has version %d", self.domain.name, head.version)
        self._epoch = head.epoch
        self._cchan = self.map_region(head.cchan, 1, writable=True)

    async def _deactivate_guest(self) -> None:
        abi.store_u32(self._head, _WANTED_OFFSET, 0)
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                while abi.load_u32(self._head, _STATE_OFFSET) == abi.ShmState.ACTIVE:
                    await self._ring_and_wait()
        except TimeoutError:
            _log.warning("%s: the guest does not stop sharing its memory", self.domain.name)
        except LinkLostError:
            pass

    async def _ring_and_wait(self) -> None:
        """Ring the guest, and wait a moment for it to ring back.

        :raises LinkLostError:
        """
        self._moved.clear()
        self.notify_guest()
        try:
            async with asyncio.timeout(_RING_INTERVAL_S):
                await self._moved.wait()
        except TimeoutError:
            pass
        if self._lost is not None:
            raise LinkLostError(f"{self.domain.name}: {self._lost}")

    # ---------------------------------------------------------------- signals

    def _handle_ring(self) -> None:
        self._moved.set()
        if self._cchan is None:
            return  # not connected yet
        if (
            abi.load_u32(self._head, _STATE_OFFSET) != abi.ShmState.ACTIVE
            or abi.load_u32(self._head, _EPOCH_OFFSET) != self._epoch
        ):
            self.lose_link("the guest has closed its VESPER device")
        elif self._notified is not None:
            self._notified()

    def _handle_server_message(self) -> None:
        self._loop.remove_reader(self._attachment.connection)
        reason = self._attachment.explain_loss()
        if reason is None:
            _log.warning(
                "%s: vesper-ivshmem has ended; the link to the guest works on", self.domain.name
            )
        else:
            self.lose_link(reason)
