# SPDX-License-Identifier: GPL-2.0-or-later
"""Finds libvirt's QEMU processes while libvirtd does not answer.

The process that libvirt starts locks its pid file (fcntl(2)) before it becomes
QEMU, and holds the lock until it ends (libvirt 9.0, src/util/vircommand.c). So the
kernel says whether a domain's QEMU lives, and which process it is. The number in
the file may belong to another process by now.

The agent must start fast, so this module imports little.
"""

from __future__ import annotations

import fcntl
import os
import struct

__all__ = ["find_domain_name", "find_qemu_pid", "list_running", "lock_holder", "pid_file_folder"]

#: struct flock: type, whence, start, length, PID (64 bit).
_FLOCK = "hhqqi4x"


def pid_file_folder() -> str:
    """Return the directory of the pid files: ``$VESPER_QEMU_RUN``, else libvirt's own."""
    return os.environ.get("VESPER_QEMU_RUN") or "/run/libvirt/qemu"


def lock_holder(directory: str, name: str) -> int | None:
    """Return the PID of the process that locks a pid file; None: none does, or no file.

    Only a process that may write to a file can lock it so: the file must be libvirt's.

    :raises OSError: unknown.
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
    """Return the PID of a domain's QEMU, beyond doubt; None: none is known.

    :raises OSError: unknown.
    """
    pid = lock_holder(pid_file_folder(), f"{name}.pid")
    return pid if pid is not None and find_domain_name(pid) == name else None


def list_running() -> dict[str, int]:
    """Return the PIDs of all QEMUs by their domains' names.

    QEMUs without a pid file are included: a running QEMU must never be missed. A
    QEMU in a container belongs to the container's libvirt and is left out.

    :raises OSError: libvirt has no directory of pid files here.
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
    """Return whether a process is in this process's PID namespace."""
    try:
        return os.stat(f"/proc/{pid}/ns/pid").st_ino == os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return False  # it has just ended


def find_domain_name(pid: int) -> str:
    """Return the domain that a process names on its command line; empty: none.

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
