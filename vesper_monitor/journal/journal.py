# SPDX-License-Identifier: GPL-2.0-or-later
"""The durable journal: an SQLite file of events, faults, instances and positions.

Synchronous, and used in a process of its own (vesper_monitor/journal/journal_process.py).

What a call writes is one transaction, and survives the death of the daemon
(write-ahead log, ``synchronous=NORMAL``).  Events and the positions behind
them are written together, so that a daemon that was killed reads no record
twice and leaves none out.  Only :meth:`Journal.sync_to_disk` makes it survive a power
failure as well.  Nobody has to wait for that before a monitor is told: with
the power the instance and its fault end (:meth:`Journal.begin_boot`).
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import logging
import os
import sqlite3
import struct
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vesper_monitor.faults.domain_events import END_RULE
from vesper_monitor.guest.event import CrashLog, Event
from vesper_monitor.guest.relay.positions import Position
from vesper_monitor.journal.records import ActivationRecord, Fault
from vesper_monitor.util.errors import VesperError

__all__ = ["KEEP_WORDS", "Batch", "Journal", "JournalDamagedError", "JournalError", "Remembered"]

_log = logging.getLogger(__name__)

SCHEMA_VERSION = 8

#: Ended instances that are kept.
KEEP_ACTIVATIONS = 1000
#: Last words that are kept of one VM; each is up to 70 KB.
KEEP_WORDS = 20
#: The same, of all VMs together.
KEEP_WORDS_OF_ALL = 1000
#: s by which a fault's own event, if its number is not known, may be later than the fault.
OWN_EVENT_AGE_S = 1.0
#: Damaged journals that are kept; if there are more, the disk needs somebody.
MAX_JOURNALS_ASIDE = 100
#: Events between two looks at what is too old.
_TRIM_EVERY = 1000
#: Bytes of the write-ahead log.  A reader that never ends keeps SQLite from emptying it:
#: then nothing more is written until that reader is gone.
MAX_LOG_BYTES = 64 << 20

_SCHEMA = """
CREATE TABLE events (
    id INTEGER PRIMARY KEY, vm TEXT NOT NULL, domid INTEGER NOT NULL, probe TEXT NOT NULL,
    event TEXT NOT NULL, cpu INTEGER NOT NULL, seq TEXT NOT NULL, guest_ns INTEGER NOT NULL,
    received REAL NOT NULL, fields TEXT NOT NULL, text TEXT NOT NULL);
CREATE INDEX events_vm ON events (vm, id);
CREATE TABLE faults (
    id INTEGER PRIMARY KEY, resource TEXT NOT NULL, vm TEXT NOT NULL, uuid TEXT NOT NULL,
    domid INTEGER NOT NULL, instance TEXT NOT NULL, scope TEXT NOT NULL, rule TEXT NOT NULL,
    reason TEXT NOT NULL, event TEXT NOT NULL, seen REAL NOT NULL, told REAL, ended REAL,
    ended_by TEXT);
CREATE INDEX faults_instance ON faults (instance);
CREATE TABLE instances (
    id TEXT PRIMARY KEY, resource TEXT NOT NULL, vm TEXT NOT NULL, uuid TEXT NOT NULL,
    domid INTEGER NOT NULL, started REAL NOT NULL, probes TEXT NOT NULL,
    services TEXT NOT NULL, monitored INTEGER NOT NULL, ended REAL);
CREATE TABLE positions (
    uuid TEXT NOT NULL, domid INTEGER NOT NULL, boot_id TEXT NOT NULL, probe TEXT NOT NULL,
    generation INTEGER NOT NULL, cpu INTEGER NOT NULL, next_seq TEXT NOT NULL,
    PRIMARY KEY (uuid, domid, boot_id, probe, generation, cpu)) WITHOUT ROWID;
CREATE TABLE activations (vm TEXT PRIMARY KEY, probes TEXT NOT NULL);
CREATE TABLE host (boot_id TEXT NOT NULL);
"""
# Numbers of the guest's have 64 bits without sign, which SQLite has not: TEXT.

#: Columns by name: a journal of a newer vesperd may have more.
_COLUMNS = {
    "events": "id, vm, domid, probe, event, cpu, seq, guest_ns, received, fields, text",
    "faults": "id, resource, vm, uuid, domid, instance, scope, rule, reason, event, seen, told,"
    " ended, ended_by",
    "instances": "id, resource, vm, uuid, domid, started, probes, services, monitored, ended,"
    " hang_timeout, pause_timeout, transport, fault_on, boot_timeout",
    "positions": "uuid, domid, boot_id, probe, generation, cpu, next_seq",
    "last_words": "event, vm, domid, received, kind, message, stack, log, complete",
}

_LAST_WORDS = """
CREATE TABLE last_words (
    event INTEGER PRIMARY KEY, vm TEXT NOT NULL, domid INTEGER NOT NULL, received REAL NOT NULL,
    kind TEXT NOT NULL, message TEXT NOT NULL, stack TEXT NOT NULL, log TEXT NOT NULL,
    complete INTEGER NOT NULL);
CREATE INDEX last_words_vm ON last_words (vm, event);
"""
_HANG_TIMEOUT = "ALTER TABLE instances ADD COLUMN hang_timeout REAL;"
_TRANSPORT = """
ALTER TABLE instances ADD COLUMN pause_timeout REAL;
ALTER TABLE instances ADD COLUMN transport TEXT NOT NULL DEFAULT '';
"""
_FAULT_ON = "ALTER TABLE instances ADD COLUMN fault_on TEXT NOT NULL DEFAULT '';"
# Faults up to that one are of an earlier boot of the host.
_LAST_FAULT = """
ALTER TABLE host ADD COLUMN last_fault INTEGER NOT NULL DEFAULT 0;
UPDATE host SET last_fault = (SELECT coalesce(max(id), 0) FROM faults);
"""
_BOOT_TIMEOUT = "ALTER TABLE instances ADD COLUMN boot_timeout REAL;"
# VMs that operators want left alone.
_DEACTIVATIONS = "CREATE TABLE deactivations (vm TEXT PRIMARY KEY);"
#: What makes a journal of one schema version one of the next; 0: an empty file.
_STEPS = (
    _SCHEMA, _LAST_WORDS, _HANG_TIMEOUT, _TRANSPORT, _FAULT_ON, _LAST_FAULT, _BOOT_TIMEOUT,
    _DEACTIVATIONS,
)  # fmt: skip


#: What is wrong with a value, not with the disk.
_UNREPRESENTABLE = (
    sqlite3.DataError, sqlite3.IntegrityError, sqlite3.InterfaceError, sqlite3.ProgrammingError,
    sqlite3.NotSupportedError, ValueError, TypeError, ArithmeticError, RecursionError,
    LookupError, AttributeError, struct.error,
)  # fmt: skip


#: Errors of a disk that may be over while the connection still has them.
_STALE = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)


class JournalError(VesperError):
    """It could not be read or written; the text names the file."""


class JournalDamagedError(JournalError):
    """Its content is no journal any more: open it again, which sets it aside."""


@dataclass
class Batch:
    """What belongs into one transaction."""

    events: list[Event] = field(default_factory=list)
    #: by (uuid, domid): all positions of that domain
    positions: dict[tuple[str, int], Mapping[Position, int]] = field(default_factory=dict)
    #: new or changed
    faults: list[Fault] = field(default_factory=list)
    #: new or changed
    instances: list[ActivationRecord] = field(default_factory=list)

    def merge_batch(self, other: Batch) -> None:
        """Append a later batch."""
        self.events += other.events
        self.positions.update(other.positions)
        self.faults += other.faults
        self.instances += other.instances

    def keep_last(self) -> None:
        """Of each fault and instance the last word is enough."""
        self.faults = list({fault.id: fault for fault in self.faults}.values())
        self.instances = list({i.id: i for i in self.instances}.values())

    @property
    def durable(self) -> bool:
        """Whether it is to survive a power failure, as history."""
        return bool(self.faults or self.instances) or any(event.words for event in self.events)


@dataclass(frozen=True)
class Remembered:
    """What a daemon goes on with; each is as the method of :class:`Journal` of that name."""

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


class Journal:
    """
    :param path: of the file; it is made if need be, for root alone.
    :raises JournalError: it cannot be opened, nor a new one be made in its place.
    """

    def __init__(
        self, path: Path, *, keep_events: int = 100_000, keep_faults: int = 10_000
    ) -> None:
        self.path = path
        self._keep_events = keep_events
        self._keep_faults = keep_faults
        self._since_trim = 0
        #: a disk that failed may go on failing this connection: open the journal again
        self.is_stale = False
        #: what is in there, of the domains that were written since it was opened
        self._positions: dict[tuple[str, int], Mapping[Position, int]] = {}
        try:
            self._db = self._open_database()
        except sqlite3.OperationalError as error:  # full, read-only, locked: not its content
            raise JournalError(f"{path}: cannot open the journal: {error}") from error
        except (sqlite3.DatabaseError, JournalError) as error:
            self._set_aside(error)
            try:
                self._db = self._open_database()
            except sqlite3.Error as again:
                raise JournalError(f"{path}: cannot make a new journal: {again}") from again
        except OSError as error:
            raise JournalError(f"{path}: cannot open the journal: {error}") from error

    def close(self) -> None:
        try:
            self._db.close()
        except sqlite3.Error as error:  # of one that is damaged
            _log.warning("%s: closing it: %s", self.path, error)

    # ------------------------------------------------------------ writing

    def write_batch(self, batch: Batch) -> list[tuple[str, str]]:
        """Write all of it, or nothing.

        What cannot be represented (an encoding, the size of a number) is left out alone.

        :returns: of what was left out: whose it is (a VM's name), and why.
        :raises JournalError: nothing was written.
        """
        self._limit_log()
        try:
            try:
                with self._begin_transaction():
                    self._write_batch(batch)
                return []
            except _UNREPRESENTABLE as error:
                _log.debug("%s: %s; each by itself now", self.path, error)
                self._positions.clear()
                with self._begin_transaction():
                    return self._write_one_by_one(batch)
        except BaseException as error:
            self._positions.clear()
            if isinstance(error, sqlite3.Error):
                raise self._make_error("write", error) from error
            raise

    def _write_batch(self, batch: Batch) -> None:
        self._write_events(batch.events)
        self._write_positions(batch.positions)
        for instance in batch.instances:
            self._write_instance(instance)
        for fault in batch.faults:
            self._write_fault(fault)

    def _write_one_by_one(self, batch: Batch) -> list[tuple[str, str]]:
        parts = [(event.vm, Batch([event])) for event in batch.events]
        parts += [(f"domain {key[1]}", Batch(positions={key: at}))
                  for key, at in batch.positions.items()]  # fmt: skip
        parts += [(instance.vm, Batch(instances=[instance])) for instance in batch.instances]
        parts += [(fault.vm, Batch(faults=[fault])) for fault in batch.faults]
        left_out = []
        for vm, part in parts:
            self._db.execute("SAVEPOINT part")
            try:
                self._write_batch(part)
            except _UNREPRESENTABLE as error:
                self._db.execute("ROLLBACK TO part")
                self._positions.clear()
                left_out.append((vm, f"{type(error).__name__}: {error}"))
            self._db.execute("RELEASE part")
        return left_out

    def _limit_log(self) -> None:
        """:raises JournalError: the write-ahead log is too long, and cannot be emptied."""
        try:
            size = os.stat(f"{self.path}-wal").st_size
        except FileNotFoundError:
            return
        except OSError as error:
            raise JournalError(f"{self.path}: cannot write: {error}") from error
        if size <= MAX_LOG_BYTES:
            return
        if self._query_rows("PRAGMA wal_checkpoint(TRUNCATE)")[0][0]:
            raise JournalError(
                f"{self.path}: a process reads it and does not end, so its log has grown to "
                f"{size >> 20} MiB; nothing more is written until it ends (fuser -v {self.path})"
            )

    def sync_to_disk(self) -> None:
        """Return when all that was written is on the disk.

        :raises JournalError:
        """
        try:
            # What is no longer in there has been synced by SQLite's checkpoint.
            log = os.open(f"{self.path}-wal", os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fdatasync(log)
            finally:
                os.close(log)
        except OSError as error:
            raise JournalError(f"{self.path}-wal: cannot sync: {error}") from error

    def _write_events(self, events: Sequence[Event]) -> None:
        rows = [
            (e.id, e.vm, e.domid, e.probe, e.event, e.cpu, str(e.seq), e.guest_ns, e.received,
             json.dumps(e.fields), e.text)
            for e in events
        ]  # fmt: skip
        self._insert_rows("events", rows)
        for event in events:
            if event.words is not None:
                self._write_words(event, event.words)
        self._since_trim += len(rows)
        if self._since_trim >= _TRIM_EVERY:
            self._trim_events()
            self._since_trim = 0

    def _write_words(self, event: Event, words: CrashLog) -> None:
        self._db.execute(
            _insert_statement("last_words", 9, 1),
            (event.id, event.vm, event.domid, event.received, words.kind, words.message,
             words.stack, words.log, words.complete),
        )  # fmt: skip
        # By VM: one that never stops must not push out the others'.
        self._db.execute(
            "DELETE FROM last_words WHERE vm=? AND event NOT IN"
            " (SELECT event FROM last_words WHERE vm=? ORDER BY event DESC LIMIT ?)",
            (event.vm, event.vm, KEEP_WORDS),
        )

    def _write_positions(self, domains: Mapping[tuple[str, int], Mapping[Position, int]]) -> None:
        rows = []
        for (uuid, domid), positions in domains.items():
            before = self._positions.get((uuid, domid))
            if before is None:
                self._db.execute("DELETE FROM positions WHERE uuid=? AND domid=?", (uuid, domid))
                before = {}
            gone = before.keys() - positions.keys()
            self._db.executemany(
                "DELETE FROM positions WHERE uuid=? AND domid=? AND boot_id=? AND probe=?"
                " AND generation=? AND cpu=?",
                [(uuid, domid, str(p.boot_id), p.probe, p.generation, p.cpu) for p in gone],
            )
            rows += [
                (uuid, domid, str(p.boot_id), p.probe, p.generation, p.cpu, str(next_seq))
                for p, next_seq in positions.items()
                if before.get(p) != next_seq
            ]
            self._positions[uuid, domid] = positions
        self._insert_rows("positions", rows)

    def _insert_rows(self, table: str, rows: Sequence[tuple[object, ...]]) -> None:
        """Many rows to a statement: after each the thread waits for the interpreter."""
        at = 0
        for size in (64, 8, 1):
            while len(rows) - at >= size:
                values = itertools.chain.from_iterable(rows[at : at + size])
                self._db.execute(_insert_statement(table, len(rows[0]), size), tuple(values))
                at += size

    def _write_instance(self, i: ActivationRecord) -> None:
        self._db.execute(
            _insert_statement("instances", 15, 1),
            (i.id, i.resource, i.vm, i.uuid, i.domid, i.started, json.dumps(list(i.probes)),
             json.dumps(list(i.services)), i.monitored, i.ended, i.hang_timeout,
             i.pause_timeout, i.transport, i.fault_on, i.boot_timeout),
        )  # fmt: skip

    def _write_fault(self, f: Fault) -> None:
        self._db.execute(
            _insert_statement("faults", 14, 1),
            (f.id, f.resource, f.vm, f.uuid, f.domid, f.instance, f.scope, f.rule, f.reason,
             json.dumps(f.event), f.seen, f.told, f.ended, f.ended_by),
        )  # fmt: skip

    def _trim_events(self) -> None:
        db = self._db
        # By count: numbers may have gaps of any size.
        db.execute(
            "DELETE FROM events WHERE id IN (SELECT id FROM events ORDER BY id"
            " LIMIT max(0, (SELECT count(*) FROM events) - ?))",
            (self._keep_events,),
        )
        db.execute(
            "DELETE FROM faults WHERE id IN (SELECT id FROM faults WHERE ended IS NOT NULL"
            " ORDER BY id LIMIT max(0, (SELECT count(ended) FROM faults) - ?))",
            (self._keep_faults,),
        )
        db.execute(
            "DELETE FROM instances WHERE ended IS NOT NULL AND id NOT IN"
            " (SELECT id FROM instances WHERE ended IS NOT NULL ORDER BY ended DESC LIMIT ?)",
            (KEEP_ACTIVATIONS,),
        )
        db.execute(
            "DELETE FROM last_words WHERE event NOT IN"
            " (SELECT event FROM last_words ORDER BY event DESC LIMIT ?)",
            (KEEP_WORDS_OF_ALL,),
        )

    def forget_positions(self, uuid: str, domid: int) -> None:
        """The domain is gone."""
        self._positions.pop((uuid, domid), None)
        self._execute_statement("DELETE FROM positions WHERE uuid=? AND domid=?", (uuid, domid))

    def begin_boot(self, boot_id: str, now: float) -> None:
        """Note which boot of the host this is; end what belongs to an earlier one.

        After a boot another life of a VM may have the same UUID and domain id.
        """
        row = self._query_rows("SELECT boot_id FROM host")
        if row and row[0][0] == boot_id:
            return
        try:
            with self._begin_transaction():
                db = self._db
                db.execute("DELETE FROM host")
                db.execute(
                    "INSERT INTO host (boot_id, last_fault)"
                    " SELECT ?, coalesce(max(id), 0) FROM faults",
                    (boot_id,),
                )
                db.execute("UPDATE instances SET ended=? WHERE ended IS NULL", (now,))
                db.execute(
                    "UPDATE faults SET ended=?, ended_by='boot of the host' WHERE ended IS NULL",
                    (now,),
                )
                db.execute("DELETE FROM positions")
                self._positions.clear()
        except sqlite3.Error as error:
            raise self._make_error("write", error) from error

    def set_activation(self, vm: str, probes: Iterable[str] | None) -> None:
        """What the operator wants of a VM; None: nothing."""
        if probes is None:
            self._execute_statement("DELETE FROM activations WHERE vm=?", (vm,))
        else:
            self._execute_statement(
                "INSERT OR REPLACE INTO activations (vm, probes) VALUES (?,?)",
                (vm, json.dumps(list(probes))),
            )

    def set_deactivation(self, vm: str, deactivated: bool) -> None:
        """Whether the operator wants a VM left alone. It ends what was activated there."""
        if not deactivated:
            self._execute_statement("DELETE FROM deactivations WHERE vm=?", (vm,))
            return
        try:
            with self._begin_transaction():
                self._db.execute("INSERT OR REPLACE INTO deactivations (vm) VALUES (?)", (vm,))
                self._db.execute("DELETE FROM activations WHERE vm=?", (vm,))
        except sqlite3.Error as error:
            raise self._make_error("write", error) from error

    # ------------------------------------------------------------ reading

    def read_remembered(self, boot_id: str, told_since: float) -> Remembered:
        """Begin a boot of the host, or go on in one; return all that a daemon goes on with.

        :param told_since: s, CLOCK_REALTIME: see :meth:`told_since`.
        """
        self.begin_boot(boot_id, time.time())
        event_id, fault_id = self.last_ids()
        return Remembered(
            last_event_id=event_id,
            last_fault_id=fault_id,
            records=self.open_instances(),
            faults=self.open_faults(),
            stopped_for=self.stopped_for(),
            told=self.told_since(told_since),
            boots=self.read_boots(),
            wanted_last=self.wanted_last(),
            activations=self.read_activations(),
            deactivations=self.read_deactivations(),
        )

    def last_ids(self) -> tuple[int, int]:
        """The highest id of an event and of a fault; 0 if there is none."""
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
        """Events by id.

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
            f"SELECT {_COLUMNS['events']} FROM events WHERE {condition} ORDER BY id LIMIT ?",
            (*parameters, limit),
        )
        return _events_of_rows(rows)

    def events_before(self, fault: Fault, seconds: float, limit: int) -> list[Event]:
        """The last events of a fault's VM up to its own, oldest first.

        :param seconds: before the fault; what is older is left out.
        """
        last = fault.event.get("id")
        bound, until = (
            ("id", last) if last is not None else ("received", fault.seen + OWN_EVENT_AGE_S)
        )
        rows = self._query_rows(
            f"SELECT {_COLUMNS['events']} FROM events"
            f" WHERE vm = ? AND domid = ? AND {bound} <= ? AND received >= ?"
            " ORDER BY id DESC LIMIT ?",
            (fault.vm, fault.domid, until, fault.seen - seconds, limit),
        )
        return _events_of_rows(reversed(rows))

    def nth_newest(self, vm: str | None, n: int) -> int | None:
        """Id of the first of the last ``n`` events; None: there are none."""
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
        """The latest faults, oldest first."""
        condition = "1"
        parameters: list[object] = []
        for column, value in (("vm", vm), ("resource", resource)):
            if value is not None:
                condition += f" AND {column} = ?"
                parameters.append(value)
        rows = self._query_rows(
            f"SELECT {_COLUMNS['faults']} FROM faults WHERE {condition} ORDER BY id DESC LIMIT ?",
            (*parameters, limit),
        )
        return _faults_of_rows(reversed(rows))

    def read_fault(self, fault_id: int) -> Fault | None:
        """One fault."""
        query = f"SELECT {_COLUMNS['faults']} FROM faults WHERE id = ?"
        found = _faults_of_rows(self._query_rows(query, (fault_id,)))
        return found[0] if found else None

    def last_words(self, vm: str, domid: int, since: float) -> list[tuple[float, CrashLog]]:
        """What the kernel of one life of a VM has left, oldest first.

        :param since: s, CLOCK_REALTIME: a domain id comes back after a boot of the host.
        :returns: when it was received, and what it is.
        """
        rows = self._query_rows(
            "SELECT received, kind, message, stack, log, complete FROM last_words"
            " WHERE vm = ? AND domid = ? AND received >= ? ORDER BY event",
            (vm, domid, since),
        )
        return [(r[0], CrashLog(r[1], r[2], r[3], r[4], bool(r[5]))) for r in rows]

    def told_since(self, since: float) -> list[tuple[str, float]]:
        """VMs of which faults were told, and when, oldest first; ends of domains are not counted.

        :param since: s, CLOCK_REALTIME.
        """
        return self._query_rows(
            "SELECT vm, told FROM faults WHERE told >= ? AND rule != ? ORDER BY told",
            (since, END_RULE),
        )

    def has_reported(self, vm: str, seen: float, instance: str) -> bool:
        """Whether a fault that has come with its VM is over or known here.

        It was told, or cleared by an operator, or it is that instance's already.

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
        """The boot of the guest's core that was read last, by (UUID, domain id)."""
        rows = self._query_rows("SELECT DISTINCT uuid, domid, boot_id FROM positions")
        return {(r[0], r[1]): int(r[2]) for r in rows}

    def open_faults(self) -> list[Fault]:
        """Faults that have not ended."""
        query = f"SELECT {_COLUMNS['faults']} FROM faults WHERE ended IS NULL ORDER BY id"
        return _faults_of_rows(self._query_rows(query))

    def stopped_for(self) -> list[Fault]:
        """Faults with which the last instance of a resource was stopped, in this boot of the host.

        The domain may still be there: the stop may have died before it was carried through.
        """
        return _faults_of_rows(
            self._query_rows(
                f"SELECT {_COLUMNS['faults']} FROM faults AS f"
                " WHERE id > (SELECT last_fault FROM host)"
                " AND ended_by = 'stop' AND instance = (SELECT id FROM instances"
                " WHERE resource = f.resource ORDER BY started DESC LIMIT 1) ORDER BY id"
            )
        )

    def open_instances(self) -> list[ActivationRecord]:
        """Instances that have not ended."""
        rows = self._query_rows(
            f"SELECT {_COLUMNS['instances']} FROM instances WHERE ended IS NULL ORDER BY started"
        )
        return [
            ActivationRecord(
                id=r[0], resource=r[1], vm=r[2], uuid=r[3], domid=r[4], started=r[5],
                probes=tuple(json.loads(r[6])), services=tuple(json.loads(r[7])),
                monitored=bool(r[8]), ended=r[9], hang_timeout=r[10],
                pause_timeout=r[11], transport=r[12], fault_on=r[13], boot_timeout=r[14],
            )
            for r in rows
        ]  # fmt: skip

    def wanted_last(self) -> list[tuple[str, tuple[str, ...]]]:
        """VMs that resources have had on this host, and the probes wanted there last."""
        # Of max() SQLite takes the other columns from the same row.
        rows = self._query_rows("SELECT vm, probes, max(started) FROM instances GROUP BY vm")
        return [(vm, tuple(json.loads(probes))) for vm, probes, _ in rows]

    def read_positions(self, uuid: str, domid: int) -> dict[Position, int]:
        """Where an earlier daemon stopped reading a domain's buffers."""
        rows = self._query_rows(
            "SELECT boot_id, probe, generation, cpu, next_seq FROM positions"
            " WHERE uuid=? AND domid=?",
            (uuid, domid),
        )
        return {Position(int(r[0]), r[1], r[2], r[3]): int(r[4]) for r in rows}

    def read_deactivations(self) -> set[str]:
        """VMs that the operator wants left alone."""
        return {vm for (vm,) in self._query_rows("SELECT vm FROM deactivations")}

    def read_activations(self) -> dict[str, tuple[str, ...]]:
        """VMs that the operator activated, and the probes wanted there."""
        rows = self._query_rows("SELECT vm, probes FROM activations")
        return {vm: tuple(json.loads(probes)) for vm, probes in rows}

    # ------------------------------------------------------------ file

    def _open_database(self) -> sqlite3.Connection:
        self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        # SQLite gives its -wal and -shm the mode of the file itself.
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self.path.chmod(0o600)
        db = sqlite3.connect(self.path, timeout=2.0, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=NORMAL")
            db.execute(f"PRAGMA journal_size_limit={MAX_LOG_BYTES}")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if not 0 <= version <= SCHEMA_VERSION:
                self._accept_newer(db, version)
            if version and (found := db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise sqlite3.DatabaseError(found)
            if version < SCHEMA_VERSION:
                steps = "".join(_STEPS[version:])
                db.executescript(f"BEGIN;{steps}PRAGMA user_version={SCHEMA_VERSION};COMMIT")
        except BaseException:
            db.close()
            raise
        return db

    def _accept_newer(self, db: sqlite3.Connection, version: int) -> None:
        """Use what a newer vesperd has begun, as far as this one knows it.

        :raises JournalError: that cannot be: it is built differently.
        """
        what = f"{self.path}: schema version {version}, this vesperd knows {SCHEMA_VERSION}"
        with contextlib.closing(sqlite3.connect(":memory:")) as own:
            own.executescript("".join(_STEPS))
            tables = [name for (name,) in own.execute("SELECT name FROM sqlite_schema"
                                                      " WHERE type = 'table'")]  # fmt: skip
            for table in tables:
                known, there = _table_columns(own, table), _table_columns(db, table)
                unknown = [there[name] for name in there.keys() - known.keys()]
                # We would leave those empty.
                if not known.keys() <= there.keys() or not all(unknown):
                    raise JournalError(f"{what}; its table {table} is another one")
        _log.warning("%s: it is used as far as this vesperd knows it", what)

    def _set_aside(self, why: Exception) -> None:
        aside = self._free_name()
        _log.error(
            "%s: the journal cannot be used (%s); it is kept as %s and a new one begun. "
            "Earlier events and faults do not show any more; guests are read on from now",
            self.path, why, aside,
        )  # fmt: skip
        try:
            # Its last transactions may be in the second one.
            for suffix in ("-wal", "-shm", ""):
                part = self.path.with_name(self.path.name + suffix)
                if part.exists():
                    part.replace(aside.with_name(aside.name + suffix))
        except OSError as error:
            raise JournalError(f"{self.path}: cannot set it aside: {error}") from error

    def _free_name(self) -> Path:
        """None of an earlier one's."""
        for number in range(1, MAX_JOURNALS_ASIDE):
            aside = self.path.with_name(f"{self.path.name}.unusable{number}")
            if not aside.exists():
                return aside
        raise JournalError(
            f"{self.path}: cannot set it aside: {aside} is there, too; look at the disk, and "
            "remove them"
        )

    def _make_error(self, what: str, error: sqlite3.Error) -> JournalError:
        # A full disk, one that cannot be written, a lock: these are no damage.
        damaged = type(error) is sqlite3.DatabaseError
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _STALE:
            self.is_stale = True
        kind = JournalDamagedError if damaged else JournalError
        return kind(f"{self.path}: cannot {what}: {error}")

    def _begin_transaction(self) -> _Transaction:
        return _Transaction(self._db)

    def _execute_statement(self, statement: str, parameters: tuple[object, ...]) -> None:
        try:
            self._db.execute(statement, parameters)
        except sqlite3.Error as error:
            raise self._make_error("write", error) from error

    def _query_rows(self, statement: str, parameters: tuple[object, ...] = ()) -> list[Any]:
        try:
            return self._db.execute(statement, parameters).fetchall()
        except sqlite3.Error as error:
            raise self._make_error("read", error) from error


@functools.cache
def _insert_statement(table: str, columns: int, rows: int) -> str:
    row = f"({','.join('?' * columns)})"
    return f"INSERT OR REPLACE INTO {table} ({_COLUMNS[table]}) VALUES {','.join([row] * rows)}"


def _table_columns(db: sqlite3.Connection, table: str) -> dict[str, bool]:
    """Columns of a table by name, and whether each may be left out of a row."""
    return {
        name: not_null == 0 or default is not None
        for _, name, _type, not_null, default, _key in db.execute(f"PRAGMA table_info({table})")
    }


def _events_of_rows(rows: Iterable[Any]) -> list[Event]:
    return [
        Event(
            id=r[0], vm=r[1], domid=r[2], probe=r[3], event=r[4], cpu=r[5], seq=int(r[6]),
            guest_ns=r[7], received=r[8], fields=json.loads(r[9]), text=r[10],
        )
        for r in rows
    ]  # fmt: skip


def _faults_of_rows(rows: Iterable[Any]) -> list[Fault]:
    return [
        Fault(
            id=r[0], resource=r[1], vm=r[2], uuid=r[3], domid=r[4], instance=r[5], scope=r[6],
            rule=r[7], reason=r[8], event=json.loads(r[9]), seen=r[10], told=r[11], ended=r[12],
            ended_by=r[13],
        )
        for r in rows
    ]  # fmt: skip


class _Transaction:
    """BEGIN .. COMMIT, or ROLLBACK if anything was raised."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            try:
                self._db.execute("COMMIT")
                return
            except sqlite3.Error:
                self._roll_back()
                raise
        self._roll_back()

    def _roll_back(self) -> None:
        # A full disk has SQLite roll back by itself.
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
