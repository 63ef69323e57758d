# SPDX-License-Identifier: GPL-2.0-or-later
"""``python3 -m lab.images``: build all images now, and print their folders."""

from __future__ import annotations

import sys

from lab import images
from lab.images import debian_guest


def main() -> int:
    try:
        kernel = images.kernel_of_tree()
        modules = images.build_modules(kernel)
        rows = {
            "root": images.debian_tree(),
            "release": kernel.release,
            "vmlinux": kernel.vmlinux,
            "kdir": kernel.kdir,
            "guest modules": " ".join(map(str, (modules.core, *modules.frontends.values()))),
            "probes": " ".join(map(str, modules.probes)),
            "guest initrd": images.guest_initrd(kernel, modules),
            "Debian guest": debian_guest.guest_disk(),
        }
    except images.BuildError as error:
        print(f"lab.images: {error}", file=sys.stderr)
        return 1
    for name, value in rows.items():
        print(f"{name:14}{value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
