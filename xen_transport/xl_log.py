# SPDX-License-Identifier: GPL-2.0-or-later
"""Why a domain has ended, from the log that xl keeps of it.

Each domain that ``xl create`` has started is followed by a process of xl's,
which does what ``on_poweroff``, ``on_crash`` .. say.  A domain that is to be
destroyed may be gone before ``xl list`` has shown why; that process has noted
it before it did anything (domain_death() and wait_for_events in
tools/xl/xl_vmcontrol.c, Xen 4.17).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import threading
from pathlib import Path

from vesper_monitor.hypervisor.transport import Cause
from vesper_monitor.util.regular_file import open_regular

__all__ = [
    "LOG_FOLDER",
    "Ending",
    "is_followed_by_xl",
    "parse_ending",
    "read_log_tail",
    "read_log_tail_in_time",
]

LOG_FOLDER = Path("/var/log/xen")
#: Bytes of a log's end that are looked at.
_TAIL_BYTES = 16384
#: s that the log's disk may take.
READ_LIMIT_S = 1.0

#: What a domain's end is due to, and that in words.
Ending = tuple[Cause, str]

#: By the number that the guest gives (SHUTDOWN_*, xen/include/public/sched.h).
_ENDING_BY_REASON: dict[int, Ending] = {
    0: (Cause.ASKED, "power-off"),
    1: (Cause.REBOOT, "it reboots"),
    # Saved or migrated; or it has gone on after a checkpoint, and xl does not
    # follow it any more.
    2: (Cause.UNKNOWN, ""),
    3: (Cause.FAILURE, "it has crashed"),
    4: (Cause.FAILURE, "its watchdog has expired"),
    5: (Cause.REBOOT, "it resets itself for another kernel (kexec)"),
}
_DESTROYED = (Cause.FAILURE, "destroyed by hand (xl destroy)")


def read_log_tail(name: str, folder: Path = LOG_FOLDER) -> str:
    """The end of what xl has noted of the domain of that name; empty: nothing."""
    try:
        with open(open_regular(str(folder), f"xl-{name}.log"), "rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - _TAIL_BYTES))
            return log.read(_TAIL_BYTES).decode(errors="replace")
    except OSError:
        return ""


async def read_log_tail_in_time(name: str, folder: Path = LOG_FOLDER) -> str:
    """Read as :func:`read_log_tail` does, but off the loop; empty, too, if the disk hangs."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[str] = loop.create_future()

    def set_result(text: str) -> None:
        if not done.done():
            done.set_result(text)

    def read_and_pass_on() -> None:
        text = read_log_tail(name, folder)
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(set_result, text)

    # Not of a pool: a thread that hangs there would keep vesperd from ending.
    threading.Thread(target=read_and_pass_on, name="xl-log", daemon=True).start()
    try:
        async with asyncio.timeout(READ_LIMIT_S):
            return await done
    except TimeoutError:
        return ""


def is_followed_by_xl(text: str, domid: int) -> bool:
    """Whether a process of xl's waits for that domain's end, and will note it."""
    return f"(domid {domid}) to die" in text


def parse_ending(text: str, domid: int) -> Ending | None:
    """Why the domain has ended; None: that is not noted (yet)."""
    # A number comes back after a boot of the host: the last one counts.
    shut = re.findall(rf"^Domain {domid} has shut down, reason code (\d+) ", text, re.M)
    if shut:
        return _ENDING_BY_REASON.get(int(shut[-1]))
    if re.search(rf"^Domain {domid} has been destroyed", text, re.M):
        return _DESTROYED
    return None
