# SPDX-License-Identifier: GPL-2.0-or-later
"""libvirt's QEMU processes: what is known while libvirtd does not answer.

The process that libvirt starts locks its pid file (fcntl(2)) before it becomes
QEMU, and keeps that until it ends (libvirt 9.0, src/util/vircommand.c).  So
the kernel itself says whether a domain's QEMU lives and which process it is;
a number in a file may long be another's.

The agent must start fast: little is imported.
"""

from __future__ import annotations

import fcntl
import os
import struct

__all__ = ["find_domain_name", "find_qemu_pid", "list_running", "lock_holder", "pid_file_folder"]

#: struct flock: type, whence, start, length, PID (64 bit).
_FLOCK = "hhqqi4x"


def pid_file_folder() -> str:
    """Of the pid files: ``$VESPER_QEMU_RUN``, or that of libvirt's system daemon."""
    return os.environ.get("VESPER_QEMU_RUN") or "/run/libvirt/qemu"


def lock_holder(directory: str, name: str) -> int | None:
    """The PID of the process that locks a pid file; None: none does, or there is no file.

    Only who may write to a file can lock it so: the file must be libvirt's.

    :raises OSError: there is no telling.
    """
    from vesper_monitor.util.regular_file import open_regular

    try:
        with open(open_regular(directory, name), "rb") as file:
            wanted = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            answer = fcntl.fcntl(file, fcntl.F_GETLK, wanted)
    except FileNotFoundError:
        return None
    kind, _, _, _, pid = struct.unpack(_FLOCK, answer)
    return None if kind == fcntl.F_UNLCK or pid <= 0 else int(pid)


def find_qemu_pid(name: str) -> int | None:
    """The PID of a domain's QEMU, beyond doubt; None: it has none that is known.

    :raises OSError: there is no telling.
    """
    pid = lock_holder(pid_file_folder(), f"{name}.pid")
    return pid if pid is not None and find_domain_name(pid) == name else None


def list_running() -> dict[str, int]:
    """The PIDs of all QEMUs by their domains' names.

    Also of those without a pid file: a QEMU that runs must never be missed.
    One in a container has the container's libvirt.

    :raises OSError: libvirt has no such folder here.
    """
    found: dict[str, int] = {}
    for entry in os.listdir("/proc"):
        if (
            entry.isdecimal()
            and (name := find_domain_name(int(entry)))
            and _is_in_own_namespace(entry)
        ):
            found[name] = int(entry)
    for entry in os.listdir(pid_file_folder()):
        if entry.endswith(".pid") and (pid := find_qemu_pid(entry.removesuffix(".pid"))):
            found[entry.removesuffix(".pid")] = pid
    return found


def _is_in_own_namespace(pid: str) -> bool:
    """Whether a process is in this one's PID namespace."""
    try:
        return os.stat(f"/proc/{pid}/ns/pid").st_ino == os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return False  # it has just ended


def find_domain_name(pid: int) -> str:
    """The domain whose QEMU a process is by its own words; empty: none.

    libvirt passes ``-name guest=NAME,debug-threads=on``, with commas doubled.
    """
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read(65536).split(b"\0")
    except OSError:
        return ""
    try:
        value = words[words.index(b"-name", 1) + 1].replace(b",,", b"\0")
    except (ValueError, IndexError):
        return ""
    guest, equals, name = value.partition(b",")[0].partition(b"=")
    if guest != b"guest" or not equals:
        return ""
    return os.fsdecode(name.replace(b"\0", b","))
