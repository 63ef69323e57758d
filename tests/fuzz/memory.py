# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest's memory that is any bytes, and changes between two reads of it.

The readers under test are as they are; only the two functions through which
they read live memory (:mod:`vesper_monitor.guest.abi`) let the guest write
before each load.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable

from vesper_monitor.guest import abi
from vesper_monitor.hypervisor.transport import Domain, TransportError

__all__ = ["Input", "Link", "Mapping", "unsteady"]

DOMAIN = Domain("vm1", 7, "12345678-1234-1234-1234-123456789abc")
#: Pages of the memory; more than any honest guest of a seed has.
PAGES = 64
_EMPTY = bytes(PAGES * abi.PAGE_SIZE)


class Input:
    """The fuzzer's bytes, taken from the front; zeros when they are used up."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        piece = self.data[self._at : self._at + size]
        self._at += size
        return piece.ljust(size, b"\0")

    def rest(self) -> bytes:
        piece, self._at = self.data[self._at :], len(self.data)
        return piece

    @property
    def empty(self) -> bool:
        return self._at >= len(self.data)

    def u8(self) -> int:
        return self.take(1)[0]

    def u16(self) -> int:
        return int(struct.unpack("<H", self.take(2))[0])

    def u32(self) -> int:
        return int(struct.unpack("<I", self.take(4))[0])

    def u64(self) -> int:
        return int(struct.unpack("<Q", self.take(8))[0])


class Mapping:
    """See :class:`vesper_monitor.hypervisor.transport.Mapping`; counts those that are open."""

    open = 0

    def __init__(self, view: memoryview) -> None:
        self.view = view
        self.closed = False
        Mapping.open += 1

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            Mapping.open -= 1


class Link:
    """See :class:`vesper_monitor.hypervisor.transport.Link`: a region's handle is its first page.

    From the first notification on the guest writes (address, length, bytes) and
    notifies whenever the loop is idle, until the input is used up; then it is gone.
    """

    domain = DOMAIN

    def __init__(self, content: bytes, writes: Input) -> None:
        self.memory = bytearray(_EMPTY)
        self.memory[: len(content)] = content[: len(_EMPTY)]
        self._view = memoryview(self.memory)
        self._writes = writes
        self.cchan = Mapping(self._view[: abi.PAGE_SIZE])
        self._notified: Callable[[], None] | None = None
        self._lost: Callable[[str], None] | None = None
        self._busy = False

    def map_region(self, handle: int, pages: int, *, writable: bool = False) -> Mapping:
        if not 0 < pages <= abi.MAX_REGION_PAGES or not 0 < handle <= PAGES - pages:
            raise TransportError(f"not shared: {handle:#x}, {pages} pages")
        view = self._view[handle * abi.PAGE_SIZE : (handle + pages) * abi.PAGE_SIZE]
        return Mapping(view)

    def notify_guest(self) -> None:
        if not self._busy:
            self._busy = True
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        if self.cchan.closed:
            return
        if self._writes.empty:
            if self._lost is not None:
                self._lost("the guest has gone")
            return
        self.write()
        if self._notified is not None:
            self._notified()
        asyncio.get_running_loop().call_soon(self._go_on)

    def write(self) -> None:
        """What the guest writes next."""
        at, length = self._writes.u32() % len(self.memory), self._writes.u16()
        piece = self._writes.take(min(length, len(self.memory) - at))
        self.memory[at : at + len(piece)] = piece

    def on_notify(self, callback: Callable[[], None] | None) -> None:
        self._notified = callback

    def on_lost(self, callback: Callable[[str], None] | None) -> None:
        self._lost = callback

    async def close(self, *, deactivate: bool) -> None:
        self.cchan.close()


_load_u32, _load_u64 = abi.load_u32, abi.load_u64


def _nothing() -> None:
    pass


_write: Callable[[], None] = _nothing


def _u32(view: memoryview, offset: int) -> int:
    _write()
    return _load_u32(view, offset)


def _u64(view: memoryview, offset: int) -> int:
    _write()
    return _load_u64(view, offset)


abi.load_u32, abi.load_u64 = _u32, _u64


class unsteady:
    """Within it, memory changes before each load, until the input is used up.

    :param writes: each is a place (16 bits, in units of 8 bytes) and 8 bytes.
    """

    def __init__(self, writes: Input, *views: memoryview) -> None:
        self._writes = writes
        self._views = views

    def __enter__(self) -> None:
        global _write
        _write = self._once

    def __exit__(self, *_error: object) -> None:
        global _write
        _write = _nothing

    def _once(self) -> None:
        if self._writes.empty:
            return
        place, value = self._writes.u16() * 8, self._writes.take(8)
        for view in self._views:
            if place < len(view):
                piece = value[: len(view) - place]
                view[place : place + len(piece)] = piece
                return
            place -= len(view)
