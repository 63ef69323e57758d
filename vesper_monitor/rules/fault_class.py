# SPDX-License-Identifier: GPL-2.0-or-later
"""The class of a fault: a memory fault? a network fault?

The class follows from the event alone, so it is stored nowhere.  Faults of older
journals, and those of another host, have one as well.  No event makes these
functions raise.
"""

from __future__ import annotations

import enum
import signal
from collections.abc import Mapping
from typing import Any

__all__ = ["FaultClass", "classify_event", "classify_fault", "describe_class"]


class FaultClass(enum.Enum):
    """What has failed."""

    MEMORY = "memory"  #: the guest has too little of it, or the hardware has lost a page
    STORAGE = "storage"  #: a disk or a file system
    NETWORK = "network"  #: a link or an address
    KERNEL = "kernel"  #: the guest's kernel, or a CPU of the guest: oops, panic, lockup, hang
    SERVICE = "service"  #: a process of the guest
    HOST = "host"  #: the hypervisor, QEMU or the host's hardware
    OPERATOR = "operator"  #: somebody has asked for it, on the host or in the guest


#: Probe, or event of vesperd itself → the class of its events.
_CLASS_OF: Mapping[str, FaultClass] = {
    "send_signal": FaultClass.SERVICE,
    "out_of_memory": FaultClass.MEMORY,
    "process_exit": FaultClass.SERVICE,
    "hung_task": FaultClass.KERNEL,
    "block_error": FaultClass.STORAGE,
    "fs_error": FaultClass.STORAGE,
    "net_link": FaultClass.NETWORK,
    "memory_failure": FaultClass.MEMORY,
    "lockup": FaultClass.KERNEL,
    "die": FaultClass.KERNEL,
    "last_words": FaultClass.KERNEL,
    "hang": FaultClass.KERNEL,
}

#: Kind of an event ``domain`` (which is the fault's rule, too) → its class.
_CLASS_OF_DOMAIN_KIND: Mapping[str, FaultClass] = {
    "io_error": FaultClass.STORAGE,
    "memory_failure": FaultClass.MEMORY,
    "watchdog": FaultClass.KERNEL,
    "boot": FaultClass.KERNEL,
    "reboot": FaultClass.OPERATOR,
}

#: What is said beside the class in :data:`_CLASS_OF`.
_EXCEPTIONS: Mapping[str, str] = {
    "send_signal": "memory, if the kernel reports a lost page by SIGBUS",
    "process_exit": "memory, if the OOM killer has chosen the process",
}

#: ``si_code`` of a SIGBUS for a page that the hardware has lost.
_BUS_MCEERR_CODES = (4, 5)
#: Words in the cause of a domain's failure; the first that is found decides.
_CLASS_OF_WORD = (
    ("I/O error", FaultClass.STORAGE),
    ("memory failure", FaultClass.MEMORY),
    ("panic", FaultClass.KERNEL),
    ("oops", FaultClass.KERNEL),
    ("watchdog", FaultClass.KERNEL),
)


def classify_event(event: str, probe: str, fields: Mapping[str, Any]) -> FaultClass:
    """Return the class of the fault that an event is, or would be.

    :param event: ``Event.event``.
    :param probe: ``Event.probe``.
    """
    if event == "domain" and probe == "hypervisor":
        return _classify_domain(fields)
    if event == "send_signal" and (
        fields.get("sig") == signal.SIGBUS
        and fields.get("from_kernel") is True
        and fields.get("code") in _BUS_MCEERR_CODES
    ):
        return FaultClass.MEMORY
    if event == "process_exit" and fields.get("oom") is True:
        return FaultClass.MEMORY
    # A dynamic probe is at a place in the kernel.
    return _CLASS_OF.get(event, FaultClass.KERNEL)


def classify_fault(rule: str, event: Mapping[str, Any]) -> FaultClass:
    """Return the class of a fault.

    :param rule: ``Fault.rule``; it decides if the event was too long to go with its VM
        to another host.
    :param event: ``Fault.event``.
    """
    fields = event.get("fields")
    if event.get("event") and isinstance(fields, Mapping) and fields:
        return classify_event(str(event["event"]), str(event.get("probe")), fields)
    if rule in _CLASS_OF:
        return _CLASS_OF[rule]
    if event.get("event") == "domain" or rule in ("paused", "domain_ended"):
        return _CLASS_OF_DOMAIN_KIND.get(rule, FaultClass.HOST)
    return _CLASS_OF_DOMAIN_KIND.get(rule, FaultClass.KERNEL)


def describe_class(probe: str) -> str:
    """Say the class of a probe's events, for people."""
    said = _CLASS_OF.get(probe, FaultClass.KERNEL).value
    return f"{said}; {_EXCEPTIONS[probe]}" if probe in _EXCEPTIONS else said


def _classify_domain(fields: Mapping[str, Any]) -> FaultClass:
    """Return the class of a hypervisor's report about a domain."""
    kind, cause, why = (fields.get(name) for name in ("kind", "cause", "why"))
    if isinstance(kind, str) and kind in _CLASS_OF_DOMAIN_KIND:
        return _CLASS_OF_DOMAIN_KIND[kind]
    if cause in ("asked", "likely", "reboot"):
        return FaultClass.OPERATOR
    if isinstance(why, str):
        for word, found in _CLASS_OF_WORD:
            if word in why:
                return found
    return FaultClass.KERNEL if fields.get("state") == "crashed" else FaultClass.HOST
