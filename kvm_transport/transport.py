# SPDX-License-Identifier: GPL-2.0-or-later
"""KVM as a transport: libvirt's domains, and how a guest is activated.

Which domains there are is read from libvirt's files, and whether they live
from the kernel: both work while libvirtd is away.  Why a domain is in its
state is libvirt's to say.
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

#: Of libvirt's QEMU driver, its files of domains that run.
RUN_DIR = "/run/libvirt/qemu"
#: Lives that have ended whose end is remembered, and events that wait; with resets.
_MAX_ENDED_PROCESSES = 256
_MAX_QUEUED_EVENTS = 1000
_MAX_QUEUED_RESETS = 10_000


class KvmTransport:
    """See :class:`vesper_monitor.hypervisor.transport.Transport`.

    :param uri: of libvirt's QEMU driver.
    :param run_dir: of the same.
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
        """:raises ValueError: a setting that is no text."""
        for value in (uri, run_dir, control):
            if not isinstance(value, str):
                raise ValueError(f"{value!r} must be a string")
        self._files = StatusFiles(Path(run_dir))
        self._connection = LibvirtConnection(
            uri, self._handle_event, self._handle_libvirt_connected
        )
        self._holder = IvshmemClient(control)
        self._doorbells: Doorbells | None = None
        #: in the order in which they were met
        self._lives: dict[tuple[str, int], QemuProcessWatch] = {}
        #: of those that live
        self._links: dict[tuple[str, int], WeakSet[KvmLink]] = {}
        self._queues: set[asyncio.Queue[DomainEvent]] = set()
        #: s of CLOCK_MONOTONIC: libvirt has told of all events since
        self._told_since = float("inf")

    @classmethod
    def explain_unusable(cls) -> str | None:
        """Whether libvirt's daemon has run here since the host's boot."""
        if util.find_spec("libvirt") is None:
            return "libvirt's client library is not installed (Debian: python3-libvirt)"
        if not os.path.isdir("/run/libvirt"):
            return "libvirt does not run here (/run/libvirt is not there)"
        return None

    @property
    def trouble(self) -> str | None:
        trouble = self._connection.trouble
        if trouble is None:
            return None
        return (
            f"{trouble}: that a domain ends is seen, but not why, nor that it is paused; "
            "look at libvirtd"
        )

    async def start(self) -> None:
        self._watch_new_qemus()
        self._doorbells = self._doorbells or Doorbells()
        self._connection.start_connecting()

    async def stop(self) -> None:
        await self._connection.close_connection()
        for life in self._lives.values():
            life.close()
        if self._doorbells is not None:
            self._doorbells.close()

    async def list_domains(self) -> list[Domain]:
        self._watch_new_qemus()
        return [life.domain for life in self._list_running_qemus()]

    async def find_domain(self, name: str) -> Domain | None:
        """:raises TransportError: it may run or not."""
        trouble: TransportError | None = None
        try:
            status = self._files.read_status_of(name)
            if status is not None and (status.uuid, status.pid) not in self._list_known_keys():
                self._watch_qemu(status)
        except TransportError as error:
            trouble = error
        lives = [life for life in self._list_running_qemus() if life.domain.name == name]
        for life in lives:
            life.check_for_end()
        found = [life.domain for life in lives if not life.ended]
        if trouble is not None and not found:
            raise trouble
        return max(found, key=lambda domain: domain.domid, default=None)

    async def report_domain(self, domain: Domain) -> DomainReport:
        life = self._find_process_watch(domain)
        if life is None:
            return DomainReport(
                DomainState.GONE, Cause.UNKNOWN, "its QEMU ended while nobody watched it"
            )
        if not life.ended:
            try:
                report = await self._read_libvirt_state(life)
            except LibvirtUnavailableError:
                report = self._read_recorded_state(life)
            life.check_for_end()
            if not life.ended:
                return report
        return await life.wait_for_report(wait=self._connection.trouble is None)

    async def cpu_use(self, domain: Domain) -> CpuUse:
        """The state is asked for after the CPU time: what ran until then was not paused.

        Without libvirt it is not known: a paused guest must not be taken for one that hangs.
        """
        life = self._find_process_watch(domain)
        if life is None or life.ended:
            raise TransportError(f"{domain.name}: its QEMU has ended")
        use = status_files.read_vcpu_use(life.pid)
        try:
            state = (await self._read_libvirt_state(life)).state
            return CpuUse(state, use, self._told_since)
        except LibvirtUnavailableError as error:
            raise TransportError(
                f"{domain.name}: whether it is paused is not known: {error}"
            ) from None

    async def list_active_domains(self) -> list[Domain]:
        self._watch_new_qemus()
        try:
            devices = {device.pid for device in await self._holder.list_qemus()}
        except IvshmemServerError as error:
            _log.warning("%s", error)
            return []
        found = []
        for life in self._list_running_qemus():
            try:
                if life.pid in devices and await is_activated(self._holder, life.pid, life.domain):
                    found.append(life.domain)
            except TransportError as error:
                _log.warning("%s", error)
        return found

    async def connect_domain(self, domain: Domain, timeout: float) -> KvmLink:  # noqa: ASYNC109
        life = self._find_process_watch(domain)
        if life is None or life.ended:
            raise LinkLostError(f"{domain.name}: its QEMU has ended")
        assert self._doorbells is not None, "not started"
        link = await KvmLink.connect_guest(self._holder, life.pid, domain, timeout, self._doorbells)
        if life.ended:
            link.lose_link("its QEMU has ended")
        else:
            self._links.setdefault((domain.uuid, domain.domid), WeakSet()).add(link)
        return link

    async def deactivate_domain(self, domain: Domain) -> None:
        life = self._find_process_watch(domain)
        if life is None or life.ended:
            return
        assert self._doorbells is not None, "not started"
        with contextlib.suppress(FrontendMissingError):
            await KvmLink.end_activation(self._holder, life.pid, domain, self._doorbells)

    async def follow_events(self) -> AsyncIterator[DomainEvent]:
        queue: asyncio.Queue[DomainEvent] = asyncio.Queue()
        self._queues.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._queues.discard(queue)

    # ------------------------------------------------------------------ lives

    def _watch_new_qemus(self) -> None:
        """Meet QEMUs that are new. :raises TransportError: nothing is known."""
        for life in self._list_running_qemus():
            life.check_for_end()
        known = self._list_known_keys()
        for status in self._files.read_all_statuses():
            if (status.uuid, status.pid) not in known:
                with contextlib.suppress(TransportError):  # who asks for it is told
                    self._watch_qemu(status)

    def _watch_qemu(self, status: StatusFile) -> None:
        """:raises TransportError: whether it runs is not to be told."""
        new = QemuProcessWatch.watch_process(status, self._files.directory, self._handle_qemu_end)
        if new is not None:
            self._lives[new.domain.uuid, new.domain.domid] = new

    def _list_known_keys(self) -> set[tuple[str, int]]:
        """UUIDs and processes of those that live."""
        return {(life.domain.uuid, life.pid) for life in self._list_running_qemus()}

    def _list_running_qemus(self) -> list[QemuProcessWatch]:
        return [life for life in self._lives.values() if not life.ended]

    def _find_process_watch(self, domain: Domain) -> QemuProcessWatch | None:
        """:raises TransportError: it may run or not."""
        key = domain.uuid, domain.domid
        if key not in self._lives:
            # Of one file: hundreds may end at once, and each is asked for then.
            status = self._files.read_status_of(domain.name)
            if status is not None and (status.uuid, status.pid) not in self._list_known_keys():
                self._watch_qemu(status)
        return self._lives.get(key)

    def _handle_qemu_end(self, life: QemuProcessWatch) -> None:
        for link in self._links.pop((life.domain.uuid, life.domain.domid), ()):
            link.lose_link("its QEMU has ended")
        self._queue_domain_event(life)
        ended = [key for key, known in self._lives.items() if known.ended]
        for key in ended[:-_MAX_ENDED_PROCESSES]:
            del self._lives[key]

    # ----------------------------------------------------------------- states

    async def _read_libvirt_state(self, life: QemuProcessWatch) -> DomainReport:
        """libvirt. :raises LibvirtUnavailableError:"""
        answer = await self._connection.read_domain_state(life.domain.uuid)
        if answer is None:
            # QEMU lives, or has just ended: then its life says so.
            return DomainReport(DomainState.RUNNING)
        state, reason, disks = answer
        return self._make_domain_report(life, *libvirt_states.decode_state(state, reason), disks)

    def _read_recorded_state(self, life: QemuProcessWatch) -> DomainReport:
        """What libvirtd wrote last, before it went away. :raises TransportError:"""
        status = self._files.read_status_of(life.domain.name)
        if status is not None and (status.uuid, status.pid) == (life.domain.uuid, life.pid):
            return self._make_domain_report(life, status.state, status.reason, {})
        return DomainReport(DomainState.RUNNING)

    def _make_domain_report(
        self, life: QemuProcessWatch, state: str, reason: str, disks: dict[str, str] | Any
    ) -> DomainReport:
        report = libvirt_states.make_report(state, reason)
        if report.state is not DomainState.PAUSED:
            return report
        if (state, reason) == ("paused", "ioerror"):
            why = libvirt_states.describe_disk_errors(disks, life.io_error)
            return DomainReport(report.state, report.cause, why)
        return life.pause or report

    # ----------------------------------------------------------------- events

    def _handle_libvirt_connected(self) -> None:
        """Anything may have happened."""
        self._told_since = time.monotonic()
        self._try_watch_new_qemus()
        self._queue_event(DomainEvent(None))

    def _handle_event(self, uuid: str, kind: str, said: tuple[Any, ...]) -> None:
        """libvirt tells of an event."""
        if kind == "LIFECYCLE" and said[0] in (Lifecycle.STARTED, Lifecycle.RESUMED):
            self._try_watch_new_qemus()
        lives = [life for life in self._lives.values() if life.domain.uuid == uuid]
        for life in lives:
            life.check_for_end()
        if kind == "LIFECYCLE" and said[0] == Lifecycle.STOPPED:
            # Of the last that has ended: another may have begun meanwhile.
            for life in reversed(lives):
                if life.ended:
                    life.explain_end(said[1])
                    break
            return
        if not lives:
            return
        # What comes after QEMU's end is of shortly before it.
        life = lives[-1]
        if kind == "LIFECYCLE":
            self._record_lifecycle_event(life, *said)
            self._queue_domain_event(life)
        else:
            self._queue_domain_event(life, self._make_notice(life, kind, said))

    def _record_lifecycle_event(self, life: QemuProcessWatch, event: int, detail: int) -> None:
        if event == Lifecycle.CRASHED:
            life.said = "panic"
        elif event == Lifecycle.SHUTDOWN and detail == 2:  # VIR_DOMAIN_EVENT_SHUTDOWN_HOST
            life.said = life.said or "signal"
        elif event == Lifecycle.SUSPENDED:
            life.pause = libvirt_states.explain_lasting_pause(detail)
        elif event == Lifecycle.RESUMED:
            life.pause, life.said, life.io_error = None, "", ""

    def _make_notice(
        self, life: QemuProcessWatch, kind: str, said: tuple[Any, ...]
    ) -> Notice | None:
        if kind == "REBOOT":
            # Of each reset, whoever has asked for it (qemuProcessHandleReset(), libvirt 9.0).
            return Notice("reboot", "the guest reboots", reset=True)
        if kind == "WATCHDOG":
            if said[0] in libvirt_states.WATCHDOG_POWEROFF_ACTIONS:
                life.said = "watchdog"
            return libvirt_states.make_watchdog_notice(said[0])
        if kind == "MEMORY_FAILURE":
            return libvirt_states.make_memory_notice(said[0], said[1])
        if kind == "IO_ERROR_REASON":
            path, alias, action, reason = said
            life.io_error = libvirt_states.describe_io_error(path, alias, reason)
            return libvirt_states.make_io_error_notice(life.io_error, action)
        return None

    def _try_watch_new_qemus(self) -> None:
        try:
            self._watch_new_qemus()
        except TransportError as error:
            _log.warning("%s", error)

    def _queue_domain_event(self, life: QemuProcessWatch, notice: Notice | None = None) -> None:
        self._queue_event(DomainEvent(life.domain.domid, notice))

    def _queue_event(self, event: DomainEvent) -> None:
        # One that begins to wait for more than it can look at loses states, which are asked
        # for again; a reset is told once.
        most = (
            _MAX_QUEUED_RESETS
            if event.notice is not None and event.notice.reset
            else _MAX_QUEUED_EVENTS
        )
        for queue in self._queues:
            if queue.qsize() < most:
                queue.put_nowait(event)
