# SPDX-License-Identifier: GPL-2.0-or-later
"""Compilers of other Debian releases, and clang, each in a tree of its own.

Programs of a kernel's headers (modpost, objtool) need the libc of their Debian release, and the
headers need its compiler.  This machine, which is older, has neither.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.images import store
from lab.images.mmdebstrap import make_debian_tree

__all__ = ["BUILDS_KERNELS", "CLANG", "TRIXIE", "Toolchain", "run_in_toolchain"]

#: Commands of a kernel's makefiles, besides the compiler.
_COMMANDS = (
    "base-files", "coreutils", "dash", "diffutils", "findutils", "grep", "kmod", "libc6-dev",
    "make", "mawk", "sed",
)  # fmt: skip

#: More commands, to build a whole kernel.
_KERNEL_COMMANDS = ("bc", "bison", "flex", "gzip", "libelf-dev", "libssl-dev", "perl")


@dataclass(frozen=True)
class Toolchain:
    suite: str
    packages: tuple[str, ...]
    arguments: str = ""  #: that "make" gets, as a kernel's makefiles know them


#: For modules of Debian 13's kernels; with what kbuild's programs are linked with.
TRIXIE = Toolchain("trixie", (*_COMMANDS, "gcc", "libelf1t64", "libssl3t64", "zlib1g"))

#: For whole kernels, by gcc and by clang.
BUILDS_KERNELS = Toolchain("bookworm", (*_COMMANDS, *_KERNEL_COMMANDS, "gcc"))
CLANG = Toolchain(
    "bookworm",
    (*_COMMANDS, *_KERNEL_COMMANDS, "gcc", "clang-16", "lld-16", "llvm-16"),
    "LLVM=-16",
)

#: In a mount namespace of its own.  usage: sh -c ENTER sh TREE CACHE CWD COMMAND...
_ENTER = r"""
set -eu
tree=$1 cache=$2 cwd=$3
shift 3
mkdir -p "$tree$cache"
mount --bind "$cache" "$tree$cache"
mount --bind /dev "$tree/dev"
mount -t proc proc "$tree/proc"
mount -t tmpfs tmpfs "$tree/tmp"
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C HOME=/tmp
exec chroot "$tree" sh -c 'cd "$1"; shift; exec "$@"' sh "$cwd" "$@"
"""


def _toolchain_tree(toolchain: Toolchain) -> Path:
    mirror = os.environ.get("VESPER_LAB_MIRROR", "")

    def build_tree(directory: Path) -> None:
        tree = directory / "root"
        # Unpacked only: no program of the tree is started for it, which takes a tenth of the time.
        make_debian_tree(tree, toolchain.suite, toolchain.packages, variant="extract")
        (tree / "usr/bin/awk").symlink_to("mawk")  # as the package's script does

    key = store.hash_inputs(toolchain.suite, toolchain.packages, mirror)
    what = f"fetching the compiler of {toolchain.suite}"
    return store.build_image("toolchain", key, build_tree, what=what) / "root"


def run_in_toolchain(
    toolchain: Toolchain | None, command: Sequence[str | Path], *, timeout: float, cwd: Path
) -> bytes:
    """Run a command where this toolchain's programs are.

    :param toolchain: None: this machine's own.
    :param timeout: seconds.
    :param cwd: below :func:`lab.images.cache_directory`, as is all that the command may
        see of this machine.
    :returns: the command's standard output.
    :raises BuildError: with the end of what it said; or no Debian mirror to be reached.
    """
    if toolchain is None:
        return store.run_build_command(command, timeout=timeout, cwd=cwd)
    enter = ["unshare", "--mount", "sh", "-c", _ENTER, "sh"]
    places = [_toolchain_tree(toolchain), store.cache_directory(), cwd]
    environment = {"PATH": os.environ["PATH"], "MAKEFLAGS": toolchain.arguments}
    return store.run_build_command([*enter, *places, *command], timeout=timeout, env=environment)
