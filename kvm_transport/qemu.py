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

from vesper_monitor.qemu_process import lock_holder
from vesper_monitor.transport import TransportError, VcpuState, VcpuUse
from vesper_monitor.xml_parser import parse_xml

__all__ = ["StatusFile", "StatusFiles", "holds", "started", "vcpus"]

_TICKS = os.sysconf("SC_CLK_TCK")
#: Of a file's content: its inode and time, as libvirt puts a new file in its place.
_Mark = tuple[int, int]
_VCPU = re.compile(r"CPU (\d+)/(?:KVM|TCG)")


@dataclass(frozen=True)
class StatusFile:
    """What libvirt has written of a domain last."""

    name: str
    uuid: str
    pid: int
    #: libvirt's words, as of :func:`kvm_transport.states.words`
    state: str
    reason: str


class StatusFiles:
    """The status files in libvirt's run directory. Each is read when it has changed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._read: dict[str, tuple[_Mark, StatusFile | None]] = {}

    def read(self) -> list[StatusFile]:
        """But for those that are broken, which :meth:`of` tells.

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
                    read[entry.name] = self._if_changed(entry)
                except (FileNotFoundError, TransportError):
                    continue  # its domain has just ended, or it is broken
        except OSError as error:
            raise TransportError(f"libvirt's status files: {error}") from None
        self._read = read
        return [status for _, status in read.values() if status is not None]

    def of(self, name: str) -> StatusFile | None:
        """One domain's; None: it has none.

        :raises TransportError: it cannot be read.
        """
        path = self.directory / f"{name}.xml"
        try:
            known = self._if_changed(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise TransportError(f"{path}: {error}") from None
        self._read[path.name] = known
        return known[1]

    def _if_changed(self, file: os.DirEntry[str] | Path) -> tuple[_Mark, StatusFile | None]:
        """:raises OSError: raises as :func:`_parse`"""
        status = file.stat()
        mark = status.st_ino, status.st_mtime_ns
        known = self._read.get(file.name)
        return known if known is not None and known[0] == mark else (mark, _parse(Path(file)))


def _parse(path: Path) -> StatusFile | None:
    """None: it does not run. :raises TransportError:"""
    try:
        root = parse_xml(path.read_bytes())
    except ValueError as error:
        raise TransportError(f"{path}: not a status file of libvirt's: {error}") from None
    name, uuid = root.findtext("domain/name"), root.findtext("domain/uuid")
    pid = root.get("pid", "")
    if root.tag != "domstatus" or not name or not uuid or not pid.isdecimal() or pid == "0":
        return None
    return StatusFile(
        name, uuid, int(pid), root.get("state", "nostate"), root.get("reason", "unknown")
    )


def holds(pid: int, path: Path) -> bool:
    """Whether that process is the one that locks a pid file.

    :raises TransportError: the file cannot be read.
    """
    try:
        return lock_holder(str(path)) == pid
    except OSError as error:
        raise TransportError(f"{path}: {error}") from None


def started(pid: int) -> int | None:
    """When a process began, in 1/100 s since the host's boot; None: there is none."""
    try:
        return int(_stat(f"/proc/{pid}/stat")[19])
    except OSError:
        return None


def vcpus(pid: int) -> tuple[VcpuUse, ...]:
    """The virtual CPUs: threads of QEMU's, which libvirt has it name.

    What wakes one that sleeps may be QEMU's main thread: while that waits for
    a CPU of the host, for a disk, or is stopped, so does the virtual one.

    :raises TransportError: QEMU has ended, or its threads are not to be told apart.
    """
    tasks = Path(f"/proc/{pid}/task")
    found = []
    try:
        main_waits = _stat(f"{tasks}/{pid}/stat")[0] != "S"
        for thread in os.listdir(tasks):
            try:
                match = _VCPU.fullmatch((tasks / thread / "comm").read_text().strip())
                if match is not None:
                    fields = _stat(f"{tasks}/{thread}/stat")
                    found.append(_vcpu(int(match[1]), fields, main_waits))
            except (FileNotFoundError, ProcessLookupError):
                continue  # a thread that has just ended
    except OSError as error:
        raise TransportError(f"threads of QEMU (process {pid}): {error}") from None
    if not found:
        raise TransportError(f"QEMU (process {pid}) has no thread of each virtual CPU")
    return tuple(sorted(found, key=lambda use: use.cpu))


def _vcpu(cpu: int, fields: list[str], main_waits: bool) -> VcpuUse:
    ran = (int(fields[11]) + int(fields[12])) / _TICKS
    # A stopped process's threads could run, but for that.
    asleep = VcpuState.RUNNABLE if main_waits else VcpuState.BLOCKED
    states = {"R": VcpuState.RUNNING, "S": asleep}
    return VcpuUse(cpu, ran, states.get(fields[0], VcpuState.RUNNABLE))


def _stat(path: str) -> list[str]:
    """proc(5), from the state on: the name before it may hold anything."""
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read().rpartition(") ")[2].split()
