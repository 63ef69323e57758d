# SPDX-License-Identifier: GPL-2.0-or-later
"""Decides which domains are watched, and passes on what is seen of them.

The session manager reports here (:class:`SessionManagerListener`): events go
to the event pipeline, ends of domains to the resource activations.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from vesper_monitor.daemon.background_tasks import BackgroundTasks
from vesper_monitor.daemon.domain_state_watch import DomainStateWatch
from vesper_monitor.daemon.event_pipeline import EventPipeline
from vesper_monitor.daemon.incoming import IncomingDomains
from vesper_monitor.daemon.operator_wishes import OperatorWishes
from vesper_monitor.daemon.server import RequestError
from vesper_monitor.daemon.services import Services
from vesper_monitor.daemon.sessions import SessionManager
from vesper_monitor.daemon.transports import NoTransportError
from vesper_monitor.daemon.watch_policy import WatchPolicy
from vesper_monitor.faults.activation import ResourceActivation
from vesper_monitor.faults.activations import Activations
from vesper_monitor.guest.event import Event
from vesper_monitor.guest.relay.positions import Position
from vesper_monitor.guest.session import Session
from vesper_monitor.guest.session_state import SessionState
from vesper_monitor.hypervisor.transport import (
    ENDED,
    Domain,
    DomainReport,
    DomainState,
    Notice,
    Transport,
    TransportError,
)
from vesper_monitor.journal.journal import Journal, JournalError
from vesper_monitor.journal.records import ActivationRecord
from vesper_monitor.journal.writer import JournalWriter

__all__ = ["DomainSupervisor"]

_log = logging.getLogger(__name__)

_T = TypeVar("_T")


class DomainSupervisor:
    """The domains of this host, and who wants them watched. Listens to the session manager."""

    def __init__(
        self,
        sessions: SessionManager,
        activations: Activations,
        pipeline: EventPipeline,
        policy: WatchPolicy,
        operators: OperatorWishes,
        incoming: IncomingDomains,
        services: Services,
        journal: JournalWriter,
    ) -> None:
        self._sessions = sessions
        self._activations = activations
        self._pipeline = pipeline
        self._policy = policy
        self._operators = operators
        self._incoming = incoming
        self._services = services
        self._journal = journal
        self._states = DomainStateWatch(
            lambda domain, event: pipeline.record_events(domain, [event]),
            sessions.report_of,
            policy.get_pause_timeout,
        )
        #: requests' work that goes on without its client
        self.unfinished = BackgroundTasks(RequestError, NoTransportError)
        self._forgetting = BackgroundTasks()

    async def cancel_unfinished(self) -> None:
        """Cancel what clients have asked for."""
        await self.unfinished.cancel_all()

    async def close(self) -> None:
        """Stop to time pauses."""
        await self._states.close()

    async def wait_for_writes(self) -> None:
        """Return when domains that have ended are forgotten in the journal, too."""
        await self._forgetting.wait_for_all()

    def finish_work(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """Do a client's work to its end, even if the client disconnects."""
        return self.unfinished.spawn_task(work)

    # ------------------------------------------------------------ what is watched

    async def watch_domain(self, transport: Transport, domain: Domain) -> None:
        """Watch a domain as is wanted there, or leave its guest alone if that is wanted."""
        if domain.name in self._operators.deactivated:
            self._sessions.look_without_session(transport, domain)
        else:
            probes = self._policy.wanted_probes(domain)
            await self._sessions.watch_domain(transport, domain, probes)

    def watch_again(self, activation: ResourceActivation) -> asyncio.Task[None]:
        """Try again to watch a domain that is not watched.

        The reason that kept vesperd from watching it may be over.
        """
        return self.finish_work(self._watch_again(activation))

    async def _watch_again(self, activation: ResourceActivation) -> None:
        domain, name = activation.record.domain, activation.record.transport
        await self._sessions.transports.wait_for_first_try(name)
        for transport in self._sessions.transports.list_usable(name):
            if self._sessions.state_of(domain, name).followed:
                return
            if await self._still_runs(transport, domain):
                await self.watch_domain(transport, domain)
                self._sessions.look_soon(domain)

    async def deactivate_vm(self, vm: str) -> bool:
        """Leave a VM's guest alone from now on, as the operator wishes.

        Its resource activations end, and the VM is not expected any more.

        :returns: whether anything was to be ended.
        """
        domains = self._sessions.domains_of(vm)
        is_known = (
            bool(domains)
            or vm in self._operators.activated
            or self._incoming.probes_wanted_for(vm) is not None
        )
        if not is_known and not self._activations.of_vm(vm):
            return False
        self._incoming.forget_expected(vm)
        writing = self._operators.deactivate_vm(vm)
        why = f"{vm}: an operator has ended the watch (vesper deactivate)"
        self._activations.end_vm(vm, "deactivate", why)
        await self.leave_guests(vm)
        await asyncio.wait({writing})
        return True

    async def leave_guests(self, vm: str) -> None:
        """Unload the probes of all domains of a VM, and remove the device."""
        for domain in dict.fromkeys(self._sessions.domains_of(vm)):
            await self._sessions.deactivate_guest(domain)

    def note_activation_begin(self, domain: Domain) -> None:
        """Judge what was seen of a domain since it arrived: a resource owns it now."""
        self._states.note_stop(domain, False)
        self._activations.forget_earlier_lives(domain)
        self._pipeline.judge_late(domain, self._incoming.claim_arrival(domain))

    def note_activation_end(self, record: ActivationRecord) -> None:
        """Expect the end of a domain: the cluster is about to stop it.

        If the stop is not carried through, events of the domain are kept for the
        next activation of the resource.
        """
        self._incoming.note_expected(record.vm, record.wishes.probes)
        domain = record.domain
        if self._sessions.knows_domain(domain):
            self._states.note_stop(domain, True)
            self._incoming.note_arrival(domain)

    def report_state_again(self, vm: str) -> None:
        """Re-report a VM's pause, which has not changed: somebody cares about it only now."""
        for domain, report in self._sessions.reports_of_vm(vm):
            if report.state is DomainState.PAUSED:
                self._states.record_report(domain, report)

    def end_pause_of_watch(self, vm: str) -> None:
        """Report a VM's faults again: an operator's pause of its watch is over."""
        self._activations.pause_vm(vm, False)
        self.report_state_again(vm)

    # ------------------------------------------------------------ transports

    async def watch_wanted_domains(self, transport: Transport) -> None:
        """Watch what is wanted, and take over the guests of an earlier vesperd.

        :raises TransportError: the transport does not answer.
        """
        running = {
            domain.key: domain
            for domain in await transport.list_active_domains()
            if domain.name not in self._operators.deactivated
        }
        for activation in self._activations.list_all():
            domain = activation.record.domain
            if activation.record.transport not in ("", transport.name):
                continue
            if await self._still_runs(transport, domain):
                running.setdefault(domain.key, domain)
        for vm in list(self._operators.activated):
            found = await transport.find_domain(vm)
            if found is not None:
                running.setdefault(found.key, found)
            elif await self._is_nowhere(vm):
                await self._operators.activate_vm(vm, None)
        for domain in running.values():
            await self.watch_domain(transport, domain)
            self._sessions.look_soon(domain)  # it may be paused

    async def watch_arrivals(self, transport: Transport) -> None:
        """Watch new domains that are expected. Their agent says later what is wanted there.

        :raises TransportError: the transport does not answer.
        """
        for domain in await transport.list_domains():
            probes = self._incoming.probes_wanted_for(domain.name)
            if probes is None or self._sessions.knows_domain(domain):
                continue
            if domain.name in self._operators.deactivated:
                continue
            if (await transport.report_domain(domain)).state in ENDED:
                continue  # the rest of a domain that has ended
            _log.info("%s: domain %d has arrived, as expected", domain.name, domain.domid)
            self._incoming.note_arrival(domain)
            self._activations.forget_earlier_lives(domain)
            wanted = self._policy.add_dynamic_probes(domain, probes)
            await self._sessions.watch_domain(transport, domain, wanted)

    async def _still_runs(self, transport: Transport, domain: Domain) -> bool:
        """Ask for the domain of a resource activation, and note what is learnt."""
        try:
            report = await transport.report_domain(domain)
        except TransportError as error:
            _log.warning("%s: cannot tell its state now: %s", domain.name, error)
            return True  # do not believe it dead; its session will look
        if report.state in ENDED:
            self.note_domain_ended(domain, report)
            return False
        self._activations.domain_seen(domain)
        return True

    async def _is_nowhere(self, vm: str) -> bool:
        try:
            return (
                self._sessions.transports.settled
                and await self._sessions.transports.find_domain(vm) is None
            )
        except NoTransportError:
            return False

    # ------------------------------------------------------------ sessions

    def get_hang_timeout(self, domain: Domain) -> float:
        """Return after how many s without a sign of life a guest hangs; 0: do not look."""
        return self._policy.get_hang_timeout(domain)

    def get_boot_timeout(self, domain: Domain, *, is_first: bool) -> float:
        """Return how long a guest may boot, in s; 0: without limit."""
        return self._policy.get_boot_timeout(domain, is_first=is_first)

    async def read_positions(self, domain: Domain) -> Mapping[Position, int]:
        """Return where an earlier vesperd stopped to read a guest."""
        try:
            return await self._journal.run_for(
                domain.name, Journal.read_positions, domain.uuid, domain.domid
            )
        except JournalError:
            return {}

    def take_events(self, session: Session, events: list[Event]) -> None:
        """Judge and record what a session has read."""
        self._services.note_events(self._activations.of_domain(session.domain), events)
        self._pipeline.record_events(session.domain, events, session)

    def note_session_change(self, session: Session) -> None:
        """Save a session's positions, and answer monitors if the watch got better or worse."""
        self._pipeline.save_positions(session)
        if session.hello is not None:
            self._activations.guest_met(session.domain, session.hello.boot_id)
        if session.state not in (SessionState.CLOSING, SessionState.CLOSED):
            self._activations.watch_changed(session.domain)

    def take_report(self, domain: Domain, report: DomainReport) -> None:
        """Record that a domain is in another state."""
        self._states.record_report(domain, report)

    def take_notice(self, domain: Domain, notice: Notice) -> None:
        """Record what the hypervisor has seen of a domain."""
        self._states.record_notice(domain, notice)

    def note_domain_runs(self, domain: Domain) -> None:
        """Note that a domain runs."""
        self._activations.domain_seen(domain)

    def note_domain_ended(self, domain: Domain, report: DomainReport) -> None:
        """Answer monitors of a domain that does not run, and forget it once it is gone."""
        self._activations.domain_ended(domain, report)
        if report.state is DomainState.GONE:
            self._incoming.claim_arrival(domain)
            self._pipeline.forget_positions(domain)
            self._forgetting.spawn_task(self._forget_domain(domain))

    def note_unwatched(self, domain: Domain) -> None:
        """Answer monitors of a domain that runs and has lost its session."""
        self._activations.watch_changed(domain)

    async def _forget_domain(self, domain: Domain) -> None:
        try:
            await self._journal.run_for(
                domain.name, Journal.forget_positions, domain.uuid, domain.domid
            )
        except JournalError:
            pass  # the journal's writer has logged it
        is_activated = domain.name in self._operators.activated
        if is_activated and self._sessions.session_of(domain.name) is None:
            await self._operators.activate_vm(domain.name, None)
