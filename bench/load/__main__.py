# SPDX-License-Identifier: GPL-2.0-or-later
"""``python3 -m bench.load``: one vesperd, a thousand guests.

vesperd, its transport to QEMU and the holder are the real ones; the guests
are stand-ins in shared memory (bench/load/crowd.py). Each guest is a resource
with two probes and a waiting monitor. What is measured:

- starting vesperd while all guests run, until each is watched;
- what it costs while nothing happens: CPU, and memory of each guest;
- events from all guests at once: from the guest's store to the decoded event;
- one fault in every guest at the same time: until the last monitor is told;
- all guests die at once, and vesperd is told to end: until it has.

With ``--readers`` so many clients that may only read ask for all there is
meanwhile, without a pause (needs root).
"""

from __future__ import annotations

import argparse
import asyncio
import grp
import json
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from bench.load.crowd import make_guest_name
from lab.progress import note_progress, show_step
from lab.standin.image import make_store
from tests.unit.transports.support.ivshmem_servers import holder
from vesper_monitor.client import Client, DaemonUnavailableError, root_path

PROJECT = Path(__file__).parents[2]
SETTLE_S = 5.0
#: s for all to come up, on a busy machine.
COME_UP_LIMIT_S = 300.0
#: A group that each Debian system has, in the place of ``vesper``.
READER_GROUP = "users"


class Vesperd:
    """The daemon's process."""

    def __init__(self, directory: Path) -> None:
        self.socket = directory / "vesperd.sock"
        self.journal = directory / "journal.sqlite"
        self._config = directory / "vesperd.toml"
        self._config.write_text(
            f'socket = "{self.socket}"\njournal = "{self.journal}"\n'
            f'probes_dir = "{directory / "images"}"\nkeep_events = 1000000\n'
            f'group = "{READER_GROUP}"\n'
            f'[kvm]\nuri = "qemu+unix:///system?socket={directory / "none"}"\n'
            f'run_dir = "{directory}"\ncontrol = "{directory / "control.sock"}"\n'
        )
        make_store(directory / "images")
        self._process: subprocess.Popen[bytes] | None = None

    def start_daemon(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.load.vesperd", str(self._config)], cwd=PROJECT
        )
        end = time.monotonic() + COME_UP_LIMIT_S
        while True:
            try:
                self.call_daemon("hello")
                return
            except DaemonUnavailableError:
                if self._process.poll() is not None or time.monotonic() > end:
                    raise
                time.sleep(0.01)

    def end_daemon_by_signal(self, number: int = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(60)

    def call_daemon(self, op: str, **fields: Any) -> dict[str, Any]:
        with Client(str(self.socket), timeout=60.0) as client:
            return client.call_vesperd(op, **fields)

    def wait_watched(self, count: int) -> None:
        """Until so many guests have two probes that collect."""
        end = time.monotonic() + COME_UP_LIMIT_S
        while True:
            watched = sum(
                [probe["state"] for probe in vm["probes"]] == ["collecting"] * 2
                for vm in self.call_daemon("status")["vms"]
            )
            if watched == count:
                return
            if time.monotonic() > end:
                raise TimeoutError(
                    f"{watched} of {count} guests are watched after {COME_UP_LIMIT_S:.0f} s"
                )
            time.sleep(0.25)

    def _list_processes(self) -> list[int]:
        """vesperd and its child, which writes the journal."""
        assert self._process is not None
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *map(int, children)]

    def read_cpu_time(self) -> float:
        """s, user and system."""
        stats = (Path(f"/proc/{pid}/stat").read_text() for pid in self._list_processes())
        times = [stat.rpartition(") ")[2].split()[11:13] for stat in stats]
        return sum(int(time) for both in times for time in both) / os.sysconf("SC_CLK_TCK")

    def read_own_memory(self) -> int:
        """KiB that are its own: what is shared with the guests is theirs."""
        private = 0
        for pid in self._list_processes():
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
            values = {line.split(":")[0]: int(line.split()[1]) for line in lines}
            private += values["Private_Clean"] + values["Private_Dirty"]
        return private


@asynccontextmanager
async def _start_crowd(directory: Path, count: int) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.load.crowd", str(directory), str(count), cwd=PROJECT,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        await _read_answer(process)
        yield process
    finally:
        process.terminate()
        await process.wait()


@asynccontextmanager
async def _start_readers(vesperd: Vesperd, count: int) -> AsyncIterator[None]:
    """So many clients of a user that may only read; none if it is 0."""
    if not count:
        yield
        return
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.load.readers", str(vesperd.socket), str(count),
        str(grp.getgrnam(READER_GROUP).gr_gid), cwd=PROJECT,
    )  # fmt: skip
    try:
        yield
    finally:
        process.kill()
        await process.wait()


async def _read_answer(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), COME_UP_LIMIT_S)
    if not line:
        raise RuntimeError("the crowd of guests has ended")
    return line.decode().strip()


async def _send_to_crowd(process: asyncio.subprocess.Process, text: str) -> str:
    assert process.stdin is not None
    process.stdin.write(text.encode() + b"\n")
    return await _read_answer(process)


def _resource_fields(number: int) -> dict[str, Any]:
    return {
        "resource": f"r{number}", "vm": make_guest_name(number), "services": ["httpd"],
        "probes": ["send_signal", "out_of_memory"],
    }  # fmt: skip


async def _start_resources(vesperd: Vesperd, count: int) -> None:
    """All resources are started."""
    reader, writer = await asyncio.open_unix_connection(root_path(str(vesperd.socket)))
    for number in range(count):
        writer.write(json.dumps({"op": "start", **_resource_fields(number)}).encode() + b"\n")
        answer = json.loads(await asyncio.wait_for(reader.readline(), COME_UP_LIMIT_S))
        if not answer["ok"]:
            raise RuntimeError(answer["error"])
    writer.close()


async def _run_monitor(vesperd: Vesperd, number: int) -> tuple[float, dict[str, Any]]:
    """A waiting monitor. :returns: when it was answered (s, CLOCK_REALTIME), and what."""
    reader, writer = await asyncio.open_unix_connection(root_path(str(vesperd.socket)))
    request = {
        "op": "wait",
        **_resource_fields(number),
        "interval": 1,
        "timeout": 3600,
        "node": "node1",
    }
    writer.write(json.dumps(request).encode() + b"\n")
    answer = json.loads(await reader.readline())
    writer.close()
    return time.time(), answer


async def _measure_idle(vesperd: Vesperd, seconds: float) -> float:
    """:returns: part of a core."""
    await asyncio.sleep(SETTLE_S)
    begin, before = time.monotonic(), vesperd.read_cpu_time()
    await asyncio.sleep(seconds)
    return (vesperd.read_cpu_time() - before) / (time.monotonic() - begin)


def _read_latencies(vesperd: Vesperd, since: float) -> list[float]:
    """ms from the guest's store to the decoded event, by the journal."""
    offset = time.time() - time.monotonic()
    with sqlite3.connect(f"file:{vesperd.journal}?mode=ro", uri=True) as journal:
        rows = journal.execute(
            "SELECT received, guest_ns FROM events WHERE received >= ? AND probe = 'send_signal'"
            " AND fields LIKE '%\"load\"%'", (since,)
        ).fetchall()  # fmt: skip
    return [(received - offset - guest_ns / 1e9) * 1000 for received, guest_ns in rows]


async def _measure_events(
    vesperd: Vesperd, crowd: asyncio.subprocess.Process, rate: int, seconds: float
) -> dict[str, float]:
    since, before, begin = time.time(), vesperd.read_cpu_time(), time.monotonic()
    sent = int(await _send_to_crowd(crowd, f"emit {rate} {seconds}"))
    used = (vesperd.read_cpu_time() - before) / (time.monotonic() - begin)
    await asyncio.sleep(SETTLE_S)
    late = sorted(_read_latencies(vesperd, since))
    found = statistics.quantiles(late, n=100)
    return {
        "sent": sent, "kept": len(late), "per_s": sent / seconds, "cpu": used,
        "p50_ms": found[49], "p99_ms": found[98], "max_ms": late[-1],
    }  # fmt: skip


async def _measure_all(
    vesperd: Vesperd, directory: Path, count: int, rate: int, seconds: float, idle: float,
    readers: int,
) -> dict[str, Any]:  # fmt: skip
    figures: dict[str, Any] = {"guests": count, "readers": readers}
    vesperd.start_daemon()
    await asyncio.sleep(SETTLE_S)
    alone = vesperd.read_own_memory()
    with show_step(f"{count} guests"):
        crowd_context = _start_crowd(directory, count)
        crowd = await crowd_context.__aenter__()
    reading = _start_readers(vesperd, readers)
    await reading.__aenter__()
    try:
        with show_step("starting a resource of each, until it is watched"):
            await _start_resources(vesperd, count)
            await asyncio.to_thread(vesperd.wait_watched, count)
        with show_step("vesperd is killed and started again"):
            vesperd.end_daemon_by_signal(signal.SIGKILL)
            begin = time.monotonic()
            vesperd.start_daemon()
            await asyncio.to_thread(vesperd.wait_watched, count)
            figures["restart_s"] = time.monotonic() - begin
            figures["restart_cpu_s"] = vesperd.read_cpu_time()
        # The first one of each is answered at once.
        await asyncio.gather(*(_run_monitor(vesperd, number) for number in range(count)))
        monitors = [asyncio.create_task(_run_monitor(vesperd, n)) for n in range(count)]
        with show_step(f"idle for {idle:.0f} s"):
            figures["idle_cpu"] = await _measure_idle(vesperd, idle)
            figures["kib_per_guest"] = (vesperd.read_own_memory() - alone) / count
        with show_step(f"{rate} events/s for {seconds:.0f} s"):
            figures["events"] = await _measure_events(vesperd, crowd, rate, seconds)
        figures["kib_per_guest_after"] = (vesperd.read_own_memory() - alone) / count
        with show_step("a fault in every guest"):
            at = float(await _send_to_crowd(crowd, "fault"))
            told = await asyncio.wait_for(asyncio.gather(*monitors), COME_UP_LIMIT_S)
        late = sorted(when - at for when, answer in told if answer.get("result") == "fault")
        figures["burst"] = {
            "told": len(late),
            "journaled": len(vesperd.call_daemon("faults", limit=10 * count)["faults"]),
            "first_s": late[0], "median_s": statistics.median(late), "last_s": late[-1],
        }  # fmt: skip
    finally:
        await reading.__aexit__(None, None, None)
        await crowd_context.__aexit__(None, None, None)
    return figures


def _print_figures(figures: dict[str, Any]) -> None:
    events, burst = figures["events"], figures["burst"]
    beside = f", beside {figures['readers']} reading clients" if figures["readers"] else ""
    print(f"""{figures["guests"]} guests, each with 2 probes and a waiting monitor{beside}
started again while they run: all watched after {figures["restart_s"]:.1f} s \
(CPU {figures["restart_cpu_s"]:.1f} s)
idle: {figures["idle_cpu"]:.1%} of a core; {figures["kib_per_guest"]:.0f} KiB of each guest \
({figures["kib_per_guest_after"]:.0f} after the events)
{events["per_s"]:.0f} events/s in all: {events["kept"]} of {events["sent"]} in the journal; from \
store to decoded event: median {events["p50_ms"]:.1f} ms, p99 {events["p99_ms"]:.1f} ms, \
max {events["max_ms"]:.1f} ms; {events["cpu"]:.0%} of a core
a fault in every guest at once: {burst["told"]} monitors told, {burst["journaled"]} in the \
journal; first {burst["first_s"] * 1000:.0f} ms, median {burst["median_s"]:.2f} s, \
last {burst["last_s"]:.2f} s
SIGTERM, when all guests have just died: ended after {figures["end_s"]:.1f} s""")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m bench.load", description=__doc__)
    parser.add_argument("--guests", type=int, default=1000, help="(1000)")
    parser.add_argument("--rate", type=int, default=10_000, help="events/s in all (10000)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of events (20)")
    parser.add_argument("--idle", type=float, default=30.0, help="seconds without (30)")
    parser.add_argument("--readers", type=int, default=0, help="clients that only read (0)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vesper-load-") as directory:
        Path(directory).chmod(0o755)  # for the readers
        vesperd = Vesperd(Path(directory))
        with holder(Path(directory), "--size", "1", "--max-vms", str(arguments.guests)):
            try:
                figures = asyncio.run(
                    _measure_all(vesperd, Path(directory), arguments.guests, arguments.rate,
                             arguments.seconds, arguments.idle, arguments.readers)
                )  # fmt: skip
                begin = time.monotonic()
                vesperd.end_daemon_by_signal()
                figures["end_s"] = time.monotonic() - begin
            finally:
                vesperd.end_daemon_by_signal()
    _print_figures(figures)
    path = Path("build/bench-load.json")
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(figures, indent=1) + "\n")
    note_progress(f"all figures: {path}")
    burst, events = figures["burst"], figures["events"]
    whole = burst["told"] == burst["journaled"] == figures["guests"]
    return 0 if whole and events["kept"] == events["sent"] else 1


if __name__ == "__main__":
    sys.exit(main())
