# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's newest kernel: one for dom0 and the Xen guest, one for QEMU guests."""

from __future__ import annotations

import lzma
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from lab.images import debian, store

__all__ = ["Kernel", "kernel", "module_files", "unpack"]


@dataclass(frozen=True)
class Kernel:
    release: str  #: as uname -r says it
    vmlinux: Path  #: raw ELF: starts at once, unpacking takes 8 s when emulated
    kdir: Path  #: for make -C: headers that need not be installed
    tree: Path  #: holds lib/modules/RELEASE

    @property
    def modules(self) -> Path:
        """Debian's modules."""
        return self.tree / "lib/modules" / self.release


def _vmlinux(bzimage: bytes) -> bytes:
    """The ELF file inside a bzImage (Documentation/x86/boot.rst, payload_offset)."""
    setup_sectors = bzimage[0x1F1] or 4
    offset, length = struct.unpack_from("<II", bzimage, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    # The last 4 bytes are the unpacked size, not part of the stream.
    payload = bzimage[start : start + length - 4]
    if payload.startswith(b"\xfd7zXZ\0"):
        return lzma.decompress(payload)
    if payload.startswith(b"\x02\x21\x4c\x18"):  # cloud kernels
        return store.run(["lz4", "-d", "-c"], stdin=payload, timeout=60)
    if payload.startswith(b"\x28\xb5\x2f\xfd"):  # Linux 6.12
        return store.run(["zstd", "-d", "-c"], stdin=payload, timeout=60)
    raise store.BuildError(f"kernel payload is neither xz, lz4 nor zstd: {payload[:6].hex()}")


def _make(directory: Path, packages: list[Path]) -> None:
    tree = directory / "tree"
    for package in packages:
        store.run(["dpkg-deb", "-x", package, tree], timeout=300)
    (image,) = (tree / "boot").glob("vmlinuz-*")
    (directory / "vmlinux").write_bytes(_vmlinux(image.read_bytes()))
    image.unlink()
    flavour = _flavour(tree)
    store.run(["depmod", "-b", tree, flavour.name.removeprefix("linux-headers-")], timeout=60)
    # The flavour's Makefile names its other half by an absolute path below
    # /usr/src; the links to kbuild are relative and right as they are.
    makefile = flavour / "Makefile"
    text, changed = re.subn(
        r"^include /usr/src/(.*)$",
        r"include $(dir $(lastword $(MAKEFILE_LIST)))../\1",
        makefile.read_text(),
        flags=re.MULTILINE,
    )
    if changed != 1:
        raise store.BuildError(f"{makefile}: no include of /usr/src as in Debian 12's headers")
    makefile.write_text(text)


def _flavour(tree: Path) -> Path:
    (flavour,) = (tree / "usr/src").glob("linux-headers-*-amd64")
    return flavour


def kernel(which: debian.Tree = debian.XEN) -> Kernel:
    """The kernel that belongs to a tree, unpacked.

    :raises BuildError: see :func:`lab.images.root`.
    """
    return unpack(debian.packages(which))


def unpack(packages: list[Path]) -> Kernel:
    """
    :param packages: the .deb files of one kernel: image, flavour headers,
        common headers, kbuild.
    """
    key = store.digest(1, *(package.name for package in packages))
    directory = store.build(
        "kernel", key, lambda directory: _make(directory, packages), what="unpacking the kernel"
    )
    tree = directory / "tree"
    flavour = _flavour(tree)
    return Kernel(
        release=flavour.name.removeprefix("linux-headers-"),
        vmlinux=directory / "vmlinux",
        kdir=flavour,
        tree=tree,
    )


def module_files(kernel: Kernel, *names: str) -> list[Path]:
    """Debian's modules of these names and what they need, in the order to load them."""
    files: dict[Path, None] = {}
    for name in names:
        said = store.run(
            ["modprobe", "-d", kernel.tree, "-S", kernel.release, "--show-depends", name],
            timeout=30,
        )
        for line in said.decode().splitlines():
            if line.startswith("insmod "):
                files[Path(line.split()[1])] = None
    return list(files)
