# SPDX-License-Identifier: GPL-2.0-or-later
"""Unplugs VESPER's device from a running domain so that QEMU survives it.

What QEMU 7.2 does wrong when an ivshmem-doorbell goes (ivshmem_exit(), hw/misc/ivshmem.c):

- It closes the memory's descriptor, and does so again when its RCU callbacks
  have run (reclaim_ramblock(), softmmu/physmem.c), some 100 ms later.  By then
  the number may be another's.
- Where the interrupt does not come through the kernel (irqfd, so without KVM)
  the handler of the device's eventfd stays.  QEMU computes without end, as
  poll(2) finds that number closed; and when whatever gets it next can be read,
  the handler uses memory that is freed.  A replug may hit it, or may not.

So nothing is asked of QEMU for a moment; and without KVM the numbers are then
given to descriptors of ours, which can never be read.
"""

from __future__ import annotations

import json
import os
import time

from vesper_monitor.hypervisor import qemu_process
from vesper_monitor.ocf.invocation import log_line
from vesper_monitor.ocf.libvirt import domain_xml, ivshmem_server
from vesper_monitor.ocf.toolstack import ToolstackError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lxml.etree import _Element as Element

    from vesper_monitor.ocf.libvirt.virsh_call import VirshCall

__all__ = ["read_live_xml", "unplug_device"]

#: Seconds for one command.
LOOK_LIMIT_S = 10.0
#: Seconds for the guest to release its device.
UNPLUG_LIMIT_S = 10.0
UNPLUG_PAUSE_S = 0.25
#: Seconds for QEMU's RCU callbacks.
SETTLE_S = 1.0
#: Descriptors that are given to QEMU at most: those of the device, and as
#: many again, should lower numbers be free.
MAX_OCCUPIERS = 32


def read_live_xml(virsh: VirshCall, name: str, limit: float) -> Element:
    """Return the XML of a running domain.

    :raises ToolstackError: unknown.
    """
    try:
        return domain_xml.parse_domain(virsh.do_to(name, limit, "dumpxml"))
    except ValueError as error:
        raise ToolstackError(f"virsh dumpxml {name}: {error}") from None


def unplug_device(virsh: VirshCall, name: str, root: Element, device: Element) -> None:
    """Unplug VESPER's device from a running domain.

    :param root: the domain's live XML.
    :raises ToolstackError: the guest does not release it, or QEMU might not survive
        that.
    """
    leaks = root.get("type") != "kvm"
    before = _list_descriptors(virsh, name) if leaks else set()
    virsh.do_to(
        name, LOOK_LIMIT_S, "detach-device-alias", domain_xml.device_alias(device), "--live"
    )
    end = time.monotonic() + UNPLUG_LIMIT_S
    while (
        domain_xml.find_device(
            read_live_xml(virsh, name, LOOK_LIMIT_S), ivshmem_server.qemu_socket()
        )
        is not None
    ):
        if time.monotonic() >= end:
            raise ToolstackError(
                f"the guest did not release VESPER's device within {UNPLUG_LIMIT_S:g} s; "
                "nothing was sent"
            )
        time.sleep(UNPLUG_PAUSE_S)
    time.sleep(SETTLE_S)
    if leaks:
        _occupy_descriptors(virsh, name, before)


def _list_descriptors(virsh: VirshCall, name: str) -> set[str]:
    """Return the numbers of the descriptors of the domain's QEMU.

    :raises ToolstackError: not known.
    """
    try:
        pid = qemu_process.find_qemu_pid(name) if virsh.is_local() else None
        if pid is None:
            log_line(f"{name}: the process of its QEMU is unknown, and cannot be made safe")
            raise ToolstackError(
                "QEMU without KVM may crash when VESPER's device is unplugged; nothing was sent"
            )
        return set(os.listdir(f"/proc/{pid}/fd"))
    except OSError as error:
        raise ToolstackError(f"descriptors of {name}'s QEMU: {error}; nothing was sent") from None


def _occupy_descriptors(virsh: VirshCall, name: str, before: set[str]) -> None:
    """:raises ToolstackError: a number stays free."""
    lost = before - _list_descriptors(virsh, name)
    for _ in range(MAX_OCCUPIERS):
        free = lost - _list_descriptors(virsh, name)
        if not free:
            log_line(f"{name}: its QEMU, without KVM, keeps {len(lost)} descriptors of ours open")
            return
        descriptor = os.eventfd(0)
        # A name of its own: the one of that name before it would be closed.
        arguments = {"fdname": f"vesper-{time.time_ns()}"}
        command = json.dumps({"execute": "getfd", "arguments": arguments})
        passed = ("--pass-fds", str(descriptor))
        try:
            uuid = virsh.find_ident(name, LOOK_LIMIT_S)
            virsh.run_virsh(
                LOOK_LIMIT_S, "qemu-monitor-command", uuid, *passed, command, keep=(descriptor,)
            )
        finally:
            os.close(descriptor)
    raise ToolstackError(
        f"QEMU may crash: descriptors {', '.join(sorted(free))} of its unplugged device stay "
        "free; nothing was sent"
    )
