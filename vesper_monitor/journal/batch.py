# SPDX-License-Identifier: GPL-2.0-or-later
"""What is written to the journal in one transaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vesper_monitor.guest.event import Event
from vesper_monitor.guest.relay.positions import Position
from vesper_monitor.journal.records import ActivationRecord, Fault

__all__ = ["Batch"]


@dataclass
class Batch:
    """Events, positions, faults and activations that belong into one transaction."""

    events: list[Event] = field(default_factory=list)
    #: by (UUID, domain id): all positions of that domain
    positions: dict[tuple[str, int], Mapping[Position, int]] = field(default_factory=dict)
    #: new or changed
    faults: list[Fault] = field(default_factory=list)
    #: new or changed
    instances: list[ActivationRecord] = field(default_factory=list)

    def merge_batch(self, other: Batch) -> None:
        """Append a later batch."""
        self.events += other.events
        self.positions.update(other.positions)
        self.faults += other.faults
        self.instances += other.instances

    def keep_last(self) -> None:
        """Keep only the last state of each fault and activation."""
        self.faults = list({fault.id: fault for fault in self.faults}.values())
        self.instances = list({i.id: i for i in self.instances}.values())

    @property
    def durable(self) -> bool:
        """Whether it is to survive a power failure, as history."""
        return bool(self.faults or self.instances) or any(event.crash_log for event in self.events)
