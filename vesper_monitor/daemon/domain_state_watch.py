# SPDX-License-Identifier: GPL-2.0-or-later
"""Turns states of domains and hypervisors' notices into events, and times pauses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from vesper_monitor.faults import domain_events as domains
from vesper_monitor.guest.event import Event
from vesper_monitor.hypervisor.transport import Cause, Domain, DomainReport, DomainState, Notice

__all__ = ["DomainStateWatch"]


class DomainStateWatch:
    """Records what hypervisors say of domains, and pauses that last too long.

    :param record: takes an event about a domain.
    :param report: asks for a domain's state; returns None if it is not known now.
    :param pause_timeout: returns how many s a domain may be paused without a known
        reason; 0: no limit. Its second argument: whether an operator most likely wants it.
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
        #: by (uuid, domid): waits until a pause is too long
        self._timing: dict[tuple[str, int], asyncio.Task[None]] = {}
        #: (uuid, domid) of domains that the cluster is stopping
        self._stopping: set[tuple[str, int]] = set()

    async def close(self) -> None:
        """Stop timing pauses."""
        tasks = list(self._timing.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def record_notice(self, domain: Domain, notice: Notice) -> None:
        """Record what the hypervisor has seen of a domain."""
        self._record(domain, domains.make_notice_event(domain, notice))

    def note_stop(self, domain: Domain, is_stopping: bool) -> None:
        """Note that the cluster is stopping a domain, or that the stop was not carried through."""
        key = domain.key
        if is_stopping:
            self._stopping.add(key)
        else:
            self._stopping.discard(key)

    def record_report(self, domain: Domain, report: DomainReport) -> None:
        """Record the state of a domain: it is new, or a new resource cares about it."""
        key = domain.key
        if key in self._stopping:
            report = domains.as_stopped_by_cluster(report)
            if report.state is DomainState.GONE:
                self._stopping.discard(key)
        self._record(domain, domains.make_report_event(domain, report))
        task = self._timing.pop(key, None)
        if task is not None:
            task.cancel()
        if report.state is not DomainState.PAUSED:
            return
        if report.cause not in (Cause.UNKNOWN, Cause.LIKELY):
            return
        if timeout := self._pause_timeout(domain, report.cause is Cause.LIKELY):
            work = self._time_pause(domain, report, timeout)
            self._timing[key] = asyncio.get_running_loop().create_task(work)

    async def _time_pause(self, domain: Domain, report: DomainReport, limit: float) -> None:
        """Record a pause again if it lasts longer than a limit, in s."""
        since, now = time.monotonic(), None
        while now is None:  # whether it is still paused is not known
            await asyncio.sleep(limit)
            now = await self._report(domain)
        if now == report:
            self._record(
                domain, domains.make_report_event(domain, report, time.monotonic() - since)
            )
