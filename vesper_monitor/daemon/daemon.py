# SPDX-License-Identifier: GPL-2.0-or-later
"""vesperd: watches guests, keeps faults, and tells those who wait for them.

Here is only what ties the parts together::

    transports, sessions (watch.py) ── events ──► event_pipeline.py ──► journal (recorder.py)
         └─ states (hearsay.py) ──────────┘              │
             followers (followers.py) ◄──────────────────┤
             waiting monitors (instances.py) ◄───────────┘
    socket (server.py) ► requests (api.py)
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from vesper_monitor.daemon.api import Api
from vesper_monitor.daemon.config import Config
from vesper_monitor.daemon.domain_state_watch import DomainStateWatch
from vesper_monitor.daemon.event_pipeline import EventPipeline
from vesper_monitor.daemon.followers import Followers
from vesper_monitor.daemon.incoming import IncomingDomains
from vesper_monitor.daemon.server import RequestError, Server
from vesper_monitor.daemon.services import RECALL_S, Services
from vesper_monitor.daemon.sessions import NoTransportError, SessionManager, find_transports
from vesper_monitor.faults.activation import ResourceActivation
from vesper_monitor.faults.activations import Activations
from vesper_monitor.faults.failover_limit import WINDOW_S
from vesper_monitor.faults.pauses import Pauses
from vesper_monitor.faults.stalled_monitors import keep_monitored
from vesper_monitor.faults.watching import Watching
from vesper_monitor.guest.control.images import ImageStore
from vesper_monitor.guest.dynamic_probes.store import DynamicProbeStore
from vesper_monitor.guest.event import Event
from vesper_monitor.guest.relay.positions import Position
from vesper_monitor.guest.session import Session
from vesper_monitor.guest.session_state import SessionState
from vesper_monitor.hypervisor.transport import (
    ENDED,
    Domain,
    DomainReport,
    DomainState,
    Transport,
    TransportError,
)
from vesper_monitor.journal.journal import Journal, JournalError, Remembered
from vesper_monitor.journal.journal_process import JournalProcess
from vesper_monitor.journal.records import ActivationRecord
from vesper_monitor.journal.told_ledger import ToldLedger
from vesper_monitor.journal.writer import RETRY_FIRST_S, RETRY_LAST_S, JournalWriter
from vesper_monitor.pacemaker.node_attributes import NodeAttributes

__all__ = ["Daemon"]

_log = logging.getLogger(__name__)

_P = ParamSpec("_P")
_T = TypeVar("_T")

#: Events of one VM that are looked at again for rules that count.
MAX_RECALLED_EVENTS = 5000
#: s that a thread (the journal's) may keep the interpreter from the loop.
SWITCH_INTERVAL_S = 0.001
#: New objects after which Python looks for some that refer to each other only,
#: among those that are not old; and s after which it does among all.
YOUNG = 10_000
TIDY_EVERY = 3600.0
#: s for the journal to say what an earlier vesperd has left, until it is started without.
RESTORE_LIMIT_S = 5.0
#: What Pacemaker knows and the journal does not, beside the socket.
LEDGER = "told.json"


class Daemon:
    """All parts of vesperd.

    :param transports: instead of the installed ones.
    """

    def __init__(
        self,
        config: Config,
        transports: Mapping[str, type[Transport] | str] | None = None,
    ) -> None:
        self.config = config
        self._transports = transports
        disk = JournalProcess(
            Path(config.journal), keep_events=config.keep_events,
            keep_faults=config.keep_faults, log_level=config.log_level,
        )  # fmt: skip
        self.recorder = JournalWriter(disk, held=True)
        #: for the group of readers
        self.reader = JournalProcess.for_reading(Path(config.journal), config.log_level)
        self.followers = Followers()
        self._attributes = NodeAttributes()
        self._ledger = ToldLedger(Path(config.socket).with_name(LEDGER))
        self.pauses = Pauses(
            Path(config.journal).with_name("pauses.json"),
            _boot_id(),
            self._on_resume,
            self._attributes,
            disk,
        )
        self.instances = Activations(
            self.recorder,
            self._state_of,
            grace=config.monitor_grace,
            max_failovers=config.max_failovers,
            paused=lambda vm: self.pauses.get_pause(vm) is not None,
            attributes=self._attributes,
            ledger=self._ledger,
            numbered=False,
        )
        self.services = Services(
            self.instances.list_all,
            lambda domain: self.watch.find_session(domain),
            self.instances.watch_changed,
        )
        self.expected = IncomingDomains()
        self.pipeline = EventPipeline(
            self.recorder, self.instances, self.followers, self.expected
        )  # fmt: skip
        self.points = DynamicProbeStore(Path(config.journal).with_name("points.json"), disk)
        self._hearsay = DomainStateWatch(
            lambda domain, event: self.pipeline.record_events(domain, [event]),
            lambda domain: self.watch.report_of(domain),
            self.pause_timeout,
        )
        self.watch = SessionManager(
            ImageStore(Path(config.probes_dir)),
            self.points,
            activate_timeout=config.activate_timeout,
            hang_timeout=self.hang_timeout,
            boot_timeout=self.boot_timeout,
            on_events=self._on_events,
            on_change=self._on_change,
            on_up=self._on_up,
            on_arrivals=self._on_arrivals,
            on_report=self._hearsay.record_report,
            on_notice=self._hearsay.record_notice,
            on_seen=self.instances.domain_seen,
            on_ended=self._on_ended,
            on_unwatched=self.instances.watch_changed,
            positions=self._read_positions,
        )
        self._server = Server(
            Path(config.socket),
            Api(self).handle_request,
            group=config.group,
            max_clients=config.max_clients,
        )
        #: VM to wanted probes, by the operator's word
        self.activations: dict[str, tuple[str, ...]] = {}
        #: VMs whose guests are left alone, by the operator's word: until ``activate``
        #: or the next start of a resource
        self.deactivated: set[str] = set()
        #: likewise, again to be watched: said while nobody knew what the journal holds
        self._allowed_early: set[str] = set()
        self._knows_wishes = False
        #: VMs of which the journal has not taken that
        self._unremembered: set[str] = set()
        self._tried_journal = asyncio.Event()  # it is read, or cannot be for now
        self._tasks: set[asyncio.Task[None]] = set()
        self._unfinished: set[asyncio.Task[Any]] = set()  # see finish()
        self._always: list[asyncio.Task[None]] = []  # for as long as it runs

    async def start(self) -> None:
        """Go on where an earlier daemon stopped.

        :raises OSError: the socket cannot be used.
        """
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        gc.set_threshold(YOUNG, 50, 1_000_000)
        loop = asyncio.get_running_loop()
        for work in (
            _collect_garbage_slowly(),
            keep_monitored(self.instances.list_all, self.instances.left),
            self.services.run(),
        ):
            self._always.append(loop.create_task(work))
        self._ledger.restore_ledger()
        files = [
            loop.create_task(self._restore_pauses()),
            loop.create_task(self.points.restore_points()),
        ]
        self._always += [*files, loop.create_task(self._keep_restoring(files))]
        try:
            async with asyncio.timeout(RESTORE_LIMIT_S):
                await self._tried_journal.wait()
        except TimeoutError:
            self.recorder.note_unusable(
                f"{self.config.journal}: the journal's disk does not answer"
            )
            self._tried_journal.set()
        await self._server.start()
        self.watch.start(
            find_transports(self.config.transports)
            if self._transports is None
            else self._transports,
            self.config.transport_settings,
        )

    async def _restore_pauses(self) -> None:
        await self.pauses.restore_pauses()
        for pause in self.pauses.list_all():
            self.instances.pause_vm(pause.vm, True)

    async def _keep_restoring(self, first: Iterable[asyncio.Task[None]]) -> None:
        try:
            await asyncio.wait(first)  # what is paused, and what is added, is known before
            await self._restore_state()
        except Exception:
            _log.exception("internal error: what the journal holds is not known")
            self._tried_journal.set()

    async def stop(self) -> None:
        """End; guests keep their devices and probes for the next daemon."""
        for task in self._always:
            task.cancel()
        await self._server.stop()
        for work in self._unfinished:
            work.cancel()
        await asyncio.gather(*self._unfinished, return_exceptions=True)
        await self._hearsay.close()
        self.pauses.close()
        await self._attributes.close()
        await self.instances.close()
        await self.watch.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.reader.kill_worker()
        await self.recorder.close()

    def _state_of(self, record: ActivationRecord) -> Watching:
        """How well the guest of an instance is watched, and whether its services are there."""
        watching = self.watch.state_of(_domain_of(record), record.transport)
        if (
            watching.lacking is None
            and (lacking := self.services.find_missing_service(record)) is not None
        ):
            return replace(watching, lacking=lacking)
        return watching

    # ------------------------------------------------------------ activation

    def wanted_probes(self, domain: Domain) -> dict[str, str] | None:
        """What instances and the operator want there; None: nobody wants anything."""
        instances = self.instances.of_domain(domain)
        if not instances and domain.name not in self.activations:
            return None
        names = [probe for instance in instances for probe in instance.record.probes]
        names += self.activations.get(domain.name, ())
        points = {name: point.text for name, point in self.points.points_of_vm(domain.name).items()}
        return dict.fromkeys(names, "") | points

    def hang_timeout(self, domain: Domain) -> float:
        """s, the least of what its resources want; 0: none wants to know."""
        records = [instance.record for instance in self.instances.of_domain(domain)]
        return _smallest_limit((r.hang_timeout for r in records), self.config.hang_timeout)

    def pause_timeout(self, domain: Domain, likely_asked: bool) -> float:
        """Likewise; of a pause that is likely an operator's only what they have set."""
        records = [instance.record for instance in self.instances.of_domain(domain)]
        default = 0.0 if likely_asked else self.config.pause_timeout
        return _smallest_limit((r.pause_timeout for r in records), default)

    def boot_timeout(self, domain: Domain, is_first: bool) -> float:
        """Likewise; of a domain's first boot only what its resources have set.

        Whether there are modules in a guest that was never heard, nobody else knows.
        """
        records = [instance.record for instance in self.instances.of_domain(domain)]
        default = 0.0 if is_first else self.config.boot_timeout
        return _smallest_limit((r.boot_timeout for r in records), default)

    async def activate_vm(self, vm: str, probes: tuple[str, ...] | None) -> None:
        """Note the operator's wish; None: it is over."""
        if probes is None:
            self.activations.pop(vm, None)
        else:
            self.activations[vm] = probes
        await self._remember_wish(vm, Journal.set_activation, vm, probes)

    async def deactivate_vm(self, vm: str) -> bool:
        """Leave a VM's guest alone from now on, as the operator wishes.

        What runs for it ends, and it is not expected any more.

        :returns: whether anything was to be ended.
        """
        domains = self.watch.domains_of(vm)
        known = (
            bool(domains)
            or vm in self.activations
            or self.expected.probes_wanted_for(vm) is not None
        )
        if not known and not self.instances.of_vm(vm):
            return False
        self.activations.pop(vm, None)
        self.expected.forget_expected(vm)
        self.deactivated.add(vm)
        self._allowed_early.discard(vm)
        self.instances.end_vm(vm, "deactivate", f"{vm}: watching was ended by hand")
        remember = self._remember_wish(vm, Journal.set_deactivation, vm, True)
        remembering = self._spawn_task(remember)  # also if vesperd is stopped meanwhile
        for domain in dict.fromkeys(domains):
            await self.watch.deactivate_guest(domain)
        await asyncio.wait({remembering})
        return True

    def allow_watching(self, vm: str) -> None:
        """A resource has started a VM, or the operator has activated it: it is watched again."""
        if not self._knows_wishes:
            self._allowed_early.add(vm)
        if vm in self.deactivated:
            self.deactivated.discard(vm)
            self._spawn_task(self._remember_wish(vm, Journal.set_deactivation, vm, False))

    async def _remember_wish(
        self, vm: str, write: Callable[Concatenate[Journal, _P], None], /,
        *args: _P.args, **kwargs: _P.kwargs,
    ) -> None:  # fmt: skip
        try:
            await self.recorder.run_for(vm, write, *args, **kwargs)
        except JournalError as error:
            _log.warning("%s: it is not remembered over a restart yet: %s", vm, error)
            if not self._unremembered:
                self._always.append(asyncio.get_running_loop().create_task(self._remember_later()))
            self._unremembered.add(vm)

    async def _remember_later(self) -> None:
        """Write what operators wish of some VMs, as soon as the journal takes it."""
        while self._unremembered:
            await asyncio.sleep(RETRY_LAST_S)
            vm = next(iter(self._unremembered))
            run, probes = self.recorder.run_for, self.activations.get(vm)
            if not self._knows_wishes:
                continue
            with contextlib.suppress(JournalError):
                await run(vm, Journal.set_activation, vm, probes)
                await run(vm, Journal.set_deactivation, vm, vm in self.deactivated)
                self._unremembered.discard(vm)

    # ------------------------------------------------------------ events

    def _on_events(self, session: Session, events: list[Event]) -> None:
        self.services.note_events(self.instances.of_domain(session.domain), events)
        self.pipeline.record_events(session.domain, events, session)

    def _on_change(self, session: Session) -> None:
        self.pipeline.save_positions(session)
        if session.hello is not None:
            self.instances.guest_met(session.domain, session.hello.boot_id)
        if session.state not in (SessionState.CLOSING, SessionState.CLOSED):
            self.instances.watch_changed(session.domain)

    # ------------------------------------------------------------ domains

    async def _on_up(self, transport: Transport) -> None:
        """Watch what is wanted, and take over the guests of an earlier daemon."""
        active = await transport.list_active_domains()
        running = {
            (domain.uuid, domain.domid): domain
            for domain in active
            if domain.name not in self.deactivated
        }
        for instance in self.instances.list_all():
            domain = _domain_of(instance.record)
            if instance.record.transport not in ("", transport.name):
                continue
            if await self._still_runs(transport, domain):
                running.setdefault((domain.uuid, domain.domid), domain)
        for vm in list(self.activations):
            found = await transport.find_domain(vm)
            if found is not None:
                running.setdefault((found.uuid, found.domid), found)
            elif await self._is_nowhere(vm):
                await self.activate_vm(vm, None)
        for domain in running.values():
            await self.watch_domain(transport, domain)
            self.watch.look_soon(domain)  # it may be paused

    async def _still_runs(self, transport: Transport, domain: Domain) -> bool:
        """Ask for the domain of an instance, and note what is learnt."""
        try:
            report = await transport.report_domain(domain)
        except TransportError as error:
            _log.warning("%s: its state is not known now: %s", domain.name, error)
            return True  # not to be believed dead; its session will look
        if report.state in ENDED:
            self._on_ended(domain, report)
            return False
        self.instances.domain_seen(domain)
        return True

    async def watch_domain(self, transport: Transport, domain: Domain) -> None:
        """Watch a domain as is wanted there, or leave its guest alone if that is wanted."""
        if domain.name in self.deactivated:
            self.watch.only_look(transport, domain)
        else:
            await self.watch.watch_domain(transport, domain, self.wanted_probes(domain))

    def watch_again(self, instance: ResourceActivation) -> asyncio.Task[None]:
        """Try to watch an instance's domain, which nobody watches.

        Whatever has kept it from being watched may be over.
        """
        return self.finish_work(self._watch_again(instance))

    async def _watch_again(self, instance: ResourceActivation) -> None:
        domain, name = _domain_of(instance.record), instance.record.transport
        await self.watch.first_try(name)
        for transport in self.watch.list_usable_transports(name):
            if self.watch.state_of(domain, name).followed:
                return
            if await self._still_runs(transport, domain):
                await self.watch_domain(transport, domain)
                self.watch.look_soon(domain)

    def finish_work(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """Do something to its end, whatever becomes of the client that wanted it."""
        task = asyncio.get_running_loop().create_task(work)
        self._unfinished.add(task)
        task.add_done_callback(self._log_finished_task)
        return task

    def _log_finished_task(self, task: asyncio.Task[Any]) -> None:
        self._unfinished.discard(task)
        error = None if task.cancelled() else task.exception()
        # Nobody may be left to hear of it.
        if error is not None and not isinstance(error, (RequestError, NoTransportError)):
            _log.error("internal error", exc_info=error)

    def _spawn_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _on_arrivals(self, transport: Transport) -> None:
        """Watch those that are expected; the agent will tell what is wanted there."""
        for domain in await transport.list_domains():
            probes = self.expected.probes_wanted_for(domain.name)
            if probes is None or self.watch.knows_domain(domain) or domain.name in self.deactivated:
                continue
            if (await transport.report_domain(domain)).state in ENDED:
                continue  # what is left of one
            _log.info("%s: domain %d has come, as expected", domain.name, domain.domid)
            self.expected.has_come(domain)
            self.instances.forget_earlier_lives(domain)
            points = {
                name: point.text for name, point in self.points.points_of_vm(domain.name).items()
            }
            await self.watch.watch_domain(transport, domain, dict.fromkeys(probes, "") | points)

    def judge_earlier_events(self, domain: Domain) -> None:
        """An instance has begun on that domain: what was seen since it came is judged now."""
        self._hearsay.note_stop(domain, False)
        self.instances.forget_earlier_lives(domain)
        self.pipeline.judge_late(domain, self.expected.claim_arrival(domain))

    def end_expected_stop(self, record: ActivationRecord) -> None:
        """An instance has ended, since its domain is to be stopped.

        If that is not carried through, what the domain does meanwhile is for
        the next instance.
        """
        self.expected.note_expected(record.vm, record.probes)
        domain = _domain_of(record)
        if self.watch.knows_domain(domain):
            self._hearsay.note_stop(domain, True)
            self.expected.has_come(domain)

    async def _is_nowhere(self, vm: str) -> bool:
        try:
            return self.watch.settled and await self.watch.find_domain(vm) is None
        except NoTransportError:
            return False

    def judge_again(self, vm: str) -> None:
        """Somebody wants to know who did not before, of a state that has not changed."""
        for domain, report in self.watch.reports_of_vm(vm):
            if report.state is DomainState.PAUSED:
                self._hearsay.record_report(domain, report)

    def _on_resume(self, vm: str) -> None:
        """An operator's pause of watching is over."""
        self.instances.pause_vm(vm, False)
        self.judge_again(vm)

    def _on_ended(self, domain: Domain, report: DomainReport) -> None:
        self.instances.domain_ended(domain, report)
        if report.state is DomainState.GONE:
            self.expected.claim_arrival(domain)
            self.pipeline.forget_positions(domain)
            self._spawn_task(self._forget_domain(domain))

    async def _forget_domain(self, domain: Domain) -> None:
        try:
            await self.recorder.run_for(
                domain.name, Journal.forget_positions, domain.uuid, domain.domid
            )
        except JournalError:
            pass  # the recorder has said so
        if domain.name in self.activations and self.watch.session_of(domain.name) is None:
            await self.activate_vm(domain.name, None)

    async def _read_positions(self, domain: Domain) -> Mapping[Position, int]:
        try:
            return await self.recorder.run_for(
                domain.name, Journal.read_positions, domain.uuid, domain.domid
            )
        except JournalError:
            return {}

    # ------------------------------------------------------------ journal

    async def _restore_state(self) -> None:
        """Go on with what the journal holds, as soon as it can be read."""
        boot_id, pause, late = _boot_id(), RETRY_FIRST_S, False
        while True:
            since = time.time() - WINDOW_S
            try:
                found = await self.recorder.run_on_journal(Journal.read_remembered, boot_id, since)
                break
            except JournalError as error:
                self.recorder.note_unusable(str(error))
                late = True
            self._tried_journal.set()
            await asyncio.sleep(pause)
            pause = min(2 * pause, RETRY_LAST_S)
        late |= self._tried_journal.is_set()
        self._go_on(found)
        for record in found.records:
            await self._recall_counts(record, found.last_event_id)
        self._tried_journal.set()
        if found.records:
            _log.info("going on with %d resources of an earlier vesperd", len(found.records))
        if late:
            for vm in list(self.deactivated):  # which a monitor may have had watched meanwhile
                for domain in dict.fromkeys(self.watch.domains_of(vm)):
                    await self.watch.deactivate_guest(domain)
            for transport in self.watch.list_usable_transports(""):
                try:
                    await self._on_up(transport)
                except TransportError as error:
                    _log.warning("what runs on %s is not known: %s", transport.name, error)

    def _go_on(self, found: Remembered) -> None:
        """What has happened since this vesperd was started is known better."""
        self._knows_wishes = True
        self.deactivated |= found.deactivations - self._allowed_early
        for vm in self.deactivated ^ found.deactivations:
            gone = vm in self.deactivated
            self._spawn_task(self._remember_wish(vm, Journal.set_deactivation, vm, gone))
        for vm, probes in self.activations.items():
            self._spawn_task(self._remember_wish(vm, Journal.set_activation, vm, probes))
        self.activations = {
            vm: probes for vm, probes in found.activations.items() if vm not in self.deactivated
        } | self.activations
        for vm, probes in found.wanted_last:
            if vm not in self.deactivated and self.expected.probes_wanted_for(vm) is None:
                self.expected.note_expected(vm, probes)
        self.instances.restore_all(
            found.records, found.faults, found.last_fault_id, found.stopped_for, found.told,
            found.boots,
        )  # fmt: skip
        self.pipeline.begin_numbering(found.last_event_id, found.last_fault_id)

    async def _recall_counts(self, record: ActivationRecord, last_event_id: int) -> None:
        """Rules that count go on with what was seen before, and so does the wait for services."""
        instance = self.instances.get_instance(record.resource)
        if instance is None:
            return
        if _domain_of(instance.record) != _domain_of(record):
            return
        horizon = max(instance.rules.horizon, RECALL_S if record.services else 0.0)
        if not horizon:
            return
        since = max(record.started, time.time() - horizon)
        run = self.recorder.run_for
        try:
            newest = await run(record.vm, Journal.nth_newest, record.vm, MAX_RECALLED_EVENTS) or 1
            events = await run(
                record.vm, Journal.read_events, vm=record.vm, after=newest - 1, until=last_event_id,
                limit=MAX_RECALLED_EVENTS,
            )  # fmt: skip
        except JournalError as error:
            _log.error("%s: counts begin anew: %s", record.resource, error)
            return
        seen = [e for e in events if e.domid == record.domid and e.received >= since]
        self.services.recall_events(instance, seen)
        since = time.time() - instance.rules.horizon
        self.instances.recall_events(instance.record, [e for e in seen if e.received >= since])


def _domain_of(record: ActivationRecord) -> Domain:
    return Domain(record.vm, record.domid, record.uuid)


def _smallest_limit(given: Iterable[float | None], default: float) -> float:
    """The least but 0, which is none; of nothing given: the default."""
    seconds = [default if value is None else value for value in given] or [default]
    return min((value for value in seconds if value), default=0.0)


async def _collect_garbage_slowly() -> None:
    """Python's search for objects that only refer to each other stops the whole daemon:
    of the old ones (0.2 s with a thousand guests) now and then."""
    while True:
        await asyncio.sleep(TIDY_EVERY)
        gc.collect()


def _boot_id() -> str:
    """Another one after each boot of the host (random(4))."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
