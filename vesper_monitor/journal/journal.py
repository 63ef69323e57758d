# SPDX-License-Identifier: GPL-2.0-or-later
"""The durable journal: an SQLite file of events, faults, activations and positions.

It is synchronous, and used in a process of its own
(:mod:`vesper_monitor.journal.journal_process`).  Its tables are in schema.py, its rows
in rows.py, what is read of it in queries.py.

What a call writes is one transaction, and survives the death of vesperd (write-ahead
log, ``synchronous=NORMAL``).  Events are written together with the positions behind
them, so a vesperd that was killed reads no record twice and leaves none out.  Only
:meth:`Journal.sync_to_disk` makes a transaction survive a power failure as well.  No
monitor has to wait for that: a power failure ends the activation and its fault
(:meth:`Journal.begin_boot`).
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import struct
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from vesper_monitor.guest.event import CrashLog, Event
from vesper_monitor.guest.relay.positions import Position
from vesper_monitor.journal.batch import Batch
from vesper_monitor.journal.queries import JournalQueries, Remembered
from vesper_monitor.journal.rows import (
    Row,
    activation_to_row,
    crash_log_to_row,
    event_to_row,
    fault_to_row,
    insert_rows,
    position_to_row,
)
from vesper_monitor.journal.schema import (
    MAX_LOG_BYTES,
    JournalDamagedError,
    JournalError,
    open_database,
)

__all__ = ["KEEP_WORDS", "Batch", "Journal", "JournalDamagedError", "JournalError", "Remembered"]

_log = logging.getLogger(__name__)

#: Ended activations that are kept.
KEEP_ACTIVATIONS = 1000
#: Crash logs that are kept of one VM; each is up to 70 KB.
KEEP_WORDS = 20
#: Crash logs that are kept of all VMs together.
KEEP_WORDS_OF_ALL = 1000
#: Damaged journals that are kept; if there are more, the disk needs somebody.
MAX_JOURNALS_ASIDE = 100
#: Events written between two searches for rows that are too old.
TRIM_INTERVAL_EVENTS = 1000

#: Errors of a value, and not of the disk.
_UNREPRESENTABLE = (
    sqlite3.DataError, sqlite3.IntegrityError, sqlite3.InterfaceError, sqlite3.ProgrammingError,
    sqlite3.NotSupportedError, ValueError, TypeError, ArithmeticError, RecursionError,
    LookupError, AttributeError, struct.error,
)  # fmt: skip


class Journal(JournalQueries):
    """A journal that is open for reading and writing.

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
        #: as in the file, of the domains that were written since it was opened
        self._positions: dict[tuple[str, int], Mapping[Position, int]] = {}
        try:
            self._db = open_database(path)
        except sqlite3.OperationalError as error:  # full, read-only, locked: not its content
            raise JournalError(f"{path}: cannot open the journal: {error}") from error
        except (sqlite3.DatabaseError, JournalError) as error:
            self._set_aside(error)
            try:
                self._db = open_database(path)
            except sqlite3.Error as again:
                raise JournalError(f"{path}: cannot make a new journal: {again}") from again
        except OSError as error:
            raise JournalError(f"{path}: cannot open the journal: {error}") from error

    def close(self) -> None:
        try:
            super().close()
        except sqlite3.Error as error:  # of one that is damaged
            _log.warning("%s: closing it: %s", self.path, error)

    # ------------------------------------------------------------ writing

    def write_batch(self, batch: Batch) -> list[tuple[str, str]]:
        """Write a whole batch, or nothing of it.

        Only what SQLite cannot represent (an encoding, the size of a number) is left out.

        :returns: the VM of each part that was left out, and why.
        :raises JournalError: nothing was written.
        """
        self._limit_log()
        try:
            try:
                with self._begin_transaction():
                    self._write_batch(batch)
                return []
            except _UNREPRESENTABLE as error:
                _log.debug("%s: %s; writing each part by itself", self.path, error)
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
        insert_rows(self._db, "instances", [activation_to_row(one) for one in batch.instances])
        insert_rows(self._db, "faults", [fault_to_row(fault) for fault in batch.faults])

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
        """Empty the write-ahead log if it is too long. :raises JournalError: that failed."""
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
                f"{size >> 20} MiB; nothing is written until that process ends "
                f"(find it with: fuser -v {self.path})"
            )

    def sync_to_disk(self) -> None:
        """Return once the disk has all that was written.

        :raises JournalError:
        """
        try:
            # SQLite's checkpoint has synced what the log no longer has.
            log = os.open(f"{self.path}-wal", os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fdatasync(log)
            finally:
                os.close(log)
        except OSError as error:
            raise JournalError(f"{self.path}-wal: cannot sync: {error}") from error

    def _write_events(self, events: Sequence[Event]) -> None:
        insert_rows(self._db, "events", [event_to_row(event) for event in events])
        for event in events:
            if event.crash_log is not None:
                self._write_words(event, event.crash_log)
        self._since_trim += len(events)
        if self._since_trim >= TRIM_INTERVAL_EVENTS:
            self._trim_events()
            self._since_trim = 0

    def _write_words(self, event: Event, words: CrashLog) -> None:
        insert_rows(self._db, "last_words", [crash_log_to_row(event, words)])
        # By VM: one that never stops must not push out the others'.
        self._db.execute(
            "DELETE FROM last_words WHERE vm=? AND event NOT IN"
            " (SELECT event FROM last_words WHERE vm=? ORDER BY event DESC LIMIT ?)",
            (event.vm, event.vm, KEEP_WORDS),
        )

    def _write_positions(self, domains: Mapping[tuple[str, int], Mapping[Position, int]]) -> None:
        rows: list[Row] = []
        for (uuid, domid), positions in domains.items():
            before = self._positions.get((uuid, domid))
            if before is None:
                self._db.execute("DELETE FROM positions WHERE uuid=? AND domid=?", (uuid, domid))
                before = {}
            dropped = before.keys() - positions.keys()
            self._db.executemany(
                "DELETE FROM positions WHERE uuid=? AND domid=? AND boot_id=? AND probe=?"
                " AND generation=? AND cpu=?",
                [(uuid, domid, str(p.boot_id), p.probe, p.generation, p.cpu) for p in dropped],
            )
            rows += [
                position_to_row(uuid, domid, p, next_seq)
                for p, next_seq in positions.items()
                if before.get(p) != next_seq
            ]
            self._positions[uuid, domid] = positions
        insert_rows(self._db, "positions", rows)

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
        """Delete the positions of a domain that has ended."""
        self._positions.pop((uuid, domid), None)
        self._execute_statement("DELETE FROM positions WHERE uuid=? AND domid=?", (uuid, domid))

    def begin_boot(self, boot_id: str, now: float) -> None:
        """Note which boot of the host this is, and end what belongs to an earlier one.

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
        """Note which probes an operator wants in a VM; None: no longer any."""
        if probes is None:
            self._execute_statement("DELETE FROM activations WHERE vm=?", (vm,))
        else:
            self._execute_statement(
                "INSERT OR REPLACE INTO activations (vm, probes) VALUES (?,?)",
                (vm, json.dumps(list(probes))),
            )

    def set_deactivation(self, vm: str, deactivated: bool) -> None:
        """Note whether an operator wants a VM left alone. If so, its activation ends."""
        if not deactivated:
            self._execute_statement("DELETE FROM deactivations WHERE vm=?", (vm,))
            return
        try:
            with self._begin_transaction():
                self._db.execute("INSERT OR REPLACE INTO deactivations (vm) VALUES (?)", (vm,))
                self._db.execute("DELETE FROM activations WHERE vm=?", (vm,))
        except sqlite3.Error as error:
            raise self._make_error("write", error) from error

    def read_remembered(self, boot_id: str, told_since: float) -> Remembered:
        """Begin a boot of the host or go on in one, and return what vesperd goes on with.

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

    # ------------------------------------------------------------ file

    def _set_aside(self, why: Exception) -> None:
        aside = self._free_name()
        _log.error(
            "%s: the journal cannot be used (%s). It is kept as %s, and a new one is begun "
            "without the earlier events and faults. Guests are read from now on",
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
        """Return a name that no earlier damaged journal has."""
        for number in range(1, MAX_JOURNALS_ASIDE):
            aside = self.path.with_name(f"{self.path.name}.unusable{number}")
            if not aside.exists():
                return aside
        raise JournalError(
            f"{self.path}: cannot set it aside: {aside} exists, too; look at the disk, and "
            "remove the old ones"
        )

    def _begin_transaction(self) -> _Transaction:
        return _Transaction(self._db)

    def _execute_statement(self, statement: str, parameters: tuple[object, ...]) -> None:
        try:
            self._db.execute(statement, parameters)
        except sqlite3.Error as error:
            raise self._make_error("write", error) from error


class _Transaction:
    """A transaction: BEGIN, then COMMIT, or ROLLBACK if anything was raised."""

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
