# SPDX-License-Identifier: GPL-2.0-or-later
"""The journal's tables, and how those of an earlier version become the present ones.

Numbers of the guest have 64 bits without a sign.  SQLite has none of those, so such
columns are TEXT.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from pathlib import Path

from vesper_monitor.util.errors import VesperError

__all__ = [
    "COLUMNS",
    "MAX_LOG_BYTES",
    "SCHEMA_VERSION",
    "STEPS",
    "JournalDamagedError",
    "JournalError",
    "open_database",
]

_log = logging.getLogger(__name__)

SCHEMA_VERSION = 8

#: Bytes of the write-ahead log.  A reader that never ends keeps SQLite from emptying it:
#: then nothing more is written until that reader is gone.
MAX_LOG_BYTES = 64 << 20
#: s that a statement waits for another connection's lock.
LOCK_LIMIT_S = 2.0

_FIRST_SCHEMA = """
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
_CRASH_LOGS = """
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
#: Each turns one schema version into the next; the first one begins with an empty file.
STEPS = (
    _FIRST_SCHEMA, _CRASH_LOGS, _HANG_TIMEOUT, _TRANSPORT, _FAULT_ON, _LAST_FAULT, _BOOT_TIMEOUT,
    _DEACTIVATIONS,
)  # fmt: skip
assert len(STEPS) == SCHEMA_VERSION

#: Columns by name: a journal of a newer vesperd may have more.
COLUMNS = {
    "events": "id, vm, domid, probe, event, cpu, seq, guest_ns, received, fields, text",
    "faults": "id, resource, vm, uuid, domid, instance, scope, rule, reason, event, seen, told,"
    " ended, ended_by",
    "instances": "id, resource, vm, uuid, domid, started, probes, services, monitored, ended,"
    " hang_timeout, pause_timeout, transport, fault_on, boot_timeout",
    "positions": "uuid, domid, boot_id, probe, generation, cpu, next_seq",
    "last_words": "event, vm, domid, received, kind, message, stack, log, complete",
}


class JournalError(VesperError):
    """The journal could not be read or written; the text names the file."""


class JournalDamagedError(JournalError):
    """The file is no journal any more. Open it again, which sets it aside."""


def open_database(path: Path) -> sqlite3.Connection:
    """Open a journal's file for reading and writing, and give it the present schema.

    The file is made if it does not exist, for root alone.

    :raises sqlite3.Error: it cannot be opened, or is damaged.
    :raises JournalError: it has tables that this vesperd does not know.
    :raises OSError: the file cannot be made.
    """
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    # SQLite gives its -wal and -shm the mode of the file itself.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    path.chmod(0o600)
    db = sqlite3.connect(
        path, timeout=LOCK_LIMIT_S, isolation_level=None, check_same_thread=False
    )
    try:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        db.execute(f"PRAGMA journal_size_limit={MAX_LOG_BYTES}")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if not 0 <= version <= SCHEMA_VERSION:
            _accept_newer(db, path, version)
        if version and (found := db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise sqlite3.DatabaseError(found)
        if version < SCHEMA_VERSION:
            steps = "".join(STEPS[version:])
            db.executescript(f"BEGIN;{steps}PRAGMA user_version={SCHEMA_VERSION};COMMIT")
    except BaseException:
        db.close()
        raise
    return db


def _accept_newer(db: sqlite3.Connection, path: Path, version: int) -> None:
    """Use the journal of a newer vesperd, as far as this one knows it.

    :raises JournalError: its tables are built differently.
    """
    what = f"{path}: schema version {version}, this vesperd knows {SCHEMA_VERSION}"
    with contextlib.closing(sqlite3.connect(":memory:")) as own:
        own.executescript("".join(STEPS))
        tables = [name for (name,) in own.execute("SELECT name FROM sqlite_schema"
                                                  " WHERE type = 'table'")]  # fmt: skip
        for table in tables:
            known, there = _read_table_columns(own, table), _read_table_columns(db, table)
            unknown = [there[name] for name in there.keys() - known.keys()]
            # This vesperd would leave those empty.
            if not known.keys() <= there.keys() or not all(unknown):
                raise JournalError(f"{what}; its table {table} is another one")
    _log.warning("%s: it is used as far as this vesperd knows it", what)


def _read_table_columns(db: sqlite3.Connection, table: str) -> dict[str, bool]:
    """Return a table's columns by name, and whether a row may leave each out."""
    return {
        name: not_null == 0 or default is not None
        for _, name, _type, not_null, default, _key in db.execute(f"PRAGMA table_info({table})")
    }
