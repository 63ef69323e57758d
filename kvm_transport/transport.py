# SPDX-License-Identifier: GPL-2.0-or-later
"""KVM as a transport: libvirt's domains, and how a guest is activated.

libvirt's files show which domains there are, and the kernel shows whether their
QEMUs run.  Both work while libvirtd does not run.  Only libvirtd knows why a domain
is in its state.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator
from importlib import util
from pathlib import Path
from typing import Any
from weakref import WeakSet

from kvm_transport import libvirt_states, status_files
from kvm_transport.doorbells import Doorbells
from kvm_transport.ivshmem_client import CONTROL_SOCKET_PATH, IvshmemClient, IvshmemServerError
from kvm_transport.libvirt_connection import LibvirtConnection, LibvirtUnavailableError
from kvm_transport.libvirt_states import Lifecycle
from kvm_transport.link import KvmLink, is_activated
from kvm_transport.qemu_process_watch import QemuProcessWatch
from kvm_transport.status_files import StatusFile, StatusFiles
from vesper_monitor.hypervisor.domain_state import DomainState
from vesper_monitor.hypervisor.transport import (
    Cause,
    CpuUse,
    Domain,
    DomainEvent,
    DomainReport,
    FrontendMissingError,
    LinkLostError,
    Notice,
    TransportError,
)

__all__ = ["KvmTransport"]

_log = logging.getLogger(__name__)

#: Where libvirt's QEMU driver keeps its files of running domains.
RUN_DIR = "/run/libvirt/qemu"
#: Processes whose end is remembered.
_MAX_ENDED_PROCESSES = 256
#: Events that wait for one reader.
_MAX_QUEUED_EVENTS = 1000
#: The same if the event is a reset, which is reported only once.
_MAX_QUEUED_RESETS = 10_000


class KvmTransport:
    """See :class:`vesper_monitor.hypervisor.transport.Transport`.

    :param uri: of libvirt's QEMU driver.
    :param run_dir: where that driver keeps its files of running domains.
    :param control: socket of vesper-ivshmem.
    """

    name = "kvm"

    def __init__(
        self,
        *,
        uri: str = "qemu:///system",
        run_dir: str = RUN_DIR,
        control: str = CONTROL_SOCKET_PATH,
    ) -> None:
        """:raises ValueError: a setting is not a string."""
        for value in (uri, run_dir, control):
            if not isinstance(value, str):
                raise ValueError(f"{value!r} must be a string")
        self._files = StatusFiles(Path(run_dir))
        self._connection = LibvirtConnection(
            uri, self._handle_event, self._handle_libvirt_connected
        )
        self._server = IvshmemClient(control)
        self._doorbells: Doorbells | None = None
        #: by UUID and start time, in the order in which they were found
        self._processes: dict[tuple[str, int], QemuProcessWatch] = {}
        #: links of the processes that run
        self._links: dict[tuple[str, int], WeakSet[KvmLink]] = {}
        self._queues: set[asyncio.Queue[DomainEvent]] = set()
        #: s, CLOCK_MONOTONIC: libvirt has reported all events since
        self._events_since = float("inf")

    @classmethod
    def explain_unusable(cls) -> str | None:
        """Return why the transport is of no use here; None if libvirt has run since the boot."""
        if util.find_spec("libvirt") is None:
            return "libvirt's client library is not installed (Debian: python3-libvirt)"
        if not os.path.isdir("/run/libvirt"):
            return "libvirt does not run here (there is no /run/libvirt)"
        return None

    @property
    def trouble(self) -> str | None:
        trouble = self._connection.trouble
        if trouble is None:
            return None
        return (
            f"{trouble}: vesperd sees that a domain ends, but not why, nor that it is paused; "
            "check libvirtd"
        )

    async def start(self) -> None:
        self._watch_new_qemus()
        self._doorbells = self._doorbells or Doorbells()
        self._connection.start_connecting()

    async def stop(self) -> None:
        await self._connection.close_connection()
        for process in self._processes.values():
            process.close()
        if self._doorbells is not None:
            self._doorbells.close()

    async def list_domains(self) -> list[Domain]:
        self._watch_new_qemus()
        return [process.domain for process in self._list_running_qemus()]

    async def find_domain(self, name: str) -> Domain | None:
        """Return the domain of that name; None if none runs.

        :raises TransportError: it is unknown whether it runs.
        """
        trouble: TransportError | None = None
        try:
            status = self._files.read_status_of(name)
            if status is not None and (status.uuid, status.pid) not in self._list_known_keys():
                self._watch_qemu(status)
        except TransportError as error:
            trouble = error
        processes = [
            process for process in self._list_running_qemus() if process.domain.name == name
        ]
        for process in processes:
            process.check_for_end()
        found = [process.domain for process in processes if not process.ended]
        if trouble is not None and not found:
            raise trouble
        return max(found, key=lambda domain: domain.domid, default=None)

    async def report_domain(self, domain: Domain) -> DomainReport:
        process = self._find_process_watch(domain)
        if process is None:
            return DomainReport(
                DomainState.GONE, Cause.UNKNOWN, "its QEMU ended while nobody watched it"
            )
        if not process.ended:
            try:
                report = await self._read_libvirt_state(process)
            except LibvirtUnavailableError:
                report = self._read_recorded_state(process)
            process.check_for_end()
            if not process.ended:
                return report
        return await process.wait_for_report(wait=self._connection.trouble is None)

    async def cpu_use(self, domain: Domain) -> CpuUse:
        """Return the CPU time of the domain's virtual CPUs, and its state.

        The state is read after the CPU time: a CPU that has run was not paused before.

        :raises TransportError: also while libvirtd does not answer: a paused guest must not
            be taken for one that hangs.
        """
        process = self._find_process_watch(domain)
        if process is None or process.ended:
            raise TransportError(f"{domain.name}: its QEMU has ended")
        use = status_files.read_vcpu_use(process.pid)
        try:
            state = (await self._read_libvirt_state(process)).state
            return CpuUse(state, use, self._events_since)
        except LibvirtUnavailableError as error:
            raise TransportError(
                f"{domain.name}: it is unknown whether it is paused: {error}"
            ) from None

    async def list_active_domains(self) -> list[Domain]:
        self._watch_new_qemus()
        try:
            devices = {device.pid for device in await self._server.list_qemus()}
        except IvshmemServerError as error:
            _log.warning("%s", error)
            return []
        found = []
        for process in self._list_running_qemus():
            try:
                if process.pid in devices and await is_activated(
                    self._server, process.pid, process.domain
                ):
                    found.append(process.domain)
            except TransportError as error:
                _log.warning("%s", error)
        return found

    async def connect_domain(self, domain: Domain, timeout: float) -> KvmLink:  # noqa: ASYNC109
        process = self._find_process_watch(domain)
        if process is None or process.ended:
            raise LinkLostError(f"{domain.name}: its QEMU has ended")
        assert self._doorbells is not None, "not started"
        link = await KvmLink.connect_guest(
            self._server, process.pid, domain, timeout, self._doorbells
        )
        if process.ended:
            link.lose_link("its QEMU has ended")
        else:
            self._links.setdefault((domain.uuid, domain.domid), WeakSet()).add(link)
        return link

    async def deactivate_domain(self, domain: Domain) -> None:
        process = self._find_process_watch(domain)
        if process is None or process.ended:
            return
        assert self._doorbells is not None, "not started"
        with contextlib.suppress(FrontendMissingError):
            await KvmLink.end_activation(self._server, process.pid, domain, self._doorbells)

    async def follow_events(self) -> AsyncIterator[DomainEvent]:
        queue: asyncio.Queue[DomainEvent] = asyncio.Queue()
        self._queues.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._queues.discard(queue)

    # -------------------------------------------------------------- processes

    def _watch_new_qemus(self) -> None:
        """Watch QEMUs that are new, and notice those that have ended.

        :raises TransportError: libvirt's files cannot be read.
        """
        for process in self._list_running_qemus():
            process.check_for_end()
        known = self._list_known_keys()
        for status in self._files.read_all_statuses():
            if (status.uuid, status.pid) not in known:
                with contextlib.suppress(TransportError):  # find_domain() reports it
                    self._watch_qemu(status)

    def _watch_qemu(self, status: StatusFile) -> None:
        """:raises TransportError: it is unknown whether that QEMU runs."""
        new = QemuProcessWatch.watch_process(status, self._files.directory, self._handle_qemu_end)
        if new is not None:
            self._processes[new.domain.uuid, new.domain.domid] = new

    def _list_known_keys(self) -> set[tuple[str, int]]:
        """Return UUID and process number of each QEMU that runs."""
        return {(process.domain.uuid, process.pid) for process in self._list_running_qemus()}

    def _list_running_qemus(self) -> list[QemuProcessWatch]:
        return [process for process in self._processes.values() if not process.ended]

    def _find_process_watch(self, domain: Domain) -> QemuProcessWatch | None:
        """Return the QEMU of a domain; None if it was never seen.

        :raises TransportError: it is unknown whether it runs.
        """
        key = domain.uuid, domain.domid
        if key not in self._processes:
            # Read only its file: hundreds may end at once, and each is asked for then.
            status = self._files.read_status_of(domain.name)
            if status is not None and (status.uuid, status.pid) not in self._list_known_keys():
                self._watch_qemu(status)
        return self._processes.get(key)

    def _handle_qemu_end(self, process: QemuProcessWatch) -> None:
        for link in self._links.pop((process.domain.uuid, process.domain.domid), ()):
            link.lose_link("its QEMU has ended")
        self._queue_domain_event(process)
        ended = [key for key, known in self._processes.items() if known.ended]
        for key in ended[:-_MAX_ENDED_PROCESSES]:
            del self._processes[key]

    # ----------------------------------------------------------------- states

    async def _read_libvirt_state(self, process: QemuProcessWatch) -> DomainReport:
        """Ask libvirtd for the domain's state. :raises LibvirtUnavailableError:"""
        answer = await self._connection.read_domain_state(process.domain.uuid)
        if answer is None:
            # QEMU runs, or has just ended: then its pidfd shows it.
            return DomainReport(DomainState.RUNNING)
        state, reason, disks = answer
        return self._make_domain_report(process, *libvirt_states.decode_state(state, reason), disks)

    def _read_recorded_state(self, process: QemuProcessWatch) -> DomainReport:
        """Return the state that libvirtd wrote last, before it ended. :raises TransportError:"""
        status = self._files.read_status_of(process.domain.name)
        if status is not None and (status.uuid, status.pid) == (process.domain.uuid, process.pid):
            return self._make_domain_report(process, status.state, status.reason, {})
        return DomainReport(DomainState.RUNNING)

    def _make_domain_report(
        self, process: QemuProcessWatch, state: str, reason: str, disks: dict[str, str] | Any
    ) -> DomainReport:
        report = libvirt_states.make_report(state, reason)
        if report.state is not DomainState.PAUSED:
            return report
        if (state, reason) == ("paused", "ioerror"):
            why = libvirt_states.describe_disk_errors(disks, process.io_error)
            return DomainReport(report.state, report.cause, why)
        return process.pause or report

    # ----------------------------------------------------------------- events

    def _handle_libvirt_connected(self) -> None:
        """Look at all domains: events may have been missed."""
        self._events_since = time.monotonic()
        self._try_watch_new_qemus()
        self._queue_event(DomainEvent(None))

    def _handle_event(self, uuid: str, kind: str, said: tuple[Any, ...]) -> None:
        """Handle an event of libvirt's.

        :param said: the event's numbers and texts.
        """
        if kind == "LIFECYCLE" and said[0] in (Lifecycle.STARTED, Lifecycle.RESUMED):
            self._try_watch_new_qemus()
        processes = [process for process in self._processes.values() if process.domain.uuid == uuid]
        for process in processes:
            process.check_for_end()
        if kind == "LIFECYCLE" and said[0] == Lifecycle.STOPPED:
            # It is about the last one that ended: a newer one may run already.
            for process in reversed(processes):
                if process.ended:
                    process.explain_end(said[1])
                    break
            return
        if not processes:
            return
        # Events that arrive after QEMU's end happened shortly before it.
        process = processes[-1]
        if kind == "LIFECYCLE":
            self._record_lifecycle_event(process, *said)
            self._queue_domain_event(process)
        else:
            self._queue_domain_event(process, self._make_notice(process, kind, said))

    def _record_lifecycle_event(self, process: QemuProcessWatch, event: int, detail: int) -> None:
        if event == Lifecycle.CRASHED:
            process.said = "panic"
        elif event == Lifecycle.SHUTDOWN and detail == 2:  # VIR_DOMAIN_EVENT_SHUTDOWN_HOST
            process.said = process.said or "signal"
        elif event == Lifecycle.SUSPENDED:
            process.pause = libvirt_states.explain_lasting_pause(detail)
        elif event == Lifecycle.RESUMED:
            process.pause, process.said, process.io_error = None, "", ""

    def _make_notice(
        self, process: QemuProcessWatch, kind: str, said: tuple[Any, ...]
    ) -> Notice | None:
        if kind == "REBOOT":
            # libvirt reports each reset so, also that of an operator (qemuProcessHandleReset(),
            # libvirt 9.0).
            return Notice("reboot", "the guest reboots", reset=True)
        if kind == "WATCHDOG":
            if said[0] in libvirt_states.WATCHDOG_POWEROFF_ACTIONS:
                process.said = "watchdog"
            return libvirt_states.make_watchdog_notice(said[0])
        if kind == "MEMORY_FAILURE":
            return libvirt_states.make_memory_notice(said[0], said[1])
        if kind == "IO_ERROR_REASON":
            path, alias, action, reason = said
            process.io_error = libvirt_states.describe_io_error(path, alias, reason)
            return libvirt_states.make_io_error_notice(process.io_error, action)
        return None

    def _try_watch_new_qemus(self) -> None:
        try:
            self._watch_new_qemus()
        except TransportError as error:
            _log.warning("%s", error)

    def _queue_domain_event(self, process: QemuProcessWatch, notice: Notice | None = None) -> None:
        self._queue_event(DomainEvent(process.domain.domid, notice))

    def _queue_event(self, event: DomainEvent) -> None:
        # A reader that is too slow loses events.  It will ask for states again, but a reset is
        # reported only once.
        most = (
            _MAX_QUEUED_RESETS
            if event.notice is not None and event.notice.reset
            else _MAX_QUEUED_EVENTS
        )
        for queue in self._queues:
            if queue.qsize() < most:
                queue.put_nowait(event)
