# SPDX-License-Identifier: GPL-2.0-or-later
"""One round of reading is bounded by what the host sets, not by what a guest claims to have."""

from __future__ import annotations

import ctypes

from tests.unit.guest.test_relay import Writer
from vesper_monitor.guest import abi
from vesper_monitor.guest.relay.channel import ROUND_BYTES, ROUND_MAPS, ChannelEntry, ChannelReader
from vesper_monitor.guest.relay.relay import READ_LIMIT_BYTES, READ_RECORDS, ChannelShape, RawRecord
from vesper_monitor.hypervisor.transport import Domain, TransportError

CPUS = 512
SHAPE = ChannelShape(16384, 4)
ENTRY = ChannelEntry("send_signal", 1, SHAPE, CPUS, index_handle=1)
INDEX_SIZE = ctypes.sizeof(abi.Index)


class _Mapping:
    def __init__(self, view: memoryview) -> None:
        self.view = view

    def close(self) -> None:
        pass


class _Link:
    """All CPUs name one and the same buffer, half of which is full."""

    domain = Domain("vm1", 1, "u")

    def __init__(self, length: int) -> None:
        self.writer = Writer(SHAPE)
        while self.writer.pos < 2 * SHAPE.subbuf_size:
            self.writer.write(length)
        self.writer.publish()
        entry = abi.Index.from_buffer_copy(bytes(self.writer.index))
        entry.buffer = abi.Region(handle=2, pages=SHAPE.pages)
        self._index = memoryview(bytearray(bytes(entry) * CPUS))
        self.maps = 0

    def map_region(self, handle: int, pages: int, *, writable: bool = False) -> _Mapping:
        self.maps += 1
        if handle == 1:
            return _Mapping(self._index)
        if handle == 2:
            return _Mapping(self.writer.buffer)
        raise TransportError("not shared")


def test_many_cpus_that_write_without_end_are_read_in_bounded_rounds() -> None:
    link = _Link(24)
    reader = ChannelReader(link, ENTRY, lambda cpu: 0)  # type: ignore[arg-type]
    seen: dict[int, list[RawRecord]] = {}
    more, rounds = True, 0
    while more:
        maps = link.maps
        found, more = reader.read_records()
        size = sum(len(record.data) for _, records in found for record in records)
        assert size <= ROUND_BYTES + 2 * READ_LIMIT_BYTES
        assert link.maps - maps <= ROUND_MAPS
        for cpu, records in found:
            seen.setdefault(cpu, []).extend(records)
        rounds += 1
        assert rounds < 2 * CPUS * -(-link.writer.seq // READ_RECORDS)
    assert rounds > CPUS // 8
    # Nobody was left out, and nothing was read twice.
    assert sorted(seen) == list(range(CPUS))
    written = link.writer.seq
    assert all([r.seq for r in records] == list(range(written)) for records in seen.values())
    assert reader.cpus == CPUS
    assert reader.read_records() == ([], True)  # the next pass, in pieces as well


def test_what_comes_meanwhile_is_found_by_the_next_pass() -> None:
    link = _Link(4096)
    entry = ChannelEntry("p", 1, SHAPE, 2, index_handle=1)
    reader = ChannelReader(link, entry, lambda cpu: 0)  # type: ignore[arg-type]
    while reader.read_records()[1]:
        pass
    assert reader.read_records() == ([], False)
    link.writer.write(4096)
    link.writer.publish()
    link._index[INDEX_SIZE : INDEX_SIZE + 8] = link.writer.index[:8]  # of CPU 1
    found, more = reader.read_records()
    assert [(cpu, len(records)) for cpu, records in found] == [(1, 1)]
    assert not more


def test_records_that_cannot_be_mapped_are_an_error() -> None:
    """It has told the number of pages, but not where they are."""
    link = _Link(24)
    entry = ChannelEntry("p", 1, SHAPE, 3, index_handle=1)
    place = INDEX_SIZE + abi.field_offset(abi.Index, "buffer")
    link._index[place : place + 8] = bytes(8)  # of CPU 1
    reader = ChannelReader(link, entry, lambda cpu: 0)  # type: ignore[arg-type]
    assert reader.error == "records of CPU 1 stay in the guest, which cannot share them"
    assert reader.cpus == 2
    link._index[place : place + 16] = bytes(16)  # it was never up
    assert ChannelReader(link, entry, lambda cpu: 0).error is None  # type: ignore[arg-type]
