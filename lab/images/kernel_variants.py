# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels that Debian does not build, made from its source: each with what a guest needs here."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from lab.images import store
from lab.images.kernel import Kernel
from lab.images.releases import make_apt_configuration, sources_list
from lab.images.toolchain import BUILDS_KERNELS, CLANG, Toolchain, run_in_toolchain

__all__ = ["DEBUG", "KCFI", "UNIPROCESSOR", "Variant", "variant_kernel"]

HERE = Path(__file__).parent

#: Debian 12's newest, for which its own compilers are the right ones.
SOURCE = "linux-source-6.12"
SUITES = ("bookworm", "bookworm-security")


@dataclass(frozen=True)
class Variant:
    name: str
    what: str
    configs: tuple[str, ...]  #: files beside this one; all that is in none of them is off
    toolchain: Toolchain


DEBUG = Variant(
    "debug", "lockdep, KASAN and kmemleak", ("guest.config", "smp.config", "debug.config"),
    BUILDS_KERNELS,
)  # fmt: skip
UNIPROCESSOR = Variant(
    "uniprocessor", "SMP=n, without Xen", ("guest.config", "uniprocessor.config"), BUILDS_KERNELS
)
KCFI = Variant("kcfi", "kCFI", ("guest.config", "smp.config", "kcfi.config"), CLANG)

#: usage: sh -c FETCH sh PACKAGE
_FETCH = r"""
set -eu
mkdir -p lists/partial cache/archives/partial
export APT_CONFIG="$PWD/apt.conf"
apt-get -q update
apt-get -q download "$1"
dpkg-deb -x "$1"_*.deb unpacked
tar -xJf "unpacked/usr/src/$1.tar.xz"
mv "$1" source
rm -rf lists cache unpacked "$1"_*.deb
"""

#: In the folder with "source" and "config".
_BUILD = r"""
set -eu
make -s -C source KCONFIG_ALLCONFIG="$PWD/config" allnoconfig
# What depends on something that is not asked for is silently off.
sed -n '/^CONFIG_/p' config | while read -r line; do
	grep -qxF "$line" source/.config || echo "not in the kernel: $line"
done >missing
! grep . missing >&2 || exit 1
make -s -C source -j"$(nproc)" bzImage modules
make -s -C source INSTALL_MOD_PATH="$PWD/tree" modules_install
mv source/arch/x86/boot/bzImage bzImage
# Modules are built with what is left.
find source -name '*.o' -not -path 'source/scripts/*' -not -path 'source/tools/*' -delete
find source -name '*.c' -not -path 'source/scripts/*' -not -path 'source/tools/*' -delete
rm -rf source/Documentation source/vmlinux source/.git
"""


def _kernel_source() -> Path:
    sources = sources_list(*SUITES)

    def fetch_source(directory: Path) -> None:
        (directory / "sources.list").write_text(sources)
        (directory / "apt.conf").write_text(make_apt_configuration(directory))
        store.run_build_command(["sh", "-c", _FETCH, "sh", SOURCE], timeout=900, cwd=directory)

    key = store.hash_inputs(sources, _FETCH, SOURCE)
    return (
        store.build_image("linux-source", key, fetch_source, what=f"fetching {SOURCE}") / "source"
    )


def variant_kernel(variant: Variant) -> Kernel:
    """Build the kernel when its configuration has changed: minutes, on two CPUs.

    :raises BuildError: no Debian mirror to be reached (another one:
        ``VESPER_LAB_MIRROR``), or the compiler's words.
    """
    source = _kernel_source()
    config = "".join((HERE / name).read_text() for name in variant.configs)
    config += f'CONFIG_LOCALVERSION="-vesper-{variant.name}"\n'

    def build_kernel(directory: Path) -> None:
        (directory / "config").write_text(config)
        shutil.copytree(source, directory / "source", symlinks=True)
        run_in_toolchain(
            variant.toolchain, ["nice", "sh", "-c", _BUILD], timeout=3 * 3600, cwd=directory
        )

    directory = store.build_image(
        f"{variant.name}-kernel",
        store.hash_inputs(str(source), config, _BUILD, variant.toolchain),
        build_kernel,
        what=f"building a kernel: {variant.what}",
    )
    (release,) = os.listdir(directory / "tree/lib/modules")
    return Kernel(
        release=release,
        # KASAN instruments the code that an ELF file begins with before it is ready (PVH).
        vmlinux=directory / "bzImage",
        kdir=directory / "source",
        tree=directory / "tree",
        toolchain=variant.toolchain,
    )
