# SPDX-License-Identifier: GPL-2.0-or-later
"""One life of a domain, from the first sight of its QEMU to that one's end.

``Domain.domid`` is when QEMU was started, in 1/100 s since the host's boot: the
same whoever asks and however often libvirtd is started anew; another one for
each life of the same domain; and the later, the greater.  libvirt's own number
is given again once all domains have ended, and a process's soon after.
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

#: s for libvirt to say why QEMU has ended.
END_REASON_LIMIT_S = 1.0


class QemuProcessWatch:
    """Made by :meth:`watch_process`."""

    def __init__(
        self, domain: Domain, pid: int, pidfd: int, on_end: Callable[[QemuProcessWatch], None]
    ) -> None:
        self.domain = domain
        self.pid = pid
        #: what QEMU did of late that tells why it ends, as of states.end()
        self.said = ""
        #: a pause that libvirt's state does not explain
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
        """None: that QEMU has ended.

        :param on_end: called when it ends, at once.
        :raises TransportError: not to be told.
        """
        pid_file = directory / f"{status.name}.pid"
        # Nobody else's process is held, not even for a moment.
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
            # All that was asked by number is of the process that we hold, if it lives.
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
        """Notice its end, if it has come."""
        if not self.ended and _has_process_ended(self._pidfd):
            self.ended = True
            self.close()
            self._on_end(self)

    def close(self) -> None:
        """Watch it no longer. May be called twice."""
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def explain_end(self, detail: int | None) -> bool:
        """libvirt says why it has ended, as of states.end(). :returns: whether that is new."""
        if self._end.done():
            return False
        self._end.set_result(libvirt_states.make_end_report(detail, self.said))
        return True

    async def wait_for_report(self, *, wait: bool) -> DomainReport:
        """After its end.

        :param wait: libvirt may still say why; not for long.
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
    """pidfd_open(2): readable from then on."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))
