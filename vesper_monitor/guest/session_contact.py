# SPDX-License-Identifier: GPL-2.0-or-later
"""Why a guest is not active, since when, and whether that counts as degraded by now."""

from __future__ import annotations

import time
from collections.abc import Callable

from vesper_monitor.guest.control.cchan import CchanLostError, GuestSilentError
from vesper_monitor.guest.health.boot_watch import BootWatch
from vesper_monitor.hypervisor.transport import (
    DomainReport,
    FrontendSilentError,
    LinkLostError,
    Notice,
)

__all__ = ["CONNECT_TIMEOUT_S", "PROBES_TIMEOUT_S", "GuestContact"]

#: s to wait for a frontend in one call; the device stays there between calls.
CONNECT_TIMEOUT_S = 10.0
#: s for the probes of a guest that has answered, before they count as missing.
PROBES_TIMEOUT_S = 20.0


class GuestContact:
    """What is known of the contact with one guest.

    :ivar missing: why the guest is not active; None: unknown, or it is.
    :ivar lost: why the link is lost; None: it is not, or there was none.
    """

    def __init__(
        self, vm: str, *, heard: bool, activate_timeout_s: float, clock: Callable[[], float]
    ) -> None:
        """
        :param heard: an earlier vesperd has heard the guest in this domain.
        :param activate_timeout_s: as of the session's settings.
        :param clock: s of CLOCK_REALTIME.
        """
        self.missing: str | None = None
        self.lost: str | None = None
        self._vm = vm
        self._activate_timeout_s = activate_timeout_s
        self._clock = clock
        self._boot = BootWatch(vm, heard=heard)
        self._is_silent = True  # nothing but the guest's silence is in the way
        self._waits_since: float | None = None  # CLOCK_MONOTONIC
        self._answered_at = 0.0  # the guest's HELLO, CLOCK_MONOTONIC

    # ------------------------------------------------------------ what happens

    def begin_waiting(self) -> None:
        """The guest has the time of ``activate_timeout_s`` from now on."""
        self._waits_since = time.monotonic()

    def note_link(self) -> None:
        """Note that the guest's pages are mapped."""
        self.lost = None

    def note_answer(self) -> Notice | None:
        """Note that the guest has answered HELLO.

        :returns: a notice to pass on, if the guest was overdue.
        """
        self.missing, self._is_silent = None, True
        self._answered_at = time.monotonic()
        return self._boot.note_heard()

    def note_failure(self, error: Exception) -> None:
        """Note why the guest is not active."""
        self.missing = str(error)
        self._is_silent = isinstance(
            error, (FrontendSilentError, LinkLostError, CchanLostError, GuestSilentError)
        )
        if isinstance(error, FrontendSilentError) and error.was_active:
            self._boot.note_unsure(self._clock())

    def note_unfit(self, error: Exception) -> None:
        """Note that the guest answers, but not as it should."""
        self.missing = str(error)

    def note_loss(self, reason: str) -> None:
        """Note that the link is lost; the guest has time for another boot."""
        self.lost = reason
        self.begin_waiting()

    def note_leave(self) -> None:
        """Note that the guest has closed its end of the link."""
        self._boot.note_leave(self._clock())

    def note_unsure(self) -> None:
        """Note that the guest shows no heartbeat, and may have been reset unseen."""
        self._boot.note_unsure(self._clock())

    def note_reset(self) -> None:
        """Note that the hypervisor has reset the guest."""
        self._boot.note_reset(self._clock())

    def note_report(self, report: DomainReport) -> None:
        """Note the domain's state as the hypervisor has reported it."""
        self._boot.note_report(report, self._clock())

    def check_boot(self, now: float, limit_s: float) -> Notice | None:
        """Look, about once a second, at a guest that is not active.

        :param now: s of CLOCK_MONOTONIC.
        :param limit_s: time that the boot may take; 0: no limit.
        :returns: a failure, once, when the boot takes longer.
        """
        return self._boot.check_boot(now, limit_s)

    # ------------------------------------------------------------ what follows

    @property
    def has_begun(self) -> bool:
        return self._waits_since is not None

    @property
    def is_first_boot(self) -> bool:
        """Whether the guest was never heard in this domain."""
        return self._boot.is_first

    @property
    def is_paused(self) -> bool:
        """Whether the hypervisor has reported the domain as paused."""
        return self._boot.pause is not None

    @property
    def had_time_for_probes(self) -> bool:
        """Whether probes that are not loaded by now are missing."""
        limit = min(self._activate_timeout_s, PROBES_TIMEOUT_S)
        return time.monotonic() - self._answered_at >= limit

    def describe_absence(self) -> str | None:
        """Return why the guest is not active, if it had the time to be."""
        waited = time.monotonic() - (self._waits_since or 0.0)
        if waited < self._activate_timeout_s:
            return None
        reason = (self._boot.reason if self._is_silent else None) or self.missing
        if reason is None and waited < self._activate_timeout_s + CONNECT_TIMEOUT_S:
            return None  # the first try still runs; its error will say what to do
        return reason or f"{self._vm}: no contact with the guest's VESPER modules yet"

    def describe_standstill(self, *, is_active: bool) -> tuple[str, float | None] | None:
        """Return that the domain is paused, or why its guest is silent, and since when.

        None: neither. The text does not change while the reason lasts.
        """
        text = self._boot.pause if is_active else self._boot.reason
        return (text, self._boot.since) if text is not None else None
