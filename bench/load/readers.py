# SPDX-License-Identifier: GPL-2.0-or-later
"""``python3 -m bench.load.readers SOCKET COUNT GID``: clients of a user that may only read.

Each asks without a pause for all that is on record and for the state of all VMs.
"""

from __future__ import annotations

import asyncio
import os
import sys

NOBODY_UID = 65534
REQUESTS = b'{"op":"events","limit":100000}\n{"op":"status"}\n{"op":"faults","limit":1000}\n'
#: s between two tries to connect, while vesperd is started again.
RECONNECT_PAUSE_S = 0.1


async def read_without_end(path: str) -> None:
    """One of them."""
    while True:
        try:
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(REQUESTS)
            writer.write_eof()
            while await reader.read(1 << 18):
                pass
            writer.close()
        except OSError:
            await asyncio.sleep(RECONNECT_PAUSE_S)


async def run_readers(path: str, count: int) -> None:
    await asyncio.gather(*(read_without_end(path) for _ in range(count)))


if __name__ == "__main__":
    group = int(sys.argv[3])
    os.setgroups([group])
    os.setgid(group)
    os.setuid(NOBODY_UID)
    asyncio.run(run_readers(sys.argv[1], int(sys.argv[2])))
