# SPDX-License-Identifier: GPL-2.0-or-later
"""Why a domain has ended, from xl's log.

A process of xl follows each domain that ``xl create`` has started, and carries out
``on_poweroff``, ``on_crash`` and the like.  A domain that is destroyed may end before
``xl list`` has shown why.  The process of xl logs the cause before it does anything
(domain_death() and wait_for_events in tools/xl/xl_vmcontrol.c, Xen 4.17).
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
#: Read from the end of a log.
_TAIL_BYTES = 16384
#: For the disk to answer.
READ_LIMIT_S = 1.0

#: The cause of a domain's end, and a text.
Ending = tuple[Cause, str]

#: By the guest's reason code (SHUTDOWN_*, xen/include/public/sched.h).
_ENDING_BY_REASON: dict[int, Ending] = {
    0: (Cause.ASKED, "power-off"),
    1: (Cause.REBOOT, "it reboots"),
    # Saved or migrated; or resumed after a checkpoint, and xl follows it no longer.
    2: (Cause.UNKNOWN, ""),
    3: (Cause.FAILURE, "it has crashed"),
    4: (Cause.FAILURE, "its watchdog has expired"),
    5: (Cause.REBOOT, "it resets itself for another kernel (kexec)"),
}
_DESTROYED = (Cause.FAILURE, "destroyed by hand (xl destroy)")


def read_log_tail(name: str, folder: Path = LOG_FOLDER) -> str:
    """Return the end of xl's log of a domain; empty if there is none."""
    try:
        with open(open_regular(str(folder), f"xl-{name}.log"), "rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - _TAIL_BYTES))
            return log.read(_TAIL_BYTES).decode(errors="replace")
    except OSError:
        return ""


async def read_log_tail_in_time(name: str, folder: Path = LOG_FOLDER) -> str:
    """Like :func:`read_log_tail`, but in a thread; also empty if the disk hangs."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[str] = loop.create_future()

    def set_result(text: str) -> None:
        if not done.done():
            done.set_result(text)

    def read_and_pass_on() -> None:
        text = read_log_tail(name, folder)
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(set_result, text)

    # Not in a pool: a thread that hangs there would keep vesperd from ending.
    threading.Thread(target=read_and_pass_on, name="xl-log", daemon=True).start()
    try:
        async with asyncio.timeout(READ_LIMIT_S):
            return await done
    except TimeoutError:
        return ""


def is_followed_by_xl(text: str, domid: int) -> bool:
    """Return whether a process of xl waits for that domain's end, and will log it."""
    return f"(domid {domid}) to die" in text


def parse_ending(text: str, domid: int) -> Ending | None:
    """Return why the domain has ended; None if the log does not show it (yet)."""
    # Xen uses a domid again after a boot of the host: the last entry counts.
    shut = re.findall(rf"^Domain {domid} has shut down, reason code (\d+) ", text, re.M)
    if shut:
        return _ENDING_BY_REASON.get(int(shut[-1]))
    if re.search(rf"^Domain {domid} has been destroyed", text, re.M):
        return _DESTROYED
    return None
