# SPDX-License-Identifier: GPL-2.0-or-later
"""Keep the state of a domain's virtual TPM, without which its disk may stay encrypted.

libvirt keeps that state in a folder that is named after the domain's UUID.  It
deletes it when a transient domain ends, unless ``persistent_state`` is set (7.0
and later; others do not know the attribute and take no notice of it).
"""

from __future__ import annotations

from vesper_monitor.ocf.libvirt import domain_xml

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lxml.etree import _Element as Element

__all__ = ["find_doubt", "is_lost_at_end", "keep_state", "list_backends", "restore_choice"]


def list_backends(root: Element) -> list[Element]:
    """Return the back ends that libvirt runs: those with a state of their own."""
    return [
        backend
        for backend in root.iterfind("devices/tpm/backend")
        if backend.get("type") == "emulator"
    ]


def keep_state(root: Element) -> None:
    """Have libvirt keep the state when the domain ends, unless the XML says otherwise."""
    for backend in list_backends(root):
        if backend.get("persistent_state") is None:
            backend.set("persistent_state", "yes")


def restore_choice(root: Element, file: Element) -> None:
    """Undo :func:`keep_state` where the file does not ask for it."""
    if not any(backend.get("persistent_state") for backend in list_backends(file)):
        for backend in list_backends(root):
            backend.attrib.pop("persistent_state", None)


def is_lost_at_end(live: Element) -> bool:
    """Whether a transient domain that runs loses its state at its end."""
    return any(backend.get("persistent_state") != "yes" for backend in list_backends(live))


def find_doubt(root: Element) -> str:
    """Return the error about a TPM in a configuration file; empty: there is none."""
    if list_backends(root) and not domain_xml.read_text(root, "uuid"):
        return "it has a vTPM but no <uuid>: its TPM is new at each start"
    return ""
