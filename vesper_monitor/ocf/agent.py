# SPDX-License-Identifier: GPL-2.0-or-later
"""What each action of an agent works with, for all hypervisors.

The actions have files of their own beside this one (``start``, ``stop``,
:mod:`monitor <vesper_monitor.ocf.monitor>`, ``migrate``, ``status``), which
:mod:`vesper_monitor.ocf.actions` reads when they are needed: a monitor must
start fast.  An agent for one hypervisor (:mod:`vesper_monitor.ocf.xen.parameters`)
supplies a :class:`~vesper_monitor.ocf.settings.Settings` and a toolstack.
"""

from __future__ import annotations

import os

from vesper_monitor.client import Client
from vesper_monitor.ocf.domain_identity import DomainIdentity
from vesper_monitor.ocf.domain_lookup import DomainLookup
from vesper_monitor.ocf.fast_common import FIRST, begin_waiting, end_waiting, mark_first
from vesper_monitor.ocf.invocation import log_line
from vesper_monitor.ocf.vesperd_requests import REQUEST_LIMIT_S, VesperdRequests

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vesper_monitor.ocf.invocation import OcfInvocation
    from vesper_monitor.ocf.settings import Settings
    from vesper_monitor.ocf.toolstack import Toolstack

__all__ = ["DEVICE_MISSING", "Agent"]

#: The resource's file with why the VM that started here is not watched.
NOTE = "note"
#: In the reason that vesperd gives where a domain lacks its device (kvm_transport/link.py).
DEVICE_MISSING = "no VESPER device"


class Agent:
    """One call of an agent: its resource, its VM, and whom it asks.

    :param client: connects to vesperd; default: to its usual socket.
    """

    def __init__(
        self,
        call: OcfInvocation,
        settings: Settings,
        toolstack: Toolstack,
        client: Client | None = None,
    ) -> None:
        self.call = call
        self.settings = settings
        self.toolstack = toolstack
        self.identity = DomainIdentity(call, settings.configured)
        self.vesperd = VesperdRequests(
            call, settings, self.identity, client or Client(timeout=REQUEST_LIMIT_S)
        )
        if self.identity.remembered is None:
            known = self.vesperd.recall_domain(toolstack.ident_field)
            if known is not None:
                self.identity.adopt_known_domain(known)
                self.identity.vm = known.name
        self.lookup = DomainLookup(call, toolstack, self.identity, self.vesperd)

    @property
    def vm(self) -> str:
        """Name of the domain that this call is about; a list may correct it."""
        return self.identity.vm

    # -- why a VM is not watched ----------------------------------------------

    def keep_unwatched_reason(self, why: str) -> None:
        """Remember why the VM will not be watched; empty: nothing is known."""
        if why:
            log_line(f"{self.vm}: will not be watched: {why}")
        self.call.remember_text(NOTE, why)

    def explain_missing_device(self, reason: str) -> str:
        """Return why the VM has no device, as its start noted; empty: unknown, or it has one.

        Anything else vesperd knows better than an old note.

        :param reason: why the VM is not watched, as vesperd gives it.
        """
        return self.call.remembered_text(NOTE) if DEVICE_MISSING in reason else ""

    # -- the mark of the first recurring monitor ------------------------------

    def set_first_mark(self) -> None:
        """Make the next recurring monitor the first: after a start, or a probe."""
        mark_first(self._first_mark_path())

    def forget_first_mark(self) -> None:
        """Drop the mark: no recurring monitor comes before the next start."""
        try:
            os.unlink(self._first_mark_path())
        except OSError:
            pass

    def begin_waiting(self) -> bool:
        """See :func:`vesper_monitor.ocf.fast_common.begin_waiting`."""
        return begin_waiting(self._first_mark_path())

    def end_waiting(self) -> None:
        """See :func:`vesper_monitor.ocf.fast_common.end_waiting`."""
        end_waiting(self._first_mark_path())

    def _first_mark_path(self) -> str:
        return self.call.state_file(FIRST)
