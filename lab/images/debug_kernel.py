# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest's kernel with lockdep, KASAN and kmemleak, built from Debian's source (debug.config)."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from lab.images import store
from lab.images.kernel import Kernel
from lab.images.releases import apt_conf, sources_list

__all__ = ["debug_kernel"]

CONFIG = Path(__file__).parent / "debug.config"

#: The compiler is this machine's; what else the build needs is not installed, but unpacked.
_FETCH = r"""
set -eu
mkdir -p lists/partial cache/archives/partial debs tools
export APT_CONFIG="$PWD/apt.conf"
apt-get -q update
(cd debs && apt-get -q download linux-source-6.1 flex bison m4 libelf-dev)
for deb in debs/*.deb; do dpkg-deb -x "$deb" tools; done
tar -xJf tools/usr/src/linux-source-6.1.tar.xz
mv linux-source-6.1 source
rm -rf lists cache debs tools/usr/src
ln -sf /usr/lib/x86_64-linux-gnu/libelf.so.1 tools/usr/lib/x86_64-linux-gnu/libelf.so
"""

_BUILD = r"""
set -eu
tools="$PWD/tools"
export PATH="$tools/usr/bin:$PATH" BISON_PKGDATADIR="$tools/usr/share/bison" M4="$tools/usr/bin/m4"
export C_INCLUDE_PATH="$tools/usr/include" LIBRARY_PATH="$tools/usr/lib/x86_64-linux-gnu"
make -s -C source KCONFIG_ALLCONFIG="$1" allnoconfig
nice make -s -C source -j"$(nproc)" bzImage modules
make -s -C source INSTALL_MOD_PATH="$PWD/tree" modules_install
mv source/arch/x86/boot/bzImage bzImage
# Modules are built with what is left.
find source -name '*.o' -not -path 'source/scripts/*' -not -path 'source/tools/*' -delete
find source -name '*.c' -not -path 'source/scripts/*' -not -path 'source/tools/*' -delete
rm -rf source/Documentation
"""


def debug_kernel() -> Kernel:
    """Half an hour on two CPUs, the first time.

    :raises BuildError: no Debian mirror to be reached (another one:
        ``VESPER_LAB_MIRROR``), or the compiler's words.
    """
    sources = sources_list("bookworm")

    def make(directory: Path) -> None:
        (directory / "sources.list").write_text(sources)
        (directory / "apt.conf").write_text(apt_conf(directory))
        store.run(["sh", "-c", _FETCH], timeout=900, cwd=directory)
        store.run(["sh", "-c", _BUILD, "sh", CONFIG], timeout=3 * 3600, cwd=directory)
        shutil.rmtree(directory / "tools")

    directory = store.build(
        "debug-kernel",
        store.digest(sources, _FETCH, _BUILD, CONFIG),
        make,
        what="building a kernel with lockdep, KASAN and kmemleak",
    )
    (release,) = os.listdir(directory / "tree/lib/modules")
    return Kernel(
        release=release,
        # Its ELF file is begun by code that KASAN instruments before it is ready (PVH).
        vmlinux=directory / "bzImage",
        kdir=directory / "source",
        tree=directory / "tree",
    )
