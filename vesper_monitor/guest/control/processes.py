# SPDX-License-Identifier: GPL-2.0-or-later
"""Asks the guest core which process names have a main process now."""

from __future__ import annotations

import errno
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from vesper_monitor.guest import abi
from vesper_monitor.guest.control.cchan import Cchan, GuestRefusedError

__all__ = ["MainProcess", "Processes", "find_processes"]

#: The kernel cuts the name of a task.
MAX_COMM_BYTES = abi.COMM_LEN - 1


@dataclass(frozen=True)
class MainProcess:
    """The oldest process of a name whose parent has another name."""

    pid: int
    age_s: float
    #: whether root or the system has started it, not another user of the guest
    is_believed: bool = True


@dataclass(frozen=True)
class Processes:
    """The answer of a guest."""

    uptime_s: float  #: of the guest's kernel, without the time that it was suspended
    found: Mapping[str, MainProcess]  #: by name; a name without a main process is missing


async def find_processes(cchan: Cchan, names: Collection[str]) -> Processes | None:
    """Ask for the main processes of some names; a longer name is cut as the kernel does.

    :returns: None if the guest core is older than this request.
    :raises CchanError: :raises GuestRefusedError:
    """
    asked = list(dict.fromkeys(name for name in names if _encode_comm(name)))
    found: dict[str, MainProcess] = {}
    uptime_s = 0.0
    for start in range(0, len(asked), abi.MAX_NAMES):
        piece = asked[start : start + abi.MAX_NAMES]
        try:
            reply = await cchan.request_processes([_encode_comm(name) for name in piece])
        except GuestRefusedError as refused:
            if refused.errno == errno.EOPNOTSUPP:
                return None
            raise
        uptime_s = reply.uptime_ms / 1000
        for name, process in zip(piece, reply.process, strict=False):
            if process.pid > 0:
                is_believed = not process.flags & abi.PROCESS_USERS_OWN
                found[name] = MainProcess(process.pid, process.age_ms / 1000, is_believed)
    return Processes(uptime_s, found)


def _encode_comm(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape").partition(b"\0")[0][:MAX_COMM_BYTES]
