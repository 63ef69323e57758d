# SPDX-License-Identifier: GPL-2.0-or-later
"""What may be read by root and by the group of readers: status, events, faults, records."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

import vesper_monitor
from vesper_monitor.daemon.connection import Connection
from vesper_monitor.daemon.followers import Followers
from vesper_monitor.daemon.request import (
    Operation,
    Right,
    boolean_field,
    optional,
    text_field,
    vm_name,
    whole_number,
)
from vesper_monitor.daemon.server import RequestError
from vesper_monitor.daemon.sessions import SessionManager
from vesper_monitor.daemon.status import vm_status
from vesper_monitor.faults.activations import Activations
from vesper_monitor.faults.pauses import Pauses
from vesper_monitor.guest import abi
from vesper_monitor.guest.event import Event
from vesper_monitor.journal.journal import Journal, JournalError
from vesper_monitor.journal.journal_process import JournalProcess
from vesper_monitor.journal.read_limit import limit_read
from vesper_monitor.journal.records import Fault
from vesper_monitor.journal.writer import JournalWriter

__all__ = ["ReaderRequests"]

#: Events that are read from the journal at once, and in one request.
PAGE_EVENTS = 500
MAX_EVENTS = 100_000
DEFAULT_EVENTS = 100
MAX_FAULTS = 1000
DEFAULT_FAULTS = 100
#: Events, faults or VMs that are encoded at once: work for the group is done in turns.
ROWS_PER_TURN = 50
#: Clients of the group that follow events or records: each costs with each of those.
MAX_STREAMS_OF_GROUP = 64
#: s before a fault of which its VM's events are given with it, and how many at most.
EVENTS_BEFORE_S = 10.0
MAX_EVENTS_BEFORE = 20

_P = ParamSpec("_P")
_T = TypeVar("_T")


class ReaderRequests:
    """Serves whoever reads.

    :param reader: the group's own connection to the journal.
    """

    def __init__(
        self,
        sessions: SessionManager,
        activations: Activations,
        pauses: Pauses,
        followers: Followers,
        journal: JournalWriter,
        reader: JournalProcess,
    ) -> None:
        self._sessions = sessions
        self._activations = activations
        self._pauses = pauses
        self._followers = followers
        self._journal = journal
        self._reader = reader
        self._streams_of_group = 0

    @property
    def operations(self) -> tuple[Operation, ...]:
        """The table."""
        events = {
            "vm": optional(vm_name),
            "follow": optional(boolean_field),
            "since": optional(whole_number),
            "limit": optional(whole_number),
        }
        faults = {
            "vm": optional(vm_name),
            "resource": optional(text_field),
            "limit": optional(whole_number),
        }
        relay = {"vm": vm_name, "probe": text_field, "cpu": optional(whole_number)}
        return (
            Operation("hello", self._greet, Right.READ),
            Operation("status", self._read_status, Right.READ),
            Operation("events", self._read_events, Right.READ, events),
            Operation("faults", self._read_faults, Right.READ, faults),
            Operation("fault", self._read_fault, Right.READ, {"id": whole_number}),
            Operation("relay", self._relay_records, Right.READ, relay),
        )

    async def _greet(self, connection: Connection, request: dict[str, Any]) -> None:
        await connection.send_answers(
            {
                "ok": True,
                "version": vesper_monitor.__version__,
                "abi": abi.ABI_VERSION,
                "pid": os.getpid(),
                "transports": self._sessions.transports.list_states(),
            }
        )

    async def _read_status(self, connection: Connection, request: dict[str, Any]) -> None:
        rows = vm_status(self._sessions, self._activations.list_all(), self._pauses)
        more = {
            "transports": self._sessions.transports.list_troubles(),
            "journal": self._journal.error,
        }
        by_name = []
        while some := list(itertools.islice(rows, ROWS_PER_TURN)):
            await connection.take_turn()
            by_name += [((row["vm"], row["domid"]), json.dumps(row)) for row in some]
            connection.end_turn()
        by_name.sort(key=lambda row: row[0])
        await _send_list(connection, "vms", [row for _, row in by_name], **more)

    # ------------------------------------------------------------ events

    async def _read_events(self, connection: Connection, request: dict[str, Any]) -> None:
        vm, since = request["vm"], request["since"]
        follow: bool = request["follow"] or False
        limit: int | None = request["limit"]
        if limit is None:
            limit = MAX_EVENTS if since is not None else 0 if follow else DEFAULT_EVENTS
        limit = min(limit, MAX_EVENTS)
        with self._count_stream(connection) if follow else contextlib.nullcontext():
            follower = self._followers.add_follower(vm) if follow else None
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
                    self._followers.remove_follower(follower)
        await connection.send_answers({"ok": True, "end": True})

    @contextlib.contextmanager
    def _count_stream(self, connection: Connection) -> Iterator[None]:
        """Count a stream, which goes on as long as its client likes.

        :raises RequestError: the group has enough of them.
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
            page = min(PAGE_EVENTS if connection.privileged else ROWS_PER_TURN, limit)
            events = await self._read_journal(
                connection, Journal.read_events, vm=vm, after=last, until=until, limit=page
            )
            await _send_events(connection, events)
            limit -= len(events)
            if len(events) < page:
                break
            last = events[-1].id or last
        return max(last, until)

    async def _read_journal(
        self, connection: Connection,
        method: Callable[Concatenate[Journal, _P], _T], *args: _P.args, **kwargs: _P.kwargs,
    ) -> _T:  # fmt: skip
        """Call a method of the journal that reads. The group has a connection of its own.

        :raises JournalError:
        """
        if connection.privileged:
            return await self._journal.run_on_journal(method, *args, **kwargs)
        await connection.take_turn()
        async with limit_read():
            found, cpu_s = await self._reader.call_measured(method.__name__, *args, **kwargs)
        connection.count_cpu_time(cpu_s)
        result: _T = found
        return result

    # ------------------------------------------------------------ faults

    async def _read_faults(self, connection: Connection, request: dict[str, Any]) -> None:
        vm, resource = request["vm"], request["resource"]
        limit = min(request["limit"] or DEFAULT_FAULTS, MAX_FAULTS)
        try:
            faults = await self._read_journal(
                connection, Journal.read_faults, vm=vm, resource=resource, limit=limit
            )
        except JournalError:
            faults = []
        known = {fault.id for fault in faults}
        faults += [fault for fault in self._list_held_faults(vm, resource) if fault.id not in known]
        parts = []
        for some in _in_pieces(faults):
            await connection.take_turn()
            parts += [json.dumps(fault.to_json()) for fault in some]
            connection.end_turn()
        await _send_list(connection, "faults", parts)

    async def _read_fault(self, connection: Connection, request: dict[str, Any]) -> None:
        fault = await self._read_journal(connection, Journal.read_fault, request["id"])
        if fault is None:
            raise RequestError("bad-request", f"there is no fault {request['id']}")
        # Crash logs from before the activation's start are another life's.
        words = await self._read_journal(
            connection, Journal.last_words, fault.vm, fault.domid, _start_of(fault)
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
        """Return faults that activations hold: some may be in memory alone."""
        return [
            activation.fault
            for activation in self._activations.list_all()
            if activation.fault is not None
            and vm in (None, activation.record.vm)
            and resource in (None, activation.record.resource)
        ]

    # ------------------------------------------------------------ raw records

    async def _relay_records(self, connection: Connection, request: dict[str, Any]) -> None:
        session = self._sessions.require_session(request["vm"])
        probe: str = request["probe"]
        if probe not in session.probes:
            known = ", ".join(session.probes) or "none"
            raise RequestError(
                "no-such-probe", f"{session.domain.name}: no probe {probe} is loaded ({known})"
            )
        with self._count_stream(connection):
            records = session.subscribe_raw(probe, request["cpu"])
            connection.until_closed = True
            connection.end_turn()
            try:
                async for cpu, seq, data in records:
                    await connection.send_answers(
                        {
                            "ok": True,
                            "cpu": cpu,
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


async def _send_list(connection: Connection, key: str, parts: list[str], **more: Any) -> None:
    """Send an answer whose list was encoded in pieces."""
    end = "".join(f", {json.dumps(name)}: {json.dumps(value)}" for name, value in more.items())
    line = f'{{"ok": true, {json.dumps(key)}: [{", ".join(parts)}]{end}}}\n'
    await connection.send_lines(line.encode())


async def _send_events(connection: Connection, events: list[Event]) -> None:
    for some in _in_pieces(events):
        await connection.send_answers(*({"ok": True, "event": event.to_json()} for event in some))


def _in_pieces(rows: Sequence[_T]) -> Iterator[Sequence[_T]]:
    """Yield as many rows at a time as may be encoded in one turn of the group."""
    for first in range(0, len(rows), ROWS_PER_TURN):
        yield rows[first : first + ROWS_PER_TURN]


def _start_of(fault: Fault) -> float:
    """Return when a fault's activation began (s, CLOCK_REALTIME): its id ends with that."""
    try:
        return float(fault.instance.rpartition("/")[2])
    except ValueError:
        return 0.0
