# SPDX-License-Identifier: GPL-2.0-or-later
"""What the evaluation needs of a lab, and the differences between the labs."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from lab.guest import CHECK_PAGE, Guest
from lab.host import Host

__all__ = ["PRIMITIVES", "VMMS", "Lab", "open_lab_of_setting", "scale_timeouts"]

VMMS = ("xen", "kvm")


class Lab(Protocol):
    """Two hosts with a cluster, vesperd on both, and what ``vm1`` needs."""

    vmm: str  #: of :data:`VMMS`
    #: s between two requests for the guest's page
    page_every: float

    @property
    def hosts(self) -> Sequence[Host]: ...

    def guest_through(self, *, through: Host | None = None) -> Guest: ...

    def running_on(self) -> Host | None: ...


def _make_primitive(
    agent: str, start: str, stop: str, interval: str, monitor: str, meta: str = ""
) -> str:
    return (
        f"primitive vm1 {agent} op start timeout={start} interval=0 "
        f"op stop timeout={stop} interval=0 op monitor interval={interval} timeout={monitor} "
        f"meta migration-threshold=1 resource-stickiness=100{meta}"
    )


_SCRIPT = f"monitor_scripts={CHECK_PAGE}"
_XEN = "params xmfile=/etc/xen/vm1.cfg"
_KVM = "params config=/etc/lab/vm1.xml migration_transport=tcp"
_MOVES = " allow-migrate=true"

#: vm1 as a resource, for crmsh, by the lab's vmm and the way to watch. Processes
#: start slowly in an emulated dom0: a start gets plenty of time.
PRIMITIVES = {
    "xen": {
        "polling": _make_primitive(
            f"ocf:heartbeat:Xen {_XEN} {_SCRIPT}", "180s", "60s", "10s", "60s"
        ),
        "vesper": _make_primitive(
            f"ocf:vesper:XenVM {_XEN} services=httpd", "180s", "60s", "1s", "600s"
        ),
    },
    "kvm": {
        "polling": _make_primitive(
            f"ocf:heartbeat:VirtualDomain {_KVM} {_SCRIPT}", "90s", "90s", "10s", "30s", _MOVES
        ),
        "vesper": _make_primitive(
            f"ocf:vesper:LibvirtVM {_KVM} services=httpd", "90s", "90s", "1s", "600s", _MOVES
        ),
    },
}


def scale_timeouts(primitive: str, factor: float) -> str:
    """Return a primitive whose operations have that many times as long; intervals stay."""
    return re.sub(
        r"(?<=timeout=)(\d+)s", lambda match: f"{math.ceil(int(match[1]) * factor)}s", primitive
    )


def open_lab_of_setting(vmm: str) -> AbstractContextManager[Lab]:
    """Return a lab that is ready when entered, without resources.

    :raises LabError: it does not come up.
    """
    if vmm == "xen":
        from lab.xen import XenLab

        return XenLab.resume_lab()
    from lab.kvm import KvmLab

    return KvmLab()
