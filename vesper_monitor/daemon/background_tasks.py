# SPDX-License-Identifier: GPL-2.0-or-later
"""Tasks that run in the background of a part of vesperd, and end with it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["BackgroundTasks"]

_log = logging.getLogger(__name__)

_T = TypeVar("_T")


class BackgroundTasks:
    """A set of tasks that need not be awaited. An unexpected error of one is logged.

    :param expected: errors that whoever awaits the task handles; they are not logged.
    """

    def __init__(self, *expected: type[Exception]) -> None:
        self._expected = expected
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def spawn_task(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """Start a task, and keep it until it ends."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget_task)
        return task

    async def wait_for_all(self) -> None:
        """Return when all tasks have ended."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def cancel_all(self) -> None:
        """Cancel all tasks, and return when they have ended."""
        for task in list(self._tasks):
            task.cancel()
        await self.wait_for_all()

    def _forget_task(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, self._expected):
            _log.error("internal error", exc_info=error)
