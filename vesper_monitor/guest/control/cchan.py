# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's half of C-chan: sends requests to one guest, one at a time.

The host's counters live here. They are read from the shared page once, when a
link is taken over from an earlier vesperd; after that they are only written to
the page. Everything the guest writes is copied, bounded, then parsed.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import secrets
from collections.abc import Sequence
from typing import TypeVar

from vesper_monitor.guest import abi
from vesper_monitor.guest.printable import make_printable
from vesper_monitor.hypervisor.transport import Link
from vesper_monitor.util.errors import VesperError

__all__ = [
    "Cchan",
    "CchanBrokenError",
    "CchanError",
    "CchanLostError",
    "GuestRefusedError",
    "GuestSilentError",
    "WrongVersionError",
]

#: s for the answer to a request; the guest answers most requests at once.
REQUEST_TIMEOUT_S = 10.0
#: s for LOAD and UNLOAD, which start a process in the guest.
LOAD_TIMEOUT_S = 60.0

_BELL = abi.field_offset(abi.Cchan, "bell")
_ASLEEP = abi.field_offset(abi.Cchan, "asleep")
_TO_GUEST = abi.field_offset(abi.Cchan, "to_guest")
_TO_HOST = abi.field_offset(abi.Cchan, "to_host")
_PROD = abi.field_offset(abi.CchanRing, "prod")
_CONS = abi.field_offset(abi.CchanRing, "cons")
_SLOT = abi.field_offset(abi.CchanRing, "slot")

_SAME_VERSION = "install the same version of VESPER in the guest and on the host"

_R = TypeVar("_R", bound=ctypes.Structure)


class CchanError(VesperError):
    """C-chan to this guest does not work; the text says why."""


class CchanBrokenError(CchanError):
    """The contents of the C-chan page are invalid; a new page may help."""


class GuestSilentError(CchanError):
    """The guest did not answer within the time limit."""


class CchanLostError(CchanError):
    """The link was lost while a reply was waited for."""


class WrongVersionError(CchanError):
    """The guest speaks another version of the protocol."""


class GuestRefusedError(VesperError):
    """The guest answered with an error. C-chan itself works.

    :ivar errno: of the guest's kernel, positive.
    :ivar text: the guest kernel's log about it, perhaps empty.
    """

    def __init__(self, request: str, error: int, text: str) -> None:
        name = errno.errorcode.get(error, str(error))
        super().__init__(f"guest refused {request}: {name}" + (f": {text}" if text else ""))
        self.errno = error
        self.text = text


class Cchan:
    """C-chan of one link."""

    def __init__(self, link: Link) -> None:
        """:raises CchanBrokenError: the page is no C-chan page. :raises WrongVersionError:"""
        self._link = link
        self._view = link.cchan.view
        self._lock = asyncio.Lock()
        self._moved = asyncio.Event()
        self._aborted: str | None = None
        if self._load_word(abi.field_offset(abi.Cchan, "magic")) != abi.CCHAN_MAGIC:
            raise CchanBrokenError(
                f"{link.domain.name}: the guest's C-chan page has no magic number"
            )
        version = self._load_word(abi.field_offset(abi.Cchan, "version"))
        if version != abi.ABI_VERSION:
            raise WrongVersionError(_version_text(link.domain.name, version))
        self._prod = self._load_word(_TO_GUEST + _PROD)
        self._cons = self._load_word(_TO_HOST + _CONS)
        # A reply to a request of an earlier vesperd must not match one of this vesperd.
        self._seq = secrets.randbits(32)

    def wake_up(self) -> None:
        """Look at the page again: the guest has notified."""
        self._moved.set()

    def arm_notification(self) -> None:
        """Let the guest notify when it writes new records; call this before reading.

        The guest writes a record first, and checks the bell then. The store here is
        visible in time: between it and the next load lie thousands of instructions
        of the interpreter, and more stores than a CPU buffers.
        """
        abi.store_u32(self._view, _BELL, abi.Bell.ARMED)

    @property
    def asleep(self) -> bool:
        """Whether the guest is about to be suspended, or is."""
        return abi.load_u32(self._view, _ASLEEP) != 0

    def abort_requests(self, reason: str) -> None:
        """Let the pending and all later requests fail: the link is lost."""
        self._aborted = reason
        self._moved.set()

    async def request_hello(self) -> abi.MsgHello:
        """Ask who the guest is. :raises CchanError: :raises GuestRefusedError:"""
        try:
            return await self._send_request("HELLO", abi.MsgType.HELLO, abi.MsgHdr(), abi.MsgHello)
        except GuestRefusedError as refused:
            if refused.errno == errno.EPROTO:
                raise WrongVersionError(
                    f"{self._link.domain.name}: the guest's VESPER modules refuse protocol "
                    f"{abi.ABI_VERSION}; {_SAME_VERSION}"
                ) from None
            raise

    async def alloc_memory(self, pages: int) -> abi.Region:
        """Let the guest share some pages. :raises CchanError: :raises GuestRefusedError:"""
        request = abi.MsgMem()
        request.region.pages = pages
        reply = await self._send_request("memory", abi.MsgType.MEM_ALLOC, request, abi.MsgMem)
        return reply.region

    async def free_memory(self, handle: int) -> None:
        """Let the guest free pages. :raises CchanError: :raises GuestRefusedError:"""
        request = abi.MsgMem()
        request.region.handle = handle
        await self._send_request("freeing memory", abi.MsgType.MEM_FREE, request, abi.MsgMem)

    async def request_load(
        self, name: str, region: abi.Region, image_len: int, params_len: int, crc32: int
    ) -> str:
        """Load a module. :returns: the guest kernel's log about it, perhaps empty."""
        request = abi.MsgLoad()
        request.region = region
        request.image_len = image_len
        request.params_len = params_len
        request.crc32 = crc32
        request.name = name.encode()
        reply = await self._send_request(
            f"to load {name}", abi.MsgType.LOAD, request, abi.MsgResult, LOAD_TIMEOUT_S
        )
        return make_printable(reply.text)

    async def request_unload(self, name: str) -> str:
        """Unload a module. :returns: the guest kernel's log about it, perhaps empty."""
        request = abi.MsgUnload()
        request.name = name.encode()
        reply = await self._send_request(
            f"to unload {name}", abi.MsgType.UNLOAD, request, abi.MsgResult, LOAD_TIMEOUT_S
        )
        return make_printable(reply.text)

    async def request_processes(self, names: Sequence[bytes]) -> abi.MsgProcesses:
        """Ask for the main processes of at most :data:`abi.MAX_NAMES` names."""
        request = abi.MsgProcesses()
        for process, name in zip(request.process, names, strict=False):
            process.name = name
        return await self._send_request(
            "for processes", abi.MsgType.PROCESSES, request, abi.MsgProcesses
        )

    async def _send_request(
        self,
        what: str,
        kind: abi.MsgType,
        request: ctypes.Structure,
        reply_type: type[_R],
        limit: float = REQUEST_TIMEOUT_S,
    ) -> _R:
        vm = self._link.domain.name
        async with self._lock:
            self._seq = (self._seq + 1) & 0xFFFFFFFF
            header = abi.MsgHdr(type=kind, seq=self._seq, status=0, version=abi.ABI_VERSION)
            message = bytes(header) + bytes(request)[ctypes.sizeof(header) :]
            try:
                async with asyncio.timeout(limit):
                    await self._send_message(message.ljust(abi.MSG_SIZE, b"\0"))
                    data = await self._receive_reply(kind, self._seq)
            except TimeoutError:
                raise GuestSilentError(
                    f"{vm}: no answer from the guest within {limit:.0f} s when asked {what}"
                ) from None
        answer = abi.MsgHdr.from_buffer_copy(data)
        if kind is abi.MsgType.HELLO and answer.version != abi.ABI_VERSION:
            raise WrongVersionError(_version_text(vm, answer.version))
        if answer.status != 0:
            text = ""
            if reply_type is abi.MsgResult:
                text = make_printable(abi.MsgResult.from_buffer_copy(data).text)
            raise GuestRefusedError(what, abs(answer.status), text)
        return reply_type.from_buffer_copy(data)

    async def _send_message(self, message: bytes) -> None:
        while True:
            self._check_page()
            self._moved.clear()
            waiting = (self._prod - self._load_word(_TO_GUEST + _CONS)) & 0xFFFFFFFF
            if waiting < abi.CCHAN_SLOTS:
                break
            if waiting > abi.CCHAN_SLOTS:
                raise self._broken_error(
                    f"it took {-waiting & 0xFFFFFFFF} requests that nobody sent"
                )
            self._link.notify_guest()  # the guest may have hung at the last notification
            await self._moved.wait()
        slot = _TO_GUEST + _SLOT + (self._prod % abi.CCHAN_SLOTS) * abi.MSG_SIZE
        self._view[slot : slot + abi.MSG_SIZE] = message
        # x86 keeps the order of stores: the slot is written before prod.
        self._prod = (self._prod + 1) & 0xFFFFFFFF
        abi.store_u32(self._view, _TO_GUEST + _PROD, self._prod)
        self._link.notify_guest()

    async def _receive_reply(self, kind: int, seq: int) -> bytes:
        while True:
            self._check_page()
            self._moved.clear()
            unread = (self._load_word(_TO_HOST + _PROD) - self._cons) & 0xFFFFFFFF
            if unread > abi.CCHAN_SLOTS:
                raise self._broken_error(f"it claims {unread} replies in {abi.CCHAN_SLOTS} slots")
            if unread == 0:
                await self._moved.wait()
                continue
            slot = _TO_HOST + _SLOT + (self._cons % abi.CCHAN_SLOTS) * abi.MSG_SIZE
            data = bytes(self._view[slot : slot + abi.MSG_SIZE])
            self._cons = (self._cons + 1) & 0xFFFFFFFF
            abi.store_u32(self._view, _TO_HOST + _CONS, self._cons)
            self._link.notify_guest()  # the guest may be waiting for a free slot
            header = abi.MsgHdr.from_buffer_copy(data)
            if header.seq == seq and header.type == kind:
                return data

    def _check_page(self) -> None:
        if self._aborted is not None:
            raise CchanLostError(f"{self._link.domain.name}: {self._aborted}")

    def _load_word(self, offset: int) -> int:
        return abi.load_u32(self._view, offset)

    def _broken_error(self, what: str) -> CchanBrokenError:
        return CchanBrokenError(f"{self._link.domain.name}: the guest's C-chan is broken: {what}")


def _version_text(vm: str, version: int) -> str:
    return (
        f"{vm}: the guest's VESPER modules speak protocol {version}, this host "
        f"{abi.ABI_VERSION}; {_SAME_VERSION}"
    )
