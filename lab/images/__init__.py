# SPDX-License-Identifier: GPL-2.0-or-later
"""The images of the labs, built from Debian packages and kept between runs.

>>> from lab import images
>>> images.debian_tree()      # Debian 12 tree with Xen, Corosync, Pacemaker
>>> images.remote_layer()    # the daemon of Pacemaker Remote, a layer over it
>>> images.kernel_of_tree()    # newest Debian kernel: vmlinux, modules, headers
>>> images.build_modules(images.kernel_of_tree())        # vesper.ko and the probes for it
>>> images.guest_initrd(images.kernel_of_tree())   # the guest's whole system

Each function builds what is missing and returns at once otherwise.
"""

from __future__ import annotations

from lab.images.debian import debian_tree, remote_layer
from lab.images.guest import guest_initrd
from lab.images.kernel import Kernel, kernel_of_tree
from lab.images.probes import Modules, build_modules
from lab.images.store import BuildError, cache_directory

__all__ = [
    "BuildError",
    "Kernel",
    "Modules",
    "build_modules",
    "cache_directory",
    "debian_tree",
    "guest_initrd",
    "kernel_of_tree",
    "remote_layer",
]
