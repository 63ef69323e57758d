# SPDX-License-Identifier: GPL-2.0-or-later
"""A second connection to the journal, which only reads, in a thread of its own.

What the group of readers asks for is read here: the connection that writes
faults never waits for it.  A read ends with its call, so that none keeps
SQLite from emptying its write-ahead log.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from vesper_monitor.faults.journal import Journal, JournalError

__all__ = ["JournalReader"]

_T = TypeVar("_T")

#: s that a read waits for a lock, at a checkpoint that empties the log.
LOCK_LIMIT_S = 2.0


class _Readable(Journal):
    """A journal that is open for reading."""

    def __init__(self, path: Path) -> None:
        """:raises JournalError: it cannot be read."""
        self.path = path
        try:
            self.inode = os.stat(path).st_ino
            self._db = sqlite3.connect(
                f"file:{quote(str(path))}?mode=ro", uri=True, timeout=LOCK_LIMIT_S,
                isolation_level=None, check_same_thread=False,
            )  # fmt: skip
        except (OSError, sqlite3.Error) as error:
            raise JournalError(f"{path}: cannot open the journal: {error}") from error


class JournalReader:
    """
    :param path: of the journal that another connection writes, and may put anew.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._journal: _Readable | None = None
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    async def run(
        self, function: Callable[[Journal], _T], count: Callable[[float], None] | None = None
    ) -> _T:
        """Run a function on the journal, and return what it does.

        :param count: is told what CPU time it took, in s.
        :raises JournalError:
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[_T] = loop.create_future()

        def give(result: Any, error: Exception | None, taken: float) -> None:
            if count is not None:
                count(taken)
            if done.done():
                return
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(result)

        def work() -> None:
            result, failed = None, None
            began = time.thread_time()
            try:
                result = function(self._opened())
            except Exception as error:
                self._close()
                failed = error
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(give, result, failed, time.thread_time() - began)

        if self._thread is None:
            # Not of a pool, which waits at vesperd's end for a disk that hangs.
            self._thread = threading.Thread(target=self._serve, name="readers", daemon=True)
            self._thread.start()
        self._work.put(work)
        return await done

    def close(self) -> None:
        """End the thread, as soon as its disk lets it."""
        self._work.put(None)

    def _serve(self) -> None:
        while (work := self._work.get()) is not None:
            work()
        self._close()

    def _opened(self) -> Journal:
        if self._journal is not None and not self._is_current(self._journal):
            self._close()
        if self._journal is None:
            self._journal = _Readable(self._path)
        return self._journal

    def _is_current(self, journal: _Readable) -> bool:
        """Whether no other file was put in its place: a damaged one is set aside."""
        try:
            return os.stat(self._path).st_ino == journal.inode
        except OSError:
            return False

    def _close(self) -> None:
        if self._journal is not None:
            self._journal.close()
            self._journal = None
