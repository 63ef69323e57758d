# SPDX-License-Identifier: GPL-2.0-or-later
"""The channel table of a guest, and one open channel: its mappings and readers."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass

from vesper_monitor.guest import abi
from vesper_monitor.guest.printable import make_printable
from vesper_monitor.guest.relay.relay import (
    MAX_SEQ,
    READ_LIMIT_BYTES,
    READ_RECORDS,
    ChannelShape,
    RawRecord,
    RelayReader,
)
from vesper_monitor.hypervisor.transport import Link, Mapping, TransportError
from vesper_monitor.util.errors import VesperError

__all__ = [
    "ROUND_BYTES",
    "ChannelEntry",
    "ChannelReader",
    "ChannelTable",
    "TableError",
    "WrittenMark",
]

_INDEX_SIZE = ctypes.sizeof(abi.Index)
_BUFFER = abi.field_offset(abi.Index, "buffer")
_BUFFER_PAGES = _BUFFER + abi.field_offset(abi.Region, "pages")
_READ = abi.field_offset(abi.Index, "read")
_TABLE_GENERATION = abi.field_offset(abi.Table, "generation")
#: What one round takes of all that a guest may claim to have: bytes of records
#: (and what one reader adds), of which each counts at least so many; CPUs
#: looked at, buffers mapped.
ROUND_BYTES = READ_LIMIT_BYTES
ROUND_CPUS = 256
ROUND_MAPS = 32
_LEAST_BYTES = ROUND_BYTES // READ_RECORDS
#: Tries to get a table that did not change while it was copied.
_TRIES = 10


class TableError(VesperError):
    """The guest's channel table cannot be what it should be."""


@dataclass(frozen=True)
class ChannelEntry:
    """An open channel as the guest announces it, with every number checked."""

    probe: str
    generation: int
    shape: ChannelShape
    nr_cpus: int
    index_handle: int


class ChannelTable:
    """The mapped channel table of one guest."""

    def __init__(self, link: Link, region: abi.Region, max_cpus: int) -> None:
        """
        :param region: as in the guest's HELLO.
        :param max_cpus: CPUs the guest said it may have; already bounded.
        :raises TransportError: the table could not be mapped.
        """
        self._vm = link.domain.name
        self._max_cpus = max_cpus
        self._mapping = link.map_region(region.handle, abi.pages_for(ctypes.sizeof(abi.Table)))
        self._seen = -1

    def has_changed(self) -> bool:
        """Whether there is something new since the last :meth:`read`."""
        return abi.load_u32(self._mapping.view, _TABLE_GENERATION) != self._seen

    def look_again(self) -> None:
        """Let :meth:`has_changed` say so."""
        self._seen = -1

    def read_entries(self) -> dict[str, ChannelEntry]:
        """
        :returns: open channels by probe; empty while the guest keeps changing
            them (:meth:`has_changed` stays true then).
        :raises TableError:
        """
        for _ in range(_TRIES):
            before = abi.load_u32(self._mapping.view, _TABLE_GENERATION)
            table = abi.Table.from_buffer_copy(self._mapping.view)
            if abi.load_u32(self._mapping.view, _TABLE_GENERATION) == before:
                break
        else:
            return {}
        if table.magic != abi.TABLE_MAGIC or table.version != abi.ABI_VERSION:
            raise TableError(f"{self._vm}: the guest's channel table has no magic number")
        self._seen = before
        entries: dict[str, ChannelEntry] = {}
        for channel in table.channel:
            if channel.state == abi.ChannelState.OPEN:
                entry = self._check_entry(channel)
                entries.setdefault(entry.probe, entry)
        return entries

    def _check_entry(self, channel: abi.Channel) -> ChannelEntry:
        probe = make_printable(channel.modname)
        try:
            if not 0 < channel.nr_cpus <= self._max_cpus:
                raise ValueError(f"{channel.nr_cpus} CPUs, of {self._max_cpus}")
            shape = ChannelShape(channel.subbuf_size, channel.n_subbufs)
        except ValueError as error:
            raise TableError(f"{self._vm}: impossible channel of probe {probe}: {error}") from None
        return ChannelEntry(probe, channel.generation, shape, channel.nr_cpus, channel.index.handle)

    def close(self) -> None:
        self._mapping.close()


@dataclass
class WrittenMark:
    """The sequence number up to which a buffer's records are written on this host.

    It outlives the channel: records may be written after the channel was closed.
    """

    seq: int


class _CpuBuffer:
    """One CPU's buffer; mapped when the guest has shared it."""

    def __init__(self, reader: RelayReader, index: memoryview, written: WrittenMark) -> None:
        self.reader = reader
        self.index = index
        self.written = written
        self.handle = 0
        self.mapping: Mapping | None = None

    def close(self) -> None:
        """For good."""
        self.unmap_buffer()
        self.index.release()

    def unmap_buffer(self) -> None:
        if self.mapping is not None:
            self.mapping.close()
            self.mapping = None


class ChannelReader:
    """Collects from all CPUs' buffers of one channel."""

    def __init__(
        self,
        link: Link,
        entry: ChannelEntry,
        next_seq: Callable[[int], int | None],
        take_mark: Callable[[int], WrittenMark | None] = lambda _cpu: None,
    ) -> None:
        """
        :param next_seq: cpu → sequence number to begin with; None: as noted in
            the guest by the host that has read it last.
        :param take_mark: cpu → mark of the same channel when it was open before;
            None: all below ``next_seq`` is written.
        :raises TransportError: the index could not be mapped.
        """
        self.entry = entry
        self.error: str | None = None
        self._link = link
        pages = abi.pages_for(entry.nr_cpus * _INDEX_SIZE)
        self._index = link.map_region(entry.index_handle, pages, writable=True)
        self._cpus: list[_CpuBuffer] = []
        for cpu in range(entry.nr_cpus):
            index = self._index.view[cpu * _INDEX_SIZE : (cpu + 1) * _INDEX_SIZE]
            start = next_seq(cpu)
            if start is None:
                start = min(abi.load_u64(index, _READ), MAX_SEQ)
            mark = take_mark(cpu) or WrittenMark(start)
            self._cpus.append(_CpuBuffer(RelayReader(entry.shape, next_seq=start), index, mark))
            if cpu < ROUND_MAPS:
                self._follow_index(self._cpus[-1], cpu)
            if abi.load_u32(index, _BUFFER_PAGES) and not abi.load_u64(index, _BUFFER):
                self.error = f"records of CPU {cpu} stay in the guest, which cannot share them"
        self._closed = False
        #: where the next round begins, and how many CPUs this pass has yet to see
        self._next = self._left = 0
        #: of the last round: bytes of records, and whether buffers were mapped
        self.taken, self.mapped = 0, False
        #: CPU → its reader's next_seq, lost and records, before the last round
        self._before: dict[int, tuple[int, int, int]] = {}

    @property
    def cpus(self) -> int:
        """CPUs that have a buffer."""
        return sum(buffer.mapping is not None for buffer in self._cpus)

    @property
    def lost(self) -> int:
        return sum(buffer.reader.lost for buffer in self._cpus)

    @property
    def records(self) -> int:
        return sum(buffer.reader.records for buffer in self._cpus)

    def read_positions(self) -> dict[int, int]:
        """cpu → next sequence number, for the CPUs that have a buffer."""
        return {
            cpu: buffer.reader.next_seq
            for cpu, buffer in enumerate(self._cpus)
            if buffer.mapping is not None
        }

    def read_records(
        self, most: int = ROUND_BYTES
    ) -> tuple[list[tuple[int, list[RawRecord]]], bool]:
        """New records by CPU (a bounded number), and whether there are more.

        CPUs are looked at in turn, and the next call goes on where this one ends.

        :param most: bytes, after which the round ends: see :data:`ROUND_BYTES`.
        """
        records: list[tuple[int, list[RawRecord]]] = []
        looks, maps, given = 0, 0, most
        self._before.clear()
        self._left = self._left or len(self._cpus)
        while self._left and looks < ROUND_CPUS and maps < ROUND_MAPS and most > 0:
            cpu, buffer = self._next, self._cpus[self._next]
            self._next = (cpu + 1) % len(self._cpus)
            looks += 1
            if abi.load_u64(buffer.index, _BUFFER) != buffer.handle:
                maps += self._follow_index(buffer, cpu)
            rest = False
            if buffer.mapping is not None:
                reader = buffer.reader
                before = reader.next_seq, reader.lost, reader.records
                found, rest = reader.read_new_records(buffer.index, buffer.mapping.view)
                if found:
                    records.append((cpu, found))
                    self._before.setdefault(cpu, before)
                    size = sum(len(record.data) for record in found)
                    most -= max(size, _LEAST_BYTES * len(found))
            self._left = len(self._cpus) if rest else self._left - 1
        self.taken, self.mapped = given - most, maps > 0
        return records, self._left > 0

    def take_back(self) -> dict[int, int]:
        """Read again what the last round has read.

        :returns: CPU → sequence number to go on with.
        """
        for cpu, (next_seq, lost, records) in self._before.items():
            reader = RelayReader(self.entry.shape, next_seq=next_seq)
            reader.lost, reader.records = lost, records
            self._cpus[cpu].reader = reader
        self._left = 0
        return {cpu: before[0] for cpu, before in self._before.items()}

    def note_written(self, cpu: int, seq: int) -> None:
        """Note in the guest up to which record a host need not read any more.

        Not before those are in the journal: a host that knows no position of its
        own begins there.
        """
        buffer = self._cpus[cpu]
        buffer.written.seq = max(buffer.written.seq, seq)
        if not self._closed:
            abi.store_u64(buffer.index, _READ, buffer.written.seq)

    def rewind_to_written(self) -> dict[int, int]:
        """Read again what was read and not written.

        :returns: cpu → next sequence number before, where that was further on.
        """
        found = {}
        for cpu, buffer in enumerate(self._cpus):
            before = buffer.reader
            if before.next_seq > buffer.written.seq:
                found[cpu] = before.next_seq
                buffer.reader = RelayReader(self.entry.shape, next_seq=buffer.written.seq)
                buffer.reader.lost, buffer.reader.records = before.lost, before.records
        self._left = 0
        return found

    def written_up_to(self, cpu: int) -> int:
        """Return the sequence number up to which all of a CPU's buffer is written."""
        return self._cpus[cpu].written.seq

    def list_unwritten(self) -> dict[int, WrittenMark]:
        """Return the marks of the buffers that were read further than written, by CPU."""
        return {
            cpu: buffer.written
            for cpu, buffer in enumerate(self._cpus)
            if buffer.reader.next_seq > buffer.written.seq
        }

    def close(self) -> None:
        """Unmap all. May be called twice."""
        self._closed = True
        for buffer in self._cpus:
            buffer.close()
        self._index.close()

    def _follow_index(self, buffer: _CpuBuffer, cpu: int) -> bool:
        """Map the buffer the index names now: a CPU may come up later.

        :returns: whether that was tried.
        """
        handle = abi.load_u64(buffer.index, _BUFFER)
        if handle == buffer.handle:
            return False
        buffer.unmap_buffer()
        buffer.handle = handle  # not tried again until the guest names another
        if handle == 0:
            return False
        try:
            buffer.mapping = self._link.map_region(handle, self.entry.shape.pages)
        except TransportError as error:
            self.error = f"records of CPU {cpu} cannot be read: {error}"
        return True
