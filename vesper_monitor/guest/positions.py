# SPDX-License-Identifier: GPL-2.0-or-later
"""How far each buffer has been read, so that nothing is read twice or missed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from vesper_monitor.guest.channel import ChannelEntry, ChannelReader

__all__ = ["Position", "Positions"]

#: Of channels that are not open now. A guest may export under new names for
#: ever: those that were noted first are forgotten.
MAX_CLOSED = 1024


class Position(NamedTuple):
    """Names one CPU's buffer of one channel for as long as it exists."""

    boot_id: int
    probe: str
    generation: int
    cpu: int


class Positions:
    """Next sequence numbers, also of channels that are not open just now."""

    def __init__(self, saved: Mapping[Position, int]) -> None:
        self._next = dict(saved)

    def begin(self, boot_id: int, entry: ChannelEntry, cpu: int) -> int | None:
        """Where to begin; None for a buffer that nobody here has read yet."""
        return self._next.get(Position(boot_id, entry.probe, entry.generation, cpu))

    def words(self, boot_id: int, kind: str) -> int | None:
        """How many oopses or panics were read; None: never looked."""
        return self._next.get(_words(boot_id, kind))

    def note_words(self, boot_id: int, kind: str, seen: int) -> None:
        """Take over how many there were."""
        self._next[_words(boot_id, kind)] = seen

    def note(self, boot_id: int, channel: ChannelReader) -> None:
        """Take over how far a channel has been read."""
        entry = channel.entry
        for cpu, seq in channel.positions().items():
            position = Position(boot_id, entry.probe, entry.generation, cpu)
            self._next.pop(position, None)  # to the end
            self._next[position] = seq

    def trim(self, noted: int) -> None:
        """:param noted: buffers of open channels, which were noted last."""
        while len(self._next) > noted + MAX_CLOSED:
            del self._next[next(iter(self._next))]

    def forget(self, boot_id: int, entry: ChannelEntry) -> None:
        """The channel has gone for good."""
        gone = (boot_id, entry.probe, entry.generation)
        self._next = {key: seq for key, seq in self._next.items() if key[:3] != gone}

    def of(self, boot_id: int) -> dict[Position, int]:
        return {key: seq for key, seq in self._next.items() if key.boot_id == boot_id}


def _words(boot_id: int, kind: str) -> Position:
    """Last words count like a channel of one CPU, under a name no probe has."""
    return Position(boot_id, f"vesper/{kind}", 0, 0)
