# SPDX-License-Identifier: GPL-2.0-or-later
"""A ready cluster of two hosts, saved once and resumed for every test."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lab import images
from lab.images import store
from lab.progress import show_step
from lab.xen import disk, host
from lab.xen.accelerator import Accelerator

__all__ = ["SavedCluster", "load_saved_cluster", "make_overlays"]

#: Commands that each host runs before it is saved.  They read what tests need into the
#: page cache, which is saved with the memory.
WARM = f"""
cat {disk.GUEST_KERNEL} >/dev/null
xl info; xl list; crm_mon -1; crm_resource --list; crm configure show
crm ra info ocf:heartbeat:Xen; crm_verify -L
/usr/bin/python3 -c 'import asyncio, sqlite3, json, lxml.etree, pyxs, importlib.metadata'
OCF_ROOT=/usr/lib/ocf OCF_RESKEY_xmfile=/none /usr/lib/ocf/resource.d/heartbeat/Xen monitor
cat /usr/lib/xen-4.17/bin/* /etc/xen/scripts/* /usr/sbin/iptables >/dev/null
sync
"""


@dataclass(frozen=True)
class SavedCluster:
    """The files of a saved cluster, by host (``a``, ``b``)."""

    memory: dict[str, Path]
    disk: dict[str, Path]


class BootedHosts(Protocol):
    """Hosts that run: a :class:`lab.xen.lab.XenLab`."""

    hosts: list[host.XenHost]


def make_overlays(base: Path, folder: Path) -> dict[str, str]:
    """Make an overlay of the common disk for each host; return QEMU's drive options."""
    drives = {}
    for me in host.HOSTS:
        path = folder / f"{me.key}.qcow2"
        store.run_build_command(
            ["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", path], timeout=30
        )
        drives[me.key] = f"file={path},format=qcow2,cache=unsafe"
    return drives


def load_saved_cluster(
    boot_cluster: Callable[[Path], AbstractContextManager[BootedHosts]], accelerator: Accelerator
) -> SavedCluster:
    """Return the saved cluster; boot and save it first if there is none (1 to 3 minutes).

    :param boot_cluster: boots both hosts and their cluster; keeps the disks' changes as
        overlays in the folder that it is given.
    :param accelerator: of the hosts.
    :raises LabError: the cluster does not come up.
    """
    kernel = images.kernel_of_tree()
    base, initrd = disk.build_host_disk(kernel), disk.build_dom0_initrd(kernel)

    def save_hosts(directory: Path) -> None:
        with boot_cluster(directory) as lab:
            for machine in lab.hosts:
                machine.run_command(WARM, timeout=240)
            with show_step("saving the hosts"):
                machines = [machine.open_qmp() for machine in lab.hosts]
                for qmp in machines:
                    qmp.execute_command("stop")
                for qmp, machine in zip(machines, lab.hosts, strict=True):
                    qmp.save_machine(directory / f"{machine.identity.key}.ram", timeout=120)
                    qmp.close()

    key = store.hash_inputs(str(base), str(initrd), host.XEN, host.DOM0, WARM, *accelerator)
    directory = store.build_image(
        "cluster", key, save_hosts, what="making a ready cluster of two hosts"
    )
    keys = [me.key for me in host.HOSTS]
    return SavedCluster(
        memory={key: directory / f"{key}.ram" for key in keys},
        disk={key: directory / f"{key}.qcow2" for key in keys},
    )
