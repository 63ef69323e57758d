# SPDX-License-Identifier: GPL-2.0-or-later
"""What the agents of all hypervisors have in common: start, status, validation.

The other actions have files of their own beside this one (:mod:`monitor
<vesper_monitor.ocf.monitor>`, ``stop``, ``migrate``), which are read when
they are needed: a monitor must start fast.  An agent for one hypervisor
(:mod:`vesper_monitor.ocf.xen`) supplies a :class:`Settings` and a toolstack.

Two rules hold everywhere.  What is not known is not "not running": Pacemaker
would start the VM a second time, on the same disk.  And vesperd is told, but
never needed: without it the VM starts, stops, and is watched by its domain's
state.
"""

from __future__ import annotations

import os
import time

from vesper_monitor.client import Client, DaemonError, DaemonUnavailable
from vesper_monitor.domain_state import DomainState
from vesper_monitor.ocf.basics import FIRST, begin_waiting, end_waiting, mark_first
from vesper_monitor.ocf.call import Code, Exit, log
from vesper_monitor.ocf.toolstack import ToolstackError, ToolstackMissing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vesper_monitor.ocf.call import Call
    from vesper_monitor.ocf.toolstack import Toolstack

__all__ = ["DEFAULT_PROBES", "Agent", "Settings"]

DEFAULT_PROBES = "send_signal out_of_memory"

#: Seconds that one look at the domain's state may take.
STATE_LIMIT = 10.0
#: Seconds for vesperd to take notice of a start or a stop.
TELL_LIMIT = 3.0
#: Seconds in which vesperd is asked again what the toolstack cannot say.
VESPERD_PATIENCE = 5.0
#: Seconds between two looks while something is under way, at least; and as
#: often as long as the look itself takes: a busy host needs its time for that.
LOOK_PAUSE = 0.5
LOOK_SHARE = 2.0

ALIVE = (DomainState.RUNNING, DomainState.PAUSED)


class Settings:
    """The parameters, understood.

    :param config: configuration file of the domain, for the toolstack.
    :param vm: the domain's name.
    """

    def __init__(self, config: str, vm: str) -> None:
        self.config = config
        self.vm = vm
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
        self, call: Call, settings: Settings, toolstack: Toolstack, vesperd: Client | None = None
    ) -> None:
        self.call = call
        self.settings = settings
        self.toolstack = toolstack
        self.vesperd = vesperd or Client(timeout=TELL_LIMIT)
        self._look_took = 0.0

    # -- actions ------------------------------------------------------------

    def start(self) -> None:
        """Start the VM, unless it runs, and tell vesperd.

        :raises Exit: it does not run, or a monitor script does not succeed.
        """
        vm = self.settings.vm
        self.check_node()
        try:
            present = self.present()
            state = present.get(vm, DomainState.GONE)
            if state in ALIVE:
                log(f"{vm}: already {state.value}")
            else:
                self._create(present)
        except ToolstackError as error:
            raise Exit(Code.ERROR, f"{vm} was not started: {error}") from error
        self.begin_instance()
        if self.settings.scripts:
            from vesper_monitor.ocf.scripts import wait_for_success

            wait_for_success(self)

    def _create(self, present: dict[str, DomainState]) -> None:
        """:raises ToolstackError: it does not run."""
        from vesper_monitor.ocf import stop

        vm = self.settings.vm
        if present:
            log(f"{vm}: is {self.listed(present)}; removing it before the start")
            stop.remove(self)
        memory = None
        if self.settings.manage_memory:
            from vesper_monitor.ocf.memory import make_room

            memory = make_room(self)
        create = self.toolstack.create
        try:
            note = create(self.settings.config, vm, self.limit(), memory)
        except ToolstackError as error:
            # What was kept for its dump must not cost the service.
            try:
                dropped = stop.drop_kept(self)
            except ToolstackError as trouble:
                log(f"{vm}: {trouble}")
                dropped = False
            if not dropped:
                raise
            log(f"{vm}: {error}; trying again without the crashed domain that was kept")
            note = create(self.settings.config, vm, self.limit(), memory)
        self.note(note)

    def begin_instance(self) -> None:
        """The VM runs here from now on: for vesperd, and for Pacemaker."""
        self.set_first_mark()
        self.call.remember("name", self.settings.vm)
        self.tell_started()
        if self.settings.utilization or self.settings.no_utilization:
            from vesper_monitor.ocf import utilization

            utilization.forget(self)
            utilization.update(self)

    def reload(self) -> None:
        """Take over changed parameters while the VM runs.

        Most are read anew by each action anyway; vesperd must be told of the
        probes and services.

        :raises Exit: the VM does not run.
        """
        self.status()
        # The next monitor is another operation for Pacemaker, which waits for it.
        self.set_first_mark()
        self.tell("change", **self.wishes())

    def status(self) -> None:
        """Whether the VM runs, at once.

        :raises Exit: it does not, or that cannot be told.
        """
        state = self._known_state()
        if state in ALIVE:
            return
        if state is DomainState.GONE:
            self._expect()
            raise Exit(Code.NOT_RUNNING, f"{self.settings.vm} is not running")
        raise Exit(Code.ERROR, f"{self.settings.vm} is {self.described(state)}: it must be stopped")

    def described(self, state: DomainState) -> str:
        """A state that was just seen, and what is known of it."""
        return self.toolstack.why(self.settings.vm) or state.value

    def listed(self, present: dict[str, DomainState]) -> str:
        return ", ".join(f"{self.described(state)} ({name})" for name, state in present.items())

    # -- vesperd ------------------------------------------------------------

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        """Ask vesperd about this resource.

        :raises DaemonUnavailable:
        :raises DaemonError:
        """
        return self.vesperd.call(
            op,
            reply_timeout=TELL_LIMIT,
            resource=self.call.resource,
            vm=self.settings.vm,
            **fields,
        )

    def tell(self, op: str, **fields: Any) -> str | None:
        """Tell vesperd, if it is there. Never fails.

        :returns: why it was not told; None if it was.
        """
        try:
            self.ask(op, **fields)
        except (DaemonUnavailable, DaemonError) as error:
            log(f"{self.settings.vm}: vesperd was not told of the {op}: {error}")
            return str(error)
        return None

    def tell_started(self) -> str | None:
        """A new instance of the resource begins. See :meth:`tell`."""
        return self.tell("start", **self.wishes())

    def _expect(self) -> None:
        """It may come to this host by itself, migrated; vesperd need not be there."""
        try:
            self.ask("expect", probes=self.settings.probes)
        except (DaemonUnavailable, DaemonError):
            pass

    def wishes(self) -> dict[str, Any]:
        """What vesperd is to do for this resource: fields of its requests."""
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
        return wishes

    # -- what is known to be missing ------------------------------------------

    def note(self, why: str) -> None:
        """Why the VM that begins here will not be watched; empty: nothing is known."""
        if why:
            log(f"{self.settings.vm}: will not be watched: {why}")
        self.call.remember("note", why)

    def noted(self) -> str:
        """What :meth:`note` was told; empty: nothing."""
        return self.call.remembered("note")

    # -- the mark of the first recurring monitor ------------------------------

    def _mark(self) -> str:
        return self.call.state_file(FIRST)

    def set_first_mark(self) -> None:
        """The next recurring monitor is the first: after a start, or a probe."""
        mark_first(self._mark())

    def forget_first_mark(self) -> None:
        """No recurring monitor comes before the next start."""
        try:
            os.unlink(self._mark())
        except OSError:
            pass

    def begin_waiting(self) -> bool:
        """See :func:`vesper_monitor.ocf.basics.begin_waiting`."""
        return begin_waiting(self._mark())

    def end_waiting(self) -> None:
        """See :func:`vesper_monitor.ocf.basics.end_waiting`."""
        end_waiting(self._mark())

    # -- the domain -----------------------------------------------------------

    def state(self, limit: float = STATE_LIMIT) -> DomainState:
        """By the toolstack.

        :raises ToolstackError: not known.
        """
        return self._states(limit).get(self.settings.vm, DomainState.GONE)

    def present(self) -> dict[str, DomainState]:
        """The domain, under its name and those it has while it is migrated, if there.

        :raises ToolstackError: not known.
        """
        states = self._states(STATE_LIMIT)
        vm = self.settings.vm
        names = (vm, *self.toolstack.transient_names(vm))
        return {name: states[name] for name in names if name in states}

    def _states(self, limit: float) -> dict[str, DomainState]:
        """Of all domains. :raises ToolstackError: not known."""
        begin = time.monotonic()
        try:
            return self.toolstack.states(self.limit(limit))
        finally:
            self._look_took = time.monotonic() - begin

    def limit(self, most: float = float("inf")) -> float:
        """Seconds for an outside call: what is left of the action, less a margin."""
        return max(0.5, min(most, self.call.left() - min(2.0, self.call.timeout / 10)))

    def pause(self, most: float = float("inf")) -> None:
        """Between two looks."""
        time.sleep(min(max(LOOK_PAUSE, LOOK_SHARE * min(self._look_took, 1.0)), most))

    def _known_state(self) -> DomainState:
        """By the toolstack; if it does not answer, by vesperd.

        :raises Exit: neither knows.
        """
        try:
            return self.state()
        except ToolstackError as error:
            until = time.monotonic() + min(VESPERD_PATIENCE, self.call.left() - 2.0)
            while (state := self.state_by_vesperd()) is None and time.monotonic() < until:
                time.sleep(LOOK_PAUSE)  # on a busy host the next sign of life may be late
            if state is None:
                code = Code.INSTALLED if isinstance(error, ToolstackMissing) else Code.ERROR
                raise Exit(
                    code, f"whether {self.settings.vm} runs cannot be told: {error}"
                ) from error
            return state

    def paused(self) -> str:
        """Why nothing is to be reported now, if an operator has paused the watching."""
        try:
            # Of its own: on the other connection a monitor may be waiting.
            with Client(self.vesperd.path, TELL_LIMIT) as vesperd:
                pause = vesperd.call("state", vm=self.settings.vm).get("paused")
        except (DaemonUnavailable, DaemonError):
            return ""
        return str(pause.get("text") or "watching is paused") if isinstance(pause, dict) else ""

    def state_by_vesperd(self) -> DomainState | None:
        """None if it does not know."""
        try:
            answer = self.vesperd.call("state", reply_timeout=TELL_LIMIT, vm=self.settings.vm)
            if "domain" not in answer:
                return None
            domain = answer["domain"]
            return DomainState.GONE if domain is None else DomainState(domain["state"])
        except (DaemonUnavailable, DaemonError, ValueError, TypeError, KeyError):
            return None

    def check_node(self) -> None:
        """What the node must have for a start.

        :raises Exit: code 5, so that Pacemaker tries another node.
        """
        config = self.settings.config
        if not os.path.isfile(config):
            raise Exit(
                Code.INSTALLED,
                f"{config} is not there on node {self.call.node}: the configuration file of "
                f"{self.settings.vm} must be readable on every node that may run it",
            )
        if not os.access(config, os.R_OK):
            raise Exit(Code.PERM, f"{config} cannot be read on node {self.call.node}")
        for command in self.toolstack.commands:
            if not _executable(command):
                raise Exit(
                    Code.INSTALLED,
                    f"{command} is not installed on node {self.call.node} (PATH {_path()})",
                )
        for script in self.settings.scripts:
            if not _executable(script):
                raise Exit(
                    Code.INSTALLED,
                    f"monitor script {script} is not there on node {self.call.node}, or may not "
                    "be executed",
                )


def _path() -> str:
    return os.environ.get("PATH") or os.defpath


def _executable(command: str) -> bool:
    """As execvp(3) would find it."""
    folders = [""] if "/" in command else _path().split(":")
    paths = (os.path.join(folder, command) for folder in folders)
    return any(os.path.isfile(path) and os.access(path, os.X_OK) for path in paths)
