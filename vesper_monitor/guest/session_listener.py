# SPDX-License-Identifier: GPL-2.0-or-later
"""What a session reports, and what it asks; and how it works."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from vesper_monitor.guest.dynamic_probes.point import DynamicProbe
from vesper_monitor.guest.event import Event
from vesper_monitor.guest.relay.positions import Position
from vesper_monitor.guest.ticker import SharedTicker
from vesper_monitor.hypervisor.transport import Notice

__all__ = ["SessionListener", "SessionSettings"]


class SessionListener(Protocol):
    """The user of one session.

    All methods are called on the loop, and return soon.
    """

    def take_events(self, events: list[Event]) -> None:
        """Take events in the order of the guest's time.

        The session's ``positions`` are those after them: save both in one transaction.
        """

    def note_change(self) -> None:
        """Note that the state, ``degraded``, or a probe's state has changed.

        Save the session's ``positions`` then, too: a channel without a saved
        position is new to the next vesperd.
        """

    def take_notice(self, notice: Notice) -> None:
        """Take a notice of a boot that takes too long, or of its end."""

    def recheck_domain(self) -> None:
        """Ask for the domain's state: most likely it was paused, or runs again."""

    def get_hang_timeout(self) -> float:
        """Return after how many s without a heartbeat the guest hangs; 0: do not watch."""

    def get_boot_timeout(self, *, is_first: bool) -> float:
        """Return how many s a boot may take until the guest is heard; 0: no limit.

        :param is_first: the guest was never heard in this domain.
        """


@dataclass(frozen=True)
class SessionSettings:
    """How a session works.

    :ivar dynamic_probes: those defined for this VM, by name; may change. Each is
        loaded as a probe of that name.
    :ivar resume_from: next sequence numbers that an earlier vesperd saved. Records
        below are skipped. A channel without such a number (lost journal; guest from
        another host) is read from where the guest's index says.
    :ivar activate_timeout_s: time after the start, and after the loss of the link
        (the guest reboots), during which nothing counts as degraded. The probes have
        a part of it once the guest has answered.
    :ivar ticker: of period :data:`hang_detector.LOOK_INTERVAL_S`, shared by all
        sessions; None: an own one.
    :ivar clock: s, for ``Event.received``.
    """

    dynamic_probes: Mapping[str, DynamicProbe] = field(default_factory=dict)
    resume_from: Mapping[Position, int] = field(default_factory=dict)
    activate_timeout_s: float = 90.0
    ticker: SharedTicker | None = None
    clock: Callable[[], float] = time.time
