# SPDX-License-Identifier: GPL-2.0-or-later
"""Resources whose recurring monitor Pacemaker has ceased to run, and how it runs again.

A degraded result stays on record as a last failure (``rsc_last_failure_0``).
After maintenance mode, which cancels monitors, Pacemaker 2.1 takes that record
for a monitor that runs (its scheduler finds the operation's key in the
history), and starts none: nobody would be told of a fault any more.  So where
a monitor stays away, and the cluster's status shows such a record, it is
cleaned up: Pacemaker probes the resource and begins to monitor it.  Where
failures are counted nothing is touched: the count would go with them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable

from vesper_monitor.faults import pacemaker
from vesper_monitor.faults.instance import Instance
from vesper_monitor.faults.pacemaker import PacemakerError

__all__ = ["keep_monitored"]

_log = logging.getLogger(__name__)

#: s between two looks at who has a monitor.
EVERY = 15.0


async def keep_monitored(
    instances: Callable[[], Iterable[Instance]],
    run_again: Callable[
        [list[tuple[str, str | None]]], Awaitable[object]
    ] = pacemaker.monitor_again,
) -> None:
    """For ever.

    :param run_again: see :func:`vesper_monitor.faults.pacemaker.monitor_again`.
    """
    loop = asyncio.get_running_loop()
    said = ""
    while True:
        await asyncio.sleep(EVERY)
        late = [i for i in instances() if i.is_unmonitored(loop.time())]
        if not late:
            continue
        try:
            await run_again([(i.record.resource, i.node) for i in late])
        except PacemakerError as error:
            if str(error) != said:
                said = str(error)
                resource = late[0].record.resource
                _log.info("%s: no monitor comes; of the cluster: %s", resource, said)
