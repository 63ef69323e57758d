# SPDX-License-Identifier: GPL-2.0-or-later
"""The root directory in RAM that a test's guest starts from: busybox, modules, an init."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lab import images
from lab.images.cpio import Archive
from lab.images.kernel import module_files

__all__ = ["LOAD_MODULES", "MOUNT_ALL", "build_initrd"]

#: How each init begins: mount the usual file systems, link busybox's commands.
MOUNT_ALL = """\
#!/bin/busybox sh
export PATH=/bin
busybox mkdir -p /proc /sys /dev /root
busybox mount -t devtmpfs dev /dev
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox --install -s /bin
"""

#: How it goes on: load Debian's modules, and the core.
LOAD_MODULES = """\
for module in $(cat /modules); do insmod "/$module"; done
insmod /vesper.ko
"""


def build_initrd(
    kernel: images.Kernel,
    files: Sequence[Path],
    init: str,
    *,
    modules: Sequence[str] = (),
    more_files: Mapping[str, bytes] | None = None,
) -> bytes:
    """Return the archive.

    :param files: our modules, which go to ``/``, and programs, which go to ``/bin``.
    :param init: PID 1's script.
    :param modules: Debian's, by name, with those that they need; ``/modules`` lists the files.
    :param more_files: by path.
    """
    archive = Archive()
    archive.add_device("dev/console", 5, 1)
    archive.add_device("dev/null", 1, 3)
    archive.add_file("init", init.encode(), 0o755)
    archive.copy_file("bin/busybox", images.debian_tree() / "bin/busybox", 0o755)
    archive.add_link("bin/sh", "busybox")
    for path in files:
        folder = "" if path.suffix == ".ko" else "bin/"
        archive.copy_file(f"{folder}{path.name}", path, 0o755)
    debian = module_files(kernel, *modules)
    archive.add_file("modules", "".join(f"{path.name}\n" for path in debian).encode())
    for path in debian:
        archive.copy_file(path.name, path)
    for name, data in (more_files or {}).items():
        archive.add_file(name, data)
    return archive.finish_archive()
