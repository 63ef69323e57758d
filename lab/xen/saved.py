# SPDX-License-Identifier: GPL-2.0-or-later
"""A ready cluster of two hosts, saved once and resumed for every test."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lab import images
from lab.images import store
from lab.progress import show_step
from lab.xen import disk, host

__all__ = ["Saved", "make_overlays", "saved_cluster"]

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


def make_overlays(base: Path, folder: Path) -> dict[str, str]:
    """Make each host an overlay over the common disk; returns QEMU's drive options."""
    drives = {}
    for me in host.HOSTS:
        path = folder / f"{me.key}.qcow2"
        store.run_build_command(
            ["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", path], timeout=30
        )
        drives[me.key] = f"file={path},format=qcow2,cache=unsafe"
    return drives


def saved_cluster() -> Saved:
    """The saved cluster; booted and saved first where there is none (1 to 3 minutes).

    :raises LabError: it does not come up.
    """
    kernel = images.kernel_of_tree()
    base, initrd = disk.build_disk(kernel), disk.dom0_initrd(kernel)

    def make(directory: Path) -> None:
        from lab.xen.lab import XenLab  # which needs this module

        with XenLab.boot_lab(cluster=True, overlays=directory) as lab:
            for machine in lab.hosts:
                machine.run_command(WARM, timeout=240)
            with show_step("saving the hosts"):
                machines = [machine.open_qmp() for machine in lab.hosts]
                for qmp in machines:
                    qmp.execute_command("stop")
                for qmp, machine in zip(machines, lab.hosts, strict=True):
                    qmp.save_machine(directory / f"{machine.identity.key}.ram", timeout=120)
                    qmp.close()

    key = store.hash_inputs(str(base), str(initrd), host.XEN, host.DOM0, WARM, *_accelerator_key())
    directory = store.build_image("cluster", key, make, what="making a ready cluster of two hosts")
    keys = [me.key for me in host.HOSTS]
    return Saved(
        memory={key: directory / f"{key}.ram" for key in keys},
        disk={key: directory / f"{key}.qcow2" for key in keys},
    )


def _accelerator_key() -> tuple[str, str]:
    from lab.xen.lab import choose_for_hosts

    return choose_for_hosts()
