# SPDX-License-Identifier: GPL-2.0-or-later
"""vesperd: watches guests, keeps faults, and answers the monitors that wait for them.

Here is only what ties the parts together::

    transports.py ► sessions.py ─ events ─► domain_supervisor.py ─► event_pipeline.py
                                └─ states ─► domain_state_watch.py ─────────────┘   │
                        journal (journal/writer.py) ◄───────────────────────────────┤
                        followers (followers.py) ◄──────────────────────────────────┤
                        waiting monitors (faults/activations.py) ◄──────────────────┘
    socket (server.py) ► api.py ► agent_requests.py, reader_requests.py, operator_requests.py
"""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from vesper_monitor.daemon.agent_requests import AgentRequests
from vesper_monitor.daemon.api import Api
from vesper_monitor.daemon.config import Config
from vesper_monitor.daemon.domain_supervisor import DomainSupervisor
from vesper_monitor.daemon.event_pipeline import EventPipeline
from vesper_monitor.daemon.followers import Followers
from vesper_monitor.daemon.incoming import IncomingDomains
from vesper_monitor.daemon.operator_requests import OperatorRequests
from vesper_monitor.daemon.operator_wishes import OperatorWishes
from vesper_monitor.daemon.reader_requests import ReaderRequests
from vesper_monitor.daemon.server import Server
from vesper_monitor.daemon.services import Services
from vesper_monitor.daemon.sessions import SessionManager
from vesper_monitor.daemon.state_restorer import StateRestorer, read_boot_id
from vesper_monitor.daemon.transports import find_transports
from vesper_monitor.daemon.watch_policy import WatchPolicy
from vesper_monitor.faults.activations import Activations
from vesper_monitor.faults.pauses import Pauses
from vesper_monitor.faults.stalled_monitors import keep_monitored
from vesper_monitor.faults.watching import Watching
from vesper_monitor.guest.control.images import ImageStore
from vesper_monitor.guest.dynamic_probes.store import DynamicProbeStore
from vesper_monitor.hypervisor.transport import Transport
from vesper_monitor.journal.journal_process import JournalProcess
from vesper_monitor.journal.records import ActivationRecord
from vesper_monitor.journal.told_ledger import ToldLedger
from vesper_monitor.journal.writer import JournalWriter
from vesper_monitor.pacemaker.node_attributes import NodeAttributes

__all__ = ["Daemon"]

_log = logging.getLogger(__name__)

#: s that a thread may keep the interpreter from the event loop.
SWITCH_INTERVAL_S = 0.001
#: New objects until Python's garbage collector looks at the young ones.
GC_YOUNG_OBJECTS = 10_000
#: s between two collections of all objects.
GC_FULL_INTERVAL_S = 3600.0
#: s to wait for the journal before vesperd starts without it.
RESTORE_LIMIT_S = 5.0
#: What Pacemaker knows and the journal does not: a file beside the socket.
LEDGER_FILE = "told.json"
POINTS_FILE = "points.json"
PAUSES_FILE = "pauses.json"


class Daemon:
    """All parts of vesperd.

    :param transports: by name: classes that are used in place of the installed ones, or
        why there is none.
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
        self.journal = JournalWriter(disk, held=True)
        #: for the group of readers
        self.reader = JournalProcess.for_reading(Path(config.journal), config.log_level)
        self._attributes = NodeAttributes()
        self._ledger = ToldLedger(Path(config.socket).with_name(LEDGER_FILE))
        self.pauses = Pauses(
            Path(config.journal).with_name(PAUSES_FILE),
            read_boot_id(),
            lambda vm: self.domains.end_pause_of_watch(vm),
            self._attributes,
            disk,
        )
        self.dynamic_probes = DynamicProbeStore(Path(config.journal).with_name(POINTS_FILE), disk)
        self.sessions = SessionManager(
            ImageStore(Path(config.probes_dir)),
            self.dynamic_probes,
            activate_timeout=config.activate_timeout,
        )
        self.activations = Activations(
            self.journal,
            self._state_of,
            grace=config.monitor_grace,
            max_failovers=config.max_failovers,
            paused=lambda vm: self.pauses.get_pause(vm) is not None,
            attributes=self._attributes,
            ledger=self._ledger,
            numbered=False,
        )
        self.services = Services(
            self.activations.list_all, self.sessions.find_session, self.activations.watch_changed
        )
        self.followers = Followers()
        self.incoming = IncomingDomains()
        self.pipeline = EventPipeline(
            self.journal, self.activations, self.followers, self.incoming
        )  # fmt: skip
        self.operators = OperatorWishes(self.journal)
        self.policy = WatchPolicy(config, self.activations, self.operators, self.dynamic_probes)
        self.domains = DomainSupervisor(
            self.sessions,
            self.activations,
            self.pipeline,
            self.policy,
            self.operators,
            self.incoming,
            self.services,
            self.journal,
        )
        self._restorer = StateRestorer(
            self.journal,
            self.activations,
            self.operators,
            self.incoming,
            self.services,
            self.pipeline,
            self.sessions,
            self.domains,
        )
        self._server = Server(
            Path(config.socket),
            self._make_api().handle_request,
            group=config.group,
            max_clients=config.max_clients,
        )
        self._always: list[asyncio.Task[None]] = []  # run as long as vesperd does

    async def start(self) -> None:
        """Go on where an earlier vesperd stopped, and listen.

        :raises OSError: the socket cannot be used.
        """
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        gc.set_threshold(GC_YOUNG_OBJECTS, 50, 1_000_000)
        loop = asyncio.get_running_loop()
        for work in (
            _collect_garbage_slowly(),
            keep_monitored(self.activations.list_all, self.activations.left),
            self.services.run(),
        ):
            self._always.append(loop.create_task(work))
        self._ledger.restore_ledger()
        files = [
            loop.create_task(self._restore_pauses()),
            loop.create_task(self.dynamic_probes.restore_probes()),
        ]
        self._always += [*files, loop.create_task(self._restore_after(files))]
        try:
            async with asyncio.timeout(RESTORE_LIMIT_S):
                await self._restorer.tried.wait()
        except TimeoutError:
            self.journal.note_unusable(f"{self.config.journal}: the journal's disk does not answer")
            self._restorer.tried.set()
        await self._server.start()
        self.sessions.start(
            self.domains,
            find_transports(self.config.transports)
            if self._transports is None
            else self._transports,
            self.config.transport_settings,
        )

    async def stop(self) -> None:
        """Stop. Guests keep their devices and probes for the next vesperd."""
        for task in self._always:
            task.cancel()
        self.operators.cancel_retries()
        await self._server.stop()
        await self.domains.cancel_unfinished()
        await self.domains.close()
        self.pauses.close()
        await self._attributes.close()
        await self.activations.close()
        await self.sessions.close()
        await self.domains.wait_for_writes()
        await self.operators.close()
        self.reader.kill_worker()
        await self.journal.close()

    def _make_api(self) -> Api:
        agents = AgentRequests(
            self.sessions,
            self.activations,
            self.domains,
            self.policy,
            self.operators,
            self.incoming,
            self.pauses,
        )
        readers = ReaderRequests(
            self.sessions,
            self.activations,
            self.pauses,
            self.followers,
            self.journal,
            self.reader,
        )
        operators = OperatorRequests(
            self.sessions,
            self.activations,
            self.domains,
            self.policy,
            self.operators,
            self.dynamic_probes,
            self.pauses,
            self.journal,
            activate_timeout=self.config.activate_timeout,
        )
        return Api(agents.operations, readers.operations, operators.operations)

    async def _restore_pauses(self) -> None:
        await self.pauses.restore_pauses()
        for pause in self.pauses.list_all():
            self.activations.pause_vm(pause.vm, True)

    async def _restore_after(self, first: Iterable[asyncio.Task[None]]) -> None:
        """Restore the journal's state, when pauses and dynamic probes are known."""
        try:
            await asyncio.wait(first)
            await self._restorer.restore_state()
        except Exception:
            _log.exception("internal error: cannot go on with what the journal holds")
            self._restorer.tried.set()

    def _state_of(self, record: ActivationRecord) -> Watching:
        """Return how well a domain is watched, and whether one of its services is missing."""
        watching = self.sessions.state_of(record.domain, record.transport)
        if watching.lacking is None:
            return replace(watching, lacking=self.services.find_missing_service(record))
        return watching


async def _collect_garbage_slowly() -> None:
    """Collect all objects now and then: it stops vesperd for 0.2 s with a thousand guests."""
    while True:
        await asyncio.sleep(GC_FULL_INTERVAL_S)
        gc.collect()
