# SPDX-License-Identifier: GPL-2.0-or-later
"""Why a guest's kernel is not heard, in words, and whether its boot takes too long.

Pure: no loop and no clock. A kernel is not heard while it boots, at the start of
its domain or after a reset; after it has closed its link (``halt``, modules
unloaded, suspend to RAM); and where the reason is unknown.

::

    (start) ──answers─► heard ──closes link─► silent ──the hypervisor: reset─► boots
                         ▲  └──────────the hypervisor: reset─────────────────►  │
                         └──────────────────────answers─────────────────────────┘
"""

from __future__ import annotations

import enum
import time

from vesper_monitor.guest.printable import make_printable
from vesper_monitor.hypervisor.domain_state import DomainState
from vesper_monitor.hypervisor.transport import DomainReport, Notice

__all__ = ["BootWatch"]

#: s between two looks; after a longer gap vesperd itself did not run.
MAX_GAP_S = 10.0


class _Phase(enum.Enum):
    FIRST_BOOT = "start"  #: not heard since the domain was started, or found
    HEARD = "heard"
    LEFT = "left"  #: it has closed its link ("said good-bye")
    REBOOT = "reboot"  #: the same, and then the hypervisor has reset it
    RESET = "reset"  #: reset while its link was open
    UNSURE = "unsure"  #: no heartbeat, and a reset may have gone unnoticed
    MISSED = "missed"  #: an earlier vesperd has heard it in this domain


_PHASES_OF_BOOT = (_Phase.FIRST_BOOT, _Phase.REBOOT, _Phase.RESET, _Phase.UNSURE)


class BootWatch:
    """Watches whether the guest of one domain is heard.

    :param vm: the domain's name.
    :param heard: an earlier vesperd has heard the guest in this domain.
    """

    def __init__(self, vm: str, *, heard: bool) -> None:
        self._vm = vm
        self._phase = _Phase.MISSED if heard else _Phase.FIRST_BOOT
        self._since: float | None = None  # of the phase, s of CLOCK_REALTIME
        self._report = DomainReport(DomainState.RUNNING)
        self._report_since = 0.0
        self._began: float | None = None  # of the count, by check_boot()'s clock
        self._last_check = 0.0
        self._overdue = False

    # ------------------------------------------------------------ what happens

    def note_report(self, report: DomainReport, now: float) -> None:
        """Note the domain's state. :param now: s of CLOCK_REALTIME, as below."""
        if report != self._report:
            self._report, self._report_since = report, now

    def note_leave(self, now: float) -> None:
        """Note that the guest has closed its end of the link."""
        if self._phase is _Phase.HEARD:
            self._phase, self._since = _Phase.LEFT, now

    def note_reset(self, now: float) -> None:
        """Note that the hypervisor has reset the guest; of several resets the first counts."""
        if self._phase in (_Phase.HEARD, _Phase.MISSED, _Phase.UNSURE):
            self._enter_boot(_Phase.RESET, now)
        elif self._phase is _Phase.LEFT:
            self._enter_boot(_Phase.REBOOT, now)

    def note_unsure(self, now: float) -> None:
        """Note that there is no heartbeat, and that the guest may have been reset."""
        if self._phase in (_Phase.HEARD, _Phase.MISSED):
            self._enter_boot(_Phase.UNSURE, now)

    def note_heard(self) -> Notice | None:
        """Note that the guest is heard. :returns: a notice to pass on, if it was overdue."""
        overdue, self._overdue = self._overdue, False
        self._phase, self._since, self._began = _Phase.HEARD, None, None
        return Notice("boot", "the guest is heard again") if overdue else None

    def _enter_boot(self, phase: _Phase, now: float) -> None:
        self._phase, self._since, self._began = phase, now, None

    # ------------------------------------------------------------ what follows

    @property
    def is_first(self) -> bool:
        """Whether the guest was never heard in this domain."""
        return self._phase is _Phase.FIRST_BOOT

    def check_boot(self, now: float, limit: float) -> Notice | None:
        """Check, about once a second, a guest that is not heard.

        :param now: s of any monotonic clock.
        :param limit: s that the boot may take; 0: no limit.
        :returns: a failure, once, when the boot takes longer.
        """
        gap, self._last_check = now - self._last_check, now
        counts = limit > 0 and self._report.state is DomainState.RUNNING
        if not counts or self._phase not in _PHASES_OF_BOOT:
            self._began = None
            return None
        if self._began is None:
            self._began = now
        elif not 0.0 <= gap <= MAX_GAP_S:
            self._began += gap  # vesperd could not have heard it
        if self._overdue or now - self._began < limit:
            return None
        self._overdue = True
        if self._phase is _Phase.FIRST_BOOT:
            text = f"the guest was not heard within {limit:g} s of its start"
        elif self._phase is _Phase.UNSURE:
            text = f"the guest was not heard for {limit:g} s"
        else:
            text = f"the guest has not come back within {limit:g} s of its reset"
        return Notice("boot", text, failure=True)

    @property
    def since(self) -> float | None:
        """Since when :attr:`reason` holds, s of CLOCK_REALTIME."""
        if self._report.state is DomainState.PAUSED:
            return self._report_since
        return self._since

    @property
    def pause(self) -> str | None:
        """The text that the domain is paused, since when, and why; None: it is not."""
        report = self._report
        if report.state is not DomainState.PAUSED:
            return None
        said = report.says or "is paused" + (f": {report.why}" if report.why else "")
        clean = make_printable(said.encode("utf-8", "backslashreplace"))
        return f"{self._vm} {clean}, since {_clock_text(self._report_since)}"

    @property
    def reason(self) -> str | None:
        """Why the guest is not heard; None: unknown. The text stays while the reason lasts."""
        if (pause := self.pause) is not None:
            return pause
        vm, at = self._vm, _clock_text(self._since) if self._since is not None else ""
        return {
            _Phase.LEFT: f"{vm} has said good-bye at {at}: it has halted, boots, or its VESPER "
            "modules were unloaded",
            _Phase.REBOOT: f"{vm} reboots since {at} and has not been heard yet",
            _Phase.RESET: f"{vm} was reset at {at} and boots; it has not been heard yet",
            _Phase.UNSURE: f"{vm} shows no life since {at}: it hangs, or was reset while "
            "vesperd or the hypervisor's daemon was away",
            _Phase.MISSED: f"{vm} was heard before and does not answer: it boots, has halted, "
            "hangs, or its VESPER modules were unloaded",
        }.get(self._phase)


def _clock_text(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
