# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's processes: which one is which domain, and what their threads do.

libvirt's QEMU driver keeps two files of each domain that runs, also while no
libvirtd is there: ``NAME.xml``, its status (``qemuDomainObjPrivateXMLFormat()``,
src/qemu/qemu_domain.c, libvirt 9.0), and ``NAME.pid``, on which the process
itself holds a lock from before it becomes QEMU until its end
(``virPidFileAcquirePath()``).  So no process that has got the number of a dead
QEMU is taken for it, and nothing is believed that QEMU says of itself.
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
#: Of a file's content: its inode and time, as libvirt puts a new file in its place.
_FileMark = tuple[int, int]
_VCPU_THREAD_NAME = re.compile(r"CPU (\d+)/(?:KVM|TCG)")
#: Of one status file; a domain with hundreds of devices has some 300 KiB.
MAX_STATUS_BYTES = 16 << 20


@dataclass(frozen=True)
class StatusFile:
    """What libvirt has written of a domain last."""

    name: str
    uuid: str
    pid: int
    #: libvirt's words, as of :func:`kvm_transport.libvirt_states.decode_state`
    state: str
    reason: str


class StatusFiles:
    """The status files in libvirt's run directory. Each is read when it has changed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._read: dict[str, tuple[_FileMark, StatusFile | None]] = {}

    def read_all_statuses(self) -> list[StatusFile]:
        """But for those that are broken, which :meth:`read_status_of` tells.

        :raises TransportError: they cannot be read, so nothing is known.
        """
        read = {}
        try:
            # What libvirtd has never made holds no domain.
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
        """One domain's; None: it has none.

        :raises TransportError: it cannot be read.
        """
        if (why := explain_bad_name(name)) is not None:
            raise TransportError(f"{name[:80]!r} is not the name of a domain: {why}")
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
        """
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
    """None: it does not run. :raises TransportError:"""
    try:
        root = parse_xml(data)
    except ValueError as error:
        raise TransportError(f"{path}: not a status file of libvirt's: {error}") from None
    name, uuid = root.findtext("domain/name"), root.findtext("domain/uuid")
    pid = root.get("pid", "")
    if root.tag != "domstatus" or not name or not uuid or not pid.isdecimal() or pid == "0":
        return None
    if f"{name}.xml" != path.name:
        raise TransportError(f"{path}: it is about another domain: {name[:80]!r}")
    return StatusFile(
        name, uuid, int(pid), root.get("state", "nostate"), root.get("reason", "unknown")
    )


def is_lock_holder(pid: int, path: Path) -> bool:
    """Whether that process is the one that locks a pid file.

    :raises TransportError: the file cannot be read.
    """
    try:
        return lock_holder(str(path.parent), path.name) == pid
    except OSError as error:
        raise TransportError(f"{path}: {error.strerror}") from None


def process_start_time(pid: int) -> int | None:
    """When a process began, in 1/100 s since the host's boot; None: there is none."""
    try:
        return int(_read_proc_stat(f"/proc/{pid}/stat")[19])
    except OSError:
        return None


def read_vcpu_use(pid: int) -> tuple[VcpuUse, ...]:
    """The virtual CPUs: threads of QEMU's, which libvirt has it name.

    What wakes one that sleeps may be QEMU's main thread: while that waits for
    a CPU of the host, for a disk, or is stopped, so does the virtual one.

    :raises TransportError: QEMU has ended, or its threads are not to be told apart.
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
        raise TransportError(f"QEMU (process {pid}) has no thread of each virtual CPU")
    return tuple(sorted(found, key=lambda use: use.cpu))


def _make_vcpu_use(cpu: int, fields: list[str], main_waits: bool) -> VcpuUse:
    ran = (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
    # A stopped process's threads could run, but for that.
    asleep = VcpuState.RUNNABLE if main_waits else VcpuState.BLOCKED
    states = {"R": VcpuState.RUNNING, "S": asleep}
    return VcpuUse(cpu, ran, states.get(fields[0], VcpuState.RUNNABLE))


def _read_proc_stat(path: str) -> list[str]:
    """proc(5), from the state on: the name before it may hold anything."""
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read().rpartition(") ")[2].split()
