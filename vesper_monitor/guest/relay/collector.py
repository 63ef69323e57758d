# SPDX-License-Identifier: GPL-2.0-or-later
"""The open channels of one guest: from relay buffers to events in order."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from operator import attrgetter

from vesper_monitor.guest import abi
from vesper_monitor.guest.dynamic_probes.point import DynamicProbe
from vesper_monitor.guest.event import Event
from vesper_monitor.guest.health import crash_log
from vesper_monitor.guest.health.crash_log import CrashLogReader
from vesper_monitor.guest.relay import decode
from vesper_monitor.guest.relay.channel import (
    ROUND_BYTES,
    ChannelEntry,
    ChannelReader,
    WrittenMark,
)
from vesper_monitor.guest.relay.positions import MAX_CLOSED_CHANNELS, Position, Positions
from vesper_monitor.guest.relay.raw_stream import RawStream
from vesper_monitor.hypervisor.transport import Domain, Link, TransportError

__all__ = ["Collector"]

_log = logging.getLogger(__name__)

_GUEST_NS = attrgetter("guest_ns")


class Collector:
    """Reads all channels of a guest, again and again.

    :ivar channels: the open ones, by probe.
    """

    def __init__(
        self,
        domain: Domain,
        raw: RawStream,
        clock: Callable[[], float],
        saved: Mapping[Position, int],
        points: Mapping[str, DynamicProbe],
    ) -> None:
        """
        :param raw: gets each record as it is read.
        :param clock: s, for ``Event.received``.
        :param saved: how far an earlier daemon has read.
        :param points: of this VM, by name; may change.
        """
        self.channels: dict[str, ChannelReader] = {}
        self._domain = domain
        self._raw = raw
        self._clock = clock
        self._positions = Positions(saved)
        self._points = points
        self._turn = 0
        self._round: list[ChannelReader] = []  #: read in the last round
        #: read since :meth:`take_reads`: channel, CPU, next sequence number
        self._reads: list[tuple[ChannelReader, int, int]] = []
        #: up to which records were given before: by probe, generation and CPU
        self._given: dict[tuple[str, int, int], int] = {}
        self._given_before = self._given  #: at the beginning of the last round
        self._words: CrashLogReader | None = None
        #: of closed channels, by probe, generation and CPU: read further than written
        self._unwritten: dict[tuple[str, int, int], tuple[ChannelEntry, WrittenMark]] = {}

    def meet_boot(self, boot_id: int) -> bool:
        """A guest has said HELLO. No channel is open.

        :returns: whether its core has begun another life since it was met last.
        """
        is_new = self._positions.meet_boot(boot_id)
        if is_new:  # its channels begin with the generations of the last boot's
            self._given.clear()
            self._unwritten.clear()
        return is_new

    def open_words(self, link: Link, region: abi.Region) -> None:
        """Where the guest's kernel leaves its last words, if it does."""
        if not region.handle:
            return
        seen = {kind: self._positions.words_read(kind.name.lower()) for kind in abi.WordsKind}
        try:
            self._words = CrashLogReader(link, region, seen)
        except (TransportError, ValueError) as error:
            _log.warning("last words cannot be read: %s", error)
            return
        self._note_words(self._words)

    def leave_link(self) -> None:
        """The link is about to be closed."""
        if self._words is not None:
            self._words.close()
            self._words = None

    def open_channel(self, link: Link, entry: ChannelEntry) -> ChannelReader:
        """:raises TransportError: the guest has not shared what it said."""

        def begin(cpu: int) -> int | None:
            return self._positions.begin_position(entry, cpu)

        def take_mark(cpu: int) -> WrittenMark | None:
            kept = self._unwritten.pop((entry.probe, entry.generation, cpu), None)
            return kept[1] if kept is not None else None

        channel = ChannelReader(link, entry, begin, take_mark)
        self.channels[entry.probe] = channel
        self._positions.note_channel(channel)
        self._positions.trim_channels(self.channels.values())
        return channel

    def close_channel(self, probe: str, *, for_good: bool) -> ChannelReader:
        """
        :param for_good: it is being unloaded; else it may be opened again
            and is then read from where it was left.
        """
        channel = self.channels.pop(probe)
        if for_good:
            self._positions.forget_channel(channel.entry)
        else:
            self._positions.note_channel(channel)
            for cpu, mark in channel.list_unwritten().items():
                self._unwritten[_buffer_key(channel, cpu)] = channel.entry, mark
            while len(self._unwritten) > MAX_CLOSED_CHANNELS:
                del self._unwritten[next(iter(self._unwritten))]
        channel.close()
        return channel

    def read_positions(self) -> dict[Position, int]:
        """Next sequence number of each buffer of this life of the guest's core."""
        return self._positions.list_all()

    def read_events(self) -> tuple[list[Event], bool]:
        """One bounded round over all channels.

        Afterwards :meth:`take_reads` or :meth:`take_back`.

        :returns: events by the guest's time, and whether there are more.
        """
        now = self._clock()
        events: list[Event] = []
        more = False
        left = ROUND_BYTES
        self._round.clear()
        self._given_before = dict(self._given)
        # In turn, as a channel's CPUs are.
        for probe in self._in_turn():
            if left <= 0:
                more = True
                break
            channel = self.channels[probe]
            records, rest = channel.read_records(left)
            self._round.append(channel)
            left -= channel.taken
            more |= rest
            if channel.mapped:
                self._positions.note_channel(channel)
            for cpu, found in records:
                following = found[-1].seq + 1
                self._positions.note_read(channel.entry, cpu, following)
                self._reads.append((channel, cpu, following))
                decoded = decode.decode_records(
                    found,
                    vm=self._domain.name,
                    domid=self._domain.domid,
                    probe=probe,
                    cpu=cpu,
                    received=now,
                    defined=self._points,
                )
                if self._given and (key := _buffer_key(channel, cpu)) in self._given:
                    for event in decoded:
                        event.again = event.seq < self._given[key]
                    if following >= self._given[key]:
                        del self._given[key]
                else:
                    self._raw.put_records(probe, cpu, found)
                events += decoded
        events += self.read_words()
        events.sort(key=_GUEST_NS)
        return events, more

    def take_back(self) -> None:
        """What the last round has read is another's to report, or a later round's."""
        for channel in self._round:
            for cpu, seq in channel.take_back().items():
                self._positions.note_read(channel.entry, cpu, seq)
        self._reads.clear()
        self._given = self._given_before

    def take_reads(self) -> list[tuple[ChannelReader, int, int]]:
        """What was read since the last call: channel, CPU, next sequence number.

        Whoever takes it calls :meth:`ChannelReader.note_written` when that is written.
        """
        reads, self._reads = self._reads, []
        return reads

    def rewind_to_written(self) -> None:
        """Read again what was read and not written; it is given as :attr:`Event.again`."""
        for channel in self.channels.values():
            for cpu, following in channel.rewind_to_written().items():
                key = _buffer_key(channel, cpu)
                self._given[key] = max(following, self._given.get(key, 0))
                self._positions.note_read(channel.entry, cpu, channel.written_up_to(cpu))

        for key, (entry, mark) in self._unwritten.items():
            cpu = key[2]
            following = self._positions.begin_position(entry, cpu) or 0
            if following > mark.seq:
                self._given[key] = max(following, self._given.get(key, 0))
                self._positions.note_read(entry, cpu, mark.seq)

    def _in_turn(self) -> list[str]:
        names = list(self.channels)
        self._turn += 1
        start = self._turn % len(names) if names else 0
        return names[start:] + names[:start]

    def read_words(self, *, final: bool = False) -> list[Event]:
        """
        :param final: the guest is dead or about to be left.
        """
        if self._words is None:
            return []
        events = [
            crash_log.make_event(*words, domain=self._domain, received=self._clock())
            for words in self._words.read_new(final=final)
        ]
        if events:
            self._note_words(self._words)
        return events

    def _note_words(self, reader: CrashLogReader) -> None:
        for kind, seen in reader.seen.items():
            self._positions.note_words(kind.name.lower(), seen)


def _buffer_key(channel: ChannelReader, cpu: int) -> tuple[str, int, int]:
    return channel.entry.probe, channel.entry.generation, cpu
