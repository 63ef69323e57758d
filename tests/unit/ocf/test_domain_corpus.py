# SPDX-License-Identifier: GPL-2.0-or-later
"""VESPER's device in real domains: libvirt's own test files, and configurations that went wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from lxml import etree
from lxml.etree import _Element as Element

from lab.images.libvirt_source import libvirt_source
from vesper_monitor.ocf.libvirt import domain_xml
from vesper_monitor.ocf.libvirt.pci_slot import choose_slot, read_number

SOCKET = "/run/vesper-ivshmem/qemu.sock"
SCHEMA = "src/conf/schemas/domain.rng"
DATA = Path(__file__).parent / "data"


def parse(path: Path) -> Element:
    return domain_xml.parse_domain(path.read_bytes())


def slots(root: Element) -> set[int]:
    """Slots of bus 0 that have a device."""
    addresses = root.iterfind("devices/*/address[@type='pci']")
    return {read_number(a, "slot") for a in addresses if read_number(a, "bus") == 0}


# -- libvirt's own ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def libvirt() -> Path:
    return libvirt_source()


@pytest.fixture(scope="module")
def domains(libvirt: Path) -> list[Path]:
    found = sorted((libvirt / "tests/qemuxml2argvdata").glob("*.xml"))
    assert len(found) > 1000
    return found


def test_domains_stay_valid_and_nothing_else_changes(libvirt: Path, domains: list[Path]) -> None:
    schema = etree.RelaxNG(etree.parse(libvirt / SCHEMA))
    added = valid = 0
    for path in domains:
        root = parse(path)
        before, was_valid = domain_xml.canonicalize_xml(root), schema.validate(root)
        if domain_xml.add_device(root, SOCKET):
            assert domain_xml.canonicalize_xml(root) == before, path.name
            continue
        again = domain_xml.parse_domain(domain_xml.serialize_domain(root).encode())
        assert schema.validate(again) >= was_valid, f"{path.name}: {schema.error_log.last_error}"
        device = domain_xml.find_device(again, SOCKET)
        assert device is not None
        assert domain_xml.is_migratable_with(again, device)
        domain_xml.remove_device(again, device)
        devices = again.find("devices")
        assert devices is not None
        if parse(path).find("devices") is None:
            again.remove(devices)
        assert domain_xml.canonicalize_xml(again) == before, path.name
        added += 1
        valid += was_valid
    print(f"{added} of {len(domains)} get the device; {valid} of those are valid")
    assert added > 950
    assert valid > 900


def test_the_slot_is_one_that_libvirt_gives_to_nobody(libvirt: Path, domains: list[Path]) -> None:
    """Its answers are there with all addresses. It takes the lowest free slot for each device,
    so a slot that it has not used without ours changes no other address with ours."""
    looked = 0
    for path in domains:
        answers = [
            libvirt / "tests/qemuxml2xmloutdata" / name
            for name in (path.name, f"{path.stem}.x86_64-latest.xml")
        ]
        answer = next((parse(found) for found in answers if found.exists()), None)
        if answer is None:
            continue
        try:
            slot = choose_slot(parse(path))
        except ValueError:
            continue
        used = slots(answer)
        assert slot not in used, path.name
        if answer.find("devices/controller[@model='pci-root']") is not None:
            # One more must stay free, or libvirt adds a bridge.
            assert len({*range(32)} - {0, 1, slot} - used) > 0, path.name
        looked += 1
    assert looked > 450


# -- those that went wrong ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("isapc", "machine type isapc (i686) has no PCI"),
        ("microvm", "machine type microvm (x86_64) has no PCI"),
        ("i440fx-full-bus", "bus 0 of its PCI may be full"),
    ],
)
def test_a_domain_without_room_gets_no_device(name: str, word: str) -> None:
    root = parse(DATA / f"{name}.xml")
    before = domain_xml.serialize_domain(root)
    assert word in domain_xml.add_device(root, SOCKET)
    assert domain_xml.serialize_domain(root) == before


@pytest.mark.parametrize("name", ["q35-no-addresses", "i440fx-virtio-input", "uefi-vtpm"])
def test_a_domain_with_room_gets_the_device(name: str) -> None:
    assert choose_slot(parse(DATA / f"{name}.xml")) == 0x1C


def machine(kind: str, *devices: str) -> Element:
    return domain_xml.parse_domain(
        f"<domain type='kvm'><name>a</name><os><type arch='x86_64' machine='{kind}'>hvm</type></os>"
        f"<devices>{''.join(devices)}</devices></domain>"
    )


def at(slot: str, bus: str = "0", function: str = "0") -> str:
    """A device with an address."""
    place = f"domain='0' bus='{bus}' slot='{slot}' function='{function}'"
    return f"<rng model='virtio'><address type='pci' {place}/></rng>"


@pytest.mark.parametrize(
    ("kind", "devices", "slot"),
    [
        ("pc", [], 0x1C),
        ("pc", [at("0x1c")], 0x1B),
        ("pc", [at("0x1C", bus="0x00", function="0x7")], 0x1B),  # a function among several
        ("pc", [at("28"), at("27"), at("032")], 0x19),  # decimal, decimal, octal
        ("pc", [at("0x1c", bus="1")], 0x1C),
        ("pc", [f"<hostdev><source>{at('0x1c')}</source></hostdev>"], 0x1C),  # the host's own
        ("pc-i440fx-7.2", [at(str(slot)) for slot in range(6, 29)], 0x05),
        ("q35", [at("0x1c")], 0x19),  # ich9's sound and second USB have their places
        ("pc-q35-7.2", [at("0x1c"), at("0x19")], 0x18),
        ("an-own-name", [at("0x1c")], 0x19),
    ],
)
def test_the_device_gets_a_free_slot(kind: str, devices: list[str], slot: int) -> None:
    assert choose_slot(machine(kind, *devices)) == slot


def test_addresses_in_qemus_own_options_are_used() -> None:
    text = (
        f"<domain type='kvm' xmlns:q='{domain_xml.QEMU}'><devices/><q:commandline>"
        "<q:arg value='-device'/><q:arg value='edu,bus=pci.0,addr=1c.0'/><q:arg value='-device'/>"
        """<q:arg value='{"driver":"edu","addr":"0x1b"}'/></q:commandline></domain>"""
    )
    root = domain_xml.parse_domain(text)
    etree.SubElement(etree.SubElement(root, "os"), "type", arch="x86_64", machine="pc")
    assert choose_slot(root) == 0x1A


NIC = "<interface type='user'><model type='virtio'/></interface>"


def test_devices_without_an_address_have_their_room() -> None:
    """With more of them libvirt might need the slot, or a bridge: then none is taken."""
    assert choose_slot(machine("pc", *[NIC] * 23)) == 0x1C
    with pytest.raises(ValueError, match="may be full"):
        choose_slot(machine("pc", *[NIC] * 24))
    # On PCI Express eight share a slot.
    assert choose_slot(machine("q35", *[NIC] * 100)) == 0x1C
