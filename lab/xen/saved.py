# SPDX-License-Identifier: GPL-2.0-or-later
"""A ready cluster of two hosts, saved once and resumed for every test."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lab import images
from lab.images import store
from lab.progress import step
from lab.xen import disk, host

__all__ = ["Saved", "cluster", "overlays"]

#: Run in each host before it is saved: what a test needs is then in its page
#: cache, and so in the saved memory, and need not be read again.
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
class Saved:
    """Files by host (``a``, ``b``)."""

    memory: dict[str, Path]
    disk: dict[str, Path]


def overlays(base: Path, folder: Path) -> dict[str, str]:
    """Make each host an overlay over the common disk; returns QEMU's drive options."""
    drives = {}
    for me in host.HOSTS:
        path = folder / f"{me.key}.qcow2"
        store.run(
            ["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", path], timeout=30
        )
        drives[me.key] = f"file={path},format=qcow2,cache=unsafe"
    return drives


def cluster() -> Saved:
    """The saved cluster; booted and saved first where there is none (1 to 3 minutes).

    :raises LabError: it does not come up.
    """
    kernel = images.kernel()
    base, initrd = disk.disk(kernel), disk.dom0_initrd(kernel)

    def make(directory: Path) -> None:
        from lab.xen.lab import XenLab  # which needs this module

        with XenLab.boot(cluster=True, overlays=directory) as lab:
            for machine in lab.hosts:
                machine.run(WARM, timeout=240)
            with step("saving the hosts"):
                machines = [machine.qmp() for machine in lab.hosts]
                for qmp in machines:
                    qmp.command("stop")
                for qmp, machine in zip(machines, lab.hosts, strict=True):
                    qmp.save(directory / f"{machine.identity.key}.ram", timeout=120)
                    qmp.close()

    key = store.digest(str(base), str(initrd), host.XEN, host.DOM0, WARM, *_accelerator())
    directory = store.build("cluster", key, make, what="making a ready cluster of two hosts")
    keys = [me.key for me in host.HOSTS]
    return Saved(
        memory={key: directory / f"{key}.ram" for key in keys},
        disk={key: directory / f"{key}.qcow2" for key in keys},
    )


def _accelerator() -> tuple[str, str]:
    from lab.xen.lab import accelerator

    return accelerator()
