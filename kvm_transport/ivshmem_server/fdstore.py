# SPDX-License-Identifier: GPL-2.0-or-later
"""systemd's descriptor store: what it keeps for the next life of this process.

sd_pid_notify_with_fds(3) and sd_listen_fds_with_names(3), systemd 252.  Each
descriptor of a VM has a name of its own, ``PID.MICROSECONDS.ROLE``.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Mapping

from kvm_transport.ivshmem_server.vm import ROLES, VmDevice
from vesper_monitor.util import sdnotify

__all__ = ["adopt_kept_vms", "forget_descriptors", "group_descriptor_names", "keep_descriptors"]

_FIRST_DESCRIPTOR = 3  # SD_LISTEN_FDS_START
_DESCRIPTOR_NAME = re.compile(rf"(\d{{1,10}})\.(\d{{1,17}})\.({'|'.join(ROLES)})", re.ASCII)


def _descriptor_name(vm: VmDevice, role: str) -> str:
    return f"{vm.pid}.{round(vm.since * 1e6)}.{role}"


def keep_descriptors(vm: VmDevice) -> None:
    """Does nothing where systemd did not start us."""
    for role, descriptor in vm.descriptors.items():
        sdnotify.notify_systemd(
            "FDSTORE=1", f"FDNAME={_descriptor_name(vm, role)}", descriptors=[descriptor]
        )


def forget_descriptors(vm: VmDevice) -> None:
    for role in ROLES:
        sdnotify.notify_systemd("FDSTOREREMOVE=1", f"FDNAME={_descriptor_name(vm, role)}")


def group_descriptor_names(names: Iterable[str]) -> dict[tuple[int, int], dict[str, int]]:
    """(PID, µs) → role → position in ``names``, of those that are ours."""
    found: dict[tuple[int, int], dict[str, int]] = {}
    for at, name in enumerate(names):
        match = _DESCRIPTOR_NAME.fullmatch(name)
        if match is not None:
            found.setdefault((int(match[1]), int(match[2])), {})[match[3]] = at
    return found


def adopt_kept_vms(environ: Mapping[str, str] = os.environ) -> list[VmDevice]:
    """The VMs whose descriptors an earlier life of this process has kept.

    What is incomplete (its QEMU has gone meanwhile, and systemd has dropped
    the connection) is closed.
    """
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    names = environ.get("LISTEN_FDNAMES", "").split(":")[: int(environ.get("LISTEN_FDS", "0"))]
    unused = {_FIRST_DESCRIPTOR + at for at in range(len(names))}
    vms = []
    for (pid, microseconds), positions in group_descriptor_names(names).items():
        descriptors = {role: _FIRST_DESCRIPTOR + at for role, at in positions.items()}
        if set(descriptors) != set(ROLES) or not _check_descriptor_types(descriptors):
            for role in ROLES:
                sdnotify.notify_systemd("FDSTOREREMOVE=1", f"FDNAME={pid}.{microseconds}.{role}")
            continue
        unused -= set(descriptors.values())
        for descriptor in descriptors.values():
            os.set_inheritable(descriptor, False)
        vms.append(VmDevice.adopt_descriptors(pid, microseconds / 1e6, descriptors))
    for descriptor in unused:
        os.close(descriptor)
    return vms


def _check_descriptor_types(descriptors: Mapping[str, int]) -> bool:
    """What is to be used as a socket and as memory is one."""
    try:
        return stat.S_ISSOCK(os.fstat(descriptors["qemu"]).st_mode) and stat.S_ISREG(
            os.fstat(descriptors["memory"]).st_mode
        )
    except OSError:
        return False
