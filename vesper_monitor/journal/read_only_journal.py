# SPDX-License-Identifier: GPL-2.0-or-later
"""A second connection to the journal, which only reads.

It serves the group of readers, so the connection that writes faults never waits for them.
Each read ends with its call, so none keeps SQLite from emptying its write-ahead log.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from urllib.parse import quote

from vesper_monitor.journal.queries import JournalQueries
from vesper_monitor.journal.schema import JournalError

__all__ = ["ReadOnlyJournal"]

#: s that a read waits for a lock, at a checkpoint that empties the log.
LOCK_LIMIT_S = 2.0


class ReadOnlyJournal(JournalQueries):
    """A journal that is open for reading."""

    def __init__(self, path: Path) -> None:
        """Open the journal. :raises JournalError: it cannot be read."""
        self.path = path
        try:
            self._inode = os.stat(path).st_ino
            self._db = sqlite3.connect(
                f"file:{quote(str(path))}?mode=ro", uri=True, timeout=LOCK_LIMIT_S,
                isolation_level=None,
            )  # fmt: skip
        except (OSError, sqlite3.Error) as error:
            raise JournalError(f"{path}: cannot open the journal: {error}") from error

    def was_replaced(self) -> bool:
        """Tell whether another file is in its place: a damaged one is set aside."""
        try:
            return os.stat(self.path).st_ino != self._inode
        except OSError:
            return True
