# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes batches to the journal in order, and limits how long anybody waits for them.

The batches of one VM are written in their order.  Those that pile up while the disk is
busy are written together, one VM after the other, so that a VM's flood does not delay
another VM's fault.  A read comes after the batches put before it.

A batch's callback is called when it is written, or :data:`WAIT_S` later.  If the disk is
full, read-only, locked or hung, batches stay in memory until they are written; their
faults are told meanwhile.  A value that cannot be represented is left out, and logged
once for each VM.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import nullcontext, suppress
from functools import partial
from typing import Concatenate, ParamSpec, TypeVar

from vesper_monitor.journal.batch import Batch
from vesper_monitor.journal.journal import Journal
from vesper_monitor.journal.journal_process import JournalWorker
from vesper_monitor.journal.pending_batch import (
    PendingBatch,
    call_back,
    is_flood,
    wake_reader,
)
from vesper_monitor.journal.read_limit import limit_read
from vesper_monitor.journal.schema import JournalError

__all__ = ["WAIT_S", "JournalWriter"]

_log = logging.getLogger(__name__)

_P = ParamSpec("_P")
_T = TypeVar("_T")

#: s that a batch waits for the disk, until its faults are told without it.
WAIT_S = 0.5
#: s that a write takes, after which the disk may be hung.
DOUBT_S = 0.1
#: s to write the rest when vesperd ends.
CLOSE_LIMIT_S = 5.0
#: Events in one transaction: another VM's events wait for its end.
MAX_EVENTS_PER_TRANSACTION = 128
#: Unwritten events of one VM up to which a read that is not about this VM waits for them.
MAX_WAITED_EVENTS = 1000
#: s between two transactions, unless a fault or a read waits: a transaction costs more
#: than the events in it.
GATHER_S = 0.003
#: s until a written fault is synced to the disk: its failover needs disk and CPU more than
#: the history does, and many faults share one sync.
SYNC_AFTER_S = 0.1
#: s between two tries to write to a journal that failed, doubled from the first to the last.
RETRY_FIRST_S = 0.2
RETRY_LAST_S = 5.0
#: VMs for which a value that could not be written was logged.
MAX_COMPLAINED = 1000


class JournalWriter:
    """
    :param worker: what has the journal.
    :param held: nothing is written before :meth:`begin_writing`.
    """

    def __init__(self, worker: JournalWorker, *, held: bool = False) -> None:
        self._worker = worker
        self._held = held
        #: by VM, in their turn; none is empty
        self._queues: dict[str, deque[PendingBatch]] = {}
        self._taken: list[PendingBatch] = []  # is being written
        #: whose time is not up, in that order; some may be written
        self._timed: deque[PendingBatch] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._writer: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()  # a fault or a read waits for the queue
        self._wrote = 0.0  # by the loop's clock
        self._write_began: float | None = None  # by the loop's clock
        self._syncer: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._complained: set[str] = set()
        #: a write waits for one read at most
        self._one_reader = asyncio.Semaphore(1)
        self._trouble: str | None = None
        self._trouble_since = 0.0  # s, CLOCK_REALTIME
        # the disk writes again; what was kept is not written yet
        self._is_recovering = False
        self._readers: set[asyncio.Future[None]] = set()  # wait for the batches put before

    @property
    def error(self) -> str | None:
        """Why the journal cannot be used now, and since when; None: it can."""
        if self._trouble is None:
            return None
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self._trouble_since))
        return f"{self._trouble}, since {since}"

    @property
    def _is_usable(self) -> bool:
        return not self._held and (self._trouble is None or self._is_recovering)

    @property
    def is_in_doubt(self) -> bool:
        """Whether the journal cannot take more now, or will soon be found so.

        A journal that works again still has to take what was kept meanwhile.
        """
        return self._held or self._trouble is not None or self._is_waiting_for_disk(DOUBT_S)

    def _is_waiting_for_disk(self, seconds: float) -> bool:
        began = self._write_began
        return began is not None and asyncio.get_running_loop().time() - began >= seconds

    # ------------------------------------------------------------ writing

    def put_batch(
        self,
        vm: str,
        batch: Batch,
        then: Callable[[], None] | None = None,
        written: Callable[[], None] | None = None,
    ) -> None:
        """Write a batch.

        Both functions are called on the loop, in the order of this VM's puts.

        :param then: called when it is written, or :data:`WAIT_S` later; at once if the
            journal cannot be used.
        :param written: called when it is written.
        """
        loop = asyncio.get_running_loop()
        unusable, queue = not self._is_usable, self._queues.setdefault(vm, deque())
        entry = PendingBatch(
            batch, loop.time(), then, unusable, [] if written is None else [written]
        )
        if unusable and queue:
            queue[-1].merge_batch(batch, entry.written)
        else:
            queue.append(entry)
        if then is not None:
            if unusable:
                loop.call_soon(entry.call_then)
            else:
                self._timed.append(entry)
                if self._timer is None:
                    self._timer = loop.call_later(WAIT_S, self._time_is_up)
        if batch.durable:
            self._hurry.set()
        if self._writer is None and not self._held:
            self._writer = loop.create_task(self._write_queue())

    def begin_writing(self, number: Callable[[Batch], None]) -> None:
        """Write what was held, and whatever comes.

        :param number: completes a batch that was put before.
        """
        self._held = False
        for queue in self._queues.values():
            for entry in queue:
                number(entry.batch)
        self._is_recovering = True
        self._end_trouble_if_written()
        if self._queues and self._writer is None:
            self._writer = asyncio.get_running_loop().create_task(self._write_queue())

    def note_unusable(self, error: str) -> None:
        """Note that the journal cannot be used: until it can, nothing waits for it."""
        if self._trouble is None:
            _log.error("%s; faults are kept in memory and told all the same", error)
            self._trouble_since = time.time()
        self._trouble = error
        self._is_recovering = False
        for queue in self._queues.values():
            for entry in queue:
                entry.is_kept = True
        while self._timed:
            self._timed.popleft().call_then()
        for reader in list(self._readers):
            wake_reader(reader)

    def _fail_to_answer(self) -> None:
        # While it fails more is known: why it failed before.
        if self._trouble is None or self._is_recovering:
            self.note_unusable("the journal's disk does not answer")

    async def _write_queue(self) -> None:
        try:
            while self._queues:
                await self._gather_batches()
                together = self._take_batch()
                if not await self._write_batch(together):
                    break
                taken, self._taken = self._taken, []
                for entry in taken:
                    entry.call_then()
                    for written in entry.written:
                        call_back(written)
                self._end_trouble_if_written()
        finally:
            self._writer = None

    def _take_batch(self) -> Batch:
        together = Batch()
        while self._queues and len(together.events) < MAX_EVENTS_PER_TRANSACTION:
            # The oldest of the VM whose turn it is.
            vm = next(iter(self._queues))
            queue = self._queues.pop(vm)
            self._taken.append(queue.popleft())
            if queue:
                self._queues[vm] = queue
            together.merge_batch(self._taken[-1].batch)
        return together

    async def _gather_batches(self) -> None:
        """Gather more batches, if a transaction was made just now and nothing waits."""
        loop = asyncio.get_running_loop()
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._wrote + GATHER_S):
                await self._hurry.wait()
        self._hurry.clear()
        self._wrote = loop.time()

    async def _write_batch(self, batch: Batch) -> bool:
        """Write a batch, however long that takes.

        :returns: whether it is written; it may not be if vesperd ends.
        """
        loop = asyncio.get_running_loop()
        pause = RETRY_FIRST_S
        while True:
            self._write_began = loop.time()
            # Also if nothing waits for this one: then no read waits for its end, either.
            alarm = loop.call_later(WAIT_S, self._fail_to_answer)
            try:
                left_out = await self._worker.call_journal("write_batch", batch)
                break
            except JournalError as error:
                self.note_unusable(str(error))
            except Exception:  # tried again, it would be the same
                _log.exception("internal error: something is not written to the journal")
                left_out = []
                break
            finally:
                alarm.cancel()
                self._write_began = None
            try:
                if self._closing.is_set():
                    return False
                async with asyncio.timeout(pause):
                    await self._closing.wait()  # then a last try
            except TimeoutError:
                pause = min(pause * 2, RETRY_LAST_S)
        self._log_left_out(left_out)
        self._is_recovering = True
        if batch.durable and self._syncer is None:
            self._syncer = loop.create_task(self._sync_later())
        return True

    def _log_left_out(self, left_out: Iterable[tuple[str, str]]) -> None:
        for vm, why in left_out:
            if vm in self._complained or len(self._complained) >= MAX_COMPLAINED:
                continue
            self._complained.add(vm)
            _log.error("%s: the journal does not take a value, which is left out (logged "
                       "once): %s", vm, why)  # fmt: skip

    def _end_trouble_if_written(self) -> None:
        """The journal works again once nothing is left that was kept meanwhile."""
        if self._trouble is None or not self._is_recovering:
            return
        if not any(entry.is_kept for queue in self._queues.values() for entry in queue):
            self._trouble = None
            _log.warning("the journal works again: what was kept in memory is written")

    def _time_is_up(self) -> None:
        """Tell those who have waited long enough."""
        self._timer = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._is_waiting_for_disk(WAIT_S):
            self._fail_to_answer()
        while self._timed:
            entry = self._timed[0]
            if entry.then is not None and entry.at + WAIT_S > now:
                self._timer = loop.call_later(entry.at + WAIT_S - now, self._time_is_up)
                break
            self._timed.popleft().call_then()

    # ------------------------------------------------------------ reading

    async def run_on_journal(
        self, method: Callable[Concatenate[Journal, _P], _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> _T:
        """Call a method of the journal, after all that was put before.

        For the events of a VM that says more than the journal can take it does not wait.

        :raises JournalError:
        """
        return await self._run_after_writes(None, method, args, kwargs)

    async def run_for(
        self, of_vm: str, method: Callable[Concatenate[Journal, _P], _T], /,
        *args: _P.args, **kwargs: _P.kwargs,
    ) -> _T:  # fmt: skip
        """Like :meth:`run_on_journal`, but wait for batches of that VM alone."""
        return await self._run_after_writes(of_vm, method, args, kwargs)

    async def _run_after_writes(
        self, vm: str | None, method: Callable[..., _T],
        args: tuple[object, ...], kwargs: dict[str, object],
    ) -> _T:  # fmt: skip
        if getattr(Journal, method.__name__, None) is not method:
            raise TypeError(f"{method!r} is no method of the journal")
        if self._is_waiting_for_disk(WAIT_S) and self.error is not None:
            raise JournalError(self.error)  # it would not be answered
        async with limit_read(lambda: self.error):
            await self._wait_until_written(vm)
            async with self._one_reader if vm is None else nullcontext():
                found: _T = await self._worker.call_journal(method.__name__, *args, **kwargs)
        return found

    async def flush_queue(self, vm: str | None = None) -> None:
        """Return when all batches of a VM (None: of each) are written, or :data:`WAIT_S` later."""
        with suppress(TimeoutError):
            async with asyncio.timeout(WAIT_S):
                await self._wait_until_written(vm)

    async def _wait_until_written(self, vm: str | None) -> None:
        """Wait for the batches put before; later ones may follow without end."""
        if not self._is_usable:
            return
        loop = asyncio.get_running_loop()
        readers: list[asyncio.Future[None]] = []
        if vm is None:
            most = MAX_WAITED_EVENTS
            waiting = [vm for vm, queue in self._queues.items() if not is_flood(queue, most)]
        else:
            waiting = [vm] if vm in self._queues else []
        # What is being written is followed by whatever is asked next.
        for name in waiting:
            readers.append(loop.create_future())
            self._queues[name][-1].written.append(partial(wake_reader, readers[-1]))
        if not readers:
            return
        self._readers.update(readers)
        self._hurry.set()
        try:
            await asyncio.wait(readers)
        finally:
            self._readers.difference_update(readers)

    # ------------------------------------------------------------ the disk

    async def _sync_later(self) -> None:
        await asyncio.sleep(SYNC_AFTER_S)
        self._syncer = None  # the next one syncs what is written from now on
        await self._sync_to_disk()

    async def _sync_to_disk(self) -> None:
        try:
            await self._worker.call_journal("sync_to_disk")
        except JournalError as error:
            _log.error("%s; a power failure may cost the last events", error)

    async def close(self) -> None:
        """Write the rest, if the disk answers in time."""
        self._closing.set()
        try:
            async with asyncio.timeout(CLOSE_LIMIT_S):
                self._hurry.set()
                if self._writer is not None:
                    await asyncio.wait({self._writer})
                if self._syncer is not None:
                    self._syncer.cancel()
                    await self._sync_to_disk()
                await self._worker.close()
        except (TimeoutError, JournalError):
            pass
        lost = sum(len(queue) for queue in self._queues.values()) + len(self._taken)
        if lost:
            _log.error("%s: batches kept in memory are lost", self.error or "the journal")
        for work in (self._writer, self._syncer, self._timer):
            if work is not None:
                work.cancel()
        self._worker.kill_worker()
