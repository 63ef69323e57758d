# SPDX-License-Identifier: GPL-2.0-or-later
"""The layers of a KVM host's root: the lab's own files, the project, Debian with libvirt."""

from __future__ import annotations

import shutil
from pathlib import Path

from lab import images
from lab.cluster import layers
from lab.guest import CHECK_PAGE
from lab.images import debian, guest
from lab.images.probes import PROJECT
from lab.kvm import files

__all__ = ["make_layers"]


def make_layers(directory: Path, domain: str) -> list[Path]:
    """Make them in an empty folder.

    :param domain: vm1's definition.
    :returns: folders, the topmost first.
    :raises BuildError: see :func:`lab.images.debian_tree`.
    """
    lab, project = directory / "lab", directory / "project"
    root = images.debian_tree(debian.LIBVIRT)
    layers.make_project(project)
    kernel = images.kernel_of_tree(debian.LIBVIRT)
    modules = images.build_modules(kernel)
    probes = lab / "var/lib/vesper/probes" / kernel.release
    probes.mkdir(parents=True)
    for path in modules.probes:
        shutil.copy(path, probes)
    initrd = images.guest_initrd(kernel, modules, guest.LIBVIRT)
    for name, source in ((files.GUEST_KERNEL, kernel.vmlinux), (files.GUEST_INITRD, initrd)):
        _path_in_layer(lab, name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, _path_in_layer(lab, name))
    for name, text in (
        ("/etc/libvirt/qemu.conf", files.QEMU_CONF),
        ("/etc/lab/vm1.xml", domain),
    ):
        _path_in_layer(lab, name).parent.mkdir(parents=True, exist_ok=True)
        _path_in_layer(lab, name).write_text(text)
    check = _path_in_layer(lab, CHECK_PAGE)
    check.parent.mkdir(parents=True)
    shutil.copy(PROJECT / "lab" / check.name, check)
    check.chmod(0o755)
    (lab / "var/log/libvirt").mkdir(parents=True)
    # QEMU's user, which Debian's libvirt-daemon-system makes (it wants systemd).
    for name, line in (("etc/passwd", files.QEMU_USER), ("etc/group", files.QEMU_GROUP)):
        (lab / name).write_text((root / name).read_text() + line)
    return [lab, project, root]


def _path_in_layer(layer: Path, name: str) -> Path:
    return layer / name.lstrip("/")
