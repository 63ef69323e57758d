# SPDX-License-Identifier: GPL-2.0-or-later
"""The relay reader: against a writer that behaves, and against any bytes at all."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vesper_monitor.guest import abi
from vesper_monitor.guest.relay.relay import READ_LIMIT_BYTES, ChannelShape, RawRecord, RelayReader

INDEX_SIZE = ctypes.sizeof(abi.Index)
HEADER = ctypes.sizeof(abi.Record)
PAD = abi.field_offset(abi.Index, "pad")

shapes = st.builds(
    ChannelShape,
    subbuf_size=st.sampled_from([24, 64, 200, 512, 4096]),
    n_subbufs=st.integers(2, abi.MAX_SUBBUFS),
)


class Writer:
    """A relay buffer in overwrite mode and its index, as the guest has them."""

    def __init__(self, shape: ChannelShape) -> None:
        self.shape = shape
        self.index = memoryview(bytearray(INDEX_SIZE))
        self.buffer = memoryview(bytearray(shape.pages * abi.PAGE_SIZE))
        self.pos = 0
        self.seq = 0

    def write(self, length: int) -> bool:
        """:returns: False: does not fit any sub-buffer; relay drops it."""
        size = self.shape.subbuf_size
        if length > size:
            return False
        offset = self.pos % size
        if offset + length > size:
            self._pad(self.pos // size, size - offset)
            self.pos += size - offset
        if self.pos % size == 0:
            self._pad(self.pos // size, 0)
        head = abi.Record(len=length, event=1, cpu=0, seq=self.seq, time_ns=self.seq * 10)
        start = (self.pos // size % self.shape.n_subbufs) * size + self.pos % size
        self.buffer[start : start + length] = bytes(head).ljust(length, self.seq.to_bytes(8)[-1:])
        self.seq += 1
        self.pos += length
        return True

    def publish(self) -> None:
        with self.index[:8].cast("Q") as pos:
            pos[0] = self.pos

    def _pad(self, number: int, size: int) -> None:
        abi.store_u32(self.index, PAD + 4 * (number % self.shape.n_subbufs), size)


def drain(reader: RelayReader, writer: Writer) -> list[RawRecord]:
    records: list[RawRecord] = []
    for _ in range(1000):
        found, more = reader.read_new_records(writer.index, writer.buffer)
        records += found
        if not more:
            return records
    raise AssertionError("the reader does not come to an end")


def check(records: list[RawRecord], reader: RelayReader, written: int) -> None:
    """Every record once and in order, or counted as lost."""
    expected = 0
    for record in records:
        expected += record.lost
        assert record.seq == expected
        assert record.time_ns == record.seq * 10
        assert set(record.data[HEADER:]) <= {record.seq & 0xFF}
        expected += 1
    assert expected == reader.next_seq <= written
    assert reader.records == len(records)
    assert reader.lost == sum(record.lost for record in records)
    assert reader.garbage == 0


lengths = st.lists(st.integers(3, 40).map(lambda n: n * 8), max_size=60)


@given(shapes, st.lists(lengths, max_size=12))
def test_every_record_once_or_lost(shape: ChannelShape, batches: list[list[int]]) -> None:
    writer, reader = Writer(shape), RelayReader(shape)
    records: list[RawRecord] = []
    for batch in batches:
        for length in batch:
            writer.write(length)
        writer.publish()
        records += drain(reader, writer)
    check(records, reader, writer.seq)
    if records:
        # The newest is never lost: it is in a sub-buffer that nobody overwrites.
        assert reader.next_seq == writer.seq


@given(shapes, lengths)
def test_nothing_is_lost_while_there_is_room(shape: ChannelShape, batch: list[int]) -> None:
    """A reader that keeps up within one sub-buffer loses nothing."""
    writer, reader = Writer(shape), RelayReader(shape)
    for length in batch:
        writer.write(length)
        writer.publish()
        drain(reader, writer)
    assert reader.lost == 0
    assert reader.records == writer.seq


@given(shapes, lengths, lengths, st.data())
def test_resumes_where_another_reader_left(
    shape: ChannelShape, first: list[int], second: list[int], data: st.DataObject
) -> None:
    writer, before = Writer(shape), RelayReader(shape)
    for length in first:
        writer.write(length)
    writer.publish()
    seen = drain(before, writer)
    for length in second:
        writer.write(length)
    writer.publish()
    after = RelayReader(shape, next_seq=before.next_seq)
    rest = drain(after, writer)
    sequence = [record.seq for record in seen + rest]
    assert sequence == sorted(set(sequence))
    assert before.lost + after.lost + len(sequence) == after.next_seq




@given(shapes, lengths, st.lists(lengths, max_size=8), st.data())
@settings(max_examples=200)
def test_a_writer_that_runs_on_during_the_read(
    shape: ChannelShape, first: list[int], during: list[list[int]], data: st.DataObject
) -> None:
    """Between copying and checking the guest may overwrite anything: nothing
    torn comes out, and all that is missing is counted."""
    writer = Writer(shape)
    pending = list(during)

    def run_on() -> None:
        if pending:
            for length in pending.pop(0):
                writer.publish()
                writer.write(length)
            # The last record is written and perhaps not yet published.
            if data.draw(st.booleans()):
                writer.publish()

    buffer = _Interrupted(writer.buffer, run_on)
    reader = RelayReader(shape)
    for length in first:
        writer.write(length)
    writer.publish()
    records: list[RawRecord] = []
    for _ in range(len(during) + 1):
        found, _ = reader.read_new_records(writer.index, buffer)  # type: ignore[arg-type]
        records += found
    for batch in pending:
        for length in batch:
            writer.write(length)
    pending.clear()
    writer.publish()
    records += drain(reader, writer)
    for record in records:
        assert set(record.data[HEADER:]) <= {record.seq & 0xFF}
    sequence = [record.seq for record in records]
    assert sequence == sorted(set(sequence))
    assert reader.lost + len(records) == reader.next_seq


class _Interrupted:
    """A buffer whose writer takes its next steps in the middle of each copy."""

    def __init__(self, view: memoryview, step: Callable[[], None]) -> None:
        self._view = view
        self._step = step

    def __getitem__(self, key: slice) -> bytes:
        middle = (key.start + max(key.stop, key.start)) // 2
        head = bytes(self._view[key.start : middle])
        self._step()
        return head + bytes(self._view[middle : key.stop])


u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
wild = st.one_of(u64, st.integers(0, 70000))


@given(
    shapes,
    st.lists(
        st.tuples(wild, st.lists(u32, min_size=8, max_size=8), st.binary(max_size=2000), wild),
        max_size=8,
    ),
)
def test_any_bytes_with_any_index_are_read_or_refused(
    shape: ChannelShape, rounds: list[tuple[int, list[int], bytes, int]]
) -> None:
    """A hostile guest: no exception, bounded work, sane records."""
    reader = RelayReader(shape)
    index = memoryview(bytearray(INDEX_SIZE))
    buffer = memoryview(bytearray(shape.pages * abi.PAGE_SIZE))
    for pos, pads, content, where in rounds:
        with index[:8].cast("Q") as word:
            word[0] = pos
        for i, pad in enumerate(pads):
            abi.store_u32(index, PAD + 4 * i, pad)
        start = where % len(buffer)
        content = content[: len(buffer) - start]
        buffer[start : start + len(content)] = content
        for _ in range(3):
            records, _ = reader.read_new_records(index, buffer)
            assert sum(len(record.data) for record in records) <= 2 * READ_LIMIT_BYTES
            for record in records:
                assert HEADER <= len(record.data) <= shape.subbuf_size
                assert 0 <= record.seq < 2**63
                assert record.lost >= 0


@given(st.integers(-10, 2**33), st.integers(-10, 2**33))
def test_shape_is_sane_or_refused(subbuf_size: int, n_subbufs: int) -> None:
    try:
        shape = ChannelShape(subbuf_size, n_subbufs)
    except ValueError:
        return
    assert 0 < shape.pages <= abi.MAX_REGION_PAGES
    assert 2 <= n_subbufs <= abi.MAX_SUBBUFS


def test_long_sub_buffers_are_read_in_pieces() -> None:
    shape = ChannelShape(1 << 20, 2)
    writer, reader = Writer(shape), RelayReader(shape)
    for _ in range(5000):
        writer.write(104)
    writer.publish()
    first, more = reader.read_new_records(writer.index, writer.buffer)
    assert more
    assert 0 < len(first) <= 2 * READ_LIMIT_BYTES // 104
    check(first + drain(reader, writer), reader, 5000)
    assert reader.lost == 0


def test_one_sub_buffer_is_refused() -> None:
    """The guest may begin to overwrite it at any moment."""
    with pytest.raises(ValueError, match="1 sub-buffers"):
        ChannelShape(4096, 1)
