# SPDX-License-Identifier: GPL-2.0-or-later
"""What the requests of docs/api.md do, one method for each ``op``."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import itertools
import json
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import vesper_monitor
from vesper_monitor.daemon.config import DEFAULT_PROBES
from vesper_monitor.daemon.request import (
    boolean_field,
    names_field,
    number_field,
    optional_field,
    text_field,
    vm_name,
)
from vesper_monitor.daemon.server import Connection, RequestError
from vesper_monitor.daemon.sessions import NoTransportError
from vesper_monitor.daemon.status import vm_status
from vesper_monitor.daemon.wishes import MAX_TIMEOUT_S, Wishes, read_wishes, wishes_of
from vesper_monitor.faults.activation import Answer, ResourceActivation, Result
from vesper_monitor.faults.carried_fault import CarriedFault, unpack_fault
from vesper_monitor.faults.pauses import MAX_PAUSE_S
from vesper_monitor.guest import abi
from vesper_monitor.guest.dynamic_probes.point import DynamicProbeError
from vesper_monitor.guest.dynamic_probes.store import RESERVED
from vesper_monitor.guest.dynamic_probes.syntax import parse_definition
from vesper_monitor.guest.errors import SessionError
from vesper_monitor.guest.event import Event
from vesper_monitor.guest.session import Session
from vesper_monitor.guest.session_state import SessionState
from vesper_monitor.hypervisor.transport import (
    Domain,
    DomainReport,
    DomainState,
    Transport,
    TransportError,
)
from vesper_monitor.journal.journal import Journal, JournalError
from vesper_monitor.journal.records import ActivationRecord, Fault, system_gone
from vesper_monitor.journal.writer import READ_LIMIT_S

if TYPE_CHECKING:
    from vesper_monitor.daemon.daemon import Daemon

__all__ = ["Api"]

_log = logging.getLogger(__name__)

#: Requests that change something, or that only an agent makes.
ROOT_ONLY = frozenset(
    {"start", "change", "stop", "wait", "hand_over", "clear", "pause", "resume"}
    | {"expect", "add", "load", "unload", "activate", "deactivate"}
)
#: s a monitor may ask to wait.
MAX_WAIT = MAX_TIMEOUT_S
#: s for a transport to say which domain a stop is about; the agent waits 3 s in all.
STOP_FIND_LIMIT_S = 1.5
#: s that the answer to a stop (or a resume) waits for the disk. A vesperd that is killed after
#: it would go on with what has ended; a disk that hangs must not hold up the stop.
STOP_SAVE_LIMIT_S = 0.5
#: s for a look at the domain before the first monitor is answered.
LOOK_TIMEOUT_S = 5.0
#: s that an agent may wait for what is to go along with a VM that has migrated.
MAX_HAND_OVER_S = 60.0
#: s for a guest to answer an ``activate``: who asks by hand knows that it has booted.
MAX_ACTIVATE_S = 25.0
#: Events read from the journal at once, and in one request.
PAGE = 500
MAX_EVENTS = 100_000
#: Events or faults that are encoded at once: what the group asks for is done in turns.
AT_ONCE = 50
#: Clients of the group that follow events or records: each costs with each of those.
MAX_STREAMS_OF_GROUP = 64
DEFAULT_EVENTS = 100
#: With a fault: the VM's events of so many s before it, and at most so many.
EVENTS_BEFORE_S = 10.0
MAX_EVENTS_BEFORE = 20

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Operation = Callable[[Connection, dict[str, Any]], Awaitable[None]]


class Api:
    """Requests to a daemon."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        #: by resource: an instance that is being begun
        self._beginning: dict[str, asyncio.Task[ResourceActivation | None]] = {}
        self._streams_of_group = 0
        self._operations: dict[str, _Operation] = {
            "hello": self._op_hello,
            "start": self._op_start,
            "expect": self._op_expect,
            "change": self._op_change,
            "stop": self._op_stop,
            "hand_over": self._hand_over,
            "wait": self._op_wait,
            "state": self._op_state,
            "alive": self._op_alive,
            "life": self._op_life,
            "status": self._op_status,
            "events": self._op_events,
            "faults": self._op_faults,
            "fault": self._op_fault,
            "clear": self._op_clear,
            "pause": self._op_pause,
            "resume": self._op_resume,
            "add": self._op_add,
            "load": self._op_load,
            "unload": self._op_unload,
            "activate": self._op_activate,
            "deactivate": self._op_deactivate,
            "relay": self._op_relay,
        }

    async def handle_request(self, connection: Connection, request: dict[str, Any]) -> None:
        """Serve one request.

        :raises RequestError: it is answered with an error.
        """
        op = request.get("op")
        operation = self._operations.get(op) if isinstance(op, str) else None
        if operation is None:
            raise RequestError("bad-request", f"unknown op {str(op)[:40]!r}")
        if op in ROOT_ONLY and not connection.privileged:
            raise RequestError("denied", f"{op}: only root may do that")
        optional_field(request, "vm", vm_name)  # whatever is done with it: it is a name
        try:
            await operation(connection, request)
        except NoTransportError as error:
            raise RequestError("no-transport", str(error)) from error
        except SessionError as error:
            more = {} if error.errno is None else {"errno": error.errno}
            raise RequestError(error.code, str(error), **more) from error
        except TransportError as error:
            raise RequestError("timeout", str(error)) from error
        except JournalError as error:
            raise RequestError("internal", str(error)) from error

    # ------------------------------------------------------------ agents

    async def _op_start(self, connection: Connection, request: dict[str, Any]) -> None:
        self._daemon.allow_watching(text_field(request, "vm"))
        instance = await self._begin_or_find_instance(request, anew=True)
        if instance is None:
            raise _no_such_vm(text_field(request, "vm"))
        await connection.send_answers(
            {"ok": True, "instance": instance.record.id, "domid": instance.record.domid}
        )

    async def _hand_over(self, connection: Connection, request: dict[str, Any]) -> None:
        """The agent has migrated the VM away: its fault goes along."""
        daemon = self._daemon
        ident = optional_field(request, "domain", text_field)
        limit = number_field(request, "timeout", 0.0, MAX_HAND_OVER_S)
        instance = daemon.instances.get_instance(text_field(request, "resource"))
        carried = None
        if instance is not None and _is_of(request, instance.record):
            record = instance.record
            daemon.watch.look_soon(Domain(record.vm, record.domid, record.uuid))  # it has gone
            carried = await daemon.instances.hand_over(instance, ident, limit)
        await connection.send_answers({"ok": True, "carried": carried})

    async def _begin_or_find_instance(
        self, request: dict[str, Any], *, anew: bool
    ) -> ResourceActivation | None:
        """The instance that a request is about, begun if need be; None: its VM does not run.

        What is begun is watched, too, whatever becomes of the client meanwhile.

        :param anew: begin another one in any case.
        """
        resource = text_field(request, "resource")
        while (beginning := self._beginning.get(resource)) is not None:
            await asyncio.wait({beginning})
        if not anew and (instance := self._asked_for(request)) is not None:
            return instance
        task = self._daemon.finish_work(self._begin_instance(request))
        self._beginning[resource] = task
        task.add_done_callback(lambda _: self._beginning.pop(resource, None))
        return await asyncio.shield(task)

    def _asked_for(self, request: dict[str, Any]) -> ResourceActivation | None:
        """The instance of the request's resource, if it is of that VM and domain."""
        instance = self._daemon.instances.get_instance(text_field(request, "resource"))
        if instance is None or not _is_of(request, instance.record):
            return None
        return instance

    async def _begin_instance(self, request: dict[str, Any]) -> ResourceActivation | None:
        daemon = self._daemon
        vm = text_field(request, "vm")
        found = await daemon.watch.find_domain(vm)
        if found is None or not _is_of(request, found[1]):
            return None
        transport, domain = found
        resource = text_field(request, "resource")
        carried = await self._find_carried_fault(resource, vm, request, None)
        wishes, wrong = read_wishes(request, Wishes())
        try:
            instance = daemon.instances.start_instance(
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
        daemon.instances.refuse_wishes(instance, wrong)
        session = daemon.watch.find_session(domain)
        if session is not None and session.hello is not None:
            instance.guest_met(session.hello.boot_id)
        self._take_carried_fault(instance, carried)
        daemon.judge_earlier_events(domain)
        await daemon.watch_domain(transport, domain)
        daemon.judge_again(vm)
        return instance

    async def _find_carried_fault(
        self, resource: str, vm: str, request: dict[str, Any], instance: ResourceActivation | None
    ) -> CarriedFault | None:
        """The fault that has come with a VM, unless it is none or an old one.

        :param instance: that goes on; None: another one is about to begin.
        """
        if request.get("carried") is None:
            return None
        try:
            carried = unpack_fault(request["carried"])
        except ValueError as error:
            _log.error("%s: what has come along with %s is no fault: %s", resource, vm, error)
            return None
        if await self._daemon.instances.has_reported(vm, carried, instance):
            _log.info("%s: fault %d of %s was reported before",
                      resource, carried.fault_id, carried.node)  # fmt: skip
            return None
        return carried

    def _take_carried_fault(
        self, instance: ResourceActivation, carried: CarriedFault | None
    ) -> None:
        if carried is None:
            return
        if why := self._daemon.instances.take_carried_fault(instance, carried):
            _log.info("%s: fault %d of %s is not taken: %s",
                      instance.record.resource, carried.fault_id, carried.node, why)  # fmt: skip

    async def _op_expect(self, connection: Connection, request: dict[str, Any]) -> None:
        self._daemon.expected.note_expected(
            text_field(request, "vm"), names_field(request, "probes", DEFAULT_PROBES)
        )
        await connection.send_answers({"ok": True})

    async def _op_change(self, connection: Connection, request: dict[str, Any]) -> None:
        instance = self._asked_for(request)
        if instance is None:
            instance = await self._begin_or_find_instance(request, anew=False)
        if instance is None:
            raise _no_such_vm(text_field(request, "vm"))
        await self._new_wishes(instance, request)
        await connection.send_answers({"ok": True, "instance": instance.record.id})

    async def _op_stop(self, connection: Connection, request: dict[str, Any]) -> None:
        instances, resource = self._daemon.instances, text_field(request, "resource")
        if (beginning := self._beginning.get(resource)) is not None:
            beginning.cancel()  # of a monitor that was killed
        instance = instances.get_instance(resource)
        cause = None
        saved = asyncio.Event()
        saved.set()
        named = instance is not None and _is_of(request, instance.record)
        # One whose domain has ended is over, whatever life of the VM is to be stopped.
        if instance is not None and (named or instance.dead_reason is not None):
            cause = instance.dead_cause if named else None
            saved.clear()
            instances.stop_instance(resource, saved.set)
            self._daemon.end_expected_stop(instance.record)
        elif instance is None:
            instances.stop_instance(resource)  # the journal may have one, and be read later
        fault = instances.stopped_for(resource)
        there = await self._is_there(fault, request) if fault is not None else None
        if there is False:
            fault = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_SAVE_LIMIT_S):
                await saved.wait()
        await connection.send_answers(
            {
                "ok": True,
                "fault": fault.to_json() if fault is not None else None,
                # Not known to be: a shutdown costs time, an end without one data.
                "system_gone": fault is not None and there is True and system_gone(fault),
                "cause": cause.value if cause is not None else None,
            }
        )

    async def _is_there(self, fault: Fault, request: dict[str, Any]) -> bool | None:
        """Whether a fault's domain is the one that is to be stopped; None: not known.

        On some hypervisors all lives of a VM have the same UUID, and an agent
        knows no other mark of them.
        """
        watch = self._daemon.watch
        domain = Domain(fault.vm, fault.domid, fault.uuid)
        if not _is_of(request, domain):
            return False
        session = watch.find_session(domain)
        if request.get("domain") == str(fault.domid) or (session is not None and session.linked):
            return True
        try:
            async with asyncio.timeout(STOP_FIND_LIMIT_S):
                found = await watch.find_domain(fault.vm)
        except (TimeoutError, NoTransportError) as error:
            _log.warning("%s: whether it is the domain of %s is not known: %s",
                         fault.vm, fault.label, error or "no answer in time")  # fmt: skip
            return None
        if found is not None:
            self._daemon.instances.forget_earlier_lives(found[1])
        return found is not None and found[1] == domain

    async def _op_wait(self, connection: Connection, request: dict[str, Any]) -> None:
        daemon = self._daemon
        vm = text_field(request, "vm")
        interval = number_field(request, "interval", 0.0, MAX_WAIT)
        timeout = number_field(request, "timeout", 0.0, MAX_WAIT)
        first = optional_field(request, "first", boolean_field)
        connection.until_closed = True
        try:
            instance = self._asked_for(request)
            if instance is None:
                # Started while no vesperd was there, or before its journal was lost.
                instance = await self._begin_or_find_instance(request, anew=False)
            else:
                resource = instance.record.resource
                self._take_carried_fault(
                    instance, await self._find_carried_fault(resource, vm, request, instance)
                )
            if instance is None:
                ident = optional_field(request, "domain", text_field)
                why = f"{vm} does not run" + (f" as domain {ident}" if ident else "")
                gone = Answer(Result.DEAD, why, state=DomainState.GONE)
                await connection.send_answers(gone.to_json())
                return
            await self._new_wishes(instance, request)
            instance.node = optional_field(request, "node", text_field) or instance.node
            record = instance.record
            domain = Domain(record.vm, record.domid, record.uuid)
            is_first = first or (first is None and not record.monitored)
            if not instance.followed and instance.dead_reason is None:
                work = daemon.watch_again(instance)
                if is_first:  # the only answer that is not preceded by a wait
                    await asyncio.wait({work}, timeout=LOOK_TIMEOUT_S)
            elif is_first:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_TIMEOUT_S):
                        await daemon.watch.look_at_domain(domain)
            elif instance.restored or not daemon.watch.shows_life(domain):
                daemon.watch.look_soon(domain)

            async def deliver(answer: Answer) -> None:
                await connection.send_answers(answer.to_json())

            await daemon.instances.serve_monitor(
                instance, interval=interval, timeout=timeout, first=first, deliver=deliver
            )
        finally:
            connection.until_closed = False

    async def _new_wishes(self, instance: ResourceActivation, request: dict[str, Any]) -> None:
        """The resource's parameters may have been changed without a restart."""
        daemon, record = self._daemon, instance.record
        in_force = wishes_of(record)
        wishes, wrong = read_wishes(request, in_force)
        daemon.instances.refuse_wishes(instance, wrong)
        if wishes == in_force:
            return
        daemon.instances.change_wishes(
            instance, wishes.probes, wishes.services, wishes.hang_timeout, wishes.pause_timeout,
            wishes.fault_on, wishes.boot_timeout,
        )  # fmt: skip
        domain = Domain(record.vm, record.domid, record.uuid)
        session = daemon.watch.find_session(domain)
        if session is not None:
            await session.set_probes(daemon.wanted_probes(domain) or {})

    async def _op_state(self, connection: Connection, request: dict[str, Any]) -> None:
        found = await self._state_of(text_field(request, "vm"))
        answer: dict[str, Any] = {"ok": True, "domain": None, "watch": None, "fault": None}
        pause = self._daemon.pauses.get_pause(text_field(request, "vm"))
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
            watch = self._daemon.watch
            session = watch.find_session(domain)
            if session is not None:
                degraded = watch.state_of(domain, session.transport.name).lacking
                answer["watch"] = {"state": session.state.value, "degraded": degraded}
            held = [i.fault for i in self._daemon.instances.of_domain(domain) if i.fault]
            if held:
                answer["fault"] = held[0].to_json()
        await connection.send_answers(answer)

    async def _state_of(self, vm: str) -> tuple[Domain, DomainReport] | None:
        """None: no domain of that name runs here."""
        watch = self._daemon.watch
        session = watch.session_of(vm)
        if session is not None and session.alive:
            # No toolstack knows it better, and it may hang.
            return session.domain, DomainReport(DomainState.RUNNING)
        found = await watch.find_domain(vm)
        if found is None:
            return None
        transport, domain = found
        return domain, await transport.report_domain(domain)

    async def _op_alive(self, connection: Connection, request: dict[str, Any]) -> None:
        """For vesper_monitor/ocf/fast_monitor.py, which compares the answer as it is."""
        instance = self._daemon.instances.get_instance(text_field(request, "resource"))
        alive = False
        if instance is not None and _is_of(request, instance.record):
            record = instance.record
            alive = self._daemon.watch.shows_life(Domain(record.vm, record.domid, record.uuid))
        await connection.send_answers({"ok": True, "alive": alive})

    async def _op_life(self, connection: Connection, request: dict[str, Any]) -> None:
        """Of a domain; or which domain a resource was begun with, and its life."""
        answer: dict[str, Any] = {"ok": True, "age": None}
        resource = optional_field(request, "resource", text_field)
        if resource is not None:
            instance = self._daemon.instances.get_instance(resource)
            if instance is None:
                await connection.send_answers(answer)
                return
            record = instance.record
            answer |= {"vm": record.vm, "domid": record.domid, "uuid": record.uuid}
            request = {"vm": record.vm, "domain": str(record.domid)}
        at = self._daemon.watch.last_sign(text_field(request, "vm"), text_field(request, "domain"))
        if at is not None:
            answer["age"] = max(0.0, time.monotonic() - at)
        await connection.send_answers(answer)

    # ------------------------------------------------------------ readers

    async def _op_hello(self, connection: Connection, request: dict[str, Any]) -> None:
        await connection.send_answers(
            {
                "ok": True,
                "version": vesper_monitor.__version__,
                "abi": abi.ABI_VERSION,
                "pid": os.getpid(),
                "transports": self._daemon.watch.list_transport_states(),
            }
        )

    async def _op_status(self, connection: Connection, request: dict[str, Any]) -> None:
        daemon = self._daemon
        rows = vm_status(daemon.watch.list_sessions(), daemon.instances.list_all(), daemon.pauses)
        more = {"transports": daemon.watch.list_troubles(), "journal": daemon.recorder.error}
        by_name = []
        while some := list(itertools.islice(rows, AT_ONCE)):
            await connection.take_turn()
            by_name += [((row["vm"], row["domid"]), json.dumps(row)) for row in some]
            connection.end_turn()
        by_name.sort(key=lambda row: row[0])
        await _send_list(connection, "vms", [row for _, row in by_name], **more)

    async def _op_events(self, connection: Connection, request: dict[str, Any]) -> None:
        daemon = self._daemon
        vm = optional_field(request, "vm", text_field)
        follow = optional_field(request, "follow", boolean_field) or False
        since = optional_field(request, "since", _whole_number)
        limit = optional_field(request, "limit", _whole_number)
        if limit is None:
            limit = MAX_EVENTS if since is not None else 0 if follow else DEFAULT_EVENTS
        limit = min(limit, MAX_EVENTS)
        with self._count_stream(connection) if follow else contextlib.nullcontext():
            follower = daemon.followers.add_follower(vm) if follow else None
            connection.until_closed = True
            try:
                last = since or 0
                if limit:
                    last = await self._send_history(connection, vm, since, limit)
                connection.end_turn()
                while follower is not None:
                    events, dropped = await follower.take_events()
                    new = [e for e in events if e.id is not None and (e.id < 0 or e.id > last)]
                    await _send_events(connection, new)
                    if dropped:
                        await connection.send_answers({"ok": True, "dropped": dropped})
            finally:
                connection.until_closed = False
                if follower is not None:
                    daemon.followers.remove_follower(follower)
        await connection.send_answers({"ok": True, "end": True})

    @contextlib.contextmanager
    def _count_stream(self, connection: Connection) -> Iterator[None]:
        """One that goes on for as long as its client likes: of the group's there are few.

        :raises RequestError: there are enough of them.
        """
        if connection.privileged:
            yield
            return
        if self._streams_of_group >= MAX_STREAMS_OF_GROUP:
            raise RequestError(
                "internal", f"{MAX_STREAMS_OF_GROUP} clients that are not root follow already"
            )
        self._streams_of_group += 1
        try:
            yield
        finally:
            self._streams_of_group -= 1

    async def _read_journal(
        self, connection: Connection,
        method: Callable[Concatenate[Journal, _P], _T], *args: _P.args, **kwargs: _P.kwargs,
    ) -> _T:  # fmt: skip
        """Call a method of the journal that reads: the group's by a connection of its own.

        :raises JournalError:
        """
        if connection.privileged:
            return await self._daemon.recorder.run_on_journal(method, *args, **kwargs)
        await connection.take_turn()
        try:
            async with asyncio.timeout(READ_LIMIT_S):
                found, cpu_s = await self._daemon.reader.call_measured(
                    method.__name__, *args, **kwargs
                )
        except TimeoutError:
            raise JournalError(
                f"the journal has not answered within {READ_LIMIT_S:.0f} s"
            ) from None
        connection.count_cpu_time(cpu_s)
        result: _T = found
        return result

    async def _send_history(
        self, connection: Connection, vm: str | None, since: int | None, limit: int
    ) -> int:
        """Send recorded events, page by page. :returns: id of the last."""
        last = since or 0
        if since is None:  # the newest, but in their order
            start = await self._read_journal(connection, Journal.nth_newest, vm, limit)
            last = start - 1 if start is not None else 0
        until = (await self._read_journal(connection, Journal.last_ids))[0]
        while limit > 0:
            page = min(PAGE if connection.privileged else AT_ONCE, limit)
            events = await self._read_journal(
                connection, Journal.read_events, vm=vm, after=last, until=until, limit=page
            )
            await _send_events(connection, events)
            limit -= len(events)
            if len(events) < page:
                break
            last = events[-1].id or last
        return max(last, until)

    async def _op_faults(self, connection: Connection, request: dict[str, Any]) -> None:
        vm = optional_field(request, "vm", text_field)
        resource = optional_field(request, "resource", text_field)
        limit = min(optional_field(request, "limit", _whole_number) or 100, 1000)
        try:
            faults = await self._read_journal(
                connection, Journal.read_faults, vm=vm, resource=resource, limit=limit
            )
        except JournalError:
            faults = []
        known = {fault.id for fault in faults}
        faults += [fault for fault in self._list_held_faults(vm, resource) if fault.id not in known]
        parts = []
        for some in _in_pieces(faults):  # of a line
            await connection.take_turn()
            parts += [json.dumps(fault.to_json()) for fault in some]
            connection.end_turn()
        await _send_list(connection, "faults", parts)

    async def _op_fault(self, connection: Connection, request: dict[str, Any]) -> None:
        fault_id = _whole_number(request, "id")
        fault = await self._read_journal(connection, Journal.read_fault, fault_id)
        if fault is None:
            raise RequestError("bad-request", f"there is no fault {fault_id}")
        # An instance's name ends with its start: older words are another life's.
        started = _start_of(fault)
        words = await self._read_journal(
            connection, Journal.last_words, fault.vm, fault.domid, started
        )
        events = await self._read_journal(
            connection, Journal.events_before, fault, EVENTS_BEFORE_S, MAX_EVENTS_BEFORE
        )
        await connection.send_answers(
            {
                "ok": True,
                "fault": fault.to_json(),
                "last_words": [
                    {"received": received, **dataclasses.asdict(said)} for received, said in words
                ],
                "events": [event.to_json() for event in events],
            }
        )

    def _list_held_faults(self, vm: str | None, resource: str | None) -> list[Fault]:
        """What is in memory, and may be nowhere else."""
        return [
            instance.fault
            for instance in self._daemon.instances.list_all()
            if instance.fault is not None
            and vm in (None, instance.record.vm)
            and resource in (None, instance.record.resource)
        ]

    async def _op_relay(self, connection: Connection, request: dict[str, Any]) -> None:
        session = self._find_session(text_field(request, "vm"))
        probe = text_field(request, "probe")
        cpu = optional_field(request, "cpu", _whole_number)
        if probe not in session.probes:
            known = ", ".join(session.probes) or "none"
            raise RequestError(
                "no-such-probe", f"{session.domain.name}: no probe {probe} is loaded ({known})"
            )
        with self._count_stream(connection):
            records = session.subscribe_raw(probe, cpu)
            connection.until_closed = True
            connection.end_turn()
            try:
                async for number_, seq, data in records:
                    await connection.send_answers(
                        {
                            "ok": True,
                            "cpu": number_,
                            "seq": seq,
                            "data": base64.b64encode(data).decode("ascii"),
                        }
                    )
            finally:
                connection.until_closed = False
                close = getattr(records, "aclose", None)
                if close is not None:
                    await close()
        await connection.send_answers({"ok": True, "end": True})

    # ------------------------------------------------------------ operators

    async def _op_clear(self, connection: Connection, request: dict[str, Any]) -> None:
        fault_id = optional_field(request, "id", _whole_number)
        resource = optional_field(request, "resource", text_field)
        if (fault_id is None) == (resource is None):
            raise RequestError("bad-request", "clear: give either 'id' or 'resource'")
        cleared = self._daemon.instances.clear_faults(fault_id=fault_id, resource=resource)
        await self._daemon.recorder.flush_queue()
        await connection.send_answers({"ok": True, "cleared": cleared})

    async def _op_pause(self, connection: Connection, request: dict[str, Any]) -> None:
        daemon, vm = self._daemon, text_field(request, "vm")
        seconds = number_field(request, "for", 1.0, MAX_PAUSE_S)
        reason = optional_field(request, "reason", text_field) or ""
        if not any(instance.record.vm == vm for instance in daemon.instances.list_all()):
            await self._find_domain(vm)
        try:
            pause = await daemon.pauses.begin_pause(vm, seconds, " ".join(reason.split())[:200])
        except OSError as error:
            raise RequestError("internal", f"{vm}: the pause cannot be kept: {error}") from error
        daemon.instances.pause_vm(vm, True)
        await connection.send_answers({"ok": True, "paused": pause.to_json()})

    async def _op_resume(self, connection: Connection, request: dict[str, Any]) -> None:
        vm = text_field(request, "vm")
        resumed = self._daemon.pauses.end_pause(vm, "by the operator")
        await self._daemon.pauses.wait_until_saved(STOP_SAVE_LIMIT_S)
        await connection.send_answers({"ok": True, "resumed": resumed})

    async def _op_add(self, connection: Connection, request: dict[str, Any]) -> None:
        daemon, vm = self._daemon, text_field(request, "vm")
        session = self._find_session(vm)
        try:
            point = parse_definition(text_field(request, "definition"))
        except DynamicProbeError as error:
            raise RequestError("bad-request", str(error), position=error.position) from error
        if point.name in RESERVED or point.name in session.probes:
            raise RequestError(
                "bad-request",
                f"{vm}: there is a probe {point.name} already; give yours another name: "
                f"{point.kind.value}:NAME {point.symbol} ..",
            )
        daemon.points.add_point(vm, point)
        try:
            await session.load_probe(point.name, point.text)
        except BaseException:
            daemon.points.remove_point(vm, point.name)
            raise
        await self._save_points(vm)
        await connection.send_answers({"ok": True, "probe": point.name})

    async def _save_points(self, vm: str) -> None:
        try:
            await self._daemon.points.save_points()
        except OSError as error:
            raise RequestError(
                "internal", f"{vm}: it is done, but not kept for the next vesperd: {error}"
            ) from error

    async def _op_load(self, connection: Connection, request: dict[str, Any]) -> None:
        session = self._find_session(text_field(request, "vm"))
        await session.load_probe(
            text_field(request, "probe"), optional_field(request, "params", text_field) or ""
        )
        await connection.send_answers({"ok": True})

    async def _op_unload(self, connection: Connection, request: dict[str, Any]) -> None:
        daemon, vm, probe = self._daemon, text_field(request, "vm"), text_field(request, "probe")
        session = self._find_session(vm)
        if probe not in daemon.points.points_of_vm(vm):
            await session.unload_probe(probe)
        else:
            try:
                await session.unload_probe(probe)
            except SessionError as error:
                # One that could not be loaded again: it is not wanted any more.
                if error.code not in ("no-such-probe", "not-active"):
                    raise
                daemon.points.remove_point(vm, probe)
                await session.set_probes(daemon.wanted_probes(session.domain) or {})
            daemon.points.remove_point(vm, probe)
            await self._save_points(vm)
        await connection.send_answers({"ok": True})

    async def _op_activate(self, connection: Connection, request: dict[str, Any]) -> None:
        daemon = self._daemon
        vm = text_field(request, "vm")
        transport, domain = await self._find_domain(vm)
        daemon.allow_watching(vm)
        await daemon.activate_vm(vm, names_field(request, "probes", DEFAULT_PROBES))
        session = await daemon.watch.watch_domain(transport, domain, daemon.wanted_probes(domain))
        try:
            async with asyncio.timeout(min(MAX_ACTIVATE_S, daemon.config.activate_timeout + 5.0)):
                # A session tells the daemon, not us; this is asked by hand, and rarely.
                while session.state not in (SessionState.ACTIVE, SessionState.UNFIT):
                    if session.degraded is not None or session.state is SessionState.CLOSED:
                        break
                    await asyncio.sleep(0.05)
        except TimeoutError:
            pass
        if session.state is not SessionState.ACTIVE:
            raise RequestError(
                "not-active",
                session.degraded
                or session.missing
                or f"{vm}: its guest does not answer; vesperd goes on trying",
            )
        await connection.send_answers({"ok": True, "domid": domain.domid})

    async def _op_deactivate(self, connection: Connection, request: dict[str, Any]) -> None:
        vm = text_field(request, "vm")
        if not await asyncio.shield(self._daemon.finish_work(self._daemon.deactivate_vm(vm))):
            raise RequestError(
                "not-active", f"{vm} is not watched; begin with: vesper activate {vm}"
            )
        await connection.send_answers({"ok": True})

    def _find_session(self, vm: str) -> Session:
        session = self._daemon.watch.session_of(vm)
        if session is None:
            raise RequestError(
                "not-active", f"{vm} is not watched; begin with: vesper activate {vm}"
            )
        return session

    async def _find_domain(self, vm: str) -> tuple[Transport, Domain]:
        found = await self._daemon.watch.find_domain(vm)
        if found is None:
            raise _no_such_vm(vm)
        return found


async def _send_list(connection: Connection, key: str, parts: list[str], **more: Any) -> None:
    """Send an answer whose list was encoded in pieces."""
    end = "".join(f", {json.dumps(name)}: {json.dumps(value)}" for name, value in more.items())
    line = f'{{"ok": true, {json.dumps(key)}: [{", ".join(parts)}]{end}}}\n'
    await connection.send_lines(line.encode())


async def _send_events(connection: Connection, events: list[Event]) -> None:
    for some in _in_pieces(events):
        await connection.send_answers(*({"ok": True, "event": event.to_json()} for event in some))


def _in_pieces(rows: Sequence[_T]) -> Iterator[Sequence[_T]]:
    """What may be encoded in one turn of the group's."""
    for first in range(0, len(rows), AT_ONCE):
        yield rows[first : first + AT_ONCE]


def _no_such_vm(vm: str) -> RequestError:
    return RequestError("no-such-vm", f"no VM named {vm} runs on this host")


def _is_of(request: dict[str, Any], found: Domain | ActivationRecord) -> bool:
    """Whether a request is about that domain: by its VM's name, and its UUID or number."""
    vm, ident = (
        optional_field(request, "vm", text_field),
        optional_field(request, "domain", text_field),
    )
    name = found.name if isinstance(found, Domain) else found.vm
    return vm in (None, name) and ident in (None, found.uuid, str(found.domid))


def _start_of(fault: Fault) -> float:
    """s, CLOCK_REALTIME."""
    try:
        return float(fault.instance.rpartition("/")[2])
    except ValueError:
        return 0.0


def _whole_number(request: dict[str, Any], key: str) -> int:
    return int(number_field(request, key, 0, 2**62))
