# SPDX-License-Identifier: GPL-2.0-or-later
"""Begins resource activations: at a start, or at the first request of an unknown resource."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from vesper_monitor.daemon.domain_supervisor import DomainSupervisor
from vesper_monitor.daemon.request import is_about
from vesper_monitor.daemon.server import RequestError
from vesper_monitor.daemon.sessions import SessionManager
from vesper_monitor.daemon.wishes import Wishes, read_wishes
from vesper_monitor.faults.activation import ResourceActivation
from vesper_monitor.faults.activations import Activations
from vesper_monitor.faults.carried_fault import CarriedFault, unpack_fault

__all__ = ["ActivationStarter"]

_log = logging.getLogger(__name__)


class ActivationStarter:
    """Begins one activation of a resource at a time, and its watch with it."""

    def __init__(
        self, sessions: SessionManager, activations: Activations, domains: DomainSupervisor
    ) -> None:
        self._sessions = sessions
        self._activations = activations
        self._domains = domains
        #: by resource: an activation that is being begun
        self._beginning: dict[str, asyncio.Task[ResourceActivation | None]] = {}

    def find_activation(self, request: dict[str, Any]) -> ResourceActivation | None:
        """Return the activation of the request's resource, if it is of that VM and domain."""
        activation = self._activations.get_instance(request["resource"])
        if activation is None or not is_about(request, activation.record):
            return None
        return activation

    async def find_or_begin(self, request: dict[str, Any]) -> ResourceActivation | None:
        """Return the activation that a request is about; None: its VM does not run."""
        await self._wait_until_begun(request["resource"])
        return self.find_activation(request) or await self._begin_shielded(request)

    async def begin_activation(self, request: dict[str, Any]) -> ResourceActivation | None:
        """Begin an activation in place of the resource's last; None: its VM does not run."""
        await self._wait_until_begun(request["resource"])
        return await self._begin_shielded(request)

    def cancel_beginning(self, resource: str) -> None:
        """Cancel what is being begun: the monitor that wanted it was killed."""
        if (beginning := self._beginning.get(resource)) is not None:
            beginning.cancel()

    async def take_carried_fault(
        self, activation: ResourceActivation, request: dict[str, Any]
    ) -> None:
        """Give an activation the fault that came with its VM, if there is one."""
        carried = await self._read_carried_fault(request, activation)
        self._take_fault(activation, carried)

    async def _wait_until_begun(self, resource: str) -> None:
        while (beginning := self._beginning.get(resource)) is not None:
            await asyncio.wait({beginning})

    async def _begin_shielded(self, request: dict[str, Any]) -> ResourceActivation | None:
        """Begin an activation and its watch to the end, even if the client disconnects."""
        resource: str = request["resource"]
        task = self._domains.finish_work(self._begin(request))
        self._beginning[resource] = task
        task.add_done_callback(lambda _: self._beginning.pop(resource, None))
        return await asyncio.shield(task)

    async def _begin(self, request: dict[str, Any]) -> ResourceActivation | None:
        vm: str = request["vm"]
        found = await self._sessions.transports.find_domain(vm)
        if found is None or not is_about(request, found[1]):
            return None
        transport, domain = found
        resource: str = request["resource"]
        carried = await self._read_carried_fault(request, None)
        wishes, wrong = read_wishes(request, Wishes())
        try:
            activation = self._activations.start_instance(
                resource,
                domain,
                wishes.probes,
                wishes.services,
                wishes.hang_timeout,
                wishes.pause_timeout,
                transport.name,
                wishes.fault_on,
                wishes.boot_timeout,
            )
        except ValueError as error:
            raise RequestError("internal", str(error)) from error
        self._activations.refuse_wishes(activation, wrong)
        session = self._sessions.find_session(domain)
        if session is not None and session.hello is not None:
            activation.guest_met(session.hello.boot_id)
        self._take_fault(activation, carried)
        self._domains.activation_begins(domain)
        await self._domains.watch_domain(transport, domain)
        self._domains.report_state_again(vm)
        return activation

    async def _read_carried_fault(
        self, request: dict[str, Any], activation: ResourceActivation | None
    ) -> CarriedFault | None:
        """Return the fault that came with a VM, or None if there is none or it is an old one.

        :param activation: the one that goes on; None: another one is about to begin.
        """
        if request.get("carried") is None:
            return None
        resource, vm = request["resource"], request["vm"]
        try:
            carried = unpack_fault(request["carried"])
        except ValueError as error:
            _log.error("%s: the fault that came with %s cannot be read: %s", resource, vm, error)
            return None
        if await self._activations.has_reported(vm, carried, activation):
            _log.info("%s: fault %d of %s was reported before",
                      resource, carried.fault_id, carried.node)  # fmt: skip
            return None
        return carried

    def _take_fault(self, activation: ResourceActivation, carried: CarriedFault | None) -> None:
        if carried is None:
            return
        if why := self._activations.take_carried_fault(activation, carried):
            _log.info("%s: fault %d of %s is not taken: %s",
                      activation.record.resource, carried.fault_id, carried.node, why)  # fmt: skip
