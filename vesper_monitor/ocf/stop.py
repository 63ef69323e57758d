# SPDX-License-Identifier: GPL-2.0-or-later
"""stop: ends the VM in the way that its state requires, and logs which.

A guest that can still shut down is asked to, and destroyed when its time is
up.  One that cannot (it has crashed, or vesperd knows of a fault after which
the whole system is gone) is destroyed at once: waiting for it would only
delay the start elsewhere.

A stop succeeds when the domain is gone, whatever else is missing: a failed
one gets the node fenced.
"""

from __future__ import annotations

import time

from vesper_monitor.client import DaemonError, DaemonUnavailableError
from vesper_monitor.hypervisor.domain_state import DomainState
from vesper_monitor.ocf import deep_check
from vesper_monitor.ocf.domain_identity import kept_name
from vesper_monitor.ocf.domain_lookup import ALIVE, LOOK_PAUSE_S
from vesper_monitor.ocf.invocation import OcfCode, OcfExit, log_line
from vesper_monitor.ocf.shutdown import Shutdown
from vesper_monitor.ocf.status import refuse_foreign
from vesper_monitor.ocf.stop_time import DestroyReserve
from vesper_monitor.ocf.toolstack import ToolstackError, ToolstackMissingError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vesper_monitor.ocf.agent import Agent
    from vesper_monitor.ocf.toolstack import CrashedDomainKeeper

__all__ = ["Stop", "drop_kept", "remove_domain"]

#: Seconds for the toolstack's own daemon to clear away a domain that has shut
#: down (on_poweroff). A destroy meanwhile would only do the same work twice.
CLEAR_AWAY_S = 10.0
#: Seconds that a guest has for its shutdown where nobody says anything
#: (the stock agent's value for a call without a timeout).
SHUTDOWN_WITHOUT_TIMEOUT_S = 60.0
#: Causes of a domain's end, as vesperd has them, after which it does not come back.
FINAL_CAUSES = ("asked", "failure")
#: Seconds: a guest that gets less than that to shut down is destroyed at once.
LEAST_SHUTDOWN_S = 2.0
#: Seconds that one try to destroy a domain may take, if they are left.
LEAST_DESTROY_S = 5.0
#: Seconds for what a toolstack does now and then.
TEND_LIMIT_S = 10.0
#: Seconds for a guest whose panic is known to become a crashed domain, where
#: that is to be kept.
CRASH_TIME_S = 3.0


class Stop:
    """One stop."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._reserve = DestroyReserve(agent.call, agent.toolstack.name)

    @property
    def _vm(self) -> str:
        return self._agent.vm

    def run_stop(self) -> None:
        """Stop the VM.

        :raises OcfExit: the domain is still there when the time is up, or it is unknown
            whether it is.
        """
        agent = self._agent
        agent.forget_first_mark()
        agent.vesperd.forget_carried()
        deep_check.forget_deep_check(agent)
        foreign = refuse_foreign(agent, OcfCode.OCF_ERR_GENERIC)
        agent.identity.keep_known_domain()  # for a stop that is tried again
        known = self._tell_vesperd()
        if foreign:
            log_line(f"{self._vm}: belongs to another resource, and does not run")
            return
        try:
            self._end_domain(known)
            remove_domain(agent, self._reserve)
        except ToolstackMissingError as error:
            self._without_toolstack(error)
        except ToolstackError as error:
            log_line(f"{self._vm}: {error}")
            remove_domain(agent, self._reserve)
        agent.identity.forget_domain()
        agent.lookup.forget_sent()
        if agent.settings.manage_memory:
            from vesper_monitor.ocf.host_memory import share_out

            share_out(agent)

    def _tell_vesperd(self) -> dict[str, Any]:
        """Tell vesperd, and return its answer about the activation that ends."""
        try:
            return self._agent.vesperd.send_request("stop")
        except (DaemonUnavailableError, DaemonError) as error:
            log_line(f"{self._vm}: vesperd was not told of the stop: {error}")
            return {}

    def _end_domain(self, known: dict[str, Any]) -> None:
        """Shut down what can shut down, keep what is to be kept.

        :raises ToolstackError:
        """
        agent = self._agent
        fault = known.get("fault")
        reason = str(fault.get("reason") or "") if isinstance(fault, dict) else ""
        if gone := known.get("system_gone") is True:
            log_line(f"{self._vm}: not shut down, the system inside is gone: {reason}")
            if not agent.settings.keep_crashed:
                return
        state = self._look_until_known()
        if state is DomainState.GONE and known.get("cause") not in FINAL_CAUSES:
            state = agent.lookup.wait_for_reboot()
        if state in ALIVE and gone:
            state = self._let_crash()
        elif state in ALIVE:
            agent.toolstack.tend_domain(self._vm, agent.call.limit_time(TEND_LIMIT_S))
            if reason:
                log_line(f"{self._vm}: the system inside still runs and is shut down: {reason}")
            # What has a fault is not saved: it would come back with it.
            elif agent.toolstack.save_domain(self._vm, self._shutdown_limit()):
                return
            if self._shut_down_guest():
                self._let_clear_away()
                state = agent.lookup.read_state()
        elif state is not DomainState.GONE:
            log_line(f"{self._vm}: is {agent.lookup.describe_state(state)}, no shutdown")
        keeper = agent.toolstack.keeper
        if state is DomainState.CRASHED and agent.settings.keep_crashed and keeper is not None:
            self._keep_crashed_domain(keeper)

    def _look_until_known(self) -> DomainState:
        """Look, as long as a shutdown could still be asked for: a toolstack may hang a while.

        :raises ToolstackError: it does not answer for so long.
        """
        while True:
            try:
                return self._agent.lookup.read_state()
            except ToolstackMissingError:
                raise
            except ToolstackError as error:
                if self._shutdown_time_left() <= LEAST_SHUTDOWN_S:
                    raise
                log_line(f"{self._vm}: {error}; looking again")
                self._agent.lookup.pause_before_next_look()

    def _without_toolstack(self, error: ToolstackMissingError) -> None:
        if self._agent.vesperd.read_domain_state() is DomainState.GONE:
            return
        raise OcfExit(
            OcfCode.OCF_ERR_INSTALLED, f"cannot tell whether {self._vm} is gone: {error}"
        ) from error

    # -- shutdown -----------------------------------------------------------

    def _shut_down_guest(self) -> bool:
        """Ask the guest to shut down, until it has or its time is up.

        :returns: whether it has.
        """
        agent, vm = self._agent, self._vm
        limit = self._shutdown_limit()
        if limit <= 0:
            return False
        end = time.monotonic() + limit
        log_line(f"{vm}: shutting down, to be destroyed after {limit:.0f} s")
        shutdown = Shutdown(agent.toolstack, vm)
        try:
            # How long the looks take shows how busy the host is: a destroy will
            # take longer, too.
            while (left := min(end - time.monotonic(), self._shutdown_time_left())) > 0:
                shutdown.go_on(min(LOOK_PAUSE_S, left))
                try:
                    if agent.lookup.read_state(max(left, 1.0)) not in ALIVE:
                        return True
                except ToolstackMissingError:
                    raise
                except ToolstackError as error:
                    log_line(f"{vm}: {error}; the guest keeps its time to shut down")
                if shutdown.is_hopeless:
                    log_line(f"{vm}: there is no way to ask it to shut down")
                    return False
                agent.lookup.pause_before_next_look(left)
            took = limit - (end - time.monotonic())
            log_line(f"{vm}: not shut down after {took:.0f} s")
            return False
        finally:
            shutdown.close()

    def _shutdown_time_left(self) -> float:
        """Return the seconds until the domain must be destroyed."""
        agent = self._agent
        return agent.call.seconds_left() - self._reserve.reserve_seconds(agent.lookup.slowest_look)

    def _shutdown_limit(self) -> float:
        """Return the seconds for the shutdown, which leave time for a destroy."""
        call = self._agent.call
        wanted = self._agent.settings.shutdown_timeout
        given = call.given_timeout
        most = self._shutdown_time_left()
        if wanted is None:
            share = self._agent.settings.shutdown_share
            wanted = SHUTDOWN_WITHOUT_TIMEOUT_S if given is None else min(given * share, most)
        if wanted > most and given is not None:
            log_line(
                f"{self._vm}: shutdown timeout {wanted:.0f} s cut to {max(most, 0):.0f} s: "
                f"the stop operation's timeout is {call.timeout:.0f} s"
            )
        return min(wanted, most)

    def _let_clear_away(self) -> None:
        """Wait for the toolstack to remove a domain that has shut down by itself."""
        agent = self._agent
        end = time.monotonic() + min(CLEAR_AWAY_S, agent.call.seconds_left() / 2)
        while agent.lookup.read_state() is DomainState.SHUTDOWN and time.monotonic() < end:
            agent.lookup.pause_before_next_look()

    # -- a crashed domain for its dump ----------------------------------------

    def _let_crash(self) -> DomainState:
        """Wait until a guest that panicked is a crashed domain, and return its state."""
        agent = self._agent
        end = time.monotonic() + min(CRASH_TIME_S, agent.call.seconds_left() / 4)
        while (state := agent.lookup.read_state()) in ALIVE and time.monotonic() < end:
            agent.lookup.pause_before_next_look()
        return state

    def _keep_crashed_domain(self, keeper: CrashedDomainKeeper) -> None:
        """Put the crashed domain aside: another name, and no disks.

        It executes no more, but it holds its disks open, which would keep
        another node from using them.  The new name comes last: a stop that is
        killed before finds the domain again.  If any of it fails the domain
        is destroyed like any other.

        :raises ToolstackError: it is not aside.
        """
        agent, vm = self._agent, self._vm
        kept = kept_name(vm)
        drop_kept(agent)  # the last one is enough
        keeper.release_disks(vm, agent.call.limit_time())
        keeper.rename_domain(vm, kept, agent.call.limit_time())
        log_line(
            f"{vm}: crashed and is kept as {kept}, without its disks; it keeps its memory on this "
            f"node. {keeper.dump_core(kept)}"
        )


def drop_kept(agent: Agent) -> bool:
    """Destroy the crashed domain that was kept, if there is one.

    :returns: whether there was.
    :raises ToolstackError: whether it is gone is not known.
    """
    kept = kept_name(agent.vm)
    if agent.toolstack.keeper is None:
        return False
    if agent.toolstack.list_states(agent.call.limit_time(10.0)).get(kept) not in (
        DomainState.CRASHED,
        DomainState.SHUTDOWN,
    ):
        return False
    log_line(f"{agent.vm}: destroying {kept}, the domain that crashed before")
    agent.toolstack.destroy_domain(kept, agent.call.limit_time())
    return True


def remove_domain(agent: Agent, reserve: DestroyReserve | None = None) -> None:
    """Destroy the domain, under all names that it may have, until it is gone.

    :param reserve: notes how long that takes on this host.
    :raises OcfExit: it is not gone at the end of the time, or that is not known.
    """
    destroyed: set[str] = set()
    while True:
        present: dict[str, DomainState] = {}
        trouble = ""
        try:
            present = agent.lookup.find_present_domains()
            if not present:
                if _comes_back(agent):
                    continue
                return
            if _destroy_present_domains(agent, present, destroyed, reserve):
                continue
        except ToolstackError as error:
            trouble = str(error)
            log_line(f"{agent.vm}: {trouble}")
            if agent.vesperd.read_domain_state() is DomainState.GONE:
                log_line(f"{agent.vm}: is gone, as vesperd sees it")
                return
        if agent.call.seconds_left() < 1.0 + LOOK_PAUSE_S:
            break
        agent.lookup.pause_before_next_look(agent.call.seconds_left() - 1.0)
    if present and not trouble and all(s is DomainState.DYING for s in present.values()):
        # It executes no more; somebody still holds its memory.
        log_line(f"{agent.vm}: is dying; something on this node still maps its memory")
        return
    trouble = trouble or ", ".join(f"{name} is {state.value}" for name, state in present.items())
    raise OcfExit(
        OcfCode.OCF_ERR_GENERIC,
        f"{agent.vm} could not be stopped: {trouble}; see: {agent.toolstack.look}",
    )


def _comes_back(agent: Agent) -> bool:
    """Whether a domain that is gone is there again, because its guest was rebooting.

    :raises ToolstackError: not known.
    """
    if not agent.lookup.is_brought_back():
        return False
    log_line(f"{agent.vm}: {agent.toolstack.name} starts it again: its guest reboots")
    return agent.lookup.wait_for_reboot(surely=True) is not DomainState.GONE


def _destroy_present_domains(
    agent: Agent,
    present: dict[str, DomainState],
    destroyed: set[str],
    reserve: DestroyReserve | None,
) -> bool:
    """Destroy each domain that is there, every other time.

    :param destroyed: names whose destroy was the last thing done; changed.
    :returns: whether anything was.
    :raises ToolstackError:
    """
    again = False
    for name, state in present.items():
        if state is DomainState.DYING or name in destroyed:
            destroyed.discard(name)
            continue
        log_line(f"{name}: destroying it ({state.value})")
        begun = time.monotonic()
        # There is time for another try, should this one hang.
        agent.toolstack.destroy_domain(
            name, agent.call.limit_time(max(LEAST_DESTROY_S, agent.call.seconds_left() / 2))
        )
        if reserve is not None:
            reserve.note_duration(time.monotonic() - begun)
        destroyed.add(name)
        again = True
    return again
