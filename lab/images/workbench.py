# SPDX-License-Identifier: GPL-2.0-or-later
"""A disk with Debian, a compiler and tracers, for a guest under heavy load."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from lab.images import debian, store
from lab.images.kernel import Kernel
from lab.images.mmdebstrap import make_debian_tree

__all__ = ["build_workbench"]

PACKAGES = (
    "bc",
    "bpftrace",
    "btrfs-progs",
    "busybox-static",
    "e2fsprogs",
    "gcc",
    "iproute2",
    "kmod",
    "libc6-dev",
    "libelf1",
    "make",
    "procps",
    "python3-minimal",
    "util-linux",
    "xfsprogs",
    "xz-utils",
)


def _workbench_tree() -> Path:
    mirror = os.environ.get("VESPER_LAB_MIRROR", "")

    def build_tree(directory: Path) -> None:
        make_debian_tree(directory / "root", debian.SUITE, PACKAGES, exclude=debian.EXCLUDE)
        shutil.rmtree(directory / "root/var/lib/apt/lists", ignore_errors=True)
        shutil.rmtree(directory / "root/var/cache/apt", ignore_errors=True)

    key = store.hash_inputs(debian.SUITE, PACKAGES, debian.EXCLUDE, mirror)
    return (
        store.build_image("tools", key, build_tree, what="building the work bench's Debian tree")
        / "root"
    )


def build_workbench(kernel: Kernel) -> Path:
    """Return a raw ext4 disk: the tree, and the kernel's headers in /usr/src.

    Never written to: start QEMU with ``snapshot=on``.

    :raises BuildError: see :func:`lab.images.debian_tree`.
    """
    root = _workbench_tree()

    def build_disk(directory: Path) -> None:
        tree = directory / "tree"
        store.run_build_command(["cp", "-al", root, tree], timeout=120)
        store.run_build_command(["cp", "-a", kernel.tree / "usr/src",
                                 kernel.tree / "usr/lib", tree / "usr"],
                  timeout=300)  # fmt: skip
        image = directory / "disk.img"
        with image.open("wb") as file:
            file.truncate(6 << 30)
        store.run_build_command(
            ["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", tree, image], timeout=600
        )
        shutil.rmtree(tree)

    key = store.hash_inputs(str(root), str(kernel.tree), "1")
    return (
        store.build_image("workbench", key, build_disk, what="building the work bench's disk")
        / "disk.img"
    )
