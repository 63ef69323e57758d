# SPDX-License-Identifier: GPL-2.0-or-later
"""VESPER's device changes no other device's address: a real libvirt's word for it."""

from __future__ import annotations

import pytest

from lab.kvm import KvmHost, KvmLab
from lab.kvm.host import IVSHMEM_SOCKET
from vesper_monitor.ocf.libvirt import domain_xml

MANY = """\
<controller type='usb' model='ich9-ehci1'/><controller type='virtio-serial'/>
<controller type='scsi' model='virtio-scsi'/><sound model='ich9'/><video><model type='vga'/></video>
<interface type='user'><model type='virtio'/></interface>
<interface type='user'><model type='e1000'/></interface>
<input type='keyboard' bus='virtio'/><rng model='virtio'><backend model='random'>/dev/urandom
</backend></rng><watchdog model='i6300esb'/><memballoon model='virtio'/>
"""


def _definition(machine: str) -> str:
    return (
        "<domain type='qemu'><name>addresses</name><memory unit='MiB'>64</memory>"
        f"<os><type arch='x86_64' machine='{machine}'>hvm</type></os>"
        f"<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>{MANY}</devices></domain>"
    )


def _devices_by_libvirt(host: KvmHost, text: str) -> bytes:
    """All devices but ours, with the addresses that libvirt gives them."""
    host.put_file("/run/addresses.xml", text.encode())
    host.run_command("virsh -q define /run/addresses.xml", check=True)
    try:
        dumped = host.run_command("virsh -q dumpxml --inactive addresses", check=True).output
    finally:
        host.run_command("virsh -q undefine addresses", check=True)
    root = domain_xml.parse_domain(dumped)
    ours = domain_xml.find_device(root, IVSHMEM_SOCKET)
    assert (ours is not None) == (domain_xml.ALIAS in text)
    if ours is not None:
        domain_xml.remove_device(root, ours)
    for address in root.iterfind("devices/interface/mac"):
        address.getparent().remove(address)  # made at random
    return domain_xml.canonicalize_xml(root.find("devices"))


@pytest.mark.parametrize("machine", ["q35", "pc"])
def test_no_other_address_changes(lab: KvmLab, machine: str) -> None:
    root = domain_xml.parse_domain(_definition(machine))
    before = _devices_by_libvirt(lab.a, domain_xml.serialize_domain(root))
    assert before.count(b'type="pci"') > 10
    assert domain_xml.add_device(root, IVSHMEM_SOCKET) == ""
    assert _devices_by_libvirt(lab.a, domain_xml.serialize_domain(root)) == before
