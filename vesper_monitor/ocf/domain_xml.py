# SPDX-License-Identifier: GPL-2.0-or-later
"""VESPER's device in the XML of a libvirt domain, and what else is read there.

The device is an ivshmem doorbell.  libvirt and QEMU each refuse to migrate or
save a domain that has one, but for its master: libvirt looks at the attribute
``role`` and does not pass it on for this model (9.0); QEMU looks at its
property ``master``, which only an override can set (its type is ``on``/``off``
/``auto``, so a string).
"""

from __future__ import annotations

from io import StringIO
from xml.etree import ElementTree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

__all__ = [
    "ALIAS",
    "add",
    "alias",
    "blames_device",
    "device",
    "hot_plug",
    "masters",
    "name_in",
    "needed",
    "parse",
    "remove",
    "text",
]

#: libvirt takes an alias of a user's only with this prefix.
ALIAS = "ua-vesper"
QEMU = "http://libvirt.org/schemas/domain/qemu/1.0"
Q = f"{{{QEMU}}}"


def name_in(xml: str) -> str:
    """The domain's name; empty if there is none.

    Each monitor needs it: what libvirt itself wrote is not parsed for that.
    """
    begin = xml.find("<name>")
    end = xml.find("<", begin + 6)
    name = xml[begin + 6 : end].strip()
    if begin >= 0 and end >= 0 and "&" not in name:
        before = xml[:begin].rstrip()
        if before.startswith("<domain") and before.count("<") == 1 and before.endswith(">"):
            return name
    try:
        return (parse(xml).findtext("name") or "").strip()
    except ValueError:
        return ""


def parse(xml: str) -> Element:
    """
    :raises ValueError: it is no domain's.
    """
    # libvirt knows a namespace by its prefix in places, so those stay.
    ElementTree.register_namespace("qemu", QEMU)
    try:
        for _, (prefix, uri) in ElementTree.iterparse(StringIO(xml), ["start-ns"]):
            if prefix and uri != QEMU:
                _register(prefix, uri)
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError as error:
        raise ValueError(f"not XML: {error}") from None
    if root.tag != "domain":
        raise ValueError(f"its root is <{root.tag}>, not <domain>")
    return root


def _register(prefix: str, uri: str) -> None:
    try:
        ElementTree.register_namespace(prefix, uri)
    except ValueError:  # one of those that the library makes up itself
        pass


def text(root: Element) -> str:
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def device(root: Element, socket: str) -> Element | None:
    """VESPER's device, by the socket that it is connected to."""
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


def masters(root: Element, shmem: Element) -> bool:
    """Whether a domain with this device can be migrated and saved."""
    if shmem.get("role") != "master":
        return False
    for override in root.iterfind(f"{Q}override/{Q}device"):
        if override.get("alias") == alias(shmem):
            return any(
                prop.get("name") == "master" and prop.get("value") == "on"
                for prop in override.iter(f"{Q}property")
            )
    return False


def add(root: Element, socket: str) -> str:
    """Add the device.

    :returns: why it cannot be; empty: it is added.
    """
    kind = root.get("type", "")
    if kind not in ("kvm", "qemu"):
        return f"a domain of type {kind} has no ivshmem device"
    if any(other.get("name") == ALIAS for other in root.iterfind("devices/*/alias")):
        return f"another device has the alias {ALIAS}"
    devices = root.find("devices")
    if devices is None:
        devices = ElementTree.SubElement(root, "devices")
    devices.append(_shmem(socket))
    override = root.find(f"{Q}override")
    if override is None:
        override = ElementTree.SubElement(root, f"{Q}override")
    frontend = ElementTree.SubElement(
        ElementTree.SubElement(override, f"{Q}device", alias=ALIAS), f"{Q}frontend"
    )
    ElementTree.SubElement(frontend, f"{Q}property", name="master", type="string", value="on")
    return ""


def _shmem(socket: str) -> Element:
    shmem = ElementTree.Element("shmem", name="vesper", role="master")
    ElementTree.SubElement(shmem, "model", type="ivshmem-doorbell")
    ElementTree.SubElement(shmem, "server", path=socket)
    ElementTree.SubElement(shmem, "msi", vectors="1", ioeventfd="on")
    ElementTree.SubElement(shmem, "alias", name=ALIAS)
    return shmem


def remove(root: Element, shmem: Element) -> None:
    """Remove the device and what is overridden of it."""
    devices = root.find("devices")
    if devices is not None:
        devices.remove(shmem)
    for override in root.findall(f"{Q}override"):
        for part in override.findall(f"{Q}device"):
            if part.get("alias") == alias(shmem):
                override.remove(part)
        if len(override) == 0:
            root.remove(override)


def hot_plug(socket: str) -> str:
    """The device for a domain that runs: there an override is not to be had."""
    return text(_shmem(socket))


def needed(root: Element, kind: str) -> list[str]:
    """Names of the storage pools (``pool``) or networks (``network``) that it uses."""
    found = (source.get(kind) for source in root.iterfind("devices/*/source"))
    return sorted({name for name in found if name})


def alias(shmem: Element) -> str:
    found = shmem.find("alias")
    return found.get("name", "") if found is not None else ""


def blames_device(error: str) -> bool:
    """Whether what libvirt or QEMU says may be about the device."""
    return any(word in error.lower() for word in ("vesper", "shmem"))
