# SPDX-License-Identifier: GPL-2.0-or-later
"""save_config_on_stop, sync_config_on_stop: a running domain's configuration, kept.

What an administrator changes in a running domain is lost when it ends.
"""

from __future__ import annotations

import os

from vesper_monitor.ocf.atomic_file import replace_file
from vesper_monitor.ocf.invocation import log_line
from vesper_monitor.ocf.libvirt import domain_xml, ivshmem_server, vtpm
from vesper_monitor.ocf.libvirt.pci_slot import read_number
from vesper_monitor.ocf.toolstack import ToolstackError, pick_message, run_command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lxml.etree import _Element as Element

    from vesper_monitor.ocf.libvirt.virsh_call import VirshCall

__all__ = ["save_config", "take_out_ours"]


def save_config(virsh: VirshCall, name: str, limit: float) -> None:
    """Write the configuration into the domain's file, if they differ. Never fails.

    Nothing is done while libvirtd hangs.
    """
    config = virsh.options.config
    if virsh.has_hung_lately():
        return
    try:
        if not _write_if_changed(virsh, config, name, limit):
            return
        log_line(f"{name}: its configuration was saved in {config}")
        if virsh.options.sync_config:
            code, said = run_command(["csync2", "-x", config], limit)
            if code != 0:
                raise ToolstackError(
                    f"csync2 -x {config}: exit status {code}: {pick_message(said)}"
                )
    except (ToolstackError, ValueError, OSError) as error:
        log_line(f"{name}: its configuration is not saved in {config}: {error}")


def _write_if_changed(virsh: VirshCall, config: str, name: str, limit: float) -> bool:
    """:returns: whether the file has changed."""
    root = domain_xml.parse_domain(
        virsh.do_to(name, limit, "dumpxml", "--inactive", "--security-info")
    )
    if root.findtext("name") != name:
        raise ValueError("libvirt gave the XML of another domain")
    with open(config, "rb") as file:
        old = domain_xml.parse_domain(file.read())
    take_out_ours(root, old, ivshmem_server.qemu_socket())
    if domain_xml.canonicalize_xml(root) == domain_xml.canonicalize_xml(old):
        return False
    replace_file(config, domain_xml.serialize_domain(root).encode(), os.stat(config))
    return True


def take_out_ours(root: Element, file: Element, socket: str) -> None:
    """Undo in a running domain's XML what was done for this run alone.

    :param file: the XML that its file has now.
    :raises ValueError: the file is another domain's.
    """
    _restore_name(root, file)
    running, own = domain_xml.find_device(root, socket), domain_xml.find_device(file, socket)
    if running is not None and own is None:
        _remove_device(root, file, running)
    elif running is None and own is not None:
        # It runs without, as nobody could serve it: that is no reason to lose it.
        domain_xml.copy_device(root, file, own)
    vtpm.restore_choice(root, file)


def _restore_name(root: Element, file: Element) -> None:
    """Keep the name in the file, where the resource names the domain otherwise."""
    name, uuid = domain_xml.read_text(file, "name"), domain_xml.read_text(file, "uuid")
    if name == root.findtext("name"):
        return
    if not uuid or uuid.lower() != (root.findtext("uuid") or "").lower():
        raise ValueError(f"the file describes another domain: {name or 'without a name'}")
    domain_xml.set_name(root, name)


def _remove_device(root: Element, file: Element, device: Element) -> None:
    """Remove the device, and the bridges that libvirt has added for it alone."""
    bus = _pci_bus_number(device)
    domain_xml.remove_device(root, device)
    while bus > 0 and all(_pci_bus_number(other) != bus for other in root.iterfind("devices/*")):
        bridge = _find_controller(root, bus)
        if bridge is None or _find_controller(file, bus) is not None:
            return
        bus = _pci_bus_number(bridge)
        domain_xml.take_out(bridge)


def _pci_bus_number(device: Element) -> int:
    """Return the number of a device's PCI bus; 0 also if it is on none."""
    address = device.find("address")
    if address is None or address.get("type") != "pci":
        return 0
    return read_number(address, "bus")


def _find_controller(root: Element, bus: int) -> Element | None:
    """Return the PCI controller that a bus belongs to; None: it is not in the XML."""
    for controller in root.iterfind("devices/controller"):
        if controller.get("type") == "pci" and read_number(controller, "index") == bus:
            return controller
    return None
