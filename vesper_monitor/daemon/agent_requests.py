# SPDX-License-Identifier: GPL-2.0-or-later
"""What the OCF agents ask for: activations of their resources, monitors, states of VMs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import Any

from vesper_monitor.daemon.activation_starter import ActivationStarter
from vesper_monitor.daemon.config import DEFAULT_PROBES
from vesper_monitor.daemon.connection import Connection
from vesper_monitor.daemon.domain_supervisor import DomainSupervisor
from vesper_monitor.daemon.incoming import IncomingDomains
from vesper_monitor.daemon.operator_wishes import OperatorWishes
from vesper_monitor.daemon.request import (
    SAVE_LIMIT_S,
    Check,
    Operation,
    Right,
    boolean_field,
    is_about,
    names_or,
    no_such_vm_error,
    number_between,
    optional,
    text_field,
    vm_name,
)
from vesper_monitor.daemon.server import RequestError
from vesper_monitor.daemon.sessions import SessionManager
from vesper_monitor.daemon.transports import NoTransportError
from vesper_monitor.daemon.watch_policy import WatchPolicy
from vesper_monitor.daemon.wishes import MAX_TIMEOUT_S, read_wishes
from vesper_monitor.faults.activation import Answer, ResourceActivation, Result
from vesper_monitor.faults.activations import Activations
from vesper_monitor.faults.pauses import Pauses
from vesper_monitor.hypervisor.transport import Domain, DomainReport, DomainState
from vesper_monitor.journal.records import Fault, system_gone

__all__ = ["AgentRequests"]

_log = logging.getLogger(__name__)

#: s that a monitor may ask to wait.
MAX_WAIT_S = MAX_TIMEOUT_S
#: s for a transport to say which domain a stop is about; the agent waits 3 s in all.
STOP_FIND_LIMIT_S = 1.5
#: s for a look at the domain before the first monitor is answered.
LOOK_TIMEOUT_S = 5.0
#: s that an agent may wait for the fault that goes along with a migrated VM.
MAX_HAND_OVER_S = 60.0


class AgentRequests:
    """Serves the agents of the resources on this host."""

    def __init__(
        self,
        sessions: SessionManager,
        activations: Activations,
        domains: DomainSupervisor,
        policy: WatchPolicy,
        operators: OperatorWishes,
        incoming: IncomingDomains,
        pauses: Pauses,
    ) -> None:
        self._sessions = sessions
        self._activations = activations
        self._domains = domains
        self._policy = policy
        self._operators = operators
        self._incoming = incoming
        self._pauses = pauses
        self._starter = ActivationStarter(sessions, activations, domains)

    @property
    def operations(self) -> tuple[Operation, ...]:
        """The table. Wishes are not checked in it: a wrong one never fails a request."""
        resource: dict[str, Check] = {"resource": text_field}
        named: dict[str, Check] = {"vm": vm_name, "domain": optional(text_field)}
        maybe: dict[str, Check] = {"vm": optional(vm_name), "domain": optional(text_field)}
        hand_over = {"timeout": number_between(0.0, MAX_HAND_OVER_S)}
        wait = {
            "interval": number_between(0.0, MAX_WAIT_S),
            "timeout": number_between(0.0, MAX_WAIT_S),
            "first": optional(boolean_field),
            "node": optional(text_field),
        }
        expected: dict[str, Check] = {"vm": vm_name, "probes": names_or(DEFAULT_PROBES)}
        life = {"resource": optional(text_field), **maybe}
        return (
            Operation("start", self._start, Right.ROOT, resource | named),
            Operation("expect", self._expect, Right.ROOT, expected),
            Operation("change", self._change, Right.ROOT, resource | named),
            Operation("stop", self._stop, Right.ROOT, resource | maybe),
            Operation("hand_over", self._hand_over, Right.ROOT, resource | maybe | hand_over),
            Operation("wait", self._wait, Right.ROOT, resource | named | wait),
            Operation("state", self._read_state, Right.READ, {"vm": vm_name}),
            Operation("alive", self._is_alive, Right.READ, resource | maybe),
            Operation("life", self._read_last_sign, Right.READ, life),
        )

    # ------------------------------------------------------------ begin

    async def _start(self, connection: Connection, request: dict[str, Any]) -> None:
        self._operators.allow_watching(request["vm"])
        activation = await self._starter.begin_activation(request)
        if activation is None:
            raise no_such_vm_error(request["vm"])
        record = activation.record
        await connection.send_answers({"ok": True, "instance": record.id, "domid": record.domid})

    async def _expect(self, connection: Connection, request: dict[str, Any]) -> None:
        self._incoming.note_expected(request["vm"], request["probes"])
        await connection.send_answers({"ok": True})

    # ------------------------------------------------------------ change

    async def _change(self, connection: Connection, request: dict[str, Any]) -> None:
        activation = self._starter.find_activation(request)
        if activation is None:
            activation = await self._starter.find_or_begin(request)
        if activation is None:
            raise no_such_vm_error(request["vm"])
        await self._change_wishes(activation, request)
        await connection.send_answers({"ok": True, "instance": activation.record.id})

    async def _change_wishes(self, activation: ResourceActivation, request: dict[str, Any]) -> None:
        """Follow the resource's parameters, which may change without a restart."""
        in_force = activation.record.wishes
        wishes, wrong = read_wishes(request, in_force)
        self._activations.refuse_wishes(activation, wrong)
        if wishes == in_force:
            return
        self._activations.change_wishes(activation, wishes)
        domain = activation.record.domain
        session = self._sessions.find_session(domain)
        if session is not None:
            await session.set_probes(self._policy.wanted_probes(domain) or {})

    # ------------------------------------------------------------ end

    async def _stop(self, connection: Connection, request: dict[str, Any]) -> None:
        resource: str = request["resource"]
        self._starter.cancel_beginning(resource)
        activation = self._activations.get_activation(resource)
        cause = None
        saved = asyncio.Event()
        saved.set()
        is_named = activation is not None and is_about(request, activation.record)
        # One whose domain has ended is over, whatever life of the VM is to be stopped.
        if activation is not None and (is_named or activation.dead_reason is not None):
            cause = activation.dead_cause if is_named else None
            saved.clear()
            self._activations.stop_activation(resource, saved.set)
            self._domains.note_activation_end(activation.record)
        elif activation is None:
            self._activations.stop_activation(resource)  # the journal may have one, read later
        fault = self._activations.stopped_for(resource)
        is_there = await self._is_there(fault, request) if fault is not None else None
        if is_there is False:
            fault = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SAVE_LIMIT_S):
                await saved.wait()
        await connection.send_answers(
            {
                "ok": True,
                "fault": fault.to_json() if fault is not None else None,
                # False where it is not known: a shutdown costs time, an end without one data.
                "system_gone": fault is not None and is_there is True and system_gone(fault),
                "cause": cause.value if cause is not None else None,
            }
        )

    async def _is_there(self, fault: Fault, request: dict[str, Any]) -> bool | None:
        """Return whether a fault's domain is the one to be stopped; None: not known.

        On some hypervisors all lives of a VM have one UUID, and an agent knows no
        other mark of them.
        """
        domain = Domain(fault.vm, fault.domid, fault.uuid)
        if not is_about(request, domain):
            return False
        session = self._sessions.find_session(domain)
        if request["domain"] == str(fault.domid) or (session is not None and session.linked):
            return True
        try:
            async with asyncio.timeout(STOP_FIND_LIMIT_S):
                found = await self._sessions.transports.find_domain(fault.vm)
        except (TimeoutError, NoTransportError) as error:
            _log.warning("%s: cannot tell whether its domain is the one that had %s: %s",
                         fault.vm, fault.label, error or "no answer in time")  # fmt: skip
            return None
        if found is not None:
            self._activations.forget_earlier_lives(found[1])
        return found is not None and found[1] == domain

    async def _hand_over(self, connection: Connection, request: dict[str, Any]) -> None:
        """Give out the fault of a VM that the agent has migrated away."""
        activation = self._starter.find_activation(request)
        carried = None
        if activation is not None:
            self._sessions.look_soon(activation.record.domain)  # it has left
            carried = await self._activations.hand_over(
                activation, request["domain"], request["timeout"]
            )
        await connection.send_answers({"ok": True, "carried": carried})

    # ------------------------------------------------------------ monitor

    async def _wait(self, connection: Connection, request: dict[str, Any]) -> None:
        connection.until_closed = True
        try:
            activation = self._starter.find_activation(request)
            if activation is None:
                # Started while no vesperd was there, or before its journal was lost.
                activation = await self._starter.find_or_begin(request)
            else:
                await self._starter.take_carried_fault(activation, request)
            if activation is None:
                await connection.send_answers(_answer_not_running(request).to_json())
                return
            await self._change_wishes(activation, request)
            activation.node = request["node"] or activation.node
            await self._look_before_monitor(activation, request["first"])

            async def deliver(answer: Answer) -> None:
                await connection.send_answers(answer.to_json())

            await self._activations.serve_monitor(
                activation, interval=request["interval"], timeout=request["timeout"],
                first=request["first"], deliver=deliver,
            )  # fmt: skip
        finally:
            connection.until_closed = False

    async def _look_before_monitor(
        self, activation: ResourceActivation, first: bool | None
    ) -> None:
        """Look at a monitor's domain where nobody has looked, or watch it again.

        The first monitor is answered without a wait, so the look comes before it.
        """
        record = activation.record
        domain = record.domain
        is_first = first or (first is None and not record.monitored)
        if not activation.followed and activation.dead_reason is None:
            work = self._domains.watch_again(activation)
            if is_first:
                await asyncio.wait({work}, timeout=LOOK_TIMEOUT_S)
        elif is_first:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_TIMEOUT_S):
                    await self._sessions.look_at_domain(domain)
        elif activation.restored or not self._sessions.shows_life(domain):
            self._sessions.look_soon(domain)

    # ------------------------------------------------------------ look

    async def _read_state(self, connection: Connection, request: dict[str, Any]) -> None:
        vm: str = request["vm"]
        found = await self._find_state(vm)
        answer: dict[str, Any] = {"ok": True, "domain": None, "watch": None, "fault": None}
        pause = self._pauses.get_pause(vm)
        answer["paused"] = pause.to_json() if pause is not None else None
        if found is not None:
            domain, report = found
            answer["domain"] = {
                "name": domain.name,
                "domid": domain.domid,
                "uuid": domain.uuid,
                "state": report.state.value,
                "cause": report.cause.value,
                "why": report.why,
            }
            session = self._sessions.find_session(domain)
            if session is not None:
                degraded = self._sessions.state_of(domain, session.transport.name).lacking
                answer["watch"] = {"state": session.state.value, "degraded": degraded}
            held = [i.fault for i in self._activations.of_domain(domain) if i.fault]
            if held:
                answer["fault"] = held[0].to_json()
        await connection.send_answers(answer)

    async def _find_state(self, vm: str) -> tuple[Domain, DomainReport] | None:
        """Return the domain of that name and its state; None: it does not run here."""
        session = self._sessions.session_of(vm)
        if session is not None and session.alive:
            # No toolstack knows it better, and a toolstack may hang.
            return session.domain, DomainReport(DomainState.RUNNING)
        found = await self._sessions.transports.find_domain(vm)
        if found is None:
            return None
        transport, domain = found
        return domain, await transport.report_domain(domain)

    async def _is_alive(self, connection: Connection, request: dict[str, Any]) -> None:
        """Answer vesper_monitor/ocf/fast_monitor.py, which compares the line as it is."""
        activation = self._starter.find_activation(request)
        is_alive = activation is not None and self._sessions.shows_life(activation.record.domain)
        await connection.send_answers({"ok": True, "alive": is_alive})

    async def _read_last_sign(self, connection: Connection, request: dict[str, Any]) -> None:
        """Answer since when a domain's kernel is silent, or that of a resource's domain.

        The domain of a resource is named even if it has ended: an agent that has forgotten
        which VM its resource runs must not stop another one.
        """
        answer: dict[str, Any] = {"ok": True, "age": None}
        vm, ident = request["vm"], request["domain"]
        if request["resource"] is not None:
            activation = self._activations.get_activation(request["resource"])
            if activation is None:
                await connection.send_answers(answer)
                return
            record = activation.record
            answer |= {"vm": record.vm, "domid": record.domid, "uuid": record.uuid}
            vm, ident = record.vm, str(record.domid)
        elif vm is None or ident is None:
            raise RequestError("bad-request", "life: give 'vm' and 'domain', or 'resource'")
        at = self._sessions.find_last_sign(vm, ident)
        if at is not None:
            answer["age"] = max(0.0, time.monotonic() - at)
        await connection.send_answers(answer)


def _answer_not_running(request: dict[str, Any]) -> Answer:
    ident = request["domain"]
    why = f"{request['vm']} does not run" + (f" as domain {ident}" if ident else "")
    return Answer(Result.DEAD, why, state=DomainState.GONE)
