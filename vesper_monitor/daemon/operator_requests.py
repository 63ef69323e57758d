# SPDX-License-Identifier: GPL-2.0-or-later
"""What operators ask for: faults that are over, pauses, probes, VMs watched by hand."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from vesper_monitor.daemon.config import DEFAULT_PROBES
from vesper_monitor.daemon.connection import Connection
from vesper_monitor.daemon.domain_supervisor import DomainSupervisor
from vesper_monitor.daemon.operator_wishes import OperatorWishes
from vesper_monitor.daemon.request import (
    SAVE_LIMIT_S,
    Operation,
    Right,
    names_or,
    no_such_vm_error,
    number_between,
    optional,
    text_field,
    vm_name,
    whole_number,
)
from vesper_monitor.daemon.server import RequestError
from vesper_monitor.daemon.sessions import SessionManager
from vesper_monitor.daemon.watch_policy import WatchPolicy
from vesper_monitor.faults.activations import Activations
from vesper_monitor.faults.pauses import MAX_PAUSE_S, Pauses
from vesper_monitor.guest.dynamic_probes.point import DynamicProbeError
from vesper_monitor.guest.dynamic_probes.store import RESERVED, DynamicProbeStore
from vesper_monitor.guest.dynamic_probes.syntax import parse_definition
from vesper_monitor.guest.errors import SessionError
from vesper_monitor.guest.session_state import SessionState
from vesper_monitor.hypervisor.transport import Domain, Transport
from vesper_monitor.journal.writer import JournalWriter

__all__ = ["OperatorRequests"]

#: s for a guest to answer an ``activate``: who asks by hand knows that it has booted.
MAX_ACTIVATE_S = 25.0
#: s for an ``activate`` beyond the time after which the VM counts as degraded.
ACTIVATE_MARGIN_S = 5.0
#: s between two looks at a session that an ``activate`` waits for.
ACTIVATE_POLL_S = 0.05
#: Shortest pause, in s.
MIN_PAUSE_S = 1.0
#: Characters of a pause's reason that are kept.
MAX_REASON_CHARS = 200


class OperatorRequests:
    """Serves operators. All of it needs root.

    :param activate_timeout: s for a guest's frontend before the VM counts as degraded.
    """

    def __init__(
        self,
        sessions: SessionManager,
        activations: Activations,
        domains: DomainSupervisor,
        policy: WatchPolicy,
        operators: OperatorWishes,
        dynamic_probes: DynamicProbeStore,
        pauses: Pauses,
        journal: JournalWriter,
        *,
        activate_timeout: float,
    ) -> None:
        self._sessions = sessions
        self._activations = activations
        self._domains = domains
        self._policy = policy
        self._operators = operators
        self._dynamic_probes = dynamic_probes
        self._pauses = pauses
        self._journal = journal
        self._activate_timeout = activate_timeout

    @property
    def operations(self) -> tuple[Operation, ...]:
        """The table."""
        vm = {"vm": vm_name}
        clear = {"id": optional(whole_number), "resource": optional(text_field)}
        pause = {"for": number_between(MIN_PAUSE_S, MAX_PAUSE_S), "reason": optional(text_field)}
        load = {"probe": text_field, "params": optional(text_field)}
        return (
            Operation("clear", self._clear_faults, Right.ROOT, clear),
            Operation("pause", self._pause, Right.ROOT, vm | pause),
            Operation("resume", self._resume, Right.ROOT, vm),
            Operation("add", self._add_dynamic_probe, Right.ROOT, vm | {"definition": text_field}),
            Operation("load", self._load_probe, Right.ROOT, vm | load),
            Operation("unload", self._unload_probe, Right.ROOT, vm | {"probe": text_field}),
            Operation(
                "activate", self._activate, Right.ROOT, vm | {"probes": names_or(DEFAULT_PROBES)}
            ),
            Operation("deactivate", self._deactivate, Right.ROOT, vm),
        )

    # ------------------------------------------------------------ faults

    async def _clear_faults(self, connection: Connection, request: dict[str, Any]) -> None:
        fault_id, resource = request["id"], request["resource"]
        if (fault_id is None) == (resource is None):
            raise RequestError("bad-request", "clear: give either 'id' or 'resource'")
        cleared = self._activations.clear_faults(fault_id=fault_id, resource=resource)
        await self._journal.flush_queue()
        await connection.send_answers({"ok": True, "cleared": cleared})

    async def _pause(self, connection: Connection, request: dict[str, Any]) -> None:
        vm: str = request["vm"]
        reason = " ".join((request["reason"] or "").split())[:MAX_REASON_CHARS]
        if not self._activations.of_vm(vm):
            await self._find_domain(vm)
        try:
            pause = await self._pauses.begin_pause(vm, request["for"], reason)
        except OSError as error:
            raise RequestError("internal", f"{vm}: the pause cannot be kept: {error}") from error
        self._activations.pause_vm(vm, True)
        await connection.send_answers({"ok": True, "paused": pause.to_json()})

    async def _resume(self, connection: Connection, request: dict[str, Any]) -> None:
        resumed = self._pauses.end_pause(request["vm"], "by the operator")
        await self._pauses.wait_until_saved(SAVE_LIMIT_S)
        await connection.send_answers({"ok": True, "resumed": resumed})

    # ------------------------------------------------------------ probes

    async def _add_dynamic_probe(self, connection: Connection, request: dict[str, Any]) -> None:
        vm: str = request["vm"]
        session = self._sessions.require_session(vm)
        try:
            probe = parse_definition(request["definition"])
        except DynamicProbeError as error:
            raise RequestError("bad-request", str(error), position=error.position) from error
        if probe.name in RESERVED or probe.name in session.probes:
            raise RequestError(
                "bad-request",
                f"{vm}: there is a probe {probe.name} already; give yours another name: "
                f"{probe.kind.value}:NAME {probe.symbol} ..",
            )
        self._dynamic_probes.add_probe(vm, probe)
        try:
            await session.load_probe(probe.name, probe.text)
        except BaseException:
            self._dynamic_probes.remove_probe(vm, probe.name)
            raise
        await self._save_dynamic_probes(vm)
        await connection.send_answers({"ok": True, "probe": probe.name})

    async def _save_dynamic_probes(self, vm: str) -> None:
        try:
            await self._dynamic_probes.save_probes()
        except OSError as error:
            raise RequestError(
                "internal", f"{vm}: it is done, but not saved for the next vesperd: {error}"
            ) from error

    async def _load_probe(self, connection: Connection, request: dict[str, Any]) -> None:
        session = self._sessions.require_session(request["vm"])
        await session.load_probe(request["probe"], request["params"] or "")
        await connection.send_answers({"ok": True})

    async def _unload_probe(self, connection: Connection, request: dict[str, Any]) -> None:
        vm, probe = request["vm"], request["probe"]
        session = self._sessions.require_session(vm)
        if probe not in self._dynamic_probes.probes_of_vm(vm):
            await session.unload_probe(probe)
        else:
            try:
                await session.unload_probe(probe)
            except SessionError as error:
                # One that could not be loaded again: it is not wanted any more.
                if error.code not in ("no-such-probe", "not-active"):
                    raise
                self._dynamic_probes.remove_probe(vm, probe)
                await session.set_probes(self._policy.wanted_probes(session.domain) or {})
            self._dynamic_probes.remove_probe(vm, probe)
            await self._save_dynamic_probes(vm)
        await connection.send_answers({"ok": True})

    # ------------------------------------------------------------ the watch

    async def _activate(self, connection: Connection, request: dict[str, Any]) -> None:
        vm: str = request["vm"]
        transport, domain = await self._find_domain(vm)
        self._operators.allow_watching(vm)
        await self._operators.activate_vm(vm, request["probes"])
        wanted = self._policy.wanted_probes(domain)
        session = await self._sessions.watch_domain(transport, domain, wanted)
        limit_s = min(MAX_ACTIVATE_S, self._activate_timeout + ACTIVATE_MARGIN_S)
        lacking = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                # A session notifies its listener, not us; this is asked by hand, and rarely.
                while session.state not in (SessionState.ACTIVE, SessionState.UNFIT):
                    await asyncio.sleep(ACTIVATE_POLL_S)
                    lacking = self._sessions.state_of(domain, transport.name).lacking
                    if lacking is not None:
                        break
        if session.state is not SessionState.ACTIVE:
            why = lacking or session.degraded or session.missing
            raise RequestError(
                "not-active", why or f"{vm}: its guest does not answer; vesperd goes on trying"
            )
        await connection.send_answers({"ok": True, "domid": domain.domid})

    async def _deactivate(self, connection: Connection, request: dict[str, Any]) -> None:
        vm: str = request["vm"]
        work = self._domains.finish_work(self._domains.deactivate_vm(vm))
        if not await asyncio.shield(work):
            raise RequestError(
                "not-active", f"{vm} is not watched; begin with: vesper activate {vm}"
            )
        await connection.send_answers({"ok": True})

    async def _find_domain(self, vm: str) -> tuple[Transport, Domain]:
        found = await self._sessions.transports.find_domain(vm)
        if found is None:
            raise no_such_vm_error(vm)
        return found
