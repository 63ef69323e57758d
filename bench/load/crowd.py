# SPDX-License-Identifier: GPL-2.0-or-later
"""``python3 -m bench.load.crowd DIRECTORY COUNT``: many stand-in guests on QEMU.

Each has a process in QEMU's place, which holds the lock on its pid file and connects
to the ivshmem server.  vesperd knows a domain by these two.  This process has the guests'
halves: shared memory and doorbells are real, the kernels behind them are
:class:`lab.standin.kernel.StandinKernel`.

Commands are lines on standard input; each is answered by a line:

``emit RATE SECONDS``
    signals that kill no process, in turn from each guest, at that rate (1/s).
``fault``
    a signal that kills the service, in every guest at once.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import signal
import socket
import sys
import time
import uuid
from pathlib import Path

from lab.standin.kernel import StandinKernel
from lab.standin.memory import GuestMemory
from tests.unit.transports.support.ivshmem_servers import StandinQemu
from vesper_monitor.guest import abi

__all__ = ["make_guest_name"]

_PR_SET_PDEATHSIG = 1
_STATUS = """<domstatus state='running' reason='booted' pid='{pid}'>
<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid></domain></domstatus>
"""


def make_guest_name(number: int) -> str:
    """Return the name of a guest; guests are numbered from 0."""
    return f"vm{number}"


def _start_stand_in(directory: Path, number: int) -> socket.socket:
    """Start a process in QEMU's place; return its connection to the ivshmem server."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        lock = os.open(directory / f"{make_guest_name(number)}.pid", os.O_RDWR | os.O_CREAT)
        fcntl.lockf(lock, fcntl.LOCK_EX)
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(directory / "qemu.sock"))
        socket.send_fds(theirs, [b"."], [connection.fileno()])
        for end in (ours, theirs, connection):
            end.close()
        while True:
            signal.pause()
    theirs.close()
    _, (descriptor,), _, _ = socket.recv_fds(ours, 1, 1)
    ours.close()
    status = _STATUS.format(pid=pid, name=make_guest_name(number), uuid=uuid.UUID(int=number + 1))
    (directory / f"{make_guest_name(number)}.xml").write_text(status)
    return socket.socket(fileno=descriptor)


class Guest:
    """The half in the guest."""

    def __init__(self, qemu: StandinQemu) -> None:
        self._qemu = qemu
        # The first page is the device's own.
        memory = GuestMemory(qemu.view, first=1, unit=abi.PAGE_SIZE)
        self.kernel = StandinKernel(memory, qemu.ring)
        self._answered = 0
        asyncio.get_running_loop().add_reader(qemu.to_guest, self._handle_ring)

    def _handle_ring(self) -> None:
        self._qemu.rung()
        wanted = self._qemu.head().wanted
        if wanted != self._answered:
            if not self._answered:
                self.kernel.open_cchan()
            self._answered = wanted
            self._qemu.come_up()
        while self.kernel.take_request():
            pass


async def _show_signs_of_life(guests: list[Guest]) -> None:
    """Give signs of life, spread over the period as those of real guests are."""
    period = abi.LIFE_PERIOD_MS / 1000
    parts = 20
    while True:
        begin = time.monotonic()
        for part in range(parts):
            for guest in guests[part::parts]:
                guest.kernel.show_sign_of_life()
            await asyncio.sleep(max(0.0, begin + (part + 1) * period / parts - time.monotonic()))


async def _emit_records(guests: list[Guest], rate: float, seconds: float) -> int:
    """Emit records at a rate; return how many."""
    begin, count = time.monotonic(), 0
    while (now := time.monotonic()) < begin + seconds:
        due = int((now - begin) * rate)
        while count < due:
            guests[count % len(guests)].kernel.emit_event(
                "send_signal", {"sig": "10", "comm": "load"}
            )
            count += 1
        await asyncio.sleep(0.001)
    return count


def _emit_faults(guests: list[Guest]) -> None:
    for guest in guests:
        guest.kernel.emit_event("send_signal", {"sig": "11", "comm": "httpd", "fatal": "1"})


async def _run_crowd_process(directory: Path, count: int) -> None:
    connections = [_start_stand_in(directory, number) for number in range(count)]
    guests = [Guest(StandinQemu(connection)) for connection in connections]
    living = asyncio.create_task(_show_signs_of_life(guests))
    print("up", flush=True)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while line := await reader.readline():
        match line.decode().split():
            case ["emit", rate, seconds]:
                print(await _emit_records(guests, float(rate), float(seconds)), flush=True)
            case ["fault"]:
                begin = time.time()
                _emit_faults(guests)
                print(begin, flush=True)
    living.cancel()


if __name__ == "__main__":
    asyncio.run(_run_crowd_process(Path(sys.argv[1]), int(sys.argv[2])))
