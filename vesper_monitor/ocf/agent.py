# SPDX-License-Identifier: GPL-2.0-or-later
"""What the agents of all hypervisors have in common: start, stop, status.

The monitor that waits is in :mod:`vesper_monitor.ocf.monitor`.  An agent for
one hypervisor (:mod:`vesper_monitor.ocf.xen`) supplies a :class:`Settings`
and a toolstack.

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
from vesper_monitor.ocf.call import Call, Code, Exit, log
from vesper_monitor.ocf.toolstack import ToolstackError, ToolstackMissing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vesper_monitor.ocf.toolstack import Background, Toolstack

__all__ = ["DEFAULT_PROBES", "Agent", "Settings"]

DEFAULT_PROBES = "send_signal out_of_memory"

#: Seconds that one look at the domain's state may take.
STATE_LIMIT = 10.0
#: Seconds for vesperd to take notice of a start or a stop.
TELL_LIMIT = 3.0
#: Seconds between two looks while a domain is going away, at least; and as
#: often as long as the look itself takes: a busy host needs its time for that.
LOOK_PAUSE = 0.5
LOOK_SHARE = 2.0
#: Seconds for the toolstack's own daemon to clear away a domain that has shut
#: down (on_poweroff). A destroy meanwhile would only do the same work twice.
CLEAR_AWAY = 10.0
#: Seconds between two tries of a command that failed.
RETRY_PAUSE = 2.0
#: Seconds that a guest has for its shutdown where nobody says anything
#: (the stock agent's value for a call without a timeout).
SHUTDOWN_WITHOUT_TIMEOUT = 60.0

ALIVE = (DomainState.RUNNING, DomainState.PAUSED)


class Settings:
    """The parameters, understood.

    :param config: configuration file of the domain, for the toolstack.
    :param vm: the domain's name.
    :param shutdown_timeout: seconds until a shutdown becomes a destroy; None:
        two thirds of the stop operation's timeout.
    :param probes: names of probes.
    :param services: names of processes whose main process is the service.
    """

    def __init__(
        self,
        config: str,
        vm: str,
        shutdown_timeout: float | None,
        probes: list[str],
        services: list[str],
    ) -> None:
        self.config = config
        self.vm = vm
        self.shutdown_timeout = shutdown_timeout
        self.probes = probes
        self.services = services


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

        :raises Exit: it does not run.
        """
        vm = self.settings.vm
        self._check_node()
        try:
            state = self.state()
            if state not in ALIVE:
                if state is not DomainState.GONE:
                    log(f"{vm}: is {state.value}; removing it before the start")
                    self._destroy()
                self.toolstack.create(self.settings.config, vm, self._limit())
            else:
                log(f"{vm}: already {state.value}")
        except ToolstackError as error:
            raise Exit(Code.ERROR, f"{vm} was not started: {error}") from error
        self.set_first_mark()
        self.tell_started()

    def stop(self) -> None:
        """Shut the VM down, destroy it if it does not go, wait until it is gone.

        :raises Exit: the domain is there at the end of the time, or not known
            to be gone.
        """
        self.take_first_mark()
        self.tell("stop")
        try:
            if self.state() in ALIVE and self._shutdown():
                self._let_clear_away()
        except ToolstackMissing as error:
            self._stop_without_toolstack(error)
            return
        except ToolstackError as error:
            log(f"{self.settings.vm}: {error}")
        self._destroy()

    def status(self) -> None:
        """Whether the VM runs, at once.

        :raises Exit: it does not, or that cannot be told.
        """
        state = self._known_state()
        if state in ALIVE:
            return
        if state is DomainState.GONE:
            raise Exit(Code.NOT_RUNNING, f"{self.settings.vm} is not running")
        raise Exit(Code.ERROR, f"{self.settings.vm} is {state.value}: it must be stopped")

    def validate(self) -> None:
        """Level 0: the parameters (done when they were read). 10: also this node.

        :raises Exit: what is wrong.
        """
        if self.call.check_level >= 10:
            self._check_node()
            try:
                self.state()
            except ToolstackError as error:
                raise Exit(Code.ERROR, str(error)) from error

    # -- vesperd ------------------------------------------------------------

    def tell(self, op: str, **fields: Any) -> str | None:
        """Tell vesperd, if it is there. Never fails.

        :returns: why it was not told; None if it was.
        """
        try:
            self.vesperd.call(
                op,
                reply_timeout=TELL_LIMIT,
                resource=self.call.resource,
                vm=self.settings.vm,
                **fields,
            )
        except (DaemonUnavailable, DaemonError) as error:
            log(f"{self.settings.vm}: vesperd was not told of the {op}: {error}")
            return str(error)
        return None

    def tell_started(self) -> str | None:
        """A new instance of the resource begins. See :meth:`tell`."""
        return self.tell("start", probes=self.settings.probes, services=self.settings.services)

    # -- the mark of the first recurring monitor ------------------------------

    def _mark(self) -> str:
        return os.path.join(
            self.call.state_dir, f"vesper-{self.call.resource.replace('/', '_')}.first"
        )

    def set_first_mark(self) -> None:
        """The next recurring monitor is the first: after a start, or a probe."""
        try:
            os.makedirs(self.call.state_dir, exist_ok=True)
            os.close(os.open(self._mark(), os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        except OSError as error:
            log(f"{self._mark()}: {error.strerror}")

    def take_first_mark(self) -> bool:
        """Whether no recurring monitor has run since the start.

        Pacemaker waits for that one: it must not wait.
        """
        try:
            os.unlink(self._mark())
        except OSError:
            return False
        return True

    # -- the domain -----------------------------------------------------------

    def state(self, limit: float = STATE_LIMIT) -> DomainState:
        """By the toolstack.

        :raises ToolstackError: not known.
        """
        begin = time.monotonic()
        try:
            return self.toolstack.state(self.settings.vm, self._limit(limit))
        finally:
            self._look_took = time.monotonic() - begin

    def _limit(self, most: float = float("inf")) -> float:
        """Seconds for an outside call: what is left of the action, less a margin."""
        return max(0.5, min(most, self.call.left() - min(2.0, self.call.timeout / 10)))

    def _known_state(self) -> DomainState:
        """By the toolstack; if it does not answer, by vesperd.

        :raises Exit: neither knows.
        """
        try:
            return self.state()
        except ToolstackError as error:
            state = self.state_by_vesperd()
            if state is None:
                code = Code.INSTALLED if isinstance(error, ToolstackMissing) else Code.ERROR
                raise Exit(
                    code, f"whether {self.settings.vm} runs cannot be told: {error}"
                ) from error
            return state

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

    def _check_node(self) -> None:
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
        path = os.environ.get("PATH") or os.defpath
        if not any(
            os.access(os.path.join(folder or ".", self.toolstack.name), os.X_OK)
            for folder in path.split(":")
        ):
            raise Exit(
                Code.INSTALLED,
                f"{self.toolstack.name} is not installed on node {self.call.node} (PATH {path})",
            )

    def _let_clear_away(self) -> None:
        """Wait for the toolstack to remove a domain that has shut down by itself."""
        end = time.monotonic() + min(CLEAR_AWAY, self.call.left() / 2)
        while self.state() is DomainState.SHUTDOWN and time.monotonic() < end:
            self._pause()

    def _pause(self, most: float = float("inf")) -> None:
        """Between two looks."""
        time.sleep(min(max(LOOK_PAUSE, LOOK_SHARE * min(self._look_took, 1.0)), most))

    def _shutdown(self) -> bool:
        """Ask the guest to shut down, until it has or its time is up.

        :returns: whether it has.
        """
        limit = self._shutdown_limit()
        if limit <= 0:
            return False
        vm = self.settings.vm
        end = time.monotonic() + limit
        log(f"{vm}: shutting down, to be destroyed after {limit:.0f} s")
        request: Background | None = None
        try:
            while (left := end - time.monotonic()) > 0:
                if request is None:
                    request = self.toolstack.shutdown(vm)
                if request.wait(min(LOOK_PAUSE, left)) not in (None, 0):
                    log(f"{vm}: shutdown failed, trying again: {request.output().strip()}")
                    request.close()
                    request = None
                    time.sleep(min(RETRY_PAUSE, left))
                elif request.wait(0) == 0:
                    self._pause(left)
                if self.state(max(left, 1.0)) not in ALIVE:
                    return True
            log(f"{vm}: not shut down after {limit:.0f} s")
            return False
        finally:
            if request is not None:
                request.close()

    def _shutdown_limit(self) -> float:
        """Seconds for the shutdown; time for a destroy is always left."""
        wanted = self.settings.shutdown_timeout
        given = self.call.given_timeout
        if wanted is None:
            wanted = given * 2 / 3 if given is not None else SHUTDOWN_WITHOUT_TIMEOUT
        most = self.call.left() - min(15.0, self.call.timeout / 3)
        if wanted > most and given is not None:
            log(
                f"{self.settings.vm}: shutdown timeout {wanted:.0f} s cut to {max(most, 0):.0f} s: "
                f"the stop operation's timeout is {self.call.timeout:.0f} s"
            )
        return min(wanted, most)

    def _destroy(self) -> None:
        """Until it is gone, or the time is up."""
        vm = self.settings.vm
        trouble = ""
        destroyed = False
        while True:
            try:
                state = self.state()
                if state is DomainState.GONE:
                    return
                trouble = f"it is {state.value}"
                if state is not DomainState.DYING and not destroyed:
                    log(f"{vm}: destroying it ({state.value})")
                    self.toolstack.destroy(vm, self._limit())
                    destroyed = True
                    continue
                destroyed = False
            except ToolstackError as error:
                trouble = str(error)
                log(f"{vm}: {trouble}")
                if self.state_by_vesperd() is DomainState.GONE:
                    log(f"{vm}: is gone, as vesperd sees it")
                    return
            if self.call.left() < 1.0 + LOOK_PAUSE:
                break
            self._pause(self.call.left() - 1.0)
        if trouble == f"it is {DomainState.DYING.value}":
            # It executes no more; somebody still holds its memory.
            log(f"{vm}: still dying; something on this node still maps its memory")
            return
        raise Exit(Code.ERROR, f"{vm} could not be stopped: {trouble}")

    def _stop_without_toolstack(self, error: ToolstackMissing) -> None:
        if self.state_by_vesperd() is DomainState.GONE:
            return
        raise Exit(
            Code.INSTALLED, f"whether {self.settings.vm} is gone cannot be told: {error}"
        ) from error
