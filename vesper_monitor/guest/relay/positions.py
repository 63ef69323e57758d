# SPDX-License-Identifier: GPL-2.0-or-later
"""How far each buffer has been read, so that nothing is read twice or missed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from vesper_monitor.guest.relay.channel import ChannelEntry, ChannelReader

__all__ = ["MAX_CLOSED_CHANNELS", "Position", "Positions"]

#: Of channels that are not open now. A guest may export under new names for
#: ever: those that were noted first are forgotten.
MAX_CLOSED_CHANNELS = 1024


class Position(NamedTuple):
    """Names one CPU's buffer of one channel for as long as it exists."""

    boot_id: int
    probe: str
    generation: int
    cpu: int


class Positions:
    """Next sequence numbers, also of channels that are not open just now."""

    def __init__(self, saved: Mapping[Position, int]) -> None:
        self._saved = saved
        self._boot_id = 0
        self._next: dict[Position, int] = {}

    def meet_boot(self, boot_id: int) -> bool:
        """This life of the guest's core: another's numbers are of no use any more.

        :returns: whether it is another one than before.
        """
        known = {**self._saved, **self._next}
        self._next = {key: seq for key, seq in known.items() if key.boot_id == boot_id}
        other = boot_id != self._boot_id
        self._boot_id = boot_id
        return other

    def begin_position(self, entry: ChannelEntry, cpu: int) -> int | None:
        """Where to begin; None for a buffer that nobody here has read yet."""
        return self._next.get(Position(self._boot_id, entry.probe, entry.generation, cpu))

    def words_read(self, kind: str) -> int | None:
        """How many oopses or panics were read; None: never looked."""
        return self._next.get(self._words_position(kind))

    def note_words(self, kind: str, seen: int) -> None:
        """Take over how many there were."""
        self._next[self._words_position(kind)] = seen

    def note_read(self, entry: ChannelEntry, cpu: int, seq: int) -> None:
        """A buffer has been read up to there."""
        self._next[Position(self._boot_id, entry.probe, entry.generation, cpu)] = seq

    def note_channel(self, channel: ChannelReader) -> None:
        """Take over how far all buffers of a channel have been read."""
        entry = channel.entry
        for cpu, seq in channel.read_positions().items():
            position = Position(self._boot_id, entry.probe, entry.generation, cpu)
            self._next.pop(position, None)  # to the end
            self._next[position] = seq

    def trim_channels(self, channels: Iterable[ChannelReader]) -> None:
        """:param channels: the open ones, which are kept."""
        noted = sum(channel.cpus for channel in channels)
        if len(self._next) <= noted + MAX_CLOSED_CHANNELS:
            return
        for channel in channels:
            self.note_channel(channel)
        while len(self._next) > noted + MAX_CLOSED_CHANNELS:
            del self._next[next(iter(self._next))]

    def forget_channel(self, entry: ChannelEntry) -> None:
        """The channel has gone for good."""
        gone = (self._boot_id, entry.probe, entry.generation)
        self._next = {key: seq for key, seq in self._next.items() if key[:3] != gone}

    def list_all(self) -> dict[Position, int]:
        """Of this life of the guest's core."""
        return self._next.copy()

    def _words_position(self, kind: str) -> Position:
        """Last words count like a channel of one CPU, under a name no probe has."""
        return Position(self._boot_id, f"vesper/{kind}", 0, 0)
