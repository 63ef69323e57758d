# SPDX-License-Identifier: GPL-2.0-or-later
"""What the session of one domain reports and asks, passed on with that domain."""

from __future__ import annotations

from collections.abc import Callable

from vesper_monitor.daemon.session_manager_listener import SessionManagerListener
from vesper_monitor.guest.event import Event
from vesper_monitor.guest.session import Session
from vesper_monitor.hypervisor.transport import Domain, Notice

__all__ = ["SessionReports"]


class SessionReports:
    """The listener of one session (:class:`vesper_monitor.guest.session_listener.SessionListener`).

    :param look_soon: looks at a domain in the background.
    :ivar session: is set before the session runs.
    """

    session: Session

    def __init__(
        self,
        listener: SessionManagerListener,
        domain: Domain,
        look_soon: Callable[[Domain], None],
    ) -> None:
        self._listener = listener
        self._domain = domain
        self._look_soon = look_soon

    def take_events(self, events: list[Event]) -> None:
        """Pass events on."""
        self._listener.take_events(self.session, events)

    def note_change(self) -> None:
        """Pass on that the session has changed."""
        self._listener.note_session_change(self.session)

    def take_notice(self, notice: Notice) -> None:
        """Pass a notice on."""
        self._listener.take_notice(self._domain, notice)

    def recheck_domain(self) -> None:
        """Look at the domain's state soon."""
        self._look_soon(self._domain)

    def get_hang_timeout(self) -> float:
        """Return the domain's limit, in s."""
        return self._listener.get_hang_timeout(self._domain)

    def get_boot_timeout(self, *, is_first: bool) -> float:
        """Return the domain's limit, in s."""
        return self._listener.get_boot_timeout(self._domain, is_first=is_first)
