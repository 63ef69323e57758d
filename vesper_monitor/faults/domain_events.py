# SPDX-License-Identifier: GPL-2.0-or-later
"""A hypervisor's reports about a domain, as events and in sentences.

An event is a failure if the hypervisor calls it one, or if it is a pause that lasts too
long and that was not asked for.  That is decided here, for all hypervisors.  No rule
makes the end of a domain a fault; monitors report it as the end.  If the resource is
then stopped, the end is listed among the faults as the reason.
"""

from __future__ import annotations

import time
from dataclasses import replace

from vesper_monitor.guest.event import Event
from vesper_monitor.guest.printable import make_printable
from vesper_monitor.hypervisor.transport import (
    ENDED,
    Cause,
    Domain,
    DomainReport,
    DomainState,
    Notice,
)

__all__ = [
    "EVENT",
    "as_stopped_by_cluster",
    "describe_ending",
    "make_notice_event",
    "make_report_event",
]

#: ``Event.event`` and ``Event.probe`` of these.
EVENT = "domain"
PROBE = "hypervisor"

_SAID = {
    DomainState.RUNNING: "runs",
    DomainState.PAUSED: "is paused",
    DomainState.CRASHED: "has crashed",
    DomainState.SHUTDOWN: "has shut down by itself",
    DomainState.DYING: "has been destroyed",
    DomainState.GONE: "does not run any more",
}


def make_report_event(domain: Domain, report: DomainReport, paused: float | None = None) -> Event:
    """Return the event that a domain is in another state.

    :param paused: s in this state, where that is too long.
    """
    failure = report.state is DomainState.PAUSED and (
        paused is not None or report.cause is Cause.FAILURE
    )
    text = _describe_state(domain.name, report)
    if paused is not None:
        text = _describe_state(domain.name, report, f" for {paused:.0f} s")
    return _make_event(
        domain,
        text,
        kind="paused" if report.state is DomainState.PAUSED else "state",
        state=report.state.value,
        cause=report.cause.value,
        why=_clean_text(report.why),
        failure=failure,
    )


def as_stopped_by_cluster(report: DomainReport) -> DomainReport:
    """Return the report about a domain that the cluster stops: its end was asked for.

    A crash stays one.
    """
    if report.state not in (DomainState.SHUTDOWN, DomainState.DYING, DomainState.GONE):
        return report
    return replace(report, cause=Cause.ASKED, why="stopped by the cluster")


def make_notice_event(domain: Domain, notice: Notice) -> Event:
    """Return the event of a hypervisor's notice."""
    text = f"{domain.name}: {_clean_text(notice.text)}"
    return _make_event(domain, text, kind=notice.kind, failure=notice.failure)


def describe_ending(domain: Domain, report: DomainReport) -> str:
    """Say that a domain does not run any more, and why: for the exit reason."""
    assert report.state in ENDED
    return _describe_state(f"{domain.name} (domain {domain.domid})", report)


def _describe_state(who: str, report: DomainReport, how_long: str = "") -> str:
    if report.says:
        return f"{who} {_clean_text(report.says)}{how_long}"
    return f"{who} {_SAID[report.state]}{how_long}{_describe_cause(report)}"


def _describe_cause(report: DomainReport) -> str:
    return f": {_clean_text(report.why)}" if report.why else ""


def _clean_text(text: str) -> str:
    """Return a text without what cannot be printed; names of files may have that."""
    return make_printable(text.encode("utf-8", "backslashreplace"))


def _make_event(domain: Domain, text: str, **fields: object) -> Event:
    return Event(
        vm=domain.name, domid=domain.domid, probe=PROBE, event=EVENT, cpu=0, seq=0, guest_ns=0,
        received=time.time(), fields=fields, text=text,
    )  # fmt: skip
