# SPDX-License-Identifier: GPL-2.0-or-later
"""What is read from the journal.

A connection that only reads has these methods and no others
(:mod:`vesper_monitor.journal.read_only_journal`).
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vesper_monitor.guest.event import CrashLog, Event
from vesper_monitor.guest.relay.positions import Position
from vesper_monitor.journal.records import END_RULE, ActivationRecord, Fault
from vesper_monitor.journal.rows import (
    rows_to_activations,
    rows_to_crash_logs,
    rows_to_events,
    rows_to_faults,
    rows_to_positions,
)
from vesper_monitor.journal.schema import COLUMNS, JournalDamagedError, JournalError

__all__ = ["JournalQueries", "Remembered"]

#: s by which the event of a fault may be later than the fault, if its number is not known.
OWN_EVENT_AGE_S = 1.0
#: Errors of a disk that may be over while the connection still has them.
_STALE_CODES = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)


@dataclass(frozen=True)
class Remembered:
    """What vesperd goes on with, of an earlier one; see the methods of these names."""

    last_event_id: int
    last_fault_id: int
    records: list[ActivationRecord]
    faults: list[Fault]
    stopped_for: list[Fault]
    told: list[tuple[str, float]]
    boots: dict[tuple[str, int], int]
    wanted_last: list[tuple[str, tuple[str, ...]]]
    activations: dict[str, tuple[str, ...]]
    deactivations: set[str]


class JournalQueries:
    """Reads an open journal.

    :ivar is_stale: its disk has failed and may go on failing this connection: open the
        journal again.
    """

    path: Path
    _db: sqlite3.Connection
    is_stale: bool = False

    def close(self) -> None:
        """Close the connection."""
        self._db.close()

    def last_ids(self) -> tuple[int, int]:
        """Return the highest id of an event and of a fault; 0 if there is none."""
        rows = self._query_rows(
            "SELECT (SELECT coalesce(max(id), 0) FROM events),"
            " (SELECT coalesce(max(id), 0) FROM faults)"
        )
        return int(rows[0][0]), int(rows[0][1])

    def read_events(
        self,
        *,
        vm: str | None = None,
        after: int = 0,
        until: int | None = None,
        limit: int = 500,
    ) -> list[Event]:
        """Return events in the order of their ids.

        :param after: only those with a greater id.
        :param until: only those up to this id.
        """
        condition, values = "id > ?", [after]
        if until is not None:
            condition += " AND id <= ?"
            values.append(until)
        parameters: list[object] = list(values)
        if vm is not None:
            condition += " AND vm = ?"
            parameters.append(vm)
        rows = self._query_rows(
            f"SELECT {COLUMNS['events']} FROM events WHERE {condition} ORDER BY id LIMIT ?",
            (*parameters, limit),
        )
        return rows_to_events(rows)

    def events_before(self, fault: Fault, seconds: float, limit: int) -> list[Event]:
        """Return the last events of a fault's VM up to its own, oldest first.

        :param seconds: before the fault; older events are left out.
        """
        last = fault.event.get("id")
        bound, until = (
            ("id", last) if last is not None else ("received", fault.seen + OWN_EVENT_AGE_S)
        )
        rows = self._query_rows(
            f"SELECT {COLUMNS['events']} FROM events"
            f" WHERE vm = ? AND domid = ? AND {bound} <= ? AND received >= ?"
            " ORDER BY id DESC LIMIT ?",
            (fault.vm, fault.domid, until, fault.seen - seconds, limit),
        )
        return rows_to_events(reversed(rows))

    def nth_newest(self, vm: str | None, n: int) -> int | None:
        """Return the id of the first of the last ``n`` events; None: there are none."""
        condition, parameters = ("", ()) if vm is None else ("WHERE vm = ?", (vm,))
        rows = self._query_rows(
            f"SELECT min(id) FROM (SELECT id FROM events {condition} ORDER BY id DESC LIMIT ?)",
            (*parameters, n),
        )
        return None if rows[0][0] is None else int(rows[0][0])

    def read_faults(
        self,
        *,
        vm: str | None = None,
        resource: str | None = None,
        limit: int = 100,
    ) -> list[Fault]:
        """Return the latest faults, oldest first."""
        condition = "1"
        parameters: list[object] = []
        for column, value in (("vm", vm), ("resource", resource)):
            if value is not None:
                condition += f" AND {column} = ?"
                parameters.append(value)
        rows = self._query_rows(
            f"SELECT {COLUMNS['faults']} FROM faults WHERE {condition} ORDER BY id DESC LIMIT ?",
            (*parameters, limit),
        )
        return rows_to_faults(reversed(rows))

    def read_fault(self, fault_id: int) -> Fault | None:
        """Return one fault; None: there is none with that id."""
        query = f"SELECT {COLUMNS['faults']} FROM faults WHERE id = ?"
        found = rows_to_faults(self._query_rows(query, (fault_id,)))
        return found[0] if found else None

    def last_words(self, vm: str, domid: int, since: float) -> list[tuple[float, CrashLog]]:
        """Return the crash logs of one domain, oldest first.

        :param since: s, CLOCK_REALTIME: after a boot of the host, domain ids repeat.
        :returns: when each was received (s, CLOCK_REALTIME), and the crash log.
        """
        rows = self._query_rows(
            "SELECT received, kind, message, stack, log, complete FROM last_words"
            " WHERE vm = ? AND domid = ? AND received >= ? ORDER BY event",
            (vm, domid, since),
        )
        return rows_to_crash_logs(rows)

    def told_since(self, since: float) -> list[tuple[str, float]]:
        """Return the VMs whose faults were told, and when, oldest first.

        Ends of domains are not counted.

        :param since: s, CLOCK_REALTIME.
        """
        return self._query_rows(
            "SELECT vm, told FROM faults WHERE told >= ? AND rule != ? ORDER BY told",
            (since, END_RULE),
        )

    def has_reported(self, vm: str, seen: float, instance: str) -> bool:
        """Tell whether a fault that came along with its VM is over or known here.

        It was told, or cleared by an operator, or it is that activation's already.

        :param seen: as of the fault, exactly: s, CLOCK_REALTIME of the host that saw it.
        """
        return bool(
            self._query_rows(
                "SELECT 1 FROM faults WHERE vm = ? AND seen = ? AND"
                " (told IS NOT NULL OR ended_by = 'operator' OR instance = ?) LIMIT 1",
                (vm, seen, instance),
            )
        )

    def read_boots(self) -> dict[tuple[str, int], int]:
        """Return the boot of the guest's core that was read last, by (UUID, domain id)."""
        rows = self._query_rows("SELECT DISTINCT uuid, domid, boot_id FROM positions")
        return {(r[0], r[1]): int(r[2]) for r in rows}

    def open_faults(self) -> list[Fault]:
        """Return the faults that have not ended."""
        query = f"SELECT {COLUMNS['faults']} FROM faults WHERE ended IS NULL ORDER BY id"
        return rows_to_faults(self._query_rows(query))

    def stopped_for(self) -> list[Fault]:
        """Return the fault with which each resource's last activation was stopped.

        Only those of this boot of the host.  The domain may still run: the stop may have
        been killed before it was complete.
        """
        return rows_to_faults(
            self._query_rows(
                f"SELECT {COLUMNS['faults']} FROM faults AS f"
                " WHERE id > (SELECT last_fault FROM host)"
                " AND ended_by = 'stop' AND instance = (SELECT id FROM instances"
                " WHERE resource = f.resource ORDER BY started DESC LIMIT 1) ORDER BY id"
            )
        )

    def open_instances(self) -> list[ActivationRecord]:
        """Return the activations that have not ended."""
        rows = self._query_rows(
            f"SELECT {COLUMNS['instances']} FROM instances WHERE ended IS NULL ORDER BY started"
        )
        return rows_to_activations(rows)

    def wanted_last(self) -> list[tuple[str, tuple[str, ...]]]:
        """Return the VMs that resources had on this host, and the probes wanted there last."""
        # Of max() SQLite takes the other columns from the same row.
        rows = self._query_rows("SELECT vm, probes, max(started) FROM instances GROUP BY vm")
        return [(vm, tuple(json.loads(probes))) for vm, probes, _ in rows]

    def read_positions(self, uuid: str, domid: int) -> dict[Position, int]:
        """Return where an earlier vesperd stopped reading a domain's buffers."""
        rows = self._query_rows(
            "SELECT boot_id, probe, generation, cpu, next_seq FROM positions"
            " WHERE uuid=? AND domid=?",
            (uuid, domid),
        )
        return rows_to_positions(rows)

    def read_deactivations(self) -> set[str]:
        """Return the VMs that an operator wants left alone."""
        return {vm for (vm,) in self._query_rows("SELECT vm FROM deactivations")}

    def read_activations(self) -> dict[str, tuple[str, ...]]:
        """Return the VMs that an operator activated, and the probes wanted there."""
        rows = self._query_rows("SELECT vm, probes FROM activations")
        return {vm: tuple(json.loads(probes)) for vm, probes in rows}

    def _query_rows(self, statement: str, parameters: tuple[object, ...] = ()) -> list[Any]:
        try:
            return self._db.execute(statement, parameters).fetchall()
        except sqlite3.Error as error:
            raise self._make_error("read", error) from error

    def _make_error(self, what: str, error: sqlite3.Error) -> JournalError:
        # A full disk, one that cannot be written, a lock: these are no damage.
        damaged = type(error) is sqlite3.DatabaseError
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _STALE_CODES:
            self.is_stale = True
        kind = JournalDamagedError if damaged else JournalError
        return kind(f"{self.path}: cannot {what}: {error}")
