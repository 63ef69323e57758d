# SPDX-License-Identifier: GPL-2.0-or-later
"""Tells whether libvirt restarts a domain whose guest panicked; no healthy VM's monitor needs it.

libvirt then resets the guest in the same QEMU; for some moments the domain
shows as crashed (processGuestPanicEvent() in src/qemu/qemu_driver.c, 9.0).
"""

from __future__ import annotations

import re

from vesper_monitor.ocf.toolstack import ToolstackError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vesper_monitor.ocf.libvirt.virsh_call import VirshCall

__all__ = ["is_restarted"]

#: Seconds for the domain's own XML.
ASK_LIMIT_S = 5.0
ON_CRASH = re.compile(rb"<on_crash>\s*(coredump-)?restart\s*</on_crash>")


def is_restarted(virsh: VirshCall, name: str) -> bool:
    """Whether libvirt restarts the domain. Never fails.

    A domain that is gone does not come back by itself.
    """
    try:
        # A failover should not wait for virsh: few configurations say so.
        with open(virsh.options.config, "rb") as file:
            if not ON_CRASH.search(file.read()):
                return False
        xml = virsh.do_to(name, ASK_LIMIT_S, "dumpxml")
    except (OSError, ToolstackError):
        return False
    return bool(ON_CRASH.search(xml.encode()))
