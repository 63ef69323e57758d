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
from vesper_monitor.daemon.request import boolean, names, number, optional, text, vm_name
from vesper_monitor.daemon.server import Connection, RequestError
from vesper_monitor.daemon.status import vm_status
from vesper_monitor.daemon.watch import NoTransport
from vesper_monitor.daemon.wishes import MAX_TIMEOUT_S, Wishes, read_wishes, wishes_of
from vesper_monitor.faults.carried import CarriedFault, unpack_fault
from vesper_monitor.faults.fault import Fault, InstanceRecord
from vesper_monitor.faults.instance import Answer, Instance, Result
from vesper_monitor.faults.journal import Journal, JournalError
from vesper_monitor.faults.pauses import MAX_SECONDS
from vesper_monitor.faults.recorder import READ_LIMIT_S
from vesper_monitor.faults.rules import system_gone
from vesper_monitor.guest import abi
from vesper_monitor.guest.decode import Event
from vesper_monitor.guest.points.point import PointError
from vesper_monitor.guest.points.store import RESERVED
from vesper_monitor.guest.points.syntax import parse
from vesper_monitor.guest.session import Session, SessionError, SessionState
from vesper_monitor.transport import Domain, DomainReport, DomainState, Transport, TransportError

if TYPE_CHECKING:
    from vesper_monitor.daemon.main import Daemon

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
LOOK_TIMEOUT = 5.0
#: s that an agent may wait for what is to go along with a VM that has migrated.
MAX_HAND_OVER_S = 60.0
#: s for a guest to answer an ``activate``: who asks by hand knows that it has booted.
MAX_ACTIVATE_S = 25.0
#: Events read from the journal at once, and in one request.
PAGE, MAX_EVENTS = 500, 100_000
#: Events or faults that are encoded at once: what the group asks for is done in turns.
AT_ONCE = 50
#: Clients of the group that follow events or records: each costs with each of those.
MAX_STREAMS_OF_GROUP = 64
DEFAULT_EVENTS = 100
#: With a fault: the VM's events of so many s before it, and at most so many.
EVENTS_BEFORE_S, MAX_EVENTS_BEFORE = 10.0, 20

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Operation = Callable[[Connection, dict[str, Any]], Awaitable[None]]


class Api:
    """Requests to a daemon."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        #: by resource: an instance that is being begun
        self._beginning: dict[str, asyncio.Task[Instance | None]] = {}
        self._streams_of_group = 0
        self._operations: dict[str, _Operation] = {
            "hello": self._hello,
            "start": self._start,
            "expect": self._expect,
            "change": self._change,
            "stop": self._stop,
            "hand_over": self._hand_over,
            "wait": self._wait,
            "state": self._state,
            "alive": self._alive,
            "life": self._life,
            "status": self._status,
            "events": self._events,
            "faults": self._faults,
            "fault": self._fault,
            "clear": self._clear,
            "pause": self._pause,
            "resume": self._resume,
            "add": self._add,
            "load": self._load,
            "unload": self._unload,
            "activate": self._activate,
            "deactivate": self._deactivate,
            "relay": self._relay,
        }

    async def handle(self, connection: Connection, request: dict[str, Any]) -> None:
        """Serve one request.

        :raises RequestError: it is answered with an error.
        """
        op = request.get("op")
        operation = self._operations.get(op) if isinstance(op, str) else None
        if operation is None:
            raise RequestError("bad-request", f"unknown op {str(op)[:40]!r}")
        if op in ROOT_ONLY and not connection.privileged:
            raise RequestError("denied", f"{op}: only root may do that")
        optional(request, "vm", vm_name)  # whatever is done with it: it is a name
        try:
            await operation(connection, request)
        except NoTransport as error:
            raise RequestError("no-transport", str(error)) from error
        except SessionError as error:
            more = {} if error.errno is None else {"errno": error.errno}
            raise RequestError(error.code, str(error), **more) from error
        except TransportError as error:
            raise RequestError("timeout", str(error)) from error
        except JournalError as error:
            raise RequestError("internal", str(error)) from error

    # ------------------------------------------------------------ agents

    async def _start(self, connection: Connection, request: dict[str, Any]) -> None:
        self._daemon.allow_watching(text(request, "vm"))
        instance = await self._begin(request, anew=True)
        if instance is None:
            raise _no_such_vm(text(request, "vm"))
        await connection.send(
            {"ok": True, "instance": instance.record.id, "domid": instance.record.domid}
        )

    async def _hand_over(self, connection: Connection, request: dict[str, Any]) -> None:
        """The agent has migrated the VM away: its fault goes along."""
        daemon = self._daemon
        ident = optional(request, "domain", text)
        limit = number(request, "timeout", 0.0, MAX_HAND_OVER_S)
        instance = daemon.instances.get(text(request, "resource"))
        carried = None
        if instance is not None and _is_of(request, instance.record):
            record = instance.record
            daemon.watch.look_soon(Domain(record.vm, record.domid, record.uuid))  # it has gone
            carried = await daemon.instances.hand_over(instance, ident, limit)
        await connection.send({"ok": True, "carried": carried})

    async def _begin(self, request: dict[str, Any], *, anew: bool) -> Instance | None:
        """The instance that a request is about, begun if need be; None: its VM does not run.

        What is begun is watched, too, whatever becomes of the client meanwhile.

        :param anew: begin another one in any case.
        """
        resource = text(request, "resource")
        while (beginning := self._beginning.get(resource)) is not None:
            await asyncio.wait({beginning})
        if not anew and (instance := self._asked_for(request)) is not None:
            return instance
        task = self._daemon.finish(self._begin_instance(request))
        self._beginning[resource] = task
        task.add_done_callback(lambda _: self._beginning.pop(resource, None))
        return await asyncio.shield(task)

    def _asked_for(self, request: dict[str, Any]) -> Instance | None:
        """The instance of the request's resource, if it is of that VM and domain."""
        instance = self._daemon.instances.get(text(request, "resource"))
        if instance is None or not _is_of(request, instance.record):
            return None
        return instance

    async def _begin_instance(self, request: dict[str, Any]) -> Instance | None:
        daemon = self._daemon
        vm = text(request, "vm")
        found = await daemon.watch.find(vm)
        if found is None or not _is_of(request, found[1]):
            return None
        transport, domain = found
        resource = text(request, "resource")
        carried = await self._carried(resource, vm, request, None)
        wishes, wrong = read_wishes(request, Wishes())
        try:
            instance = daemon.instances.start(
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
        daemon.instances.refuse(instance, wrong)
        session = daemon.watch.session(domain)
        if session is not None and session.hello is not None:
            instance.guest_met(session.hello.boot_id)
        self._take(instance, carried)
        daemon.begun(domain)
        await daemon.watch_domain(transport, domain)
        daemon.judge_again(vm)
        return instance

    async def _carried(
        self, resource: str, vm: str, request: dict[str, Any], instance: Instance | None
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

    def _take(self, instance: Instance, carried: CarriedFault | None) -> None:
        if carried is None:
            return
        if why := self._daemon.instances.take(instance, carried):
            _log.info("%s: fault %d of %s is not taken: %s",
                      instance.record.resource, carried.fault_id, carried.node, why)  # fmt: skip

    async def _expect(self, connection: Connection, request: dict[str, Any]) -> None:
        self._daemon.expected.note(text(request, "vm"), names(request, "probes", DEFAULT_PROBES))
        await connection.send({"ok": True})

    async def _change(self, connection: Connection, request: dict[str, Any]) -> None:
        instance = self._asked_for(request)
        if instance is None:
            instance = await self._begin(request, anew=False)
        if instance is None:
            raise _no_such_vm(text(request, "vm"))
        await self._new_wishes(instance, request)
        await connection.send({"ok": True, "instance": instance.record.id})

    async def _stop(self, connection: Connection, request: dict[str, Any]) -> None:
        instances, resource = self._daemon.instances, text(request, "resource")
        if (beginning := self._beginning.get(resource)) is not None:
            beginning.cancel()  # of a monitor that was killed
        instance = instances.get(resource)
        cause = None
        saved = asyncio.Event()
        saved.set()
        named = instance is not None and _is_of(request, instance.record)
        # One whose domain has ended is over, whatever life of the VM is to be stopped.
        if instance is not None and (named or instance.dead_reason is not None):
            cause = instance.dead_cause if named else None
            saved.clear()
            instances.stop(resource, saved.set)
            self._daemon.stopping(instance.record)
        elif instance is None:
            instances.stop(resource)  # the journal may have one, and be read later
        fault = instances.stopped_for(resource)
        there = await self._is_there(fault, request) if fault is not None else None
        if there is False:
            fault = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_SAVE_LIMIT_S):
                await saved.wait()
        await connection.send(
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
        session = watch.session(domain)
        if request.get("domain") == str(fault.domid) or (session is not None and session.linked):
            return True
        try:
            async with asyncio.timeout(STOP_FIND_LIMIT_S):
                found = await watch.find(fault.vm)
        except (TimeoutError, NoTransport) as error:
            _log.warning("%s: whether it is the domain of %s is not known: %s",
                         fault.vm, fault.label, error or "no answer in time")  # fmt: skip
            return None
        if found is not None:
            self._daemon.instances.forget_earlier_lives(found[1])
        return found is not None and found[1] == domain

    async def _wait(self, connection: Connection, request: dict[str, Any]) -> None:
        daemon = self._daemon
        vm = text(request, "vm")
        interval = number(request, "interval", 0.0, MAX_WAIT)
        timeout = number(request, "timeout", 0.0, MAX_WAIT)
        first = optional(request, "first", boolean)
        connection.until_closed = True
        try:
            instance = self._asked_for(request)
            if instance is None:
                # Started while no vesperd was there, or before its journal was lost.
                instance = await self._begin(request, anew=False)
            else:
                resource = instance.record.resource
                self._take(instance, await self._carried(resource, vm, request, instance))
            if instance is None:
                ident = optional(request, "domain", text)
                why = f"{vm} does not run" + (f" as domain {ident}" if ident else "")
                gone = Answer(Result.DEAD, why, state=DomainState.GONE)
                await connection.send(gone.to_json())
                return
            await self._new_wishes(instance, request)
            instance.node = optional(request, "node", text) or instance.node
            record = instance.record
            domain = Domain(record.vm, record.domid, record.uuid)
            is_first = first or (first is None and not record.monitored)
            if not instance.followed and instance.dead_reason is None:
                work = daemon.watch_again(instance)
                if is_first:  # the only answer that is not preceded by a wait
                    await asyncio.wait({work}, timeout=LOOK_TIMEOUT)
            elif is_first:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_TIMEOUT):
                        await daemon.watch.look(domain)
            elif instance.restored or not daemon.watch.shows_life(domain):
                daemon.watch.look_soon(domain)

            async def deliver(answer: Answer) -> None:
                await connection.send(answer.to_json())

            await daemon.instances.wait(
                instance, interval=interval, timeout=timeout, first=first, deliver=deliver
            )
        finally:
            connection.until_closed = False

    async def _new_wishes(self, instance: Instance, request: dict[str, Any]) -> None:
        """The resource's parameters may have been changed without a restart."""
        daemon, record = self._daemon, instance.record
        in_force = wishes_of(record)
        wishes, wrong = read_wishes(request, in_force)
        daemon.instances.refuse(instance, wrong)
        if wishes == in_force:
            return
        daemon.instances.change(
            instance, wishes.probes, wishes.services, wishes.hang_timeout, wishes.pause_timeout,
            wishes.fault_on, wishes.boot_timeout,
        )  # fmt: skip
        domain = Domain(record.vm, record.domid, record.uuid)
        session = daemon.watch.session(domain)
        if session is not None:
            await session.set_probes(daemon.wanted_probes(domain) or {})

    async def _state(self, connection: Connection, request: dict[str, Any]) -> None:
        found = await self._state_of(text(request, "vm"))
        answer: dict[str, Any] = {"ok": True, "domain": None, "watch": None, "fault": None}
        pause = self._daemon.pauses.get(text(request, "vm"))
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
            session = watch.session(domain)
            if session is not None:
                degraded = watch.state_of(domain, session.transport.name).lacking
                answer["watch"] = {"state": session.state.value, "degraded": degraded}
            held = [i.fault for i in self._daemon.instances.of_domain(domain) if i.fault]
            if held:
                answer["fault"] = held[0].to_json()
        await connection.send(answer)

    async def _state_of(self, vm: str) -> tuple[Domain, DomainReport] | None:
        """None: no domain of that name runs here."""
        watch = self._daemon.watch
        session = watch.session_of(vm)
        if session is not None and session.alive:
            # No toolstack knows it better, and it may hang.
            return session.domain, DomainReport(DomainState.RUNNING)
        found = await watch.find(vm)
        if found is None:
            return None
        transport, domain = found
        return domain, await transport.report(domain)

    async def _alive(self, connection: Connection, request: dict[str, Any]) -> None:
        """For vesper_monitor/ocf/quick.py, which compares the answer as it is."""
        instance = self._daemon.instances.get(text(request, "resource"))
        alive = False
        if instance is not None and _is_of(request, instance.record):
            record = instance.record
            alive = self._daemon.watch.shows_life(Domain(record.vm, record.domid, record.uuid))
        await connection.send({"ok": True, "alive": alive})

    async def _life(self, connection: Connection, request: dict[str, Any]) -> None:
        """Of a domain; or which domain a resource was begun with, and its life."""
        answer: dict[str, Any] = {"ok": True, "age": None}
        resource = optional(request, "resource", text)
        if resource is not None:
            instance = self._daemon.instances.get(resource)
            if instance is None:
                await connection.send(answer)
                return
            record = instance.record
            answer |= {"vm": record.vm, "domid": record.domid, "uuid": record.uuid}
            request = {"vm": record.vm, "domain": str(record.domid)}
        at = self._daemon.watch.last_sign(text(request, "vm"), text(request, "domain"))
        if at is not None:
            answer["age"] = max(0.0, time.monotonic() - at)
        await connection.send(answer)

    # ------------------------------------------------------------ readers

    async def _hello(self, connection: Connection, request: dict[str, Any]) -> None:
        await connection.send(
            {
                "ok": True,
                "version": vesper_monitor.__version__,
                "abi": abi.ABI_VERSION,
                "pid": os.getpid(),
                "transports": self._daemon.watch.transports(),
            }
        )

    async def _status(self, connection: Connection, request: dict[str, Any]) -> None:
        daemon = self._daemon
        rows = vm_status(daemon.watch.sessions(), daemon.instances.all(), daemon.pauses)
        more = {"transports": daemon.watch.troubles(), "journal": daemon.recorder.error}
        by_name = []
        while some := list(itertools.islice(rows, AT_ONCE)):
            await connection.take_turn()
            by_name += [((row["vm"], row["domid"]), json.dumps(row)) for row in some]
            connection.end_turn()
        by_name.sort(key=lambda row: row[0])
        await _send_list(connection, "vms", [row for _, row in by_name], **more)

    async def _events(self, connection: Connection, request: dict[str, Any]) -> None:
        daemon = self._daemon
        vm = optional(request, "vm", text)
        follow = optional(request, "follow", boolean) or False
        since = optional(request, "since", _whole)
        limit = optional(request, "limit", _whole)
        if limit is None:
            limit = MAX_EVENTS if since is not None else 0 if follow else DEFAULT_EVENTS
        limit = min(limit, MAX_EVENTS)
        with self._stream(connection) if follow else contextlib.nullcontext():
            follower = daemon.followers.add(vm) if follow else None
            connection.until_closed = True
            try:
                last = since or 0
                if limit:
                    last = await self._history(connection, vm, since, limit)
                connection.end_turn()
                while follower is not None:
                    events, dropped = await follower.get()
                    new = [
                        e for e in events if e.id is not None and (e.id < 0 or e.id > last)
                    ]
                    await _send_events(connection, new)
                    if dropped:
                        await connection.send({"ok": True, "dropped": dropped})
            finally:
                connection.until_closed = False
                if follower is not None:
                    daemon.followers.remove(follower)
        await connection.send({"ok": True, "end": True})

    @contextlib.contextmanager
    def _stream(self, connection: Connection) -> Iterator[None]:
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

    async def _read(
        self, connection: Connection,
        method: Callable[Concatenate[Journal, _P], _T], *args: _P.args, **kwargs: _P.kwargs,
    ) -> _T:  # fmt: skip
        """Call a method of the journal that reads: the group's by a connection of its own.

        :raises JournalError:
        """
        if connection.privileged:
            return await self._daemon.recorder.run(method, *args, **kwargs)
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
        connection.count(cpu_s)
        result: _T = found
        return result

    async def _history(
        self, connection: Connection, vm: str | None, since: int | None, limit: int
    ) -> int:
        """Send recorded events, page by page. :returns: id of the last."""
        last = since or 0
        if since is None:  # the newest, but in their order
            start = await self._read(connection, Journal.nth_newest, vm, limit)
            last = start - 1 if start is not None else 0
        until = (await self._read(connection, Journal.last_ids))[0]
        while limit > 0:
            page = min(PAGE if connection.privileged else AT_ONCE, limit)
            events = await self._read(
                connection, Journal.events, vm=vm, after=last, until=until, limit=page
            )
            await _send_events(connection, events)
            limit -= len(events)
            if len(events) < page:
                break
            last = events[-1].id or last
        return max(last, until)

    async def _faults(self, connection: Connection, request: dict[str, Any]) -> None:
        vm = optional(request, "vm", text)
        resource = optional(request, "resource", text)
        limit = min(optional(request, "limit", _whole) or 100, 1000)
        try:
            faults = await self._read(
                connection, Journal.faults, vm=vm, resource=resource, limit=limit
            )
        except JournalError:
            faults = []
        known = {fault.id for fault in faults}
        faults += [fault for fault in self._held(vm, resource) if fault.id not in known]
        parts = []
        for some in _in_pieces(faults):  # of a line
            await connection.take_turn()
            parts += [json.dumps(fault.to_json()) for fault in some]
            connection.end_turn()
        await _send_list(connection, "faults", parts)

    async def _fault(self, connection: Connection, request: dict[str, Any]) -> None:
        fault_id = _whole(request, "id")
        fault = await self._read(connection, Journal.fault, fault_id)
        if fault is None:
            raise RequestError("bad-request", f"there is no fault {fault_id}")
        # An instance's name ends with its start: older words are another life's.
        started = _start_of(fault)
        words = await self._read(
            connection, Journal.last_words, fault.vm, fault.domid, started
        )
        events = await self._read(
            connection, Journal.events_before, fault, EVENTS_BEFORE_S, MAX_EVENTS_BEFORE
        )
        await connection.send(
            {
                "ok": True,
                "fault": fault.to_json(),
                "last_words": [
                    {"received": received, **dataclasses.asdict(said)} for received, said in words
                ],
                "events": [event.to_json() for event in events],
            }
        )

    def _held(self, vm: str | None, resource: str | None) -> list[Fault]:
        """What is in memory, and may be nowhere else."""
        return [
            instance.fault
            for instance in self._daemon.instances.all()
            if instance.fault is not None
            and vm in (None, instance.record.vm)
            and resource in (None, instance.record.resource)
        ]

    async def _relay(self, connection: Connection, request: dict[str, Any]) -> None:
        session = self._session(text(request, "vm"))
        probe = text(request, "probe")
        cpu = optional(request, "cpu", _whole)
        if probe not in session.probes:
            known = ", ".join(session.probes) or "none"
            raise RequestError(
                "no-such-probe", f"{session.domain.name}: no probe {probe} is loaded ({known})"
            )
        with self._stream(connection):
            records = session.subscribe_raw(probe, cpu)
            connection.until_closed = True
            connection.end_turn()
            try:
                async for number_, seq, data in records:
                    await connection.send(
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
        await connection.send({"ok": True, "end": True})

    # ------------------------------------------------------------ operators

    async def _clear(self, connection: Connection, request: dict[str, Any]) -> None:
        fault_id = optional(request, "id", _whole)
        resource = optional(request, "resource", text)
        if (fault_id is None) == (resource is None):
            raise RequestError("bad-request", "clear: give either 'id' or 'resource'")
        cleared = self._daemon.instances.clear(fault_id=fault_id, resource=resource)
        await self._daemon.recorder.flush()
        await connection.send({"ok": True, "cleared": cleared})

    async def _pause(self, connection: Connection, request: dict[str, Any]) -> None:
        daemon, vm = self._daemon, text(request, "vm")
        seconds = number(request, "for", 1.0, MAX_SECONDS)
        reason = optional(request, "reason", text) or ""
        if not any(instance.record.vm == vm for instance in daemon.instances.all()):
            await self._found(vm)
        try:
            pause = await daemon.pauses.begin(vm, seconds, " ".join(reason.split())[:200])
        except OSError as error:
            raise RequestError("internal", f"{vm}: the pause cannot be kept: {error}") from error
        daemon.instances.pause(vm, True)
        await connection.send({"ok": True, "paused": pause.to_json()})

    async def _resume(self, connection: Connection, request: dict[str, Any]) -> None:
        vm = text(request, "vm")
        resumed = self._daemon.pauses.end(vm, "by the operator")
        await self._daemon.pauses.wait_until_saved(STOP_SAVE_LIMIT_S)
        await connection.send({"ok": True, "resumed": resumed})

    async def _add(self, connection: Connection, request: dict[str, Any]) -> None:
        daemon, vm = self._daemon, text(request, "vm")
        session = self._session(vm)
        try:
            point = parse(text(request, "definition"))
        except PointError as error:
            raise RequestError("bad-request", str(error), position=error.position) from error
        if point.name in RESERVED or point.name in session.probes:
            raise RequestError(
                "bad-request",
                f"{vm}: there is a probe {point.name} already; give yours another name: "
                f"{point.kind.value}:NAME {point.symbol} ..",
            )
        daemon.points.add(vm, point)
        try:
            await session.load(point.name, point.text)
        except BaseException:
            daemon.points.remove(vm, point.name)
            raise
        await self._save_points(vm)
        await connection.send({"ok": True, "probe": point.name})

    async def _save_points(self, vm: str) -> None:
        try:
            await self._daemon.points.save()
        except OSError as error:
            raise RequestError(
                "internal", f"{vm}: it is done, but not kept for the next vesperd: {error}"
            ) from error

    async def _load(self, connection: Connection, request: dict[str, Any]) -> None:
        session = self._session(text(request, "vm"))
        await session.load(text(request, "probe"), optional(request, "params", text) or "")
        await connection.send({"ok": True})

    async def _unload(self, connection: Connection, request: dict[str, Any]) -> None:
        daemon, vm, probe = self._daemon, text(request, "vm"), text(request, "probe")
        session = self._session(vm)
        if probe not in daemon.points.of(vm):
            await session.unload(probe)
        else:
            try:
                await session.unload(probe)
            except SessionError as error:
                # One that could not be loaded again: it is not wanted any more.
                if error.code not in ("no-such-probe", "not-active"):
                    raise
                daemon.points.remove(vm, probe)
                await session.set_probes(daemon.wanted_probes(session.domain) or {})
            daemon.points.remove(vm, probe)
            await self._save_points(vm)
        await connection.send({"ok": True})

    async def _activate(self, connection: Connection, request: dict[str, Any]) -> None:
        daemon = self._daemon
        vm = text(request, "vm")
        transport, domain = await self._found(vm)
        daemon.allow_watching(vm)
        await daemon.activate(vm, names(request, "probes", DEFAULT_PROBES))
        session = await daemon.watch.watch(transport, domain, daemon.wanted_probes(domain))
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
        await connection.send({"ok": True, "domid": domain.domid})

    async def _deactivate(self, connection: Connection, request: dict[str, Any]) -> None:
        vm = text(request, "vm")
        if not await asyncio.shield(self._daemon.finish(self._daemon.deactivate(vm))):
            raise RequestError(
                "not-active", f"{vm} is not watched; begin with: vesper activate {vm}"
            )
        await connection.send({"ok": True})

    def _session(self, vm: str) -> Session:
        session = self._daemon.watch.session_of(vm)
        if session is None:
            raise RequestError(
                "not-active", f"{vm} is not watched; begin with: vesper activate {vm}"
            )
        return session

    async def _found(self, vm: str) -> tuple[Transport, Domain]:
        found = await self._daemon.watch.find(vm)
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
        await connection.send(*({"ok": True, "event": event.to_json()} for event in some))


def _in_pieces(rows: Sequence[_T]) -> Iterator[Sequence[_T]]:
    """What may be encoded in one turn of the group's."""
    for first in range(0, len(rows), AT_ONCE):
        yield rows[first : first + AT_ONCE]


def _no_such_vm(vm: str) -> RequestError:
    return RequestError("no-such-vm", f"no VM named {vm} runs on this host")


def _is_of(request: dict[str, Any], found: Domain | InstanceRecord) -> bool:
    """Whether a request is about that domain: by its VM's name, and its UUID or number."""
    vm, ident = optional(request, "vm", text), optional(request, "domain", text)
    name = found.name if isinstance(found, Domain) else found.vm
    return vm in (None, name) and ident in (None, found.uuid, str(found.domid))


def _start_of(fault: Fault) -> float:
    """s, CLOCK_REALTIME."""
    try:
        return float(fault.instance.rpartition("/")[2])
    except ValueError:
        return 0.0


def _whole(request: dict[str, Any], key: str) -> int:
    return int(number(request, key, 0, 2**62))
