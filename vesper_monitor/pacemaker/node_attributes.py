# SPDX-License-Identifier: GPL-2.0-or-later
"""Transient attributes of this node, for people who look at the cluster (``crm_mon -A``).

Set in the background and tried again: a cluster that does not answer delays
nothing, and of several values of one attribute the last one counts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from vesper_monitor.pacemaker.commands import PacemakerError, set_attribute

__all__ = ["NodeAttributes", "SetAttribute"]

_log = logging.getLogger(__name__)

#: s between two tries; and tries before their failure is logged.
RETRY_PAUSE_S = 10.0
MAX_TRIES = 6
#: s until a value is set again: Pacemaker forgets it when it is started anew.
SET_AGAIN_S = 600.0
#: Commands that run at the same time: many VMs may have faults at once.
MAX_UPDATES_AT_ONCE = 4

#: Sets a node attribute of this node, or deletes it (None).
SetAttribute = Callable[[str, str | None], Awaitable[None]]


class NodeAttributes:
    """
    :param tell: how to set one.
    """

    def __init__(self, tell: SetAttribute = set_attribute) -> None:
        self._tell = tell
        self._room = asyncio.Semaphore(MAX_UPDATES_AT_ONCE)
        self._tellers: dict[str, asyncio.Task[None]] = {}

    def set_attribute(self, name: str, value: str | None, *, after: float = 0.0) -> None:
        """Set an attribute, or delete it (None).

        :param after: s; until then the host has more urgent things to do.
        """
        old = self._tellers.pop(name, None)
        if old is not None:
            old.cancel()
        task = asyncio.get_running_loop().create_task(self._set_until_done(name, value, after, old))
        self._tellers[name] = task

        def done(ended: asyncio.Task[None]) -> None:
            if self._tellers.get(name) is ended:
                del self._tellers[name]

        task.add_done_callback(done)

    async def close(self) -> None:
        """Give up the attributes that are not set yet."""
        tellers = list(self._tellers.values())
        for task in tellers:
            task.cancel()
        await asyncio.gather(*tellers, return_exceptions=True)

    async def _set_until_done(
        self, name: str, value: str | None, after: float, old: asyncio.Task[None] | None
    ) -> None:
        if old is not None:
            await asyncio.gather(old, return_exceptions=True)
        await asyncio.sleep(after)
        failures = 0
        while True:
            try:
                async with self._room:
                    await self._tell(name, value)
                if value is None:
                    return
                failures = 0
            except PacemakerError as error:
                failures += 1
                if failures == MAX_TRIES:
                    _log.warning("the cluster does not show the node attribute %s: %s", name, error)
                    if value is None:
                        return
            await asyncio.sleep(RETRY_PAUSE_S if 0 < failures < MAX_TRIES else SET_AGAIN_S)
