# SPDX-License-Identifier: GPL-2.0-or-later
"""A journal whose work is done by a thread of the test's own process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from vesper_monitor.journal.journal import Journal
from vesper_monitor.journal.schema import JournalDamagedError

__all__ = ["ThreadWorker"]


class ThreadWorker:
    """Like vesper_monitor.journal.journal_process.JournalProcess, for any kind of journal."""

    def __init__(self, open_journal: Callable[[], Journal]) -> None:
        self._open = open_journal
        self._journal: Journal | None = None
        self._thread = ThreadPoolExecutor(max_workers=1)

    async def call_journal(self, method: str, *args: Any, **kwargs: Any) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, lambda: self._do(method, args, kwargs))

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)

    def kill_worker(self) -> None:
        self._thread.shutdown(wait=False)

    def _do(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            if self._journal is None:
                self._journal = self._open()
            return getattr(self._journal, method)(*args, **kwargs)
        except JournalDamagedError:
            self._close()
            raise

    def _close(self) -> None:
        if self._journal is not None:
            self._journal.close()
            self._journal = None
