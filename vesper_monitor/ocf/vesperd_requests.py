# SPDX-License-Identifier: GPL-2.0-or-later
"""What an agent asks and tells vesperd about its resource.

vesperd is told, but never needed: without it the VM starts, stops, and is
watched by its domain's state.
"""

from __future__ import annotations

import os

from vesper_monitor.client import Client, DaemonError, DaemonUnavailableError
from vesper_monitor.hypervisor.domain_state import DomainState
from vesper_monitor.ocf.domain_identity import KnownDomain
from vesper_monitor.ocf.fast_common import CARRIED
from vesper_monitor.ocf.invocation import log_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vesper_monitor.ocf.domain_identity import DomainIdentity
    from vesper_monitor.ocf.invocation import OcfInvocation
    from vesper_monitor.ocf.settings import Settings

__all__ = ["REQUEST_LIMIT_S", "VesperdRequests"]

#: Seconds that vesperd has for one answer.
REQUEST_LIMIT_S = 3.0


class VesperdRequests:
    """Requests of one call to this node's vesperd.

    :param identity: the domain that they name.
    """

    def __init__(
        self, call: OcfInvocation, settings: Settings, identity: DomainIdentity, client: Client
    ) -> None:
        self.client = client
        self._call = call
        self._settings = settings
        self._identity = identity

    def send_request(self, op: str, **fields: Any) -> dict[str, Any]:
        """Send a request about this resource and its domain, and return the answer.

        :raises DaemonUnavailableError:
        :raises DaemonError:
        """
        return self._ask(op, resource=self._call.resource, **self.domain_fields(), **fields)

    def try_request(self, op: str, **fields: Any) -> str | None:
        """Send a request whose answer does not matter. Never fails.

        :returns: why vesperd did not get it; None if it did.
        """
        try:
            self.send_request(op, **fields)
        except (DaemonUnavailableError, DaemonError) as error:
            log_line(f"{self._identity.vm}: vesperd did not get the request {op}: {error}")
            return str(error)
        return None

    def domain_fields(self) -> dict[str, str]:
        """Return the fields that name the domain: its name, and its identifier if known."""
        known, vm = self._identity.remembered, self._identity.vm
        if known is None or not known.ident or known.name != vm:
            return {"vm": vm}
        return {"vm": vm, "domain": known.ident}

    # -- the resource's activation ----------------------------------------------

    def notify_start(self) -> str | None:
        """Report that a new activation of the resource begins. See :meth:`try_request`."""
        carried = self.carried_fault_field()
        # Nothing is in force yet that a list with one wrong name could leave as it is.
        wishes = {**self.build_wishes(), "services": self._settings.services}
        trouble = self.try_request("start", **wishes, **carried)
        if carried and trouble is None:
            self.forget_carried()
        return trouble

    def expect_arrival(self) -> None:
        """Report that the domain may arrive here by a migration. Never fails."""
        try:
            self.send_request("expect", probes=self._settings.probes)
        except (DaemonUnavailableError, DaemonError):
            pass

    def build_wishes(self) -> dict[str, Any]:
        """Return the request fields that say how the resource is to be watched.

        A parameter whose value is wrong is left out, so that what is in force stays.
        """
        settings = self._settings
        wishes: dict[str, Any] = {
            "probes": settings.probes,
            "services": settings.services,
            "fault_on": settings.fault_on,
        }
        if settings.pause_timeout is not None:
            wishes["pause_timeout"] = settings.pause_timeout
        if settings.hang_timeout is not None:
            wishes["hang_timeout"] = settings.hang_timeout
        if settings.boot_timeout is not None:
            wishes["boot_timeout"] = settings.boot_timeout
        for name in settings.unclear:
            wishes.pop(name, None)
        if settings.doubts:
            wishes["doubt"] = settings.doubts[0]
        return wishes

    # -- a fault that arrived with the VM (carried_fault.py) ---------------------

    def carried_fault_field(self) -> dict[str, Any]:
        """Return the field of a ``start`` or ``wait`` with a fault that vesperd does not have."""
        if not os.path.exists(self._call.state_file(CARRIED)):
            return {}
        from vesper_monitor.ocf.carried_fault import kept_fault_field

        return kept_fault_field(self._call, self._identity.vm)

    def forget_carried(self) -> None:
        """Drop that fault: vesperd has it, or it does not concern what begins or ends here."""
        self._call.remember_text(CARRIED, "")

    # -- questions ----------------------------------------------------------------

    def recall_domain(self, ident_field: str) -> KnownDomain | None:
        """Return the domain that this resource runs, as vesperd remembers it; None: unknown.

        :param ident_field: which field of the answer identifies a domain.
        """
        try:
            answer = self._ask("life", resource=self._call.resource)
        except (DaemonUnavailableError, DaemonError):
            return None
        name, ident = answer.get("vm"), answer.get(ident_field)
        if not isinstance(name, str) or not name or ident is None:
            return None
        # A start or a probe of another resource may have taken it since.
        if self._identity.find_owner(name, str(ident)):
            return None
        return KnownDomain(name, str(ident))

    def read_life_age(self) -> float | None:
        """Return the seconds since the remembered domain's last sign of life.

        :returns: None: vesperd saw none, or is away.
        """
        fields = self.domain_fields()
        if "domain" not in fields:
            return None
        try:
            answer = self._ask("life", **fields)
        except (DaemonUnavailableError, DaemonError):
            return None
        age = answer.get("age")
        return float(age) if isinstance(age, (int, float)) else None

    def read_domain_state(self) -> DomainState | None:
        """Return the domain's state as vesperd knows it; None: unknown.

        It is gone only if it is gone under each name that it may have.
        """
        identity = self._identity
        found: DomainState | None = None
        for name in dict.fromkeys((identity.vm, identity.name, identity.configured_name)):
            if name != identity.vm and identity.find_owner(name):
                continue
            found = self._ask_state(name)
            if found is not DomainState.GONE:
                return found
        return found

    def find_pause(self) -> str:
        """Return why nothing is to be reported now; empty unless an operator paused watching."""
        try:
            # A connection of its own: on the other one a monitor may be waiting.
            with Client(self.client.path, REQUEST_LIMIT_S) as client:
                pause = client.call_vesperd("state", vm=self._identity.vm).get("paused")
        except (DaemonUnavailableError, DaemonError):
            return ""
        return str(pause.get("text") or "watching is paused") if isinstance(pause, dict) else ""

    def _ask_state(self, name: str) -> DomainState | None:
        try:
            answer = self._ask("state", vm=name)
            if "domain" not in answer:
                return None
            domain = answer["domain"]
            if domain is None:
                return DomainState.GONE
            return DomainState(domain["state"]) if domain["name"] == name else None
        except (DaemonUnavailableError, DaemonError, ValueError, TypeError, KeyError):
            return None

    def _ask(self, op: str, **fields: Any) -> dict[str, Any]:
        limit = self._call.limit_time(REQUEST_LIMIT_S)
        return self.client.call_vesperd(op, reply_timeout=limit, **fields)
