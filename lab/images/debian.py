# SPDX-License-Identifier: GPL-2.0-or-later
"""The Debian trees: one is dom0's disk and the root of each namespace node, the other that of
a node with libvirt."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from lab.images import store
from lab.images.mmdebstrap import make_debian_tree

__all__ = ["LIBVIRT", "XEN", "Tree", "debian_tree", "kernel_packages", "remote_layer"]

SUITE = "bookworm"


@dataclass(frozen=True)
class Tree:
    name: str  #: the image's
    packages: tuple[str, ...]  #: nothing of it is installed on this machine
    flavour: str  #: of the kernel whose packages lie beside the tree


#: What the hosts of all labs need.
CLUSTER = (
    "corosync",
    "pacemaker",
    "pacemaker-cli-utils",
    "crmsh",
    "resource-agents",
    "python3",
    "python3-pyxs",
    "python3-lxml",
    "python3-psutil",
    "busybox-static",
    "socat",
    "iproute2",
    "iputils-ping",
    "kmod",
    "procps",
    "less",
)

XEN = Tree(
    "debian",
    ("xen-hypervisor-4.17-amd64", "xen-utils-4.17", "xen-utils-common", *CLUSTER),
    "amd64",
)

#: A tree of its own, so that dom0's disk stays small. The cloud kernel boots
#: in a QEMU machine in half the time of the other.
LIBVIRT = Tree(
    "libvirt",
    (
        "libvirt-daemon",
        "libvirt-daemon-driver-qemu",
        "libvirt-clients",
        "python3-libvirt",
        "qemu-system-x86",
        # A virtual TPM, whose state must survive its VM's stop.
        "swtpm",
        "swtpm-tools",
        *CLUSTER,
    ),
    "cloud-amd64",
)

#: What is left out of the tree; the disk of each host shrinks by half.
EXCLUDE = (
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/i18n/*",
)

#: Run by mmdebstrap at the end, outside of the tree and with its package lists:
#: fetches the packages of the newest kernel (what the metapackages depend on)
#: without installing them, nor the compiler that the headers depend on.
_FETCH_KERNEL = r"""
set -eu
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
depends() { apt-cache depends --no-recommends --no-suggests "$1" | sed -n 's/^ *Depends: //p'; }
image=$(depends linux-image-FLAVOUR | grep '^linux-image-[0-9]')
headers=$(depends linux-headers-FLAVOUR | grep '^linux-headers-[0-9]')
rest=$(depends "$headers" | grep -E '^linux-(headers|kbuild)-')
mkdir -p "$1/debs"
cd "$1/debs"
apt-get -q download $image $headers $rest
"""


def _fetch_kernel(flavour: str) -> str:
    return _FETCH_KERNEL.replace("FLAVOUR", flavour)


def _build_debian_tree(directory: Path, which: Tree) -> None:
    tree = directory / "root"
    make_debian_tree(
        tree, SUITE, which.packages, exclude=EXCLUDE, hooks=[_fetch_kernel(which.flavour)]
    )
    (tree / "debs").rename(directory / "debs")
    # Files whose content must come from the running host, not from this machine.
    for name in ("etc/hostname", "etc/resolv.conf", "etc/hosts", "etc/corosync/corosync.conf"):
        (tree / name).unlink(missing_ok=True)
    shutil.rmtree(tree / "var/lib/apt/lists", ignore_errors=True)
    shutil.rmtree(tree / "var/cache/apt", ignore_errors=True)


def _tree_directory(which: Tree) -> Path:
    mirror = os.environ.get("VESPER_LAB_MIRROR", "")
    # Not this whole file: a changed comment must not build everything anew.
    key = store.hash_inputs(SUITE, which.packages, EXCLUDE, _fetch_kernel(which.flavour), mirror)
    return store.build_image(
        which.name,
        key,
        lambda directory: _build_debian_tree(directory, which),
        what=f"building the hosts' Debian ({SUITE}) tree: {which.name}",
    )


def debian_tree(which: Tree = XEN) -> Path:
    """Return the tree. Never write into it: put an overlay or an image over it.

    :raises BuildError: mmdebstrap failed, e.g. no Debian mirror to be reached
        (another one: ``VESPER_LAB_MIRROR``).
    """
    tree = _tree_directory(which) / "root"
    link = store.cache_directory() / ("root" if which is XEN else f"root-{which.name}")
    if not link.is_symlink() or link.readlink() != tree:
        new = link.with_name(f".{link.name}.{os.getpid()}")
        new.unlink(missing_ok=True)
        new.symlink_to(tree)
        new.rename(link)
    return tree


#: Run by mmdebstrap with its package lists, in an empty folder.
_FETCH_REMOTE = """
set -eu
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
cd "$1"
apt-get -q download pacemaker-remote
"""


def _make_remote(directory: Path) -> None:
    download, layer = directory / "download", directory / "root"
    command = [
        "mmdebstrap",
        "--mode=root",
        "--variant=custom",
        "--aptopt=Acquire::Languages none",
        "--aptopt=Acquire::Retries 3",
        "--customize-hook=" + _FETCH_REMOTE,
        SUITE,
        str(download),
    ]
    mirror = os.environ.get("VESPER_LAB_MIRROR")
    if mirror:
        command.append(mirror)
    store.run_build_command(command, timeout=300)
    (package,) = download.glob("pacemaker-remote_*.deb")
    store.run_build_command(["dpkg-deb", "-x", package, layer], timeout=60)
    shutil.rmtree(download)
    shutil.rmtree(layer / "usr/share")
    # In Debian's tree /lib is a link, which a folder of a layer would hide.
    shutil.rmtree(layer / "lib", ignore_errors=True)


def remote_layer() -> Path:
    """Return the daemon of Pacemaker Remote, as a layer over :func:`debian_tree`.

    Its package conflicts with Pacemaker's, so it is in no tree.

    :raises BuildError: no Debian mirror to be reached.
    """
    # With each tree anew: the two must be of one version.
    key = store.hash_inputs(_FETCH_REMOTE, _tree_directory(XEN).name)
    return store.build_image("remote", key, _make_remote, what="fetching Pacemaker Remote") / "root"


def kernel_packages(which: Tree = XEN) -> list[Path]:
    """Return the kernel's .deb files: image, flavour headers, common headers, kbuild."""
    return sorted((_tree_directory(which) / "debs").glob("*.deb"))
