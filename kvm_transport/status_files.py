# SPDX-License-Identifier: GPL-2.0-or-later
"""libvirt's files of running domains, and the threads of their QEMUs.

libvirt's QEMU driver keeps two files of each running domain, also while no
libvirtd runs: ``NAME.xml``, its status (``qemuDomainObjPrivateXMLFormat()``,
src/qemu/qemu_domain.c, libvirt 9.0), and ``NAME.pid``, on which the process
itself holds a lock from before it becomes QEMU until its end
(``virPidFileAcquirePath()``).  So a process that has the number of an earlier QEMU is
not taken for it, and nothing depends on what QEMU says of itself.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from vesper_monitor.hypervisor.qemu_process import lock_holder
from vesper_monitor.hypervisor.transport import TransportError, VcpuState, VcpuUse
from vesper_monitor.util.regular_file import is_refused, read_regular
from vesper_monitor.util.vm_name import explain_bad_name
from vesper_monitor.util.xml_parser import parse_xml

__all__ = ["StatusFile", "StatusFiles", "is_lock_holder", "process_start_time", "read_vcpu_use"]

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
#: Inode and time of a file: libvirt replaces a file to change it.
_FileMark = tuple[int, int]
_VCPU_THREAD_NAME = re.compile(r"CPU (\d+)/(?:KVM|TCG)")
#: Of a status file.  That of a domain with hundreds of devices has some 300 KiB.
MAX_STATUS_BYTES = 16 << 20


@dataclass(frozen=True)
class StatusFile:
    """The status file of a domain, as libvirt wrote it last."""

    name: str
    uuid: str
    pid: int
    #: libvirt's words, as of :func:`kvm_transport.libvirt_states.decode_state`
    state: str
    reason: str


class StatusFiles:
    """The status files in libvirt's run directory. A file is read only if it has changed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._read: dict[str, tuple[_FileMark, StatusFile | None]] = {}

    def read_all_statuses(self) -> list[StatusFile]:
        """Return all status files, without broken ones: :meth:`read_status_of` reports these.

        :raises TransportError: the directory or a file cannot be read.
        """
        read = {}
        try:
            # libvirtd creates the directory when it first starts.
            entries = list(os.scandir(self.directory)) if self.directory.exists() else []
            for entry in entries:
                if not entry.name.endswith(".xml"):
                    continue
                try:
                    read[entry.name] = self._read_if_changed(entry.name)
                except (FileNotFoundError, TransportError):
                    continue  # its domain has just ended, or it is broken
        except OSError as error:
            raise TransportError(f"libvirt's status files: {error}") from None
        self._read = read
        return [status for _, status in read.values() if status is not None]

    def read_status_of(self, name: str) -> StatusFile | None:
        """Return the status file of one domain; None if it has none.

        :raises TransportError: the file cannot be read.
        """
        if (why := explain_bad_name(name)) is not None:
            raise TransportError(f"{name[:80]!r} cannot be the name of a domain: {why}")
        file = f"{name}.xml"
        try:
            known = self._read_if_changed(file)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise TransportError(f"{self.directory / file}: {error.strerror}") from None
        self._read[file] = known
        return known[1]

    def _read_if_changed(self, file: str) -> tuple[_FileMark, StatusFile | None]:
        """Return the file's mark and content; read it only if the mark has changed.

        :raises OSError: the directory or the file cannot be read.
        :raises TransportError: the file is not libvirt's, or is broken.
        """
        path = self.directory / file
        status = path.lstat()
        mark = status.st_ino, status.st_mtime_ns
        known = self._read.get(file)
        if known is not None and known[0] == mark:
            return known
        try:
            data = read_regular(str(self.directory), file, MAX_STATUS_BYTES)
        except OSError as error:
            if is_refused(error):
                raise TransportError(f"{path}: not a status file of libvirt's: {error.strerror}"
                                     ) from None  # fmt: skip
            raise
        return mark, _parse_status(path, data)


def _parse_status(path: Path, data: bytes) -> StatusFile | None:
    """Parse a status file; return None if the domain does not run. :raises TransportError:"""
    try:
        root = parse_xml(data)
    except ValueError as error:
        raise TransportError(f"{path}: not a status file of libvirt's: {error}") from None
    name, uuid = root.findtext("domain/name"), root.findtext("domain/uuid")
    pid = root.get("pid", "")
    if root.tag != "domstatus" or not name or not uuid or not pid.isdecimal() or pid == "0":
        return None
    if f"{name}.xml" != path.name:
        raise TransportError(f"{path}: the file is about another domain: {name[:80]!r}")
    return StatusFile(
        name, uuid, int(pid), root.get("state", "nostate"), root.get("reason", "unknown")
    )


def is_lock_holder(pid: int, path: Path) -> bool:
    """Return whether that process holds the lock of a pid file.

    :raises TransportError: the file cannot be read.
    """
    try:
        return lock_holder(str(path.parent), path.name) == pid
    except OSError as error:
        raise TransportError(f"{path}: {error.strerror}") from None


def process_start_time(pid: int) -> int | None:
    """Return when a process began, in 1/100 s since the host's boot; None: there is none."""
    try:
        return int(_read_proc_stat(f"/proc/{pid}/stat")[19])
    except OSError:
        return None


def read_vcpu_use(pid: int) -> tuple[VcpuUse, ...]:
    """Return the CPU time and the state of each virtual CPU: threads that QEMU names.

    QEMU's main thread may have to wake a virtual CPU that sleeps.  If the main thread waits
    for a CPU of the host or for a disk, or is stopped, the virtual CPU waits, too.

    :raises TransportError: QEMU has ended, or its threads have no names.
    """
    tasks = Path(f"/proc/{pid}/task")
    found = []
    try:
        main_waits = _read_proc_stat(f"{tasks}/{pid}/stat")[0] != "S"
        for thread in os.listdir(tasks):
            try:
                match = _VCPU_THREAD_NAME.fullmatch((tasks / thread / "comm").read_text().strip())
                if match is not None:
                    fields = _read_proc_stat(f"{tasks}/{thread}/stat")
                    found.append(_make_vcpu_use(int(match[1]), fields, main_waits))
            except (FileNotFoundError, ProcessLookupError):
                continue  # a thread that has just ended
    except OSError as error:
        raise TransportError(f"threads of QEMU (process {pid}): {error}") from None
    if not found:
        raise TransportError(f"QEMU (process {pid}) has no threads named after virtual CPUs")
    return tuple(sorted(found, key=lambda use: use.cpu))


def _make_vcpu_use(cpu: int, fields: list[str], main_waits: bool) -> VcpuUse:
    ran = (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
    # A stopped thread counts as runnable: it does not sleep of itself.
    asleep = VcpuState.RUNNABLE if main_waits else VcpuState.BLOCKED
    states = {"R": VcpuState.RUNNING, "S": asleep}
    return VcpuUse(cpu, ran, states.get(fields[0], VcpuState.RUNNABLE))


def _read_proc_stat(path: str) -> list[str]:
    """Return the fields of a stat file of proc(5), from the state on.

    The name before it may hold any characters.
    """
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read().rpartition(") ")[2].split()
