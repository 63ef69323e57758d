# SPDX-License-Identifier: GPL-2.0-or-later
"""A stand-in guest's memory: pages of a file; a region's handle is where it begins."""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path

from vesper_monitor.guest import abi

__all__ = ["CCHAN_PAGE", "GuestMemory", "RelayBuffer", "RelayChannel", "map_file_view"]

_MEMORY_PAGES = 4096
CCHAN_PAGE = 1
SUBBUF_BYTES = 4096
N_SUBBUFS = 4


def map_file_view(path: Path) -> memoryview:
    """A new sparse file, mapped."""
    path.unlink(missing_ok=True)
    with path.open("w+b") as file:
        file.truncate(_MEMORY_PAGES * abi.PAGE_SIZE)
        return memoryview(mmap.mmap(file.fileno(), 0))


class GuestMemory:
    """Pages are handed out once and not reused.

    :param first: page to be handed out first.
    :param unit: by which a region's handle grows with each page.
    """

    def __init__(self, view: memoryview, *, first: int = CCHAN_PAGE, unit: int = 1) -> None:
        self.view = view
        self._next = first
        self._unit = unit

    def allocate_pages(self, pages: int) -> abi.Region:
        """:raises MemoryError:"""
        if (self._next + pages) * abi.PAGE_SIZE > len(self.view):
            raise MemoryError
        first, self._next = self._next, self._next + pages
        return abi.Region(handle=first * self._unit, pages=pages)

    def view_region(self, region: abi.Region) -> memoryview:
        start = region.handle // self._unit * abi.PAGE_SIZE
        return self.view[start : start + region.pages * abi.PAGE_SIZE]


class RelayBuffer:
    """One CPU's relay buffer, written as kernel/relay.c does in overwrite mode."""

    def __init__(self, index: memoryview, data: memoryview) -> None:
        self._index = index
        self._data = data
        self._pos = 0
        self._seq = 0

    def write_record(self, record: ctypes.Structure, cpu: int, time_ns: int) -> None:
        """Complete the header and write; the record begins with ``rec``."""
        length = ctypes.sizeof(record)
        head = abi.Record(
            len=length, event=record.rec.event, cpu=cpu, seq=self._seq, time_ns=time_ns
        )
        self._seq += 1
        data = bytes(head) + bytes(record)[ctypes.sizeof(head) :]
        offset = self._pos % SUBBUF_BYTES
        if offset + length > SUBBUF_BYTES:
            self._pad_subbuffer_to(SUBBUF_BYTES - offset)
        number = self._pos // SUBBUF_BYTES
        if self._pos % SUBBUF_BYTES == 0:
            self._set_padding(number, 0)
        start = (number % N_SUBBUFS) * SUBBUF_BYTES + self._pos % SUBBUF_BYTES
        self._data[start : start + length] = data
        self._pos += length
        with self._index[:8].cast("Q") as pos:
            pos[0] = self._pos

    def _pad_subbuffer_to(self, size: int) -> None:
        self._set_padding(self._pos // SUBBUF_BYTES, size)
        self._pos += size

    def _set_padding(self, number: int, size: int) -> None:
        at = abi.field_offset(abi.Index, "pad") + 4 * (number % N_SUBBUFS)
        abi.store_u32(self._index, at, size)


class RelayChannel:
    """Index and buffers of one probe, and its entry in the channel table."""

    def __init__(self, memory: GuestMemory, name: str, cpus: int, generation: int) -> None:
        entry_size = ctypes.sizeof(abi.Index)
        index_region = memory.allocate_pages(abi.pages_for(cpus * entry_size))
        index = memory.view_region(index_region)
        self.cpus: list[RelayBuffer] = []
        for cpu in range(cpus):
            region = memory.allocate_pages(abi.pages_for(SUBBUF_BYTES * N_SUBBUFS))
            entry = index[cpu * entry_size : (cpu + 1) * entry_size]
            entry[:] = bytes(abi.Index(buffer=region))
            self.cpus.append(RelayBuffer(entry, memory.view_region(region)))
        self.entry = abi.Channel(
            state=abi.ChannelState.OPEN,
            generation=generation,
            subbuf_size=SUBBUF_BYTES,
            n_subbufs=N_SUBBUFS,
            nr_cpus=cpus,
            index=index_region,
            modname=name.encode(),
        )
