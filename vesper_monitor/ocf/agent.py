# SPDX-License-Identifier: GPL-2.0-or-later
"""What the agents of all hypervisors have in common: start, status, validation.

The other actions have files of their own beside this one (:mod:`monitor
<vesper_monitor.ocf.monitor>`, ``stop``, ``migrate``), which are read when
they are needed: a monitor must start fast.  An agent for one hypervisor
(:mod:`vesper_monitor.ocf.xen.parameters`) supplies a :class:`Settings` and a toolstack.

Two rules hold everywhere.  What is not known is not "not running": Pacemaker
would start the VM a second time, on the same disk.  And vesperd is told, but
never needed: without it the VM starts, stops, and is watched by its domain's
state.
"""

from __future__ import annotations

import os
import time

from vesper_monitor.client import Client, DaemonError, DaemonUnavailableError
from vesper_monitor.hypervisor.domain_state import DomainState
from vesper_monitor.ocf.domain_identity import (
    ConfiguredName,
    DomainIdentity,
    KnownDomain,
    kept_name,
)
from vesper_monitor.ocf.fast_common import CARRIED, FIRST, begin_waiting, end_waiting, mark_first
from vesper_monitor.ocf.invocation import OcfCode, OcfExit, log_line
from vesper_monitor.ocf.toolstack import ToolstackError, ToolstackMissingError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vesper_monitor.ocf.hand_over import Arrival
    from vesper_monitor.ocf.invocation import OcfInvocation
    from vesper_monitor.ocf.toolstack import Toolstack

__all__ = ["DEFAULT_PROBES", "Agent", "Settings"]

DEFAULT_PROBES = "send_signal out_of_memory"

#: Seconds that one look at the domain's state may take.
STATE_LIMIT_S = 10.0
#: Seconds for vesperd to take notice of a start or a stop.
TELL_LIMIT_S = 3.0
#: Seconds in which vesperd is asked again what the toolstack cannot say.
VESPERD_PATIENCE_S = 5.0
#: Seconds between two looks while something is under way, at least; and as
#: often as long as the look itself takes: a busy host needs its time for that.
LOOK_PAUSE_S = 0.5
LOOK_SHARE = 2.0
#: Seconds: a sign of life younger than that contradicts a toolstack that does
#: not list the domain.
LIFE_AGE_S = 10.0
#: Seconds before the end of a call at which such a contradiction is reported.
CONTRADICTION_RESERVE_S = 3.0

ALIVE = (DomainState.RUNNING, DomainState.PAUSED)


class DomainContradictionError(ToolstackError):
    """The toolstack does not list a domain that shows life."""


class Settings:
    """The parameters, understood.

    :param config: configuration file of the domain, for the toolstack.
    :param configured: which name parameter and file give the domain.
    """

    def __init__(self, config: str, configured: ConfiguredName) -> None:
        self.config = config
        self.configured = configured
        #: seconds until a shutdown becomes a destroy; None: the next line
        self.shutdown_timeout: float | None = None
        #: how much of the stop operation's timeout that is
        self.shutdown_share = 2 / 3
        #: shut down by the power button instead of the toolstack's own way
        self.power_button = False
        #: keep a crashed domain for its dump when it is stopped
        self.keep_crashed = False
        #: a guest that powers itself off is to stay off
        self.poweroff_wanted = False
        #: names of probes
        self.probes: list[str] = []
        #: names of processes whose main process is the service
        self.services: list[str] = []
        #: seconds that a pause of which nobody knows why may last; None:
        #: vesperd's own limit
        self.pause_timeout: float | None = None
        #: seconds within which a hang of the guest's kernel is a fault; None:
        #: vesperd's own
        self.hang_timeout: float | None = None
        #: seconds that the guest may boot, after which that is a fault; None: vesperd's own
        self.boot_timeout: float | None = None
        #: rules for what is a fault (vesper-rules(7)), for vesperd
        self.fault_on = ""
        #: what is wrong with parameters without which the VM runs; the monitor
        #: is degraded with the first
        self.doubts: list[str] = []
        #: names of parameters of which what was in force stays
        self.unclear: set[str] = set()
        #: commands that must all succeed while the VM is well
        self.scripts: list[str] = []
        #: seconds that one of them may take
        self.script_timeout = 10.0
        #: seconds from one run of them to the next
        self.script_interval = 10.0
        #: share the host's memory out among the domains
        self.manage_memory = False
        #: MiB that the host itself keeps then
        self.reserved_memory = 512
        #: node attribute with the address to which a VM is migrated
        self.address_attribute = ""
        #: what the resource's utilization is to say: ``cpu``, ``hv_memory``, ``host_memory``
        self.utilization: list[str] = []
        #: what it is not to say
        self.no_utilization: list[str] = []


class Agent:
    """The actions on one VM.

    :param vesperd: how to reach vesperd; default: its usual socket.
    """

    def __init__(
        self,
        call: OcfInvocation,
        settings: Settings,
        toolstack: Toolstack,
        vesperd: Client | None = None,
    ) -> None:
        self.call = call
        self.settings = settings
        self.toolstack = toolstack
        self.vesperd = vesperd or Client(timeout=TELL_LIMIT_S)
        self.identity = DomainIdentity(call, settings.configured)
        if self.identity.remembered is None:
            self._ask_what_runs()
        #: name of the domain that this call is about; a list may correct it
        self.vm = self.identity.name
        self._seen = False  # it was listed
        self._arrival: Arrival | None = None
        self._look_took = 0.0
        #: seconds, of this call's looks that were answered
        self.slowest_look = 0.0

    # -- actions ------------------------------------------------------------

    def start(self) -> None:
        """Start the VM, unless it runs, and tell vesperd.

        :raises OcfExit: it does not run, or a monitor script does not succeed.
        """
        from vesper_monitor.ocf import deep_check

        deep_check.forget_deep_check(self)
        self.check_node()
        try:
            present = self._look_for_certain()
            if present and present.get(self.vm) not in ALIVE:
                self._remove_remains(present)
                present = self._look_for_certain()
            if present:
                log_line(f"{self.vm}: already runs ({self.describe_domains(present)})")
            else:
                self.forget_carried()
                self._create_domain()
                self.forget_sent()
        except ToolstackError as error:
            raise OcfExit(OcfCode.OCF_ERR_GENERIC, f"{self.vm} was not started: {error}") from error
        if present:
            self._begin_arrived()
        else:
            self.begin_instance()
        if self.settings.scripts:
            from vesper_monitor.ocf.scripts import wait_for_success

            wait_for_success(self)

    def _begin_arrived(self) -> None:
        """The VM runs here already, perhaps by a migration without a migrate_from."""
        arrival = self.arrival
        arrival.receive_fault()
        self.begin_instance()
        arrival.remove_from_cluster()

    @property
    def arrival(self) -> Arrival:
        """What was sent to this node by a live migration. The cluster is asked when first used."""
        if self._arrival is None:
            from vesper_monitor.ocf.hand_over import Arrival

            self._arrival = Arrival(self)
        return self._arrival

    def forget_sent(self) -> None:
        """What was sent to this node, as far as was asked for, is over. Never fails."""
        if self._arrival is not None:
            self._arrival.remove_from_cluster()

    def _remove_remains(self, present: dict[str, DomainState]) -> None:
        """Remove what is left of the domain before its start."""
        from vesper_monitor.ocf import stop

        log_line(f"{self.vm}: is {self.describe_domains(present)}; removing it before the start")
        stop.remove_domain(self)

    def _create_domain(self) -> None:
        """:raises ToolstackError: it does not run."""
        from vesper_monitor.ocf import stop

        vm = self.vm
        memory = None
        if self.settings.manage_memory:
            from vesper_monitor.ocf.xen.memory import make_room

            memory = make_room(self)
        create = self.toolstack.create_domain
        try:
            note = create(self.settings.config, vm, self.limit_call(), memory)
        except ToolstackError as error:
            # What was kept for its dump must not cost the service.
            try:
                dropped = stop.drop_kept(self)
            except ToolstackError as trouble:
                log_line(f"{vm}: {trouble}")
                dropped = False
            if not dropped:
                raise
            log_line(f"{vm}: {error}; trying again without the crashed domain that was kept")
            note = create(self.settings.config, vm, self.limit_call(), memory)
        if self._list_after_create().get(vm, DomainState.GONE) not in ALIVE:
            raise ToolstackError(
                f"{self.toolstack.name} says that it is started, but lists no {vm} that runs; "
                f"see: {self.toolstack.look}"
            )
        self.keep_unwatched_reason(note)

    def _list_after_create(self) -> dict[str, DomainState]:
        """List the domains; again while the toolstack hangs, since the domain was created.

        :raises ToolstackError: not known when the time is nearly up.
        """
        said = False
        while True:
            try:
                return self._list_states(STATE_LIMIT_S)
            except ToolstackMissingError:
                raise
            except ToolstackError as error:
                if not self._has_time_to_look():
                    raise
                if not said:
                    log_line(f"{self.vm}: is created; {error}; looking again")
                said = True
                self.pause_before_next_look()

    def begin_instance(self) -> None:
        """The VM runs here from now on: for vesperd, and for Pacemaker."""
        self.set_first_mark()
        self.claim_domain()
        self.tell_started()
        if self.settings.utilization or self.settings.no_utilization:
            from vesper_monitor.ocf import utilization

            utilization.forget_utilization(self)
            utilization.update_utilization(self)

    def reload_parameters(self) -> None:
        """Take over changed parameters while the VM runs.

        Most are read anew by each action anyway; vesperd must be told of the
        probes and services.

        :raises OcfExit: the VM does not run.
        """
        self.report_status()
        # The next monitor is another operation for Pacemaker, which waits for it.
        self.set_first_mark()
        self.tell_vesperd("change", **self.build_wishes())

    def report_status(self, unknown: OcfCode = OcfCode.OCF_ERR_GENERIC) -> None:
        """Whether the VM runs, at once.

        :param unknown: the exit code if that cannot be told.
        :raises OcfExit: it does not, or that cannot be told.
        """
        state = self._known_state(unknown)
        if state is DomainState.GONE and self._turn_to_configured():
            state = self._known_state(unknown)
        if state in ALIVE:
            self.claim_domain()
            return
        if state is DomainState.GONE:
            self._expect_arrival()
            raise OcfExit(OcfCode.OCF_NOT_RUNNING, f"{self.vm} is not running")
        raise OcfExit(
            OcfCode.OCF_ERR_GENERIC,
            f"{self.vm} is {self.describe_state(state)}: it must be stopped",
        )

    def describe_state(self, state: DomainState) -> str:
        """A state that was just seen, and what is known of it."""
        return self.toolstack.explain_end(self.vm) or state.value

    def describe_domains(self, present: dict[str, DomainState]) -> str:
        return ", ".join(
            f"{self.describe_state(state)} ({name})" for name, state in present.items()
        )

    # -- vesperd ------------------------------------------------------------

    def ask_vesperd(self, op: str, **fields: Any) -> dict[str, Any]:
        """Ask vesperd about this resource.

        :raises DaemonUnavailableError:
        :raises DaemonError:
        """
        return self.vesperd.call_vesperd(
            op,
            reply_timeout=self.limit_call(TELL_LIMIT_S),
            resource=self.call.resource,
            **self.domain_fields(),
            **fields,
        )

    def domain_fields(self) -> dict[str, str]:
        """Name and identifier of the domain, for vesperd's requests."""
        known = self.identity.remembered
        if known is None or not known.ident or known.name != self.vm:
            return {"vm": self.vm}
        return {"vm": self.vm, "domain": known.ident}

    def tell_vesperd(self, op: str, **fields: Any) -> str | None:
        """Tell vesperd, if it is there. Never fails.

        :returns: why it was not told; None if it was.
        """
        try:
            self.ask_vesperd(op, **fields)
        except (DaemonUnavailableError, DaemonError) as error:
            log_line(f"{self.vm}: vesperd was not told of the {op}: {error}")
            return str(error)
        return None

    def tell_started(self) -> str | None:
        """A new instance of the resource begins. See :meth:`tell_vesperd`."""
        carried = self.carried_fault_field()
        # There is nothing in force yet that a list with one wrong name could leave as it is.
        wishes = {**self.build_wishes(), "services": self.settings.services}
        trouble = self.tell_vesperd("start", **wishes, **carried)
        if carried and trouble is None:
            self.forget_carried()
        return trouble

    # -- a fault that has come along with the VM (hand_over.py) -----------------

    def carried_fault_field(self) -> dict[str, Any]:
        """Field of a ``start`` or ``wait`` with the fault that vesperd has not taken yet."""
        if not os.path.exists(self.call.state_file(CARRIED)):
            return {}
        from vesper_monitor.ocf.hand_over import kept_fault_field

        return kept_fault_field(self)

    def forget_carried(self) -> None:
        """vesperd has it, or it has nothing to do with what begins or ends here."""
        self.call.remember_text(CARRIED, "")

    def _expect_arrival(self) -> None:
        """It may come to this host by itself, migrated; vesperd need not be there."""
        try:
            self.ask_vesperd("expect", probes=self.settings.probes)
        except (DaemonUnavailableError, DaemonError):
            pass

    def build_wishes(self) -> dict[str, Any]:
        """What vesperd is to do for this resource: fields of its requests.

        One that is unclear is left out, so that what is in force stays.
        """
        settings = self.settings
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

    # -- what is known to be missing ------------------------------------------

    def keep_unwatched_reason(self, why: str) -> None:
        """Why the VM that begins here will not be watched; empty: nothing is known."""
        if why:
            log_line(f"{self.vm}: will not be watched: {why}")
        self.call.remember_text("note", why)

    def read_unwatched_reason(self) -> str:
        """What :meth:`keep_unwatched_reason` was told; empty: nothing."""
        return self.call.remembered_text("note")

    # -- the mark of the first recurring monitor ------------------------------

    def _start_marker_path(self) -> str:
        return self.call.state_file(FIRST)

    def set_first_mark(self) -> None:
        """The next recurring monitor is the first: after a start, or a probe."""
        mark_first(self._start_marker_path())

    def forget_first_mark(self) -> None:
        """No recurring monitor comes before the next start."""
        try:
            os.unlink(self._start_marker_path())
        except OSError:
            pass

    def begin_waiting(self) -> bool:
        """See :func:`vesper_monitor.ocf.fast_common.begin_waiting`."""
        return begin_waiting(self._start_marker_path())

    def end_waiting(self) -> None:
        """See :func:`vesper_monitor.ocf.fast_common.end_waiting`."""
        end_waiting(self._start_marker_path())

    # -- the domain -----------------------------------------------------------

    def read_state(self, limit: float = STATE_LIMIT_S) -> DomainState:
        """By the toolstack.

        :raises ToolstackError: not known.
        """
        state = self._list_states(limit).get(self.vm, DomainState.GONE)
        self._check_gone(state is DomainState.GONE)
        return state

    def find_present_domains(self) -> dict[str, DomainState]:
        """The domain, under its name and those it has while it is migrated, if there.

        :raises ToolstackError: not known.
        """
        states = self._list_states(STATE_LIMIT_S)
        names = self._names_of(self.vm)
        found = {name: states[name] for name in names if name in states}
        self._check_gone(not found)
        return found

    def _list_states(self, limit: float) -> dict[str, DomainState]:
        """Of all domains; whose turn it is to be :attr:`vm` is settled by them.

        :raises ToolstackError: not known.
        """
        begin = time.monotonic()
        try:
            states = self.toolstack.list_states(self.limit_call(limit))
        finally:
            self._look_took = time.monotonic() - begin
        self.slowest_look = max(self.slowest_look, self._look_took)
        self.vm = self._find_name(states)
        if self.vm in states and not self.is_foreign():
            self._seen = True
        return states

    def is_foreign(self) -> bool:
        """Whether what is only configured here belongs to another resource."""
        return self.identity.remembered is None and bool(self.identity.find_owner(self.vm))

    def _find_name(self, states: dict[str, DomainState]) -> str:
        """Return the listed name of this resource's domain, or the one to look for."""
        known = self.identity.remembered
        if self._seen:
            return self.vm
        if known is not None:
            listed = self.toolstack.find_name(known.ident) if known.ident else ""
            # Under these names it is not this resource's any more, or not yet.
            away = (*self.toolstack.transient_names(known.name), kept_name(known.name))
            if listed and listed not in away:
                return listed
            if known.name in states:
                return known.name
        if arrived := self._find_arrived(states):
            return arrived
        return self.vm if known is None else self._next_name(known, states)

    def _find_arrived(self, states: dict[str, DomainState]) -> str:
        """Return what a live migration has brought, where this node's file names another domain."""
        wanted = self.identity.configured_name
        arrives = self.call.action == "migrate_from"
        name, ident = self.arrival.find_domain(again=arrives)
        if not name or self.identity.find_owner(name, ident):
            return ""
        if not arrives and (name == self.vm or not self._is_listed(name, states)):
            return ""
        if not arrives and not self._may_be(name, ident):
            return ""
        if name not in (self.vm, wanted):
            log_line(f"{name}: was sent to this node for {self.call.resource}, "
                     f"whose file here names "
                f"{wanted}")  # fmt: skip
            self.identity.adopt_known_domain(KnownDomain(name, ident))
        return name

    def _may_be(self, name: str, ident: str) -> bool:
        """Whether a listed domain may be the one that was sent: an attribute may be an old one."""
        if not ident or self.toolstack.ident_field != "uuid":
            return True
        try:
            return self.toolstack.find_ident(name, self.limit_call(STATE_LIMIT_S)) == ident
        except ToolstackError as error:
            log_line(f"{name}: {error}")
            return True

    def _is_listed(self, name: str, states: dict[str, DomainState]) -> bool:
        return any(known in states for known in self._names_of(name))

    def _names_of(self, vm: str) -> tuple[str, ...]:
        """Names under which the domain may be listed."""
        return (vm, *self.toolstack.transient_names(vm))

    def _next_name(self, known: KnownDomain, states: dict[str, DomainState]) -> str:
        """Return whose turn it is now that what was remembered does not run."""
        wanted = self.identity.configured_name
        if wanted == known.name or wanted not in states:
            return known.name
        if owner := self.identity.find_owner(wanted):
            log_line(f"{wanted}: is configured, but belongs to resource {owner}")
            return known.name
        log_line(f"{known.name}: does not run any more; {wanted} does, which is configured now")
        return wanted

    def _check_gone(self, gone: bool) -> None:
        """Ask vesperd before a domain that was never listed counts as gone.

        :raises ToolstackError: vesperd hears it.
        """
        if not gone or self._seen or (age := self.life_age()) is None or age >= LIFE_AGE_S:
            return
        raise DomainContradictionError(
            f"{self.toolstack.name} does not list {self.vm}, but its kernel has shown life to "
            f"vesperd {age:.0f} s ago"
        )

    def _ask_what_runs(self) -> None:
        """vesperd may remember what this resource runs, where nothing here names it."""
        try:
            fields = {"resource": self.call.resource}
            answer = self.vesperd.call_vesperd(
                "life", reply_timeout=self.limit_call(TELL_LIMIT_S), **fields
            )
            name, ident = answer.get("vm"), answer.get(self.toolstack.ident_field)
        except (DaemonUnavailableError, DaemonError):
            return
        if not isinstance(name, str) or not name or ident is None:
            return
        # A start or a probe of another resource may have taken it since.
        if not self.identity.find_owner(name, str(ident)):
            self.identity.adopt_known_domain(KnownDomain(name, str(ident)))

    def life_age(self) -> float | None:
        """Seconds since vesperd heard the remembered domain; None: it did not, or is away."""
        fields = self.domain_fields()
        if "domain" not in fields:
            return None
        try:
            answer = self.vesperd.call_vesperd(
                "life", reply_timeout=self.limit_call(TELL_LIMIT_S), **fields
            )
        except (DaemonUnavailableError, DaemonError):
            return None
        age = answer.get("age")
        return float(age) if isinstance(age, (int, float)) else None

    def claim_domain(self) -> None:
        """Remember the domain that runs as this resource's. Never fails."""
        known = self.identity.remembered
        try:
            ident = self.toolstack.find_ident(self.vm, self.limit_call(STATE_LIMIT_S))
        except ToolstackError as error:
            log_line(f"{self.vm}: {error}")
            ident = known.ident if known is not None and known.name == self.vm else ""
        self.identity.claim_domain(self.vm, ident)

    def limit_call(self, most: float = float("inf")) -> float:
        """Seconds for an outside call: what is left of the action, less a margin."""
        return max(0.5, min(most, self.call.seconds_left() - min(2.0, self.call.timeout / 10)))

    def pause_before_next_look(self, most: float = float("inf")) -> None:
        """Between two looks."""
        time.sleep(min(max(LOOK_PAUSE_S, LOOK_SHARE * min(self._look_took, 1.0)), most))

    def _look_for_certain(self) -> dict[str, DomainState]:
        """Find the present domains before a start: the remembered one, else the configured one.

        :raises ToolstackError: not known; it must not be started then.
        """
        end = self._end_of_reboot()
        while True:
            try:
                present = self.find_present_domains()
            except DomainContradictionError:
                if not self._has_time_to_look():
                    raise
                self.pause_before_next_look()
                continue
            if not present and time.monotonic() < end:
                self.pause_before_next_look()
                continue
            if present or not self._turn_to_configured():
                return present
            end = 0.0

    def _end_of_reboot(self, *, surely: bool = False) -> float:
        """Until when a domain that ran here and is not listed may come back (CLOCK_MONOTONIC)."""
        gap = self.toolstack.reboot_gap
        ran = surely or self.identity.remembered is not None
        if not ran and not (gap and self.identity.find_owner(self.vm)):
            return 0.0
        return time.monotonic() + min(gap, max(0.0, self.call.seconds_left() / 3))

    def let_reboot(self, *, surely: bool = False) -> DomainState:
        """A domain that ran here and is not listed may be rebooting: then it comes back.

        :param surely: it is known to have run here.
        :raises ToolstackError: not known.
        """
        end = self._end_of_reboot(surely=surely)
        while (state := self.read_state()) is DomainState.GONE and time.monotonic() < end:
            self.pause_before_next_look()
        return state

    def is_brought_back(self) -> bool:
        """Whether the toolstack itself starts the domain again, which has just ended."""
        known = self.identity.remembered
        ident = known.ident if known is not None and known.name == self.vm else ""
        return self.toolstack.brings_back(self.vm, ident)

    def _turn_to_configured(self) -> bool:
        """What was remembered does not run: what is configured counts from now on.

        :returns: whether that is another domain.
        """
        known, wanted = self.identity.remembered, self.identity.configured_name
        if known is None or wanted == known.name:
            return False
        log_line(f"{known.name}: does not run any more; {wanted} counts, which is configured now")
        self.identity.forget_domain()
        self.vm, self._seen = wanted, False
        return True

    def _has_time_to_look(self) -> bool:
        """Whether another look fits into this call."""
        return self.call.seconds_left() > CONTRADICTION_RESERVE_S + 2 * self._look_took

    def _known_state(self, unknown: OcfCode) -> DomainState:
        """By the toolstack; if it does not answer, by vesperd.

        :raises OcfExit: neither knows, or the two contradict each other.
        """
        while True:
            try:
                return self.let_reboot()
            except DomainContradictionError as error:
                if not self._has_time_to_look():
                    raise self._unknown_state_exit(unknown, error) from error
                self.pause_before_next_look()
            except ToolstackError as error:
                return self._state_without_toolstack(unknown, error)

    def _state_without_toolstack(self, unknown: OcfCode, error: ToolstackError) -> DomainState:
        """:raises OcfExit: vesperd does not know either."""
        until = time.monotonic() + min(VESPERD_PATIENCE_S, self.call.seconds_left() - 2.0)
        reboot = self._end_of_reboot()
        while (state := self.state_by_vesperd()) is None or state is DomainState.GONE:
            if time.monotonic() >= (until if state is None else reboot):
                break
            time.sleep(LOOK_PAUSE_S)  # on a busy host the next sign of life may be late
        if state is None:
            missing = (
                isinstance(error, ToolstackMissingError) and unknown is OcfCode.OCF_ERR_GENERIC
            )
            raise self._unknown_state_exit(
                OcfCode.OCF_ERR_INSTALLED if missing else unknown, error
            ) from error
        return state

    def _unknown_state_exit(self, code: OcfCode, error: ToolstackError) -> OcfExit:
        return OcfExit(code, f"whether {self.vm} runs cannot be told: {error}")

    def refuse_foreign(self, code: OcfCode) -> bool:
        """
        :returns: whether what is configured belongs to another resource, and does not
            run; of what ran here nothing is known.
        :raises OcfExit: that runs, or it is not known whether it does.
        """
        if self.identity.remembered is not None or not (owner := self.identity.find_owner(self.vm)):
            return False
        try:
            if self.let_reboot() is DomainState.GONE:
                return True
        except ToolstackError as error:
            log_line(f"{self.vm}: {error}")
        if self.identity.remembered is not None:
            return False  # another one has arrived
        raise OcfExit(
            code,
            f"domain {self.vm} belongs to resource {owner}, whose start or probe found it "
            f"last; it is not touched for {self.call.resource}, whose configuration names it",
        )

    def find_pause(self) -> str:
        """Why nothing is to be reported now, if an operator has paused the watching."""
        try:
            # Of its own: on the other connection a monitor may be waiting.
            with Client(self.vesperd.path, TELL_LIMIT_S) as vesperd:
                pause = vesperd.call_vesperd("state", vm=self.vm).get("paused")
        except (DaemonUnavailableError, DaemonError):
            return ""
        return str(pause.get("text") or "watching is paused") if isinstance(pause, dict) else ""

    def state_by_vesperd(self) -> DomainState | None:
        """The domain's state as vesperd knows it; None: it does not know.

        Gone is only what is gone under each name that it may have.
        """
        names = dict.fromkeys((self.vm, self.identity.name, self.identity.configured_name))
        found: DomainState | None = None
        for name in names:
            if name != self.vm and self.identity.find_owner(name):
                continue
            found = self._ask_state(name)
            if found is not DomainState.GONE:
                return found
        return found

    def _ask_state(self, name: str) -> DomainState | None:
        try:
            answer = self.vesperd.call_vesperd(
                "state", reply_timeout=self.limit_call(TELL_LIMIT_S), vm=name
            )
            if "domain" not in answer:
                return None
            domain = answer["domain"]
            if domain is None:
                return DomainState.GONE
            return DomainState(domain["state"]) if domain["name"] == name else None
        except (DaemonUnavailableError, DaemonError, ValueError, TypeError, KeyError):
            return None

    def check_node(self) -> None:
        """What the node must have for a start.

        :raises OcfExit: code 5, so that Pacemaker tries another node.
        """
        config = self.settings.config
        if not os.path.isfile(config):
            raise OcfExit(
                OcfCode.OCF_ERR_INSTALLED,
                f"{config} is not there on node {self.call.node}: the configuration file of "
                f"{self.vm} must be readable on every node that may run it",
            )
        if not os.access(config, os.R_OK):
            raise OcfExit(OcfCode.OCF_ERR_PERM, f"{config} cannot be read on node {self.call.node}")
        for command in self.toolstack.commands:
            if not _is_executable(command):
                raise OcfExit(
                    OcfCode.OCF_ERR_INSTALLED,
                    f"{command} is not installed on node {self.call.node} "
                    f"(PATH {_find_command_path()})",
                )
        for script in self.settings.scripts:
            if not _is_executable(script):
                raise OcfExit(
                    OcfCode.OCF_ERR_INSTALLED,
                    f"monitor script {script} is not there on node {self.call.node}, or may not "
                    "be executed",
                )


def _find_command_path() -> str:
    return os.environ.get("PATH") or os.defpath


def _is_executable(command: str) -> bool:
    """As execvp(3) would find it."""
    folders = [""] if "/" in command else _find_command_path().split(":")
    paths = (os.path.join(folder, command) for folder in folders)
    return any(os.path.isfile(path) and os.access(path, os.X_OK) for path in paths)
