# SPDX-License-Identifier: GPL-2.0-or-later
"""The images of the labs, built from Debian packages and kept between runs.

>>> from lab import images
>>> images.root()      # Debian 12 tree with Xen, Corosync, Pacemaker
>>> images.remote()    # the daemon of Pacemaker Remote, a layer over it
>>> images.kernel()    # newest Debian kernel: vmlinux, modules, headers
>>> images.modules(images.kernel())        # vesper.ko and the probes for it
>>> images.guest_initrd(images.kernel())   # the guest's whole system

Each function builds what is missing and returns at once otherwise.
"""

from __future__ import annotations

from lab.images.debian import remote, root
from lab.images.guest import guest_initrd
from lab.images.kernel import Kernel, kernel
from lab.images.probes import Modules, modules
from lab.images.store import BuildError, cache

__all__ = [
    "BuildError",
    "Kernel",
    "Modules",
    "cache",
    "guest_initrd",
    "kernel",
    "modules",
    "remote",
    "root",
]
