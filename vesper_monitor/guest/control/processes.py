# SPDX-License-Identifier: GPL-2.0-or-later
"""Ask a guest's core which names have a main process now."""

from __future__ import annotations

import errno
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from vesper_monitor.guest import abi
from vesper_monitor.guest.control.cchan import Cchan, GuestRefusedError

__all__ = ["MainProcess", "Processes", "find_processes"]

#: The kernel cuts a task's name.
COMM_MAX = abi.COMM_LEN - 1


@dataclass(frozen=True)
class MainProcess:
    """The oldest process of a name whose parent has another name."""

    pid: int
    age_s: float
    #: whether the system or root has started it, and no other user of the guest
    is_believed: bool = True


@dataclass(frozen=True)
class Processes:
    """One answer."""

    uptime_s: float  #: of the guest's kernel, without the time that it was suspended
    found: Mapping[str, MainProcess]  #: by name; who has none is not in it


async def find_processes(cchan: Cchan, names: Collection[str]) -> Processes | None:
    """Ask for the main processes of some names; a longer name is cut as the kernel does.

    :returns: None: the guest's core is older than this request.
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
    return name.encode("utf-8", "surrogateescape").partition(b"\0")[0][:COMM_MAX]
