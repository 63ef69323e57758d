# SPDX-License-Identifier: GPL-2.0-or-later
"""One QEMU process, watched until its end.

``Domain.domid`` is the time at which QEMU was started, in 1/100 s since the host's
boot.  It does not depend on who asks or on restarts of libvirtd.  Each start of a
domain has another one, and a later start has a greater one.  libvirt reuses its own
numbers once all domains have ended, and the kernel reuses process numbers soon.
"""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Callable
from pathlib import Path

from kvm_transport import libvirt_states, status_files
from kvm_transport.status_files import StatusFile
from vesper_monitor.hypervisor.transport import Domain, DomainReport, TransportError

__all__ = ["QemuProcessWatch"]

#: For libvirt to report why QEMU has ended.
END_REASON_LIMIT_S = 1.0


class QemuProcessWatch:
    """One QEMU process and what is known of it. Made by :meth:`watch_process`."""

    def __init__(
        self, domain: Domain, pid: int, pidfd: int, on_end: Callable[[QemuProcessWatch], None]
    ) -> None:
        self.domain = domain
        self.pid = pid
        #: what QEMU did last, see said_before of libvirt_states.make_end_report()
        self.said = ""
        #: a pause whose cause libvirt's state does not show
        self.pause: DomainReport | None = None
        #: where the last I/O error was
        self.io_error = ""
        self.ended = False
        self._pidfd = pidfd
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._end: asyncio.Future[DomainReport] = self._loop.create_future()
        self._loop.add_reader(pidfd, self.check_for_end)

    @classmethod
    def watch_process(
        cls, status: StatusFile, directory: Path, on_end: Callable[[QemuProcessWatch], None]
    ) -> QemuProcessWatch | None:
        """Watch the QEMU of a status file; return None if it has ended.

        :param directory: of libvirt's pid files.
        :param on_end: called as soon as QEMU ends.
        :raises TransportError: it is unknown whether that QEMU runs.
        """
        pid_file = directory / f"{status.name}.pid"
        # Never open a pidfd of another process, not even for a moment.
        if not status_files.is_lock_holder(status.pid, pid_file):
            return None
        try:
            pidfd = os.pidfd_open(status.pid)
        except ProcessLookupError:
            return None
        try:
            began = status_files.process_start_time(status.pid)
            if began is None and not _has_process_ended(pidfd):
                raise TransportError(
                    f"QEMU (process {status.pid}) does not show in /proc: is that mounted with "
                    "hidepid? vesperd's service needs CAP_SYS_PTRACE then"
                )
            # The pid file and /proc were read by number.  They are about the process of the
            # pidfd if that process still runs.
            if (
                began is not None
                and status_files.is_lock_holder(status.pid, pid_file)
                and not _has_process_ended(pidfd)
            ):
                domain = Domain(status.name, began, status.uuid)
                life = cls(domain, status.pid, pidfd, on_end)
                pidfd = -1
                return life
        finally:
            if pidfd >= 0:
                os.close(pidfd)
        return None

    def check_for_end(self) -> None:
        """Call ``on_end`` if QEMU has ended since the last check."""
        if not self.ended and _has_process_ended(self._pidfd):
            self.ended = True
            self.close()
            self._on_end(self)

    def close(self) -> None:
        """Watch it no longer. Idempotent."""
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def explain_end(self, detail: int | None) -> bool:
        """Record why QEMU has ended, and return whether that was unknown before.

        :param detail: see :func:`kvm_transport.libvirt_states.make_end_report`.
        """
        if self._end.done():
            return False
        self._end.set_result(libvirt_states.make_end_report(detail, self.said))
        return True

    async def wait_for_report(self, *, wait: bool) -> DomainReport:
        """Return why QEMU has ended. Call it after its end.

        :param wait: give libvirt :data:`END_REASON_LIMIT_S` to report the cause.
        """
        if wait and not self._end.done():
            try:
                async with asyncio.timeout(END_REASON_LIMIT_S):
                    return await asyncio.shield(self._end)
            except TimeoutError:
                pass
        self.explain_end(None)
        return self._end.result()


def _has_process_ended(pidfd: int) -> bool:
    """Return whether the process has ended: its pidfd is readable from then on."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))
