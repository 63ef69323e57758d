# SPDX-License-Identifier: GPL-2.0-or-later
"""The time limit of a read of the journal, whoever reads: its disk may hang."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from vesper_monitor.journal.journal import JournalError

__all__ = ["READ_LIMIT_S", "limit_read"]

#: s for the journal to answer, the writes before the read included.
READ_LIMIT_S = 5.0


@asynccontextmanager
async def limit_read(explain: Callable[[], str | None] = lambda: None) -> AsyncIterator[None]:
    """Cancel the body after :data:`READ_LIMIT_S`.

    :param explain: returns what is known to be wrong with the journal.
    :raises JournalError: the time is over.
    """
    try:
        async with asyncio.timeout(READ_LIMIT_S):
            yield
    except TimeoutError:
        why = explain() or f"the journal has not answered within {READ_LIMIT_S:.0f} s"
        raise JournalError(why) from None
