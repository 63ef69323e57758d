# SPDX-License-Identifier: GPL-2.0-or-later
"""The disk of an emulated host, and dom0's initial RAM disk."""

from __future__ import annotations

import gzip
import os
import shutil
from pathlib import Path

from lab import images
from lab.images import store
from lab.images.cpio import Archive
from lab.images.kernel import Kernel, module_files

__all__ = ["GUEST_KERNEL", "build_dom0_initrd", "build_host_disk", "extract_xen"]

HERE = Path(__file__).parent / "dom0"

#: Where the guest's kernel lies in the host.
GUEST_KERNEL = "/var/lib/lab/vmlinux"

#: For the disk to be found.
BOOT_MODULES = ("virtio_pci", "virtio_blk", "crc32c_generic", "ext4")

HOST_MODULES = (
    *BOOT_MODULES,
    "virtio_net",
    "bridge",
    "xen-evtchn",
    "xen-gntalloc",
    "xen-gntdev",
    "xen-netback",
    "xen-privcmd",
    "xenfs",
)

#: The lab's files: name in dom0/, place in the host, mode.
FILES = (
    ("lab-init", "usr/local/sbin/lab-init", 0o755),
    ("lab-cluster", "usr/local/sbin/lab-cluster", 0o755),
    ("hostd.py", "usr/local/lib/lab/hostd.py", 0o644),
    ("cib.xml", "usr/local/lib/lab/cib.xml", 0o644),
    ("corosync.conf", "etc/corosync/corosync.conf", 0o644),
)

HOSTS = b"127.0.0.1 localhost\n10.77.0.1 host-a\n10.77.0.2 host-b\n10.77.0.10 vm1\n"


def extract_xen() -> Path:
    """Xen itself, from Debian's package; QEMU starts it unpacked (multiboot) only."""
    (packed,) = (images.debian_tree() / "boot").glob("xen-4.17-amd64.gz")

    def extract_binary(directory: Path) -> None:
        (directory / "xen").write_bytes(gzip.decompress(packed.read_bytes()))

    return (
        store.build_image(
            "xen", store.hash_inputs(str(packed)), extract_binary, what="unpacking Xen"
        )
        / "xen"
    )


def build_host_disk(kernel: Kernel) -> Path:
    """Return the hosts' common disk (raw ext4): the Debian tree, modules, the guest's kernel.

    Never written to: each host has an overlay of its own.
    """
    root = images.debian_tree()

    def make_disk_files(directory: Path) -> None:
        tree = directory / "tree"
        store.run_build_command(["cp", "-al", root, tree], timeout=120)
        _install_modules(kernel, tree)
        guest_kernel = tree / GUEST_KERNEL.lstrip("/")
        guest_kernel.parent.mkdir()
        os.link(kernel.vmlinux, guest_kernel)
        image = directory / "disk.img"
        with image.open("wb") as file:
            file.truncate(2 << 30)
        # No journal: nobody keeps these disks, and emulated writes are slow.
        store.run_build_command(
            ["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", tree, image], timeout=300
        )
        shutil.rmtree(tree)

    key = store.hash_inputs(str(root), str(kernel.vmlinux), HOST_MODULES, "1")
    return (
        store.build_image("disk", key, make_disk_files, what="building the hosts' disk")
        / "disk.img"
    )


def _install_modules(kernel: Kernel, tree: Path) -> None:
    for path in module_files(kernel, *HOST_MODULES):
        target = tree / "usr/lib/modules" / path.relative_to(kernel.tree / "lib/modules")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    target = tree / "usr/lib/modules" / kernel.release
    for path in (*kernel.modules.glob("modules.builtin*"), kernel.modules / "modules.order"):
        shutil.copy(path, target)
    store.run_build_command(["depmod", "-b", tree, kernel.release], timeout=60)


def build_dom0_initrd(kernel: Kernel) -> Path:
    """Return the initrd that mounts the disk, puts the lab's files on it, and boots it."""
    archive = Archive()
    archive.add_device("dev/console", 5, 1)
    archive.copy_file("init", HERE / "initramfs_init", 0o755)
    archive.copy_file("bin/busybox", images.debian_tree() / "bin/busybox", 0o755)
    files = module_files(kernel, *BOOT_MODULES)
    archive.add_file("modules", "".join(f"{path.name}\n" for path in files).encode())
    for path in files:
        archive.copy_file(f"lib/modules/{path.name}", path)
    for name, place, mode in FILES:
        archive.copy_file(f"lab/{place}", HERE / name, mode)
    archive.add_file("lab/etc/hosts", HOSTS)
    archive.add_file("lab/etc/pacemaker/authkey", b"the lab's cluster is no secret\n", 0o400)
    data = archive.finish_archive()

    def make_initrd(directory: Path) -> None:
        (directory / "initrd").write_bytes(data)

    return (
        store.build_image(
            "dom0", store.hash_inputs(data), make_initrd, what="building dom0's initrd"
        )
        / "initrd"
    )
