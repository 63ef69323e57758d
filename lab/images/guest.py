# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest: busybox with a web server, our modules, and the lab's labd."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lab.images import debian, store
from lab.images.cpio import Archive
from lab.images.kernel import Kernel, module_files
from lab.images.probes import Modules

__all__ = ["LIBVIRT", "XEN", "Machine", "guest_initrd"]

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Machine:
    """What a guest finds itself in."""

    frontend: str  #: VESPER's
    debian_modules: tuple[str, ...]


XEN = Machine("vesper_xen", ("xen-netfront",))
#: The last two: virsh shutdown presses the power button.
LIBVIRT = Machine("vesper_ivshmem", ("virtio_pci", "virtio_net", "pvpanic-mmio", "button", "evdev"))

#: What xl shutdown makes the guest's kernel run, and acpid for the power button.
POWEROFF = b"#!/bin/busybox sh\nexec busybox poweroff -f\n"


def guest_initrd(kernel: Kernel, modules: Modules | None = None, machine: Machine = XEN) -> Path:
    """Return the guest's initial RAM disk, which is its whole system.

    :param modules: VESPER's, loaded at boot (unless ``lab.vesper=no``); no
        probe is among them. None: a guest without.
    """
    vesper = modules.guest_modules(machine.frontend) if modules else ()
    init, labd = HERE / "guest_init", HERE / "labd.c"

    def build_initrd(directory: Path) -> None:
        binary = directory / "labd"
        store.run_build_command(
            ["gcc", "-static", "-Os", "-s", "-Wall", "-o", binary, labd], timeout=60
        )
        archive = Archive()
        archive.add_device("dev/console", 5, 1)
        archive.add_device("dev/null", 1, 3)
        archive.copy_file("init", init, 0o755)
        archive.copy_file("bin/busybox", debian.debian_tree() / "bin/busybox", 0o755)
        archive.add_link("bin/sh", "busybox")
        archive.copy_file("bin/labd", binary, 0o755)
        archive.add_file("sbin/poweroff", POWEROFF, 0o755)
        archive.add_link("etc/acpi/PWRF/00000080", "/sbin/poweroff")
        archive.add_file("sbin/reboot", POWEROFF.replace(b"poweroff", b"reboot"), 0o755)
        for listing, files in (
            ("modules", module_files(kernel, *machine.debian_modules)),
            ("vesper", list(vesper)),
        ):
            archive.add_file(listing, "".join(f"{path.name}\n" for path in files).encode())
            for path in files:
                archive.copy_file(f"lib/modules/{path.name}", path)
        (directory / "initrd").write_bytes(archive.finish_archive())

    key = store.hash_inputs(
        Path(__file__), HERE / "cpio.py", init, labd, kernel.release, str(debian.debian_tree()),
        *machine.debian_modules, *vesper,
    )  # fmt: skip
    return (
        store.build_image("guest", key, build_initrd, what="building the guest's initrd") / "initrd"
    )
