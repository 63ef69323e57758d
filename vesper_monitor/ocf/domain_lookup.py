# SPDX-License-Identifier: GPL-2.0-or-later
"""Finds the resource's domain in the toolstack's lists, and its state.

What is not known is not "not running": Pacemaker would start the VM a second
time, on the same disk.
"""

from __future__ import annotations

import time

from vesper_monitor.hypervisor.domain_state import DomainState
from vesper_monitor.ocf.domain_identity import KnownDomain, kept_name
from vesper_monitor.ocf.invocation import log_line
from vesper_monitor.ocf.toolstack import ToolstackError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vesper_monitor.ocf.arrival import Arrival
    from vesper_monitor.ocf.domain_identity import DomainIdentity
    from vesper_monitor.ocf.invocation import OcfInvocation
    from vesper_monitor.ocf.toolstack import Toolstack
    from vesper_monitor.ocf.vesperd_requests import VesperdRequests

__all__ = ["ALIVE", "LOOK_PAUSE_S", "STATE_LIMIT_S", "DomainContradictionError", "DomainLookup"]

#: Seconds that one look at the domain's state may take.
STATE_LIMIT_S = 10.0
#: Seconds between two looks while something is under way, at least.
LOOK_PAUSE_S = 0.5
#: And this multiple of the time that the look itself took: a busy host needs its time for that.
LOOK_PAUSE_FACTOR = 2.0
#: Seconds: a sign of life younger than that contradicts a toolstack that does
#: not list the domain.
MAX_LIFE_AGE_S = 10.0
#: Seconds before the end of a call at which such a contradiction is reported.
CONTRADICTION_RESERVE_S = 3.0

ALIVE = (DomainState.RUNNING, DomainState.PAUSED)


class DomainContradictionError(ToolstackError):
    """The toolstack does not list a domain that shows signs of life."""


class DomainLookup:
    """The looks of one call at its resource's domain."""

    def __init__(
        self,
        call: OcfInvocation,
        toolstack: Toolstack,
        identity: DomainIdentity,
        vesperd: VesperdRequests,
    ) -> None:
        self._call = call
        self._toolstack = toolstack
        self._identity = identity
        self._vesperd = vesperd
        self._was_listed = False
        self._arrival: Arrival | None = None
        self._last_look_s = 0.0
        #: seconds that the slowest look of this call took
        self.slowest_look = 0.0

    # -- states -------------------------------------------------------------------

    def read_state(self, limit: float = STATE_LIMIT_S) -> DomainState:
        """Return the domain's state by the toolstack.

        :raises ToolstackError: unknown.
        """
        state = self.list_states(limit).get(self._identity.vm, DomainState.GONE)
        self._check_gone(state is DomainState.GONE)
        return state

    def find_present_domains(self) -> dict[str, DomainState]:
        """Return the states of the domain under its name and those it has during a migration.

        :raises ToolstackError: unknown.
        """
        states = self.list_states()
        names = self._names_of(self._identity.vm)
        found = {name: states[name] for name in names if name in states}
        self._check_gone(not found)
        return found

    def list_states(self, limit: float = STATE_LIMIT_S) -> dict[str, DomainState]:
        """Return the states of all domains, and settle the name of this resource's domain.

        :raises ToolstackError: unknown.
        """
        begin = time.monotonic()
        try:
            states = self._toolstack.list_states(self._call.limit_time(limit))
        finally:
            self._last_look_s = time.monotonic() - begin
        self.slowest_look = max(self.slowest_look, self._last_look_s)
        self._identity.vm = self._find_name(states)
        if self._identity.vm in states and not self._identity.is_foreign():
            self._was_listed = True
        return states

    def describe_state(self, state: DomainState) -> str:
        """Return a state that was just seen, with the reason if the toolstack knows it."""
        return self._toolstack.explain_end(self._identity.vm) or state.value

    def describe_domains(self, present: dict[str, DomainState]) -> str:
        """Return a list of domains and their states for a message."""
        return ", ".join(
            f"{self.describe_state(state)} ({name})" for name, state in present.items()
        )

    def find_for_start(self) -> dict[str, DomainState]:
        """Find the present domains before a start: the remembered one, else the configured one.

        :raises ToolstackError: unknown; the VM must not be started then.
        """
        end = self.end_of_reboot()
        while True:
            try:
                present = self.find_present_domains()
            except DomainContradictionError:
                if not self.has_time_to_look():
                    raise
                self.pause_before_next_look()
                continue
            if not present and time.monotonic() < end:
                self.pause_before_next_look()
                continue
            if present or not self.turn_to_configured():
                return present
            end = 0.0

    # -- a reboot -------------------------------------------------------------------

    def end_of_reboot(self, *, surely: bool = False) -> float:
        """Return until when a domain that ran here and is not listed may come back.

        :param surely: it is known to have run here.
        :returns: CLOCK_MONOTONIC; 0: it does not come back.
        """
        gap = self._toolstack.reboot_gap
        ran = surely or self._identity.remembered is not None
        if not ran and not (gap and self._identity.find_owner(self._identity.vm)):
            return 0.0
        return time.monotonic() + min(gap, max(0.0, self._call.seconds_left() / 3))

    def wait_for_reboot(self, *, surely: bool = False) -> DomainState:
        """Return the state of a domain, which is not listed for a moment while it reboots.

        :param surely: it is known to have run here.
        :raises ToolstackError: unknown.
        """
        end = self.end_of_reboot(surely=surely)
        while (state := self.read_state()) is DomainState.GONE and time.monotonic() < end:
            self.pause_before_next_look()
        return state

    def is_brought_back(self) -> bool:
        """Whether the toolstack itself starts the domain again, which just ended."""
        known, vm = self._identity.remembered, self._identity.vm
        ident = known.ident if known is not None and known.name == vm else ""
        return self._toolstack.brings_back(vm, ident)

    # -- the time ---------------------------------------------------------------------

    def pause_before_next_look(self, most: float = float("inf")) -> None:
        """Sleep between two looks, for ``most`` seconds at most."""
        pause = max(LOOK_PAUSE_S, LOOK_PAUSE_FACTOR * min(self._last_look_s, 1.0))
        time.sleep(min(pause, most))

    def has_time_to_look(self) -> bool:
        """Whether another look fits into this call."""
        return self._call.seconds_left() > CONTRADICTION_RESERVE_S + 2 * self._last_look_s

    # -- which domain it is --------------------------------------------------------------

    @property
    def arrival(self) -> Arrival:
        """What a live migration sent to this node. The cluster is asked at the first use."""
        if self._arrival is None:
            from vesper_monitor.ocf.arrival import Arrival

            self._arrival = Arrival(self._call, self._identity)
        return self._arrival

    def forget_sent(self) -> None:
        """Remove from the cluster what was sent to this node, if it was asked for. Never fails."""
        if self._arrival is not None:
            self._arrival.remove_from_cluster()

    def claim_domain(self) -> None:
        """Remember the domain that runs as this resource's. Never fails."""
        known, vm = self._identity.remembered, self._identity.vm
        try:
            ident = self._toolstack.find_ident(vm, self._call.limit_time(STATE_LIMIT_S))
        except ToolstackError as error:
            log_line(f"{vm}: {error}")
            ident = known.ident if known is not None and known.name == vm else ""
        self._identity.claim_domain(vm, ident)

    def turn_to_configured(self) -> bool:
        """Forget the remembered domain, which does not run: the configured one counts now.

        :returns: whether that is another domain.
        """
        known, wanted = self._identity.remembered, self._identity.configured_name
        if known is None or wanted == known.name:
            return False
        log_line(f"{known.name}: does not run any more; {wanted}, which is configured now, counts")
        self._identity.forget_domain()
        self._identity.vm, self._was_listed = wanted, False
        return True

    def _find_name(self, states: dict[str, DomainState]) -> str:
        """Return the listed name of this resource's domain, or the one to look for."""
        known = self._identity.remembered
        if self._was_listed:
            return self._identity.vm
        if known is not None:
            listed = self._toolstack.find_name(known.ident) if known.ident else ""
            # Under these names it is not this resource's any more, or not yet.
            away = (*self._toolstack.transient_names(known.name), kept_name(known.name))
            if listed and listed not in away:
                return listed
            if known.name in states:
                return known.name
        if arrived := self._find_arrived(states):
            return arrived
        return self._identity.vm if known is None else self._next_name(known, states)

    def _find_arrived(self, states: dict[str, DomainState]) -> str:
        """Return the domain that a live migration brought, if this node's file names another."""
        vm, wanted = self._identity.vm, self._identity.configured_name
        arrives = self._call.action == "migrate_from"
        name, ident = self.arrival.find_domain(again=arrives)
        if not name or self._identity.find_owner(name, ident):
            return ""
        if not arrives and (name == vm or not self._is_listed(name, states)):
            return ""
        if not arrives and not self._may_be(name, ident):
            return ""
        if name not in (vm, wanted):
            log_line(
                f"{name}: was sent to this node for {self._call.resource}, whose file here names "
                f"{wanted}"
            )
            self._identity.adopt_known_domain(KnownDomain(name, ident))
        return name

    def _may_be(self, name: str, ident: str) -> bool:
        """Whether a listed domain may be the one that was sent: an attribute may be an old one."""
        if not ident or self._toolstack.ident_field != "uuid":
            return True
        try:
            limit = self._call.limit_time(STATE_LIMIT_S)
            return self._toolstack.find_ident(name, limit) == ident
        except ToolstackError as error:
            log_line(f"{name}: {error}")
            return True

    def _is_listed(self, name: str, states: dict[str, DomainState]) -> bool:
        return any(known in states for known in self._names_of(name))

    def _names_of(self, vm: str) -> tuple[str, ...]:
        """Names under which the domain may be listed."""
        return (vm, *self._toolstack.transient_names(vm))

    def _next_name(self, known: KnownDomain, states: dict[str, DomainState]) -> str:
        """Return the name to look for now that the remembered domain does not run."""
        wanted = self._identity.configured_name
        if wanted == known.name or wanted not in states:
            return known.name
        if owner := self._identity.find_owner(wanted):
            log_line(f"{wanted}: is configured, but belongs to resource {owner}")
            return known.name
        log_line(f"{known.name}: does not run any more; {wanted}, which is configured now, does")
        return wanted

    def _check_gone(self, gone: bool) -> None:
        """Ask vesperd before a domain that was never listed counts as gone.

        :raises DomainContradictionError: vesperd sees signs of life.
        """
        if not gone or self._was_listed:
            return
        age = self._vesperd.read_life_age()
        if age is None or age >= MAX_LIFE_AGE_S:
            return
        raise DomainContradictionError(
            f"{self._toolstack.name} does not list {self._identity.vm}, but its kernel showed life "
            f"to vesperd {age:.0f} s ago"
        )
