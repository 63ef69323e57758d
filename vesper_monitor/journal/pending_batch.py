# SPDX-License-Identifier: GPL-2.0-or-later
"""A batch that waits to be written, with what is called then."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from vesper_monitor.journal.batch import Batch

__all__ = ["PendingBatch", "call_back", "is_flood", "wake_reader"]

_log = logging.getLogger(__name__)


@dataclass
class PendingBatch:
    """A batch that was put; several merged ones, while the journal fails."""

    batch: Batch
    at: float  #: by the loop's clock
    #: not called yet: the batch is written, or its time is up
    then: Callable[[], None] | None
    #: put while the journal could not be used
    is_kept: bool
    written: list[Callable[[], None]] = field(default_factory=list)

    def merge_batch(self, batch: Batch, written: Iterable[Callable[[], None]]) -> None:
        """Add a later batch of the same VM; of faults and activations the last states count."""
        self.batch.merge_batch(batch)
        self.batch.keep_last()
        self.written += written

    def call_then(self) -> None:
        """Call ``then``, unless that was done."""
        then, self.then = self.then, None
        if then is not None:
            call_back(then)


def is_flood(queue: Iterable[PendingBatch], most: int) -> bool:
    """Tell whether the batches of one VM have more than so many events."""
    events = itertools.accumulate(len(pending.batch.events) for pending in queue)
    return any(count > most for count in events)


def wake_reader(reader: asyncio.Future[None]) -> None:
    """Let a reader go on, if it still waits."""
    if not reader.done():
        reader.set_result(None)


def call_back(then: Callable[[], None]) -> None:
    """Call a function; its errors are logged, and concern nothing else."""
    try:
        then()
    except Exception:
        _log.exception("internal error after a write to the journal")
