# SPDX-License-Identifier: GPL-2.0-or-later
"""One domain that vesperd looks at: its session if it has one, and its state as last seen."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from vesper_monitor.faults.watching import Watching
from vesper_monitor.guest.session import Session
from vesper_monitor.guest.session_state import SessionState
from vesper_monitor.hypervisor.transport import (
    ENDED,
    Cause,
    Domain,
    DomainReport,
    DomainState,
    Notice,
    Transport,
)

__all__ = ["WatchedDomain", "explain_left_alone"]

#: s between two notices of one kind about one domain, failures apart.
NOTICE_INTERVAL_S = 1.0

_RUNNING = DomainReport(DomainState.RUNNING)


def explain_left_alone(domain: Domain) -> str:
    """Return why a domain has no session after ``vesper deactivate``."""
    return (
        f"{domain.name}: an operator has ended the watch; begin again with: vesper activate "
        f"{domain.name}"
    )


@dataclass
class WatchedDomain:
    """A domain that is looked at. It is watched only if it has a live session."""

    transport: Transport
    domain: Domain
    session: Session | None  #: None: the domain is looked at only
    #: why there is no session
    unwatched: str | None = None
    report: DomainReport = _RUNNING  #: as last seen
    is_looking: bool = False
    must_look_again: bool = False  #: something happened since the look began
    #: by kind of notice, and whether it is a failure: when there was one last
    _noticed: dict[tuple[str, bool], float] = field(default_factory=dict)

    def describe_watch(self, transport_error: str | None) -> Watching:
        """Return how well the domain is watched now.

        :param transport_error: why its transport does not work; None: it does.
        """
        name = self.domain.name
        if transport_error is not None:
            why = f"transport {self.transport.name}: {transport_error}"
            return Watching(False, f"{name} is not watched: {why}")
        if self.session is None:
            return Watching(True, self.unwatched or f"{name} is not watched")
        if self.session.state in (SessionState.CLOSING, SessionState.CLOSED):
            is_over = self.session.state is SessionState.CLOSED
            return Watching(not is_over, f"{name} is not watched: its session has ended")
        return Watching(True, self.session.degraded)

    def note_report(self, report: DomainReport) -> tuple[DomainReport, bool]:
        """Note the domain's state, and inform the session if it is new.

        :returns: the report with all that is known of the state; whether it is new.
        """
        before = self.report
        if before.state in ENDED and report.state in ENDED and report.cause is Cause.UNKNOWN:
            # The cause of its end was seen before the rest of the domain was removed.
            report = replace(report, cause=before.cause, why=before.why)
        if report == before:
            return report, False
        self.report = report
        if self.session is not None:
            if before.state in ENDED and report.state not in ENDED:
                # Reset after a crash, or for another kernel (kexec), in the same domain.
                self.session.note_reset()
            self.session.note_report(report)
        return report, True

    def note_notice(self, notice: Notice, now: float) -> bool:
        """Inform the session of a reset, and return whether the notice is to be recorded.

        A guest that reboots without end must not fill the journal.  A notice of a
        failure is not left out because of an earlier one that is none.

        :param now: s of any monotonic clock.
        """
        if notice.reset and self.session is not None:
            self.session.note_reset()
        kind = notice.kind, notice.failure
        if now - self._noticed.get(kind, -NOTICE_INTERVAL_S) < NOTICE_INTERVAL_S:
            return False
        self._noticed[kind] = now
        return True
