# SPDX-License-Identifier: GPL-2.0-or-later
"""Choose a PCI slot for VESPER's device that changes no other device's address.

libvirt gives devices without an address the lowest free slots, in its own
order.  A device of ours without one would take its place in that row; on q35
it would even get a bridge, which comes before the others.  With an address
high on bus 0 it is in nobody's way, as long as the others do not need that
slot themselves.

What libvirt would do is not asked of it: that takes a definition, and
undoing that deletes what belongs to the domain.
Source: src/qemu/qemu_domain_address.c of libvirt 9.0.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lxml.etree import _Element as Element

__all__ = ["choose_slot", "read_number"]

HIGHEST_SLOT = 0x1C
#: Below are the host bridge, the chipset and the first graphics card.
LOWEST_SLOT = 0x03
SLOTS = 32
#: What libvirt or QEMU puts where real chipsets have it.
TAKEN_I440FX = frozenset({0x00, 0x01, 0x02})
TAKEN_Q35 = frozenset({0x00, 0x01, 0x1A, 0x1B, 0x1D, 0x1E, 0x1F})

#: Machine types of x86 without PCI.
WITHOUT_PCI = ("isapc", "microvm", "none", "xenfv", "xenpv")
X86 = ("x86_64", "i686")
#: Machine types of other architectures that have PCI, by the architecture's name.
OTHERS = (("aarch64", "virt"), ("armv", "virt"), ("riscv", "virt"), ("ppc64", "pseries"))

#: In ``<devices>``, and not on a PCI bus.
NOT_PCI = frozenset({
    "audio", "channel", "console", "emulator", "graphics", "hub", "lease", "nvram", "parallel",
    "redirdev", "redirfilter", "smartcard", "tpm",
})  # fmt: skip
#: What libvirt may add where the XML has none.
IMPLICIT_DEVICES = (
    "memballoon", "video", "controller[@type='usb']", "controller[@type='virtio-serial']",
)  # fmt: skip
#: Root ports of PCI Express share a slot, so many of them.
FUNCTIONS = 8
#: Devices of a PCI Express machine that get a slot of bus 0 and no root port.
INTEGRATED_DEVICES = 4
#: Disks on one controller of SCSI or SATA, at least.
DISKS_PER_CONTROLLER = 6

#: In QEMU's command line: ``addr=1c.0``, ``"addr": "0x1c"``.
QEMU_ADDRESS = re.compile(r"\baddr\"?\s*[=:]\s*\"?(?:0x)?([0-9a-f]{1,2})\b", re.IGNORECASE)


def choose_slot(root: Element) -> int:
    """Return the highest slot of bus 0 that neither the XML nor libvirt uses.

    :param root: a domain of QEMU's.
    :raises ValueError: there is none, or there is no PCI.
    """
    express, i440fx = _kind_of_machine(root)
    taken = _taken_slots(root)
    taken |= TAKEN_I440FX if i440fx else TAKEN_I440FX | TAKEN_Q35
    needed = _unplaced_devices(root)
    if express:
        needed = -(-needed // FUNCTIONS) + INTEGRATED_DEVICES
    # Where pci-root is full but for one slot, libvirt adds a bridge: that one stays free, too.
    free = SLOTS - len(taken)
    candidates = (s for s in range(HIGHEST_SLOT, LOWEST_SLOT - 1, -1) if s not in taken)
    slot = next(candidates, None)
    if slot is None or free < needed + 2:
        raise ValueError("bus 0 of its PCI may be full without it")
    return slot


def _kind_of_machine(root: Element) -> tuple[bool, bool]:
    """Return whether it is PCI Express for sure, and whether it is i440fx or the like for sure.

    :raises ValueError: the machine has no PCI, or that is unknown.
    """
    kind = root.find("os/type")
    machine = (kind.get("machine") or "") if kind is not None else ""
    arch = (kind.get("arch") or X86[0]) if kind is not None else X86[0]
    if arch in X86:
        if machine not in WITHOUT_PCI:
            return "q35" in machine, machine == "pc" or machine.startswith(("pc-0", "pc-1", "pc-i"))
    elif any(arch.startswith(a) and machine.startswith(m) for a, m in OTHERS):
        return machine.startswith("virt"), machine.startswith("pseries")
    raise ValueError(f"machine type {machine or 'of its own'} ({arch}) has no PCI bus for it")


def _taken_slots(root: Element) -> set[int]:
    """Return the slots of bus 0 that the XML names."""
    found = set()
    for address in root.iterfind("devices/*/address"):
        domain, bus, slot = (read_number(address, name) for name in ("domain", "bus", "slot"))
        if address.get("type") == "pci" and domain == bus == 0:
            found.add(slot)
    for argument in root.iterfind("{*}commandline/{*}arg"):
        found |= {int(slot, 16) for slot in QEMU_ADDRESS.findall(argument.get("value") or "")}
    return found


def _has_place(address: Element) -> bool:
    """Whether it says where the device is; else libvirt chooses a PCI slot."""
    if address.get("type") != "pci":
        return True
    return read_number(address, "slot") != 0 or read_number(address, "bus") != 0


def read_number(address: Element, name: str) -> int:
    """Return a number as libvirt reads it (strtoul() with base 0)."""
    text = (address.get(name) or "0").strip()
    base = 16 if text.lower().startswith("0x") else 8 if text.startswith("0") else 10
    try:
        return int(text, base)
    except ValueError:
        return 0  # libvirt refuses the XML


def _unplaced_devices(root: Element) -> int:
    """Return how many devices libvirt has to find a place for on PCI, at most."""
    count = sum(root.find(f"devices/{path}") is None for path in IMPLICIT_DEVICES)
    disks = 0
    for found in root.iterfind("devices/*"):
        address = found.find("address")
        if (address is not None and _has_place(address)) or found.tag in NOT_PCI:
            continue
        if found.get("model") in ("pci-root", "pcie-root"):
            continue
        target = found.find("target")
        bus = found.get("bus") or (target.get("bus") if target is not None else "") or ""
        if found.tag == "disk" and bus != "virtio":
            disks += 1
        elif found.tag != "input" or bus == "virtio":
            count += 1
    return count - (-disks // DISKS_PER_CONTROLLER)
