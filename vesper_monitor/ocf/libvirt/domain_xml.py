# SPDX-License-Identifier: GPL-2.0-or-later
"""VESPER's device in the XML of a libvirt domain, and what else is read there.

The device is an ivshmem doorbell.  libvirt and QEMU each refuse to migrate or
save a domain that has one, but for its master: libvirt looks at the attribute
``role`` and does not pass it on for this model (9.0); QEMU looks at its
property ``master``, which only an override can set (its type is ``on``/``off``
/``auto``, so a string).
"""

from __future__ import annotations

from vesper_monitor.util.xml_parser import parse_xml

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lxml.etree import _Element as Element

__all__ = [
    "ALIAS",
    "add_device",
    "canonicalize_xml",
    "copy_device",
    "device_alias",
    "find_device",
    "hot_plug",
    "is_migratable_with",
    "list_needed",
    "parse_domain",
    "passes_through_pci",
    "read_name",
    "read_text",
    "remove_device",
    "serialize_domain",
    "set_name",
    "set_uuid",
    "take_out",
]

#: libvirt takes an alias of a user's only with this prefix.
ALIAS = "ua-vesper"
QEMU = "http://libvirt.org/schemas/domain/qemu/1.0"
Q = f"{{{QEMU}}}"
#: XML's own.
BLANKS = " \t\r\n"


def read_name(data: bytes | str) -> str:
    """Return the name of a domain as libvirt reads it, without blanks around it.

    :raises ValueError: the XML is not understood, or has no name.
    """
    name = read_text(parse_domain(data), "name")
    if not name:
        raise ValueError("it has no <name>")
    return name


def read_text(root: Element, tag: str) -> str:
    """Return the text of a child, without blanks around it; empty if there is none."""
    # As libvirt reads it (virDomainDefParseXML(), 9.0): the text of CDATA, too, and the
    # text around comments.
    return str(root.xpath(f"string(./{tag}[1])")).strip(BLANKS)


def set_name(root: Element, name: str) -> None:
    """Let libvirt call the domain exactly this."""
    _set_child_text(root, "name", name)


def set_uuid(root: Element, uuid: str) -> None:
    _set_child_text(root, "uuid", uuid)


def _set_child_text(root: Element, tag: str, value: str) -> None:
    from lxml import etree

    element = root.find(tag)
    if element is None:
        element = etree.Element(tag)
        root.insert(0, element)
    for child in list(element):
        element.remove(child)
    element.text = value


def parse_domain(xml: bytes | str) -> Element:
    """Parse the XML of a domain.

    :param xml: bytes in the encoding that they declare, or a text.
    :raises ValueError: it is not the XML of a domain.
    """
    root = parse_xml(xml)
    if root.tag != "domain":
        raise ValueError(f"its root is <{root.tag}>, not <domain>")
    return root


def serialize_domain(root: Element) -> str:
    """Return the whole document, with comments outside its root."""
    from lxml import etree

    return str(etree.tostring(root.getroottree(), encoding="unicode")) + "\n"


def canonicalize_xml(root: Element) -> bytes:
    """Return a form that equal documents share: without comments and blanks."""
    from copy import deepcopy

    from lxml import etree

    root = deepcopy(root)
    etree.cleanup_namespaces(root)
    return bytes(etree.tostring(root, method="c14n2", with_comments=False, strip_text=True))


def find_device(root: Element, socket: str) -> Element | None:
    """Return VESPER's device, by the socket that it is connected to."""
    for shmem in root.iterfind("devices/shmem"):
        model, server = shmem.find("model"), shmem.find("server")
        if (
            model is not None
            and model.get("type") == "ivshmem-doorbell"
            and server is not None
            and server.get("path") == socket
        ):
            return shmem
    return None


def is_migratable_with(root: Element, shmem: Element) -> bool:
    """Whether a domain with this device can be migrated and saved."""
    if shmem.get("role") != "master":
        return False
    for override in root.iterfind(f"{Q}override/{Q}device"):
        if override.get("alias") == device_alias(shmem):
            return any(
                prop.get("name") == "master" and prop.get("value") == "on"
                for prop in override.iter(f"{Q}property")
            )
    return False


def add_device(root: Element, socket: str) -> str:
    """Add the device, at a PCI address that changes no other device's.

    :returns: why it cannot be; empty: it is added.
    """
    from lxml import etree

    from vesper_monitor.ocf.libvirt.pci_slot import choose_slot

    kind = root.get("type", "")
    if kind not in ("kvm", "qemu"):
        return f"a domain of type {kind} cannot have an ivshmem device"
    if any(other.get("name") == ALIAS for other in root.iterfind("devices/*/alias")):
        return f"another device has the alias {ALIAS}"
    try:
        slot = choose_slot(root)
    except ValueError as error:
        return f"it has no room for VESPER's device: {error}"
    devices = root.find("devices")
    if devices is None:
        devices = etree.SubElement(root, "devices")
    shmem = _make_shmem(socket)
    etree.SubElement(
        shmem, "address", type="pci", domain="0x0000", bus="0x00", slot=f"{slot:#04x}",
        function="0x0",
    )  # fmt: skip
    devices.append(shmem)
    part = etree.SubElement(_find_override(root), f"{Q}device", alias=ALIAS)
    frontend = etree.SubElement(part, f"{Q}frontend")
    etree.SubElement(frontend, f"{Q}property", name="master", type="string", value="on")
    return ""


def _make_shmem(socket: str) -> Element:
    from lxml import etree

    shmem = etree.Element("shmem", name="vesper", role="master")
    etree.SubElement(shmem, "model", type="ivshmem-doorbell")
    etree.SubElement(shmem, "server", path=socket)
    etree.SubElement(shmem, "msi", vectors="1", ioeventfd="on")
    etree.SubElement(shmem, "alias", name=ALIAS)
    return shmem


def remove_device(root: Element, shmem: Element) -> None:
    """Remove the device and what is overridden of it."""
    from lxml import etree

    take_out(shmem)
    for override in root.findall(f"{Q}override"):
        for part in override.findall(f"{Q}device"):
            if part.get("alias") == device_alias(shmem):
                take_out(part)
        if len(override) == 0:
            take_out(override)
    others = {prefix for element in root.iter("*") for prefix in element.nsmap if prefix}
    etree.cleanup_namespaces(root, keep_ns_prefixes=others - {"qemu"})


def copy_device(root: Element, source: Element, shmem: Element) -> None:
    """Add another XML's device, and what is overridden of it there."""
    from copy import deepcopy

    from lxml import etree

    devices = root.find("devices")
    if devices is None:
        devices = etree.SubElement(root, "devices")
    devices.append(deepcopy(shmem))
    for part in source.iterfind(f"{Q}override/{Q}device"):
        if part.get("alias") == device_alias(shmem):
            _find_override(root).append(deepcopy(part))


def _find_override(root: Element) -> Element:
    """Return the element with QEMU's overrides; it is made if it does not exist."""
    from lxml import etree

    override = root.find(f"{Q}override")
    if override is None:
        # Not declared for all of the domain: elements with a prefix that was not
        # declared, which libvirt has left out so far, would come to life.
        override = etree.SubElement(root, f"{Q}override", nsmap={"qemu": QEMU})
    return override


def take_out(element: Element) -> None:
    """Remove an element, and keep the text behind it."""
    parent, before = element.getparent(), element.getprevious()
    if element.tail:
        if before is not None:
            before.tail = (before.tail or "") + element.tail
        else:
            parent.text = (parent.text or "") + element.tail
    parent.remove(element)


def hot_plug(socket: str) -> str:
    """Return the device for a running domain, which cannot have an override."""
    return serialize_domain(_make_shmem(socket))


def list_needed(root: Element, kind: str) -> list[str]:
    """Return the names of the storage pools (``pool``) or networks (``network``) that it uses."""
    found = (source.get(kind) for source in root.iterfind("devices/*/source"))
    return sorted({name for name in found if name})


def passes_through_pci(root: Element) -> bool:
    """Whether the domain gets PCI devices of the host's own."""
    found = ("hostdev[@type='pci']", "interface[@type='hostdev']")
    return any(root.find(f"devices/{path}") is not None for path in found)


def device_alias(shmem: Element) -> str:
    found = shmem.find("alias")
    return found.get("name", "") if found is not None else ""
