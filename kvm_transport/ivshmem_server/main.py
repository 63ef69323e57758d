# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line of ``vesper-ivshmem``: vesper-ivshmem(8)."""

from __future__ import annotations

import argparse
import fcntl
import grp
import logging
import os
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from kvm_transport.ivshmem_server.server import IvshmemServer
from kvm_transport.ivshmem_server.vm import ROLES
from vesper_monitor.util import sdnotify

__all__ = ["main"]

_log = logging.getLogger(__name__)

#: Groups that QEMU runs as, by distribution: the first that exists.
_QEMU_GROUPS = ("libvirt-qemu", "qemu", "kvm")
#: Descriptors that are not a VM's.
_RESERVED_DESCRIPTORS = 128


def _parse_size_mib(text: str) -> int:
    megabytes = int(text)
    if not 1 <= megabytes <= 1024 or megabytes & (megabytes - 1):
        raise argparse.ArgumentTypeError("a power of two from 1 to 1024 is needed")
    return megabytes << 20


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="vesper-ivshmem",
        description="Shared memory for VESPER's guests on QEMU.",
        epilog="See vesper-ivshmem(8).",
    )
    parser.add_argument(
        "--directory", type=Path, default=Path("/run/vesper-ivshmem"), metavar="DIR",
        help="where the sockets are (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--size",
        type=_parse_size_mib,
        default=16 << 20,
        metavar="MIB",
        help="of each VM's memory (16)",
    )
    parser.add_argument(
        "--max-vms", type=int, default=256, metavar="N", help="devices that it holds at most (256)"
    )
    parser.add_argument(
        "--group",
        metavar="NAME",
        help=f"that QEMU runs as (the first of {', '.join(_QEMU_GROUPS)})",
    )
    return parser.parse_args(argv)


def _find_qemu_gid(wanted: str | None) -> int:
    for name in [wanted] if wanted else _QEMU_GROUPS:
        try:
            return grp.getgrnam(name).gr_gid
        except KeyError:
            continue
    if wanted:
        sys.exit(f"vesper-ivshmem: no group {wanted}")
    return -1


def _count_affordable_vms(max_vms: int) -> int:
    """Each VM has descriptors, and a connection of ``vesperd``."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    limit = (hard - _RESERVED_DESCRIPTORS) // (len(ROLES) + 1)
    if limit < max_vms:
        _log.warning("%d VMs at most: the limit of open files is %d", limit, hard)
    return max(1, min(max_vms, limit))


def main(argv: Sequence[str] | None = None) -> int:
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    options = _parse_arguments(argv)
    try:
        options.directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        lock = os.open(options.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        holder = IvshmemServer(
            options.directory,
            size=options.size,
            max_vms=_count_affordable_vms(options.max_vms),
            gid=_find_qemu_gid(options.group),
        )
    except BlockingIOError:
        _log.error("%s: another vesper-ivshmem is listening there", options.directory)
        return 1
    except OSError as error:
        _log.error("%s: cannot listen: %s", options.directory, error)
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: holder.request_stop())
    sdnotify.notify_systemd("READY=1")
    _log.info("listening in %s (process %d)", options.directory, os.getpid())
    holder.serve_until_stopped()
    holder.close_all_sockets()
    return 0
