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
                # Warm what every test needs; give back what booting has used.
                machine.run("xl info; xl list; crm_mon -1; crm configure show", timeout=120)
                machine.run("sync; echo 3 >/proc/sys/vm/drop_caches; xl list", timeout=60)
            with step("saving the hosts"):
                machines = [machine.qmp() for machine in lab.hosts]
                for qmp in machines:
                    qmp.command("stop")
                for qmp, machine in zip(machines, lab.hosts, strict=True):
                    qmp.save(directory / f"{machine.identity.key}.ram", timeout=120)
                    qmp.close()

    key = store.digest(str(base), str(initrd), host.XEN, host.DOM0, host.CPU, "2", *_arguments())
    directory = store.build("cluster", key, make, what="making a ready cluster of two hosts")
    keys = [me.key for me in host.HOSTS]
    return Saved(
        memory={key: directory / f"{key}.ram" for key in keys},
        disk={key: directory / f"{key}.qcow2" for key in keys},
    )


def _arguments() -> list[str]:
    from lab.xen.lab import accelerator

    return [accelerator()]
