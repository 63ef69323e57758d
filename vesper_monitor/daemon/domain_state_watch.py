# SPDX-License-Identifier: GPL-2.0-or-later
"""What hypervisors say of domains becomes events; a pause that nobody explains is timed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from vesper_monitor.faults import domain_events as domains
from vesper_monitor.guest.event import Event
from vesper_monitor.hypervisor.transport import Cause, Domain, DomainReport, DomainState, Notice

__all__ = ["DomainStateWatch"]


class DomainStateWatch:
    """
    :param record: takes an event about a domain.
    :param report: asks for a domain's state; None: not known now.
    :param pause_timeout: s that a domain may be paused and nobody says why; 0: for ever.
        Its second argument: whether somebody has most likely asked for it.
    """

    def __init__(
        self,
        record: Callable[[Domain, Event], None],
        report: Callable[[Domain], Awaitable[DomainReport | None]],
        pause_timeout: Callable[[Domain, bool], float],
    ) -> None:
        self._record = record
        self._report = report
        self._pause_timeout = pause_timeout
        #: by (uuid, domid): until its pause is too long
        self._patience: dict[tuple[str, int], asyncio.Task[None]] = {}
        #: likewise: of which vesperd was told that the cluster stops them
        self._stopping: set[tuple[str, int]] = set()

    async def close(self) -> None:
        tasks = list(self._patience.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def record_notice(self, domain: Domain, notice: Notice) -> None:
        """The hypervisor has seen something."""
        self._record(domain, domains.make_notice_event(domain, notice))

    def note_stop(self, domain: Domain, is_stopping: bool) -> None:
        """The cluster stops a domain; or it was not, and a new instance begins on it."""
        key = domain.uuid, domain.domid
        if is_stopping:
            self._stopping.add(key)
        else:
            self._stopping.discard(key)

    def record_report(self, domain: Domain, report: DomainReport) -> None:
        """The domain is in another state, or somebody new wants to know."""
        key = domain.uuid, domain.domid
        if key in self._stopping:
            report = domains.as_stopped_by_cluster(report)
            if report.state is DomainState.GONE:
                self._stopping.discard(key)
        self._record(domain, domains.make_report_event(domain, report))
        task = self._patience.pop(key, None)
        if task is not None:
            task.cancel()
        if report.state is not DomainState.PAUSED:
            return
        if report.cause not in (Cause.UNKNOWN, Cause.LIKELY):
            return
        if timeout := self._pause_timeout(domain, report.cause is Cause.LIKELY):
            work = self._be_patient(domain, report, timeout)
            self._patience[key] = asyncio.get_running_loop().create_task(work)

    async def _be_patient(self, domain: Domain, report: DomainReport, limit: float) -> None:
        since, now = time.monotonic(), None
        while now is None:  # not known to be still so
            await asyncio.sleep(limit)
            now = await self._report(domain)
        if now == report:
            self._record(
                domain, domains.make_report_event(domain, report, time.monotonic() - since)
            )
