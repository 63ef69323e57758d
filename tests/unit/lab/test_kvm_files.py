# SPDX-License-Identifier: GPL-2.0-or-later
"""The definitions of the KVM lab's guests."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from lab.kvm import files
from vesper_monitor.ocf.libvirt import domain_xml


@pytest.mark.parametrize("kvm", [True, False])
def test_guests_have_nothing_in_common_and_nothing_of_vesper(kvm: bool) -> None:
    guests = [ElementTree.fromstring(files.make_domain_xml(kvm, number)) for number in range(1, 9)]
    for path in ("name", "uuid", "os/cmdline"):
        assert len({guest.findtext(path) for guest in guests}) == 8
    addresses = [guest.find("devices/interface/mac") for guest in guests]
    assert len({mac.get("address") for mac in addresses if mac is not None}) == 8
    assert {guest.get("type") for guest in guests} == {"kvm" if kvm else "qemu"}
    for guest in guests:
        assert domain_xml.find_device(guest, "/run/vesper-ivshmem/qemu.sock") is None


def test_a_test_sets_its_guests_memory_command_line_and_on_crash() -> None:
    guest = ElementTree.fromstring(
        files.make_domain_xml(False, memory=96, extra="lab.vesper=no", on_crash="preserve")
    )
    assert guest.findtext("memory") == "96"
    assert (guest.findtext("os/cmdline") or "").split()[-1] == "lab.vesper=no"
    assert guest.findtext("on_crash") == "preserve"


def test_hosts_are_different_machines_to_libvirt() -> None:
    assert len({files.make_host_uuid(number) for number in range(1, 10)}) == 9
