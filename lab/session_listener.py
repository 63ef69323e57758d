# SPDX-License-Identifier: GPL-2.0-or-later
"""A user of a session that takes its events, and ignores all else."""

from __future__ import annotations

from collections.abc import Callable

from vesper_monitor.guest.event import Event
from vesper_monitor.hypervisor.transport import Notice

__all__ = ["EventListener"]


class EventListener:
    """Implements :class:`vesper_monitor.guest.session_listener.SessionListener`."""

    def __init__(
        self,
        take_events: Callable[[list[Event]], None],
        *,
        note_change: Callable[[], None] = lambda: None,
        take_notice: Callable[[Notice], None] = lambda _: None,
        recheck_domain: Callable[[], None] = lambda: None,
        hang_timeout_s: float = 0.0,
        boot_timeout_s: float = 0.0,
    ) -> None:
        self.take_events = take_events
        self.note_change = note_change
        self.take_notice = take_notice
        self.recheck_domain = recheck_domain
        self.hang_timeout_s = hang_timeout_s
        self.boot_timeout_s = boot_timeout_s

    def get_hang_timeout(self) -> float:
        return self.hang_timeout_s

    def get_boot_timeout(self, *, is_first: bool) -> float:
        return self.boot_timeout_s
