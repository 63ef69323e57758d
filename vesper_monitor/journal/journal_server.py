# SPDX-License-Identifier: GPL-2.0-or-later
"""The child of vesperd that has the journal open, and serves vesperd's requests.

Each message is its length and a pickle: a method of
:class:`vesper_monitor.journal.journal.Journal` with its arguments, and what it
returned or raised, with the CPU time that it took (s).  There is nothing here that a
start would wait for:
vesperd's other end is :mod:`vesper_monitor.journal.journal_process`.
"""

from __future__ import annotations

import ctypes
import fcntl
import logging
import os
import pickle
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vesper_monitor.journal.journal import Journal
from vesper_monitor.journal.queries import JournalQueries
from vesper_monitor.journal.read_only_journal import ReadOnlyJournal
from vesper_monitor.journal.schema import JournalDamagedError, JournalError
from vesper_monitor.util import logs, state_file

__all__ = ["CLOSE", "LENGTH", "READS_AND_WRITES", "READS_ONLY", "main"]

_log = logging.getLogger(__name__)

#: What the child may do to the journal.
READS_ONLY = "reads-only"
READS_AND_WRITES = "reads-and-writes"
#: Of a message, before it.
LENGTH = struct.Struct("<I")
#: In place of a method of the journal.
CLOSE = "close"
#: In place of one, too: files beside the journal, on the same disk.
STATE_FILES: dict[str, Callable[..., Any]] = {
    "read_state": state_file.read_state,
    "write_state": state_file.write_state,
}
_PR_SET_PDEATHSIG = 1
#: s for an earlier vesperd's child to end, which dies with its parent.
LOCK_WAIT_S = 2.0
#: s between two looks at that lock.
LOCK_POLL_S = 0.02


class _Server:
    """The child: the journal, opened when it is needed."""

    def __init__(
        self, open_journal: Callable[[], Journal], path: Path, reads_only: bool
    ) -> None:
        self._open_journal = open_journal
        self._reads_only = reads_only
        self._path = path
        self._journal: JournalQueries | None = None
        self._lock: int | None = None

    def serve_requests(self, connection: socket.socket) -> None:
        """Answer until the other end closes, or asks to close the journal."""
        stream = connection.makefile("rb")
        while len(head := stream.read(LENGTH.size)) == LENGTH.size:
            method, args, kwargs = pickle.loads(stream.read(*LENGTH.unpack(head)))
            began = time.process_time()
            value = self._do_request(method, args, kwargs)
            done = value, time.process_time() - began
            answer = pickle.dumps(done, pickle.HIGHEST_PROTOCOL)
            connection.sendall(LENGTH.pack(len(answer)) + answer)
            if method == CLOSE:
                return

    def _do_request(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return what a request returns or raises."""
        try:
            if method == CLOSE:
                return self._close_journal()
            if method in STATE_FILES:
                return STATE_FILES[method](*args)
            return getattr(self._open_if_needed(), method)(*args, **kwargs)
        except JournalDamagedError as error:
            self._close_journal()  # the next one sets it aside
            return JournalDamagedError(str(error))
        except JournalError as error:
            return JournalError(str(error))
        except OSError as error:  # of a file of state; the journal's are errors of the journal
            return error
        except Exception as error:
            _log.exception("internal error in the journal's process")
            return JournalError(f"{self._path}: internal error: {type(error).__name__}: {error}")

    def _open_if_needed(self) -> JournalQueries:
        if self._journal is not None and self._is_outdated(self._journal):
            self._close_journal()
        if self._journal is None and self._reads_only:
            self._journal = ReadOnlyJournal(self._path)
        elif self._journal is None:
            self._take_lock()
            self._journal = self._open_journal()
            self._take_lock()  # of another file, if that was set aside
        return self._journal

    def _is_outdated(self, journal: JournalQueries) -> bool:
        return journal.is_stale or (
            isinstance(journal, ReadOnlyJournal) and journal.was_replaced()
        )

    def _take_lock(self) -> None:
        """Let no other vesperd use the file.

        A child of one that was killed may still finish what it does.  Who has
        read the journal before that would read its guests' records again.
        """
        try:
            self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            if self._lock is not None and os.path.samestat(
                os.fstat(self._lock), os.stat(self._path)
            ):
                return
            lock = os.open(self._path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise JournalError(f"{self._path}: cannot open the journal: {error}") from error
        end = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if time.monotonic() > end:
                    os.close(lock)
                    raise JournalError(
                        f"{self._path}: another vesperd uses the journal: {error}"
                    ) from None
            time.sleep(LOCK_POLL_S)
        # Not closed while the journal is open: with any descriptor of a file SQLite's own
        # locks of it would go.
        if self._lock is not None:
            os.close(self._lock)
        self._lock = lock

    def _close_journal(self) -> None:
        if self._journal is not None:
            self._journal.close()
            self._journal = None


def main(arguments: list[str]) -> None:
    """Serve vesperd until it ends, or asks to close the journal."""
    descriptor, parent, mode, path, keep_events, keep_faults, log_level = arguments
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):
        return
    # Its parent decides when it ends, even if a terminal or systemd signals both.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    logs.set_up_logging(log_level)
    journal = Path(path)
    server = _Server(
        lambda: Journal(journal, keep_events=int(keep_events), keep_faults=int(keep_faults)),
        journal,
        mode == READS_ONLY,
    )
    with socket.socket(fileno=int(descriptor)) as connection:
        try:
            server.serve_requests(connection)
        except ConnectionError:
            pass  # it has died


if __name__ == "__main__":
    main(sys.argv[1:])
