# SPDX-License-Identifier: GPL-2.0-or-later
"""Events, faults, activations and crash logs as rows of the journal, and back.

A row's values are in the order of :data:`vesper_monitor.journal.schema.COLUMNS`.
"""

from __future__ import annotations

import functools
import itertools
import json
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

from vesper_monitor.guest.event import CrashLog, Event
from vesper_monitor.guest.relay.positions import Position
from vesper_monitor.journal.records import ActivationRecord, Fault, Wishes
from vesper_monitor.journal.schema import COLUMNS

__all__ = [
    "Row",
    "activation_to_row",
    "crash_log_to_row",
    "event_to_row",
    "fault_to_row",
    "insert_rows",
    "position_to_row",
    "rows_to_activations",
    "rows_to_crash_logs",
    "rows_to_events",
    "rows_to_faults",
    "rows_to_positions",
]

Row = tuple[object, ...]

#: Rows in one statement, largest first: after each statement the thread waits for the
#: interpreter.
_ROWS_AT_ONCE = (64, 8, 1)


def insert_rows(db: sqlite3.Connection, table: str, rows: Sequence[Row]) -> None:
    """Insert rows, in place of those with the same key."""
    at = 0
    for size in _ROWS_AT_ONCE:
        while len(rows) - at >= size:
            values = itertools.chain.from_iterable(rows[at : at + size])
            db.execute(_insert_statement(table, len(rows[0]), size), tuple(values))
            at += size


@functools.cache
def _insert_statement(table: str, columns: int, rows: int) -> str:
    row = f"({','.join('?' * columns)})"
    return f"INSERT OR REPLACE INTO {table} ({COLUMNS[table]}) VALUES {','.join([row] * rows)}"


def event_to_row(event: Event) -> Row:
    """Return the row of table ``events``."""
    return (
        event.id, event.vm, event.domid, event.probe, event.event, event.cpu, str(event.seq),
        event.guest_ns, event.received, json.dumps(event.fields), event.text,
    )  # fmt: skip


def rows_to_events(rows: Iterable[Any]) -> list[Event]:
    """Return the events of rows of table ``events``."""
    return [
        Event(
            id=r[0], vm=r[1], domid=r[2], probe=r[3], event=r[4], cpu=r[5], seq=int(r[6]),
            guest_ns=r[7], received=r[8], fields=json.loads(r[9]), text=r[10],
        )
        for r in rows
    ]  # fmt: skip


def crash_log_to_row(event: Event, crash_log: CrashLog) -> Row:
    """Return the row of table ``last_words``.

    :param event: that told of the crash log.
    """
    return (
        event.id, event.vm, event.domid, event.received, crash_log.kind, crash_log.message,
        crash_log.stack, crash_log.log, crash_log.complete,
    )  # fmt: skip


def rows_to_crash_logs(rows: Iterable[Any]) -> list[tuple[float, CrashLog]]:
    """Return when each was received (s, CLOCK_REALTIME), and the crash log.

    :param rows: received, kind, message, stack, log, complete.
    """
    return [(r[0], CrashLog(r[1], r[2], r[3], r[4], bool(r[5]))) for r in rows]


def fault_to_row(fault: Fault) -> Row:
    """Return the row of table ``faults``."""
    return (
        fault.id, fault.resource, fault.vm, fault.uuid, fault.domid, fault.instance, fault.scope,
        fault.rule, fault.reason, json.dumps(fault.event), fault.seen, fault.told, fault.ended,
        fault.ended_by,
    )  # fmt: skip


def rows_to_faults(rows: Iterable[Any]) -> list[Fault]:
    """Return the faults of rows of table ``faults``."""
    return [
        Fault(
            id=r[0], resource=r[1], vm=r[2], uuid=r[3], domid=r[4], instance=r[5], scope=r[6],
            rule=r[7], reason=r[8], event=json.loads(r[9]), seen=r[10], told=r[11], ended=r[12],
            ended_by=r[13],
        )
        for r in rows
    ]  # fmt: skip


def activation_to_row(record: ActivationRecord) -> Row:
    """Return the row of table ``instances``."""
    wishes = record.wishes
    return (
        record.id, record.resource, record.vm, record.uuid, record.domid, record.started,
        json.dumps(list(wishes.probes)), json.dumps(list(wishes.services)), record.monitored,
        record.ended, wishes.hang_timeout, wishes.pause_timeout, record.transport,
        wishes.fault_on, wishes.boot_timeout,
    )  # fmt: skip


def rows_to_activations(rows: Iterable[Any]) -> list[ActivationRecord]:
    """Return the activations of rows of table ``instances``."""
    return [
        ActivationRecord(
            id=r[0], resource=r[1], vm=r[2], uuid=r[3], domid=r[4], started=r[5],
            wishes=Wishes(
                probes=tuple(json.loads(r[6])), services=tuple(json.loads(r[7])),
                hang_timeout=r[10], pause_timeout=r[11], fault_on=r[13], boot_timeout=r[14],
            ),
            monitored=bool(r[8]), ended=r[9], transport=r[12],
        )
        for r in rows
    ]  # fmt: skip


def position_to_row(uuid: str, domid: int, position: Position, next_seq: int) -> Row:
    """Return the row of table ``positions``."""
    return (
        uuid, domid, str(position.boot_id), position.probe, position.generation, position.cpu,
        str(next_seq),
    )  # fmt: skip


def rows_to_positions(rows: Iterable[Any]) -> dict[Position, int]:
    """Return the next sequence number at each position.

    :param rows: boot_id, probe, generation, cpu, next_seq.
    """
    return {Position(int(r[0]), r[1], r[2], r[3]): int(r[4]) for r in rows}
