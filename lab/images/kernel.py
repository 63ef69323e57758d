# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's newest kernel: one for dom0 and the Xen guest, one for QEMU guests."""

from __future__ import annotations

import lzma
import os
import re
import struct
import threading
from dataclasses import dataclass
from pathlib import Path

from lab.images import debian, store
from lab.images.toolchain import Toolchain

__all__ = [
    "Headers",
    "Kernel",
    "finish_headers",
    "finish_image",
    "kernel_of_tree",
    "module_files",
    "unpack_kernel",
]


@dataclass(frozen=True, kw_only=True)
class Headers:
    """What modules for a kernel are built with."""

    release: str  #: as uname -r says it
    kdir: Path  #: for make -C: headers that need not be installed
    toolchain: Toolchain | None = None  #: None: this machine's own


@dataclass(frozen=True, kw_only=True)
class Kernel(Headers):
    vmlinux: Path  #: raw ELF: starts at once, unpacking takes 8 s when emulated
    tree: Path  #: holds lib/modules/RELEASE

    @property
    def modules(self) -> Path:
        """Debian's modules."""
        return self.tree / "lib/modules" / self.release


def _extract_vmlinux(bzimage: bytes) -> bytes:
    """Return the ELF file inside a bzImage (Documentation/x86/boot.rst, payload_offset)."""
    setup_sectors = bzimage[0x1F1] or 4
    offset, length = struct.unpack_from("<II", bzimage, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    # The last 4 bytes are the unpacked size, not part of the stream.
    payload = bzimage[start : start + length - 4]
    if payload.startswith(b"\xfd7zXZ\0"):
        return lzma.decompress(payload)
    if payload.startswith(b"\x02\x21\x4c\x18"):  # cloud kernels
        return store.run_build_command(["lz4", "-d", "-c"], stdin=payload, timeout=60)
    if payload.startswith(b"\x28\xb5\x2f\xfd"):  # Linux 6.12
        return store.run_build_command(["zstd", "-d", "-c"], stdin=payload, timeout=60)
    raise store.BuildError(f"kernel payload is neither xz, lz4 nor zstd: {payload[:6].hex()}")


def _unpack_packages(directory: Path, packages: list[Path]) -> None:
    tree = directory / "tree"
    for package in packages:
        store.run_build_command(["dpkg-deb", "-x", package, tree], timeout=300)
    flavour = _find_flavour(tree)
    finish_image(tree, directory / "vmlinux", flavour.name.removeprefix("linux-headers-"))
    finish_headers(flavour)


def finish_image(tree: Path, vmlinux: Path, release: str) -> None:
    """Make an unpacked kernel fit to be booted: its ELF file, and what depends on which module."""
    if not (tree / "lib").exists():  # Debian 13's packages have all of it below /usr
        (tree / "lib").symlink_to("usr/lib")
    # The second since Linux 7.3.
    (image,) = (*tree.glob("boot/vmlinuz-*"), *tree.glob("usr/lib/modules/*/vmlinuz"))
    vmlinux.write_bytes(_extract_vmlinux(image.read_bytes()))
    image.unlink()
    store.run_build_command(["depmod", "-b", tree, release], timeout=60)


def finish_headers(flavour: Path) -> None:
    """Make the unpacked headers of a flavour fit to be used where they are.

    Their Makefile names its other half, and since Linux 7.3 itself, by an absolute path below
    /usr/src; the links to kbuild are relative and right as they are.
    """
    makefile = flavour / "Makefile"
    here = "$(dir $(lastword $(MAKEFILE_LIST)))"
    text, changed = re.subn(
        r"^include /usr/src/", f"include {here}../", makefile.read_text(), flags=re.MULTILINE
    )
    text = re.sub(
        r"^KBUILD_OUTPUT *=.*$", f"KBUILD_OUTPUT := $(realpath {here})", text, flags=re.MULTILINE
    )
    if changed != 1:
        raise store.BuildError(f"{makefile}: no include of /usr/src as in Debian 12's headers")
    makefile.write_text(text)


def _find_flavour(tree: Path) -> Path:
    (flavour,) = (tree / "usr/src").glob("linux-headers-*-amd64")
    return flavour


def kernel_of_tree(which: debian.Tree = debian.XEN) -> Kernel:
    """Return the kernel that belongs to a tree, unpacked.

    :raises BuildError: see :func:`lab.images.debian_tree`.
    """
    return unpack_kernel(debian.kernel_packages(which))


def unpack_kernel(packages: list[Path]) -> Kernel:
    """
    :param packages: the .deb files of one kernel: image, flavour headers,
        common headers, kbuild.
    """
    key = store.hash_inputs(1, *(package.name for package in packages))
    directory = store.build_image(
        "kernel",
        key,
        lambda directory: _unpack_packages(directory, packages),
        what="unpacking the kernel",
    )
    tree = directory / "tree"
    flavour = _find_flavour(tree)
    return Kernel(
        release=flavour.name.removeprefix("linux-headers-"),
        vmlinux=directory / "vmlinux",
        kdir=flavour,
        tree=tree,
    )


def module_files(kernel: Kernel, *names: str) -> list[Path]:
    """Return Debian's modules of these names and those that they need, in loading order."""
    files: dict[Path, None] = {}
    for name in names:
        said = store.run_build_command(
            ["modprobe", "-d", kernel.tree, "-S", kernel.release, "--show-depends", name],
            timeout=30,
        )
        for line in said.decode().splitlines():
            if line.startswith("insmod "):
                files[_decompress_module(Path(line.split()[1]))] = None
    return list(files)


def _decompress_module(path: Path) -> Path:
    """Decompress a module: those of Debian 13 are compressed, and busybox cannot load them."""
    if path.suffix != ".xz":
        return path
    plain = path.with_suffix("")
    if not plain.exists():
        new = plain.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
        new.write_bytes(lzma.decompress(path.read_bytes()))
        new.rename(plain)
    return plain
