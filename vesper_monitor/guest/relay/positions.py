# SPDX-License-Identifier: GPL-2.0-or-later
"""Positions: how far each buffer was read, so that no record is read twice or missed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from vesper_monitor.guest.relay.channel import ChannelEntry, ChannelReader

__all__ = ["MAX_CLOSED_CHANNELS", "Position", "Positions"]

#: Buffers of closed channels of which positions are kept. A guest may open new
#: channels without end: the oldest positions are dropped.
MAX_CLOSED_CHANNELS = 1024


class Position(NamedTuple):
    """Names one CPU's buffer of one channel for as long as it exists."""

    boot_id: int
    probe: str
    generation: int
    cpu: int


class Positions:
    """The next sequence number of each buffer, also of channels that are closed now."""

    def __init__(self, saved: Mapping[Position, int]) -> None:
        self._saved = saved
        self._boot_id = 0
        self._next: dict[Position, int] = {}

    def meet_boot(self, boot_id: int) -> bool:
        """Switch to this boot of the guest core, and drop positions of other boots.

        :returns: whether the boot is another one than before.
        """
        known = {**self._saved, **self._next}
        self._next = {key: seq for key, seq in known.items() if key.boot_id == boot_id}
        other = boot_id != self._boot_id
        self._boot_id = boot_id
        return other

    def begin_position(self, entry: ChannelEntry, cpu: int) -> int | None:
        """Return where to begin; None for a buffer that this host has not read yet."""
        return self._next.get(Position(self._boot_id, entry.probe, entry.generation, cpu))

    def crash_logs_read(self, kind: str) -> int | None:
        """Return how many oopses or panics were read; None: the crash log was never read."""
        return self._next.get(self._crash_log_position(kind))

    def note_crash_logs(self, kind: str, seen: int) -> None:
        """Note how many oopses or panics were read."""
        self._next[self._crash_log_position(kind)] = seen

    def note_read(self, entry: ChannelEntry, cpu: int, seq: int) -> None:
        """Note the next sequence number of a buffer."""
        self._next[Position(self._boot_id, entry.probe, entry.generation, cpu)] = seq

    def note_channel(self, channel: ChannelReader) -> None:
        """Note how far all buffers of a channel have been read."""
        entry = channel.entry
        for cpu, seq in channel.read_positions().items():
            position = Position(self._boot_id, entry.probe, entry.generation, cpu)
            self._next.pop(position, None)  # move it to the end
            self._next[position] = seq

    def trim_channels(self, channels: Iterable[ChannelReader]) -> None:
        """Drop the oldest positions of closed channels beyond the limit.

        :param channels: the open ones, which are kept.
        """
        noted = sum(channel.cpus for channel in channels)
        if len(self._next) <= noted + MAX_CLOSED_CHANNELS:
            return
        for channel in channels:
            self.note_channel(channel)
        while len(self._next) > noted + MAX_CLOSED_CHANNELS:
            del self._next[next(iter(self._next))]

    def forget_channel(self, entry: ChannelEntry) -> None:
        """Drop the positions of a channel that was unloaded."""
        gone = (self._boot_id, entry.probe, entry.generation)
        self._next = {key: seq for key, seq in self._next.items() if key[:3] != gone}

    def list_all(self) -> dict[Position, int]:
        """Return all positions of this boot of the guest core."""
        return self._next.copy()

    def _crash_log_position(self, kind: str) -> Position:
        """Return the position of crash logs: a channel of one CPU, named like no probe."""
        return Position(self._boot_id, f"vesper/{kind}", 0, 0)
