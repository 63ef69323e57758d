# SPDX-License-Identifier: GPL-2.0-or-later
"""The journal in a process of its own, since its disk may hang.

A thread that waits for a hung disk cannot be ended, and keeps its process from ending.
So vesperd has a child (:mod:`vesper_monitor.journal.journal_server`), which opens the
journal.  It serves one request after the other, over a socket that both inherit, and
ends with vesperd.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import socket
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import Any, Protocol

from vesper_monitor.journal.journal_server import CLOSE, LENGTH, READS_AND_WRITES, READS_ONLY
from vesper_monitor.journal.schema import JournalError

__all__ = ["JournalProcess", "JournalWorker"]

_log = logging.getLogger(__name__)

#: The child.
SERVER_MODULE = "vesper_monitor.journal.journal_server"
#: s for a file beside the journal to be written, and between two tries to read it.
STATE_LIMIT_S = 3.0
STATE_RETRY_S = 1.0
#: Questions that wait for a child.  Who has asked may be gone, and ask again without end.
MAX_UNANSWERED = 1000


class JournalWorker(Protocol):
    """Calls methods of the journal, one after the other."""

    async def call_journal(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the journal. :raises JournalError:"""

    async def close(self) -> None:
        """Close the journal, after the calls made before."""

    def kill_worker(self) -> None:
        """End it at once."""


class JournalProcess:
    """The child, as vesperd sees it; the first call begins it, and begins it anew if it died."""

    def __init__(
        self, path: Path, *, keep_events: int, keep_faults: int, log_level: str = "info",
        mode: str = READS_AND_WRITES,
    ) -> None:  # fmt: skip
        self._path = path
        self._arguments = [mode, str(path), str(keep_events), str(keep_faults), log_level]
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: _Pipe | None = None
        self._beginning = asyncio.Lock()

    @classmethod
    def for_reading(cls, path: Path, log_level: str = "info") -> JournalProcess:
        """Return another child, which only reads what the first one writes."""
        return cls(path, keep_events=0, keep_faults=0, log_level=log_level, mode=READS_ONLY)

    async def call_journal(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the journal. :raises JournalError:"""
        return (await self.call_measured(method, *args, **kwargs))[0]

    async def call_measured(self, method: str, *args: Any, **kwargs: Any) -> tuple[Any, float]:
        """Call a method of the journal, and return the CPU seconds that it took, too.

        :raises JournalError:
        """
        async with self._beginning:  # one child, even if two ask at once
            if self._pipe is None or self._pipe.ended:
                await self._begin_process()
        assert self._pipe is not None
        answer = self._pipe.send_question(
            pickle.dumps((method, args, kwargs), pickle.HIGHEST_PROTOCOL)
        )
        value, cpu_s = pickle.loads(await answer)
        if isinstance(value, Exception):
            raise value
        return value, cpu_s

    async def read_state(self, path: Path) -> str:
        """Read a file beside the journal, however long that takes. :raises OSError:"""
        while True:
            try:
                text: str = await self.call_journal("read_state", path)
                return text
            except JournalError as error:  # the child has died
                _log.error("%s: %s", path, error)
                await asyncio.sleep(STATE_RETRY_S)

    async def write_state(self, path: Path, value: object) -> None:
        """Write a file beside the journal.

        :raises OSError: it is as it was, or it is not known whether the disk will write it.
        """
        try:
            async with asyncio.timeout(STATE_LIMIT_S):
                await self.call_journal("write_state", path, value)
        except TimeoutError:
            raise OSError(f"{path}: the disk does not answer") from None
        except JournalError as error:
            raise OSError(f"{path}: {error}") from error

    async def close(self) -> None:
        """Close the journal, when all that was asked for is done."""
        if self._pipe is not None and not self._pipe.ended:
            await self.call_journal(CLOSE)
        self.kill_worker()

    def kill_worker(self) -> None:
        """End it. A disk that hangs may keep it until it answers."""
        if self._pipe is not None:
            self._pipe.close()
        if self._process is not None:
            self._process.kill()
            self._process.poll()

    async def _begin_process(self) -> None:
        if self._process is not None:
            self.kill_worker()
        try:
            ours, theirs = socket.socketpair()
            try:
                with theirs:
                    self._process = self._start_process(theirs.fileno())
                loop = asyncio.get_running_loop()
                _, self._pipe = await loop.create_connection(lambda: _Pipe(self._path), sock=ours)
            except BaseException:
                ours.close()
                raise
        except OSError as error:  # no descriptor, no memory
            raise JournalError(f"{self._path}: cannot start its process: {error}") from error

    def _start_process(self, descriptor: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-SP", "-m", SERVER_MODULE, str(descriptor), str(os.getpid())]
        return subprocess.Popen(
            [*command, *self._arguments],
            pass_fds=(descriptor,),
            stdin=subprocess.DEVNULL,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path),
            },
        )


class _Pipe(asyncio.Protocol):
    """Our end of the socket: answers come in the order of the questions."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[asyncio.Future[bytes]] = deque()
        self._data = bytearray()
        self.ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def send_question(self, question: bytes) -> asyncio.Future[bytes]:
        """Send a message. :returns: the answer, some day; it may fail with JournalError."""
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        if self.ended or self._transport is None:
            answer.set_exception(self._ended_error())
            return answer
        if len(self._waiting) >= MAX_UNANSWERED:
            answer.set_exception(JournalError(f"{self._path}: the disk does not answer"))
            return answer
        self._waiting.append(answer)
        self._transport.write(LENGTH.pack(len(question)) + question)
        return answer

    def data_received(self, data: bytes) -> None:
        self._data += data
        while len(self._data) >= LENGTH.size:
            end = LENGTH.size + LENGTH.unpack_from(self._data)[0]
            if len(self._data) < end:
                break
            answer, said = self._waiting.popleft(), bytes(self._data[LENGTH.size : end])
            del self._data[:end]
            if not answer.done():  # its caller may have been cancelled
                answer.set_result(said)

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True
        while self._waiting:
            answer = self._waiting.popleft()
            if not answer.done():
                answer.set_exception(self._ended_error())
                answer.exception()  # its caller may have been cancelled

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _ended_error(self) -> JournalError:
        return JournalError(f"{self._path}: the journal's process has ended")
