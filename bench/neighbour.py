# SPDX-License-Identifier: GPL-2.0-or-later
"""``python3 -m bench.neighbour``: what a hostile guest does to a healthy one's events.

One vesperd, two stand-in guests. The healthy one has an event every 10 ms or
so; measured is the time from its store to a client that follows. The other
one is quiet, then uses a CPU and does nothing else, to which an attack is
compared, then keeps one up without a pause:

- *table*: 16 new channels every 5 ms, each of which can be mapped;
- *names*: the same, of which none can be mapped;
- *records*: as many records as its kernel can write;
- *rings*: as many notifications as the transport takes.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lab.progress import show_step
from lab.standin.registry import Place
from tests.unit.support.daemons import DaemonProcess, wait_collecting
from tests.unit.support.hostile import HostileGuest
from vesper_monitor.guest import abi

PROJECT = Path(__file__).parents[1]
ATTACKS = ("table", "names", "records", "rings")
#: s between two events of the healthy guest.
EVENT_INTERVAL_S = 0.01
#: No place in the guest's memory.
INVALID_HANDLE = 1 << 40


class Attacker(HostileGuest):
    """Attacks when it is told which way."""

    _attack: asyncio.Task[None] | None = None

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._attacks = {
            "none": self._attack_nothing,
            "busy": self._attack_by_load,
            "table": self._attack_table,
            "names": self._attack_names,
            "records": self._attack_records,
            "rings": self._attack_rings,
        }

    async def _obey_command(self, words: list[str]) -> str:
        if words[0] != "attack":
            return await super()._obey_command(words)
        if self._attack is not None:
            self._attack.cancel()
        self._attack = asyncio.create_task(self._attacks[words[1]]())
        return "ok"

    async def _attack_nothing(self) -> None:
        pass

    async def _attack_by_load(self) -> None:
        while True:
            sum(range(1000))
            await asyncio.sleep(0)

    async def _attack_table(self) -> None:
        index = self.inside._memory.allocate_pages(1)
        self.inside._memory.view_region(index)[:] = bytes(abi.PAGE_SIZE)
        await self._attack_names(index.handle)

    async def _attack_names(self, handle: int = INVALID_HANDLE) -> None:
        view = self.inside._memory.view_region(self.inside._table_region)
        size = ctypes.sizeof(abi.Channel)
        first = abi.field_offset(abi.Table, "channel")
        for number in itertools.count():
            for place in range(abi.MAX_CHANNELS):
                entry = abi.Channel(
                    state=abi.ChannelState.OPEN, generation=1, subbuf_size=4096, n_subbufs=2,
                    nr_cpus=1, index=abi.Region(handle=handle, pages=1),
                    modname=b"%d-%d" % (number, place),
                )  # fmt: skip
                view[first + place * size :][:size] = bytes(entry)
            self.inside._table.generation += 1
            generation = abi.field_offset(abi.Table, "generation")
            abi.store_u32(view, generation, self.inside._table.generation)
            self._notify_host()
            await asyncio.sleep(0.005)

    async def _attack_records(self) -> None:
        while True:
            self.inside.emit_event("send_signal", {"sig": "10", "comm": "load", "count": "100"})
            await asyncio.sleep(0)

    async def _attack_rings(self) -> None:
        while True:
            self.flood(4096)
            await asyncio.sleep(0)


async def _send_to_guest(name: str, *words: str) -> None:
    reader, writer = await asyncio.open_unix_connection(Place(name).control)
    writer.write(" ".join(words).encode() + b"\n")
    answer = await reader.readline()
    writer.close()
    if not answer.startswith(b"ok"):
        raise RuntimeError(answer.decode())


async def _measure_latency(socket: Path, events: int) -> list[float]:
    """ms, sorted."""
    follower, request = await asyncio.open_unix_connection(socket)
    request.write(b'{"op": "events", "vm": "healthy", "follow": true}\n')
    reader, writer = await asyncio.open_unix_connection(Place("healthy").control)
    late: list[float] = []

    async def collect_latencies() -> None:
        while len(late) < events:
            line = await follower.readline()
            event = json.loads(line)["event"]
            if event["event"] == "send_signal":
                late.append((time.monotonic_ns() - event["guest_ns"]) / 1e6)

    listening = asyncio.create_task(collect_latencies())
    await asyncio.sleep(0.2)
    for _ in range(events):
        writer.write(b"emit send_signal sig=10 comm=cron\n")
        await reader.readline()
        await asyncio.sleep(EVENT_INTERVAL_S * random.uniform(0.5, 1.5))
    await asyncio.wait_for(listening, 60)
    for connection in (writer, request):
        connection.close()
    return sorted(late)


def _format_latency_row(late: list[float], other: list[float]) -> str:
    """:param other: to compare with, if there is one."""
    row = ""
    for name, part in (("median", 0.5), ("p99", 0.99)):
        value = late[int(len(late) * part)]
        times = f" ({value / other[int(len(other) * part)]:.1f} times)" if other else ""
        row += f"{name} {value:6.2f} ms{times}, "
    return f"{row}longest {late[-1]:.1f} ms"


def _start_guest_process(name: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "bench.neighbour", "--be", name]
    process = subprocess.Popen(command, cwd=PROJECT)
    end = time.monotonic() + 60
    while not Place(name).control.exists():
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"guest {name} does not start")
        time.sleep(0.01)
    return process


def _measure_under_attack(attack: str, events: int) -> list[float]:
    """ms, sorted; of guests that have not been through another attack."""
    with tempfile.TemporaryDirectory(prefix="vesper-neighbour-") as name:
        directory = Path(name)
        os.environ["VESPER_STANDIN_DIR"] = str(directory / "domains")
        (directory / "domains").mkdir()
        daemon = DaemonProcess(directory)
        guests = []
        try:
            daemon.start()
            for guest in ("healthy", "hostile"):
                guests.append(_start_guest_process(guest))
                daemon.call("start", resource=guest, vm=guest, services=["httpd"])
            wait_collecting(daemon, 4)
            asyncio.run(_send_to_guest("hostile", "attack", attack))
            time.sleep(0.5)
            return asyncio.run(_measure_latency(daemon.socket, events))
        finally:
            for process in guests:
                process.kill()
                process.wait()
            if daemon.process is not None and daemon.process.poll() is None:
                daemon.stop()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m bench.neighbour", description=__doc__)
    parser.add_argument("attacks", nargs="*", help=f"of {', '.join(ATTACKS)} (all)")
    parser.add_argument("--events", type=int, default=1000, help="of the healthy guest (1000)")
    parser.add_argument("--be", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.be is not None:
        asyncio.run(Attacker(arguments.be).run_until_ended())
        return 0
    if wrong := set(arguments.attacks) - set(ATTACKS):
        parser.error(f"no such attack: {', '.join(wrong)}")
    busy: list[float] = []
    for attack in ["none", "busy", *(arguments.attacks or ATTACKS)]:
        with show_step(f"attack: {attack}"):
            late = _measure_under_attack(attack, arguments.events)
        if attack == "busy":
            busy = late
        print(f"{attack:8} {_format_latency_row(late, busy)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
