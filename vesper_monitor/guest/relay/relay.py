# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads one CPU's relay buffer while the guest goes on writing it.

The guest overwrites its oldest sub-buffer when it needs the next. So the reader
copies first, then loads the position again, and drops what may have been
overwritten meanwhile. Dropped records leave a gap in the sequence numbers, and
gaps count losses exactly, each record once.

Nothing the guest may have written raises an error here. One call does a bounded
amount of work.
"""

from __future__ import annotations

import ctypes
import struct
from dataclasses import dataclass
from typing import NamedTuple

from vesper_monitor.guest import abi

__all__ = [
    "MAX_SEQ",
    "READ_LIMIT_BYTES",
    "READ_RECORDS",
    "ChannelShape",
    "RawRecord",
    "RelayReader",
]

RECORD_HEADER = ctypes.sizeof(abi.Record)
#: ``struct vsp_record``, unpacked at once: there are many.
_HEAD = struct.Struct("<IHHQQ")
assert _HEAD.size == RECORD_HEADER
_POS = abi.field_offset(abi.Index, "pos")
_PAD = abi.field_offset(abi.Index, "pad")
#: Sequence numbers above this are garbage: no channel lives that long.
MAX_SEQ = (1 << 63) - 1
#: Bytes after which one call reads no further; it reads less than twice as many.
#: No record is longer.
READ_LIMIT_BYTES = 16 * 1024
#: Records that one call returns at most. Each costs about 30 µs until it is in the
#: journal, and other guests wait meanwhile.
READ_RECORDS = 32


@dataclass(frozen=True)
class ChannelShape:
    """The geometry of a relay channel, within the bounds of an honest guest."""

    subbuf_size: int  #: bytes
    n_subbufs: int

    def __post_init__(self) -> None:
        """Check the bounds. :raises ValueError: the host would not map such a channel."""
        if not RECORD_HEADER <= self.subbuf_size <= 1 << 20 or self.subbuf_size % 8:
            raise ValueError(f"sub-buffers of {self.subbuf_size} bytes")
        if not 2 <= self.n_subbufs <= abi.MAX_SUBBUFS:
            raise ValueError(f"{self.n_subbufs} sub-buffers")
        if self.pages > abi.MAX_REGION_PAGES:
            raise ValueError(f"{self.pages} pages")

    @property
    def pages(self) -> int:
        """Pages of one buffer: relay_open() rounds it up."""
        return abi.pages_for(self.subbuf_size * self.n_subbufs)


class RawRecord(NamedTuple):
    """A record as the guest has written it, its header checked."""

    seq: int
    time_ns: int
    event: int  #: enum vsp_event, or any other number
    lost: int  #: records missing just before this one
    data: bytes


class RelayReader:
    """Reads one buffer from where it was left.

    :ivar next_seq: sequence number of the next wanted record; those below are skipped.
    :ivar lost: number of records that were overwritten before they were read.
    :ivar records: number of records read so far.
    :ivar garbage: number of sub-buffers given up because they held no valid record.
    """

    def __init__(self, shape: ChannelShape, *, next_seq: int = 0) -> None:
        self.shape = shape
        self.next_seq = next_seq
        self.lost = 0
        self.records = 0
        self.garbage = 0
        self._pos = 0

    def read_new_records(
        self, index: memoryview, buffer: memoryview
    ) -> tuple[list[RawRecord], bool]:
        """Read on from the last position.

        :param index: this CPU's ``struct vsp_index``, live.
        :param buffer: the relay buffer, live, ``shape.pages`` long.
        :returns: new records, and whether there is more to read at once.
        """
        size = self.shape.subbuf_size
        end = abi.load_u64(index, _POS)
        if end == self._pos:
            return [], False
        if end < self._pos:
            # The guest has started afresh, or lies. Begin again with this sub-buffer.
            self._pos = end - end % size
        self._pos = max(self._pos, (self._newest_overwritten(end) + 1) * size)

        records: list[RawRecord] = []
        seen = 0
        while self._pos < end and seen < READ_LIMIT_BYTES and len(records) < READ_RECORDS:
            number = self._pos // size
            place = number % self.shape.n_subbufs
            begin = self._pos - number * size
            complete = end >= (number + 1) * size
            # The guest has written a sub-buffer's padding before the position
            # that makes it valid, which was read before it.
            padding = abi.load_u32(index, _PAD + 4 * place) if complete else 0
            filled = size - min(padding, size) if complete else end - number * size
            stop = min(filled, begin + READ_LIMIT_BYTES)
            chunk = bytes(buffer[place * size + begin : place * size + stop])
            seen += max(len(chunk), RECORD_HEADER)
            used = None
            if number > self._newest_overwritten(abi.load_u64(index, _POS)):
                used = self._parse_chunk(chunk, records, cut=stop < filled)
            if used is not None and (stop < filled or used < len(chunk)):
                self._pos += used
            else:
                self._pos = min((number + 1) * size, end)
        return records, self._pos < end

    def _newest_overwritten(self, pos: int) -> int:
        """Return the number of the newest sub-buffer that may be overwritten by now.

        The guest publishes ``pos`` after the record before it, and may be writing
        the next record already. That record goes to the sub-buffer of ``pos``, or
        to the one after if it does not fit.
        """
        return -(-pos // self.shape.subbuf_size) - self.shape.n_subbufs

    def _parse_chunk(self, chunk: bytes, records: list[RawRecord], *, cut: bool) -> int | None:
        """Append the records of a chunk.

        :param cut: the sub-buffer goes on behind the chunk, so its last record
            may be incomplete.
        :returns: bytes used; None: give up the rest of the sub-buffer.
        """
        at, size = 0, len(chunk)
        wanted = self.next_seq
        while at < size and len(records) < READ_RECORDS:
            rest = size - at
            if rest >= RECORD_HEADER:
                length, event, _cpu, seq, time_ns = _HEAD.unpack_from(chunk, at)
            else:
                length = seq = event = time_ns = 0
            if cut and at > 0 and (rest < RECORD_HEADER or length > rest):
                break
            if not RECORD_HEADER <= length <= rest or length % 8 or seq > MAX_SEQ:
                self.garbage += 1
                at = -1
                break
            end = at + length
            if seq >= wanted:
                records.append(RawRecord(seq, time_ns, event, seq - wanted, chunk[at:end]))
                self.lost += seq - wanted
                wanted = seq + 1
                self.records += 1
            at = end
        self.next_seq = wanted
        return at if at >= 0 else None
