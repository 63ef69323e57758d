# SPDX-License-Identifier: GPL-2.0-or-later
"""The journal's own thread: keeps the order, and keeps a slow disk off the loop.

What was given first of a VM is written first, and a read sees every write
before it.  Batches that pile up while the disk is busy are written together,
the VMs in turn: what one says without end is not before another one's fault.

A journal that cannot be written stops nothing: the error is logged once and
shown by ``vesper status``, faults stay in memory and are told all the same,
and are written when the journal works again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from vesper_monitor.faults.journal import Batch, Journal, JournalDamaged, JournalError

__all__ = ["Recorder"]

_log = logging.getLogger(__name__)

_T = TypeVar("_T")

#: Unwritten events that are kept while the journal fails; older ones are dropped.
MAX_UNWRITTEN_EVENTS = 5000
#: Events in one transaction: what another VM says meanwhile waits for its end.
MAX_TOGETHER = 128
#: s between two transactions, but for what somebody waits for: a fault, a read.
#: Many events make few of them: each costs more than what is in it.
GATHER = 0.003
#: s until what was written is also on the disk: the failover that it has begun
#: needs disk and CPU more than the history does, and many faults share one sync.
SYNC_AFTER = 0.1
#: s between two tries to open or write a journal that failed.
RETRY = 5.0


class Recorder:
    """
    :param open_journal: called in the thread, again after it raised
        :class:`JournalError`.
    """

    def __init__(self, open_journal: Callable[[], Journal]) -> None:
        self._open = open_journal
        self._journal: Journal | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        #: by VM, in their turn; none is empty
        self._queues: dict[str, deque[tuple[Batch, Callable[[], None] | None]]] = {}
        self._writer: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()  # somebody waits for what is in the queue
        self._wrote = 0.0  # by the loop's clock
        self._unwritten = Batch()
        self._dropped = 0
        self._retry: asyncio.TimerHandle | None = None
        self._syncer: asyncio.Task[None] | None = None
        #: why the journal cannot be used now; None: it can
        self.error: str | None = None

    def put(self, vm: str, batch: Batch, then: Callable[[], None] | None = None) -> None:
        """Write a batch; then call ``then`` on the loop, in the order of this VM's puts.

        It is called when the batch is in the journal, or could not be written.
        """
        self._queues.setdefault(vm, deque()).append((batch, then))
        if batch.durable:
            self._hurry.set()
        if self._writer is None:
            self._writer = asyncio.get_running_loop().create_task(self._write_queue())

    async def run(self, function: Callable[[Journal], _T]) -> _T:
        """Run a function on the journal, after all that was put before.

        :raises JournalError:
        """
        await self.flush()
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, lambda: function(self._opened()))
        except JournalDamaged:
            await loop.run_in_executor(self._thread, self._close)  # the next one sets it aside
            raise

    async def flush(self) -> None:
        """Return when everything put so far has been tried."""
        if self._writer is not None:
            self._hurry.set()
            await asyncio.shield(self._writer)

    async def close(self) -> None:
        await self.flush()
        if self._retry is not None:
            self._retry.cancel()
        if self.error is not None:
            await self._write(Batch())  # a last try
        if self._syncer is not None:
            self._syncer.cancel()
            await self._sync()
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._close)
        self._thread.shutdown()

    async def _write_queue(self) -> None:
        try:
            while self._queues:
                await self._gather()
                together, callbacks = Batch(), []
                while self._queues and len(together.events) < MAX_TOGETHER:
                    batch, then = self._next()
                    together.merge(batch)
                    callbacks.append(then)
                await self._write(together)
                for then in callbacks:
                    if then is not None:
                        _call(then)
        finally:
            self._writer = None

    def _next(self) -> tuple[Batch, Callable[[], None] | None]:
        """The oldest batch of the VM whose turn it is."""
        vm = next(iter(self._queues))
        queue = self._queues.pop(vm)
        found = queue.popleft()
        if queue:
            self._queues[vm] = queue
        return found

    async def _gather(self) -> None:
        """Let more come, if a transaction was made just now and nobody waits."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(self._wrote + GATHER):
                await self._hurry.wait()
        except TimeoutError:
            pass
        self._hurry.clear()
        self._wrote = loop.time()

    async def _write(self, batch: Batch) -> None:
        self._unwritten.merge(batch)
        pending = self._unwritten
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._thread, lambda: self._opened().write(pending))
        except JournalError as error:
            if isinstance(error, JournalDamaged):
                await loop.run_in_executor(self._thread, self._close)
            self._failed(str(error))
            return
        self._unwritten = Batch()
        if pending.durable and self._syncer is None:
            self._syncer = loop.create_task(self._sync_later())
        if self.error is not None:
            _log.warning(
                "the journal works again: what was kept in memory is written, %d events are not",
                self._dropped,
            )
            self.error, self._dropped = None, 0

    async def _sync_later(self) -> None:
        await asyncio.sleep(SYNC_AFTER)
        self._syncer = None  # what is written from now on is for the next
        await self._sync()

    async def _sync(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._thread, lambda: self._opened().sync())
        except JournalError as error:
            self._failed(str(error))

    def _failed(self, error: str) -> None:
        if self.error is None:
            _log.error("%s; faults are kept in memory and told all the same", error)
        self.error = error
        unwritten = self._unwritten
        excess = len(unwritten.events) - MAX_UNWRITTEN_EVENTS
        if excess > 0:
            del unwritten.events[:excess]
            self._dropped += excess
        # Of each fault and instance the last word is enough.
        unwritten.faults = list({fault.id: fault for fault in unwritten.faults}.values())
        unwritten.instances = list({i.id: i for i in unwritten.instances}.values())
        if self._retry is None:
            self._retry = asyncio.get_running_loop().call_later(RETRY, self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        self.put("", Batch())

    def _opened(self) -> Journal:
        if self._journal is None:
            self._journal = self._open()
        return self._journal

    def _close(self) -> None:
        if self._journal is not None:
            self._journal.close()
            self._journal = None


def _call(then: Callable[[], None]) -> None:
    try:
        then()
    except Exception:
        _log.exception("internal error after a write to the journal")
