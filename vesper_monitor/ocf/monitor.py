# SPDX-License-Identifier: GPL-2.0-or-later
"""The monitor that waits: it asks vesperd, and blocks until there is a result.

Pacemaker runs one monitor at a time and starts the next one ``interval``
after its end.  So this one stays until a fault comes, or until its time
(the operation's timeout less a margin) is up: a fault then reaches Pacemaker
as the exit of a process that already runs.  Pacemaker kills it when the
resource is to be stopped.

Without vesperd the domain itself is looked at, as the stock agents do:
slower, never wrong, and reported as degraded.  vesperd being restarted shows
nowhere.

Where the administrator has monitor scripts they run meanwhile
(:mod:`vesper_monitor.ocf.scripts`); without, none of that is even read.
"""

from __future__ import annotations

import json
import os
import select
import time

from vesper_monitor.client import DaemonError, DaemonUnavailableError
from vesper_monitor.hypervisor.domain_state import DomainState
from vesper_monitor.ocf.domain_lookup import ALIVE
from vesper_monitor.ocf.fast_common import AGAIN, DEEP, call_key, waiting_time
from vesper_monitor.ocf.invocation import OcfCode, OcfExit, log_line
from vesper_monitor.ocf.status import refuse_foreign
from vesper_monitor.ocf.toolstack import ToolstackError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vesper_monitor.ocf.agent import Agent
    from vesper_monitor.ocf.deep_check import DeepCheck
    from vesper_monitor.ocf.scripts import Scripts

__all__ = ["Monitor"]

#: Seconds that vesperd's answer may be late.
ANSWER_GRACE_S = 1.0
#: Seconds without vesperd until the monitor says so.
RECONNECT_LIMIT_S = 10.0
#: Seconds between two tries to reach vesperd.
RECONNECT_PAUSE_S = 0.2
#: Seconds between two looks for a domain that may be rebooting.
REBOOT_PAUSE_S = 0.5
#: Seconds for the toolstack to restart a domain that it shows as crashed.
RESTART_S = 5.0
#: Seconds for what a toolstack does now and then.
TEND_LIMIT_S = 5.0
#: Seconds for vesperd to learn why a domain has ended that it did not watch well.
CAUSE_WAIT_S = 2.0
#: Seconds that one poll(2) waits at most.
MAX_POLL_S = 3600.0


class Monitor:
    """One recurring monitor."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._vm = agent.vm
        self._first = agent.begin_waiting()
        self._end = agent.call.deadline - agent.call.timeout + waiting_time(agent.call.timeout)
        self._scripts: Scripts | None = None
        self._deep: DeepCheck | None = None

    def run(self) -> None:
        """Wait, and return if all is well.

        :raises OcfExit: a fault (1), dead (7 or 1), degraded (190).
        """
        try:
            self._run_once()
        finally:
            self._agent.end_waiting()

    def _run_once(self) -> None:
        degraded = self._watch_all()
        agent = self._agent
        agent.toolstack.tend_domain(self._vm, agent.call.limit_time(TEND_LIMIT_S))
        if agent.settings.utilization or agent.settings.no_utilization:
            from vesper_monitor.ocf import utilization

            utilization.update_utilization(agent)
        if degraded is not None:
            raise degraded
        if mismatch := agent.identity.describe_mismatch():
            raise OcfExit(OcfCode.OCF_DEGRADED, mismatch)
        if self._asks_vesperd_only():
            # The next monitor need not read all this.
            question = json.dumps({"op": "wait", **self._build_question()}).removesuffix("}")
            agent.call.remember_text(AGAIN, f"{call_key(agent.call.environ)}\n{question}")

    def _asks_vesperd_only(self) -> bool:
        """Whether such a monitor only asks vesperd."""
        settings = self._agent.settings
        return self._deep is None and not (
            settings.utilization
            or settings.no_utilization
            or settings.scripts
            or self._agent.toolstack.tends
        )

    def _watch_all(self) -> OcfExit | None:
        """Wait for a result.

        :returns: why the VM is not watched as it should be; None: it is.
        :raises OcfExit: a fault, or dead.
        """
        self._check_identity()
        if os.path.exists(self._agent.call.state_file(DEEP)):
            from vesper_monitor.ocf.deep_check import DeepCheck

            self._deep = DeepCheck.find_due_check(self._agent)
        if self._agent.settings.scripts:
            from vesper_monitor.ocf.scripts import Scripts

            self._scripts = Scripts(self._agent)
        degraded: OcfExit | None = None
        try:
            try:
                self._watch_without_vesperd()
            except OcfExit as end:
                if end.code is not OcfCode.OCF_DEGRADED:
                    raise
                degraded = end
            if self._scripts is not None:
                self._judge_scripts(self._scripts.finish_round())
        finally:
            for part in (self._scripts, self._deep):
                if part is not None:
                    part.close()
        return degraded

    def _check_identity(self) -> None:
        """
        :raises OcfExit: which domain the resource runs is not known (degraded), or none (7).
        """
        agent = self._agent
        if refuse_foreign(agent, OcfCode.OCF_DEGRADED):
            raise OcfExit(OcfCode.OCF_NOT_RUNNING, f"{self._vm} is not running")
        if mismatch := agent.identity.describe_mismatch():
            # vesperd says it to a monitor that waits, and does not call it well meanwhile.
            agent.settings.doubts.insert(0, mismatch)
        if agent.identity.known:
            return
        try:
            if agent.lookup.read_state() in ALIVE:
                return
        except ToolstackError as error:
            log_line(f"{self._vm}: {error}")
        raise OcfExit(
            OcfCode.OCF_DEGRADED,
            f"cannot tell which domain {agent.call.resource} runs: "
            f"{agent.settings.configured.trouble}",
        )

    def _judge_scripts(self, wrong: str | None) -> None:
        """:raises OcfExit: one has failed, and that is to be reported."""
        if wrong is None:
            return
        if pause := self._agent.vesperd.find_pause():
            log_line(f"{self._vm}: not reported ({pause}): {wrong}")
            assert self._scripts is not None
            self._scripts.close()
            return
        raise OcfExit(OcfCode.OCF_ERR_GENERIC, wrong)

    def _wait_for_answer(self, descriptor: int | None, until: float) -> None:
        """Wait for an answer, or until the time is up; scripts run meanwhile.

        :raises OcfExit: a script, or the second monitor's check, failed.
        """
        while True:
            turn = until if self._deep is None else min(until, self._deep.next_turn())
            if self._scripts is None:
                _wait_readable(descriptor, turn)
            else:
                while (wrong := self._scripts.run_until_readable(descriptor, turn)) is not None:
                    self._judge_scripts(wrong)
            if _wait_readable(descriptor, 0.0) or time.monotonic() >= until:
                return
            if self._deep is not None:
                self._deep.take_turn()

    def _watch_without_vesperd(self) -> None:
        lost: float | None = None  # when vesperd was last there
        while True:
            try:
                answer = self._wait_for_vesperd()
            except DaemonError as error:
                self._look_at_domain()
                raise OcfExit(
                    OcfCode.OCF_DEGRADED, f"{self._vm} is not watched: {error.text}"
                ) from error
            except DaemonUnavailableError as error:
                now = time.monotonic()
                if lost is None:
                    lost = now
                    self._look_at_domain()
                if self._first or now >= min(self._end, lost + RECONNECT_LIMIT_S):
                    if not self._first and now - lost > 1.0:
                        self._look_at_domain()
                    raise OcfExit(
                        OcfCode.OCF_DEGRADED, f"{self._vm} is not watched: {error}"
                    ) from error
                self._wait_for_answer(None, time.monotonic() + RECONNECT_PAUSE_S)
            else:
                return self._judge_answer(answer)

    def _wait_for_vesperd(self) -> dict[str, Any]:
        agent = self._agent
        if agent.call.said:
            said, agent.call.said = agent.call.said, b""
            return agent.vesperd.client.understand_answer(said)
        left = max(0.0, self._end - time.monotonic())
        first = {"first": True} if self._first else {}
        question, carried = self._build_question(), agent.vesperd.carried_fault_field()
        descriptor = agent.vesperd.client.begin_request(
            "wait", **question, **first, **carried, timeout=left
        )
        if self._scripts is not None or self._deep is not None:
            self._wait_for_answer(descriptor, self._end + ANSWER_GRACE_S)
        left = max(0.0, self._end - time.monotonic())
        answer = agent.vesperd.client.finish_request(left + ANSWER_GRACE_S)
        if carried:
            agent.vesperd.forget_carried()
        return answer

    def _build_question(self) -> dict[str, Any]:
        call = self._agent.call
        return {
            "resource": call.resource,
            **self._agent.vesperd.domain_fields(),
            "interval": call.interval,
            "node": call.node,
            **self._agent.vesperd.build_wishes(),
        }

    def _judge_answer(self, answer: dict[str, Any]) -> None:
        result = answer.get("result")
        reason = str(answer.get("reason") or "vesperd gave no reason")
        if result == "fine":
            self._agent.keep_unwatched_reason("")
            return
        if result == "fault":
            raise OcfExit(OcfCode.OCF_ERR_GENERIC, reason)
        if result == "degraded":
            if self._look_unwatched():
                return
            note = self._agent.explain_missing_device(reason)
            raise OcfExit(
                OcfCode.OCF_DEGRADED, f"{self._vm} is not watched: {note}" if note else reason
            )
        if result == "dead":
            told = answer.get("fault")
            if told:
                reason = str(told.get("reason") or reason)
            cause = answer.get("cause")
            # What it has ended with may be what its configuration restarts it for.
            restarts = cause == "failure" and self._agent.lookup.is_brought_back()
            crashed = answer.get("state") == DomainState.CRASHED.value
            # A panic that is a fault has the VM start elsewhere, whatever the toolstack does with
            # its domain, and whether or not it is known what that is.
            if (crashed and not restarts) or answer.get("panicked") is True:
                raise OcfExit(OcfCode.OCF_ERR_GENERIC, reason)
            if cause == "asked" and self._agent.settings.poweroff_wanted:
                from vesper_monitor.ocf.power_off import accept_power_off

                accept_power_off(self._agent, reason)
                return
            try:
                self._look_at_domain(
                    reason, may_reboot=restarts or cause not in ("asked", "failure")
                )
            except OcfExit as gone:
                # Pacemaker was told of the fault that has led to this, with
                # this code, and would count another one as another failure.
                if told and gone.code == OcfCode.OCF_NOT_RUNNING:
                    raise OcfExit(OcfCode.OCF_ERR_GENERIC, reason) from None
                raise
            # It is there again: it rebooted. A domain with another id is another
            # activation, whose start vesperd must be told.
            log_line(f"{self._vm}: runs again, so it rebooted ({reason})")
            self._agent.lookup.claim_domain()
            if trouble := self._agent.vesperd.notify_start():
                raise OcfExit(
                    OcfCode.OCF_DEGRADED,
                    f"{self._vm} is not watched: vesperd was not told of its restart: {trouble}",
                )
            return
        raise OcfExit(
            OcfCode.OCF_DEGRADED,
            f"{self._vm} is not watched: vesperd sent an unknown answer ({str(result)[:40]!r}); "
            "install the same version of vesperd and agent",
        )

    def _look_unwatched(self) -> bool:
        """Look at a domain that vesperd does not watch, so that its end may be unknown to it.

        :returns: whether vesperd knows its end by now, and all is well.
        :raises OcfExit: it does not run, with the cause if vesperd knows it by now.
        """
        try:
            self._look_at_domain()
            return False
        except OcfExit as end:
            if end.code is OcfCode.OCF_DEGRADED:
                raise
            client = self._agent.vesperd.client
            try:
                client.begin_request("wait", **self._build_question(), timeout=CAUSE_WAIT_S)
                answer = client.finish_request(CAUSE_WAIT_S + ANSWER_GRACE_S)
            except (DaemonUnavailableError, DaemonError):
                raise end from None
            if answer.get("result") != "dead":
                raise
            self._judge_answer(answer)
            return True

    def _look_at_domain(self, reason: str = "", *, may_reboot: bool = True) -> None:
        """Return if the domain runs.

        A domain that has just vanished may be rebooting, so that is looked at
        more than once.

        :param reason: why it is looked at, if it may be dead.
        :param may_reboot: it is not known to be gone for good.
        :raises OcfExit: it does not run, or that cannot be told.
        """
        agent = self._agent
        gap, waits = agent.toolstack.reboot_gap if may_reboot else 0.0, False
        until = time.monotonic() + min(gap, max(0.0, agent.call.seconds_left() - 2.0))
        while True:
            try:
                state = agent.lookup.read_state()
            except ToolstackError as error:
                # Not known is no reason to stop a VM that may be well.
                because = f" ({reason})" if reason else ""
                raise OcfExit(
                    OcfCode.OCF_DEGRADED,
                    f"cannot tell whether {self._vm} runs{because}: {error}",
                ) from error
            self._vm = agent.vm
            if state in ALIVE:
                known = agent.identity.remembered
                if known is None or known.name != agent.vm:
                    agent.lookup.claim_domain()
                return
            if state is DomainState.CRASHED and not waits and agent.lookup.is_brought_back():
                waits = True
                until = max(
                    until, time.monotonic() + min(RESTART_S, agent.call.seconds_left() - 2.0)
                )
            late = time.monotonic() >= until
            if state is DomainState.CRASHED and (late or not waits):
                raise OcfExit(
                    OcfCode.OCF_ERR_GENERIC,
                    reason or f"{self._vm} is {agent.lookup.describe_state(state)}",
                )
            if late:
                break
            time.sleep(REBOOT_PAUSE_S)
        if state is DomainState.GONE:
            raise OcfExit(OcfCode.OCF_NOT_RUNNING, reason or f"{self._vm} is not running any more")
        reason = reason or f"{self._vm} is {agent.lookup.describe_state(state)}"
        raise OcfExit(
            OcfCode.OCF_ERR_GENERIC,
            f"{reason}; not started again within {gap:.0f} s" if gap else reason,
        )


def _wait_readable(descriptor: int | None, until: float) -> bool:
    """Wait until a descriptor is readable; None: until the time.

    :param until: CLOCK_MONOTONIC.
    :returns: whether it is.
    """
    left = min(max(0.0, until - time.monotonic()), MAX_POLL_S)
    if descriptor is None:
        time.sleep(left)
        return False
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(left * 1000))
