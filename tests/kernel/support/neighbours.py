# SPDX-License-Identifier: GPL-2.0-or-later
"""Two real guests, of which one is hostile, under one whole vesperd; and what becomes of it."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.images import Kernel
from lab.images.probes import FRONTENDS
from tests.kernel.support.ivshmem import PROBES
from tests.kernel.support.machine import Machine, machine
from tests.unit.transports.support.ivshmem_servers import run_ivshmem_server
from vesper_monitor.client import Client, DaemonUnavailableError

__all__ = ["DOMAIN_STATUS", "LOADED", "Heard", "Vesperd", "guests", "until"]

PROJECT = Path(__file__).parents[3]
#: s for an emulated guest, on a busy machine.
SLOW = 90.0
#: Probes that are wanted of both.
LOADED = ("send_signal", "out_of_memory", "process_exit")
#: s. In each, some event was hardly delayed: the two clocks drift apart.
WINDOW = 10.0

DOMAIN_STATUS = """<domstatus state='running' reason='booted' pid='{pid}'>
<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid></domain></domstatus>
"""


def until(condition: Callable[[], object], what: str, limit: float = SLOW) -> None:
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, f"not within {limit:.0f} s: {what}"
        time.sleep(0.05)


class Vesperd:
    """The daemon's process, and how it fares: looked at again and again.

    :ivar memory: KiB that were its own, at each look.
    :ivar answered: s until it answered, likewise.
    """

    def __init__(self, directory: Path) -> None:
        self.log = directory / "vesperd.log"
        self.journal = directory / "journal.sqlite"
        self.memory: list[int] = []
        self.answered: list[float] = []
        self._socket = directory / "vesperd.sock"
        config = directory / "vesperd.toml"
        config.write_text(
            f'socket = "{self._socket}"\njournal = "{self.journal}"\n'
            f'probes_dir = "{directory / "probes"}"\n'
            f'[kvm]\nuri = "qemu+unix:///system?socket={directory / "none"}"\n'
            f'run_dir = "{directory}"\ncontrol = "{directory / "control.sock"}"\n'
        )
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.kernel.support.impatient_vesperd", config],
                cwd=PROJECT, stderr=log,
            )  # fmt: skip
        until(self._answers, "vesperd answers")
        self._end = threading.Event()
        self._looker = threading.Thread(target=self._look, daemon=True)
        self._looker.start()

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            self.call("hello")
        except DaemonUnavailableError:
            return False
        return True

    def _look(self) -> None:
        with Client(str(self._socket), timeout=60.0) as client:
            while not self._end.wait(0.1):
                begin = time.monotonic()
                client.call_vesperd("hello")
                self.answered.append(time.monotonic() - begin)
                lines = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text().splitlines()
                values = {line.split(":")[0]: int(line.split()[1]) for line in lines[1:]}
                self.memory.append(values["Private_Clean"] + values["Private_Dirty"])

    def call(self, op: str, **fields: Any) -> dict[str, Any]:
        with Client(str(self._socket), timeout=60.0) as client:
            return client.call_vesperd(op, **fields)

    def start(self, vm: str) -> None:
        """A resource for this VM."""
        self.call(
            "start", resource=f"r-{vm}", vm=vm, probes=list(LOADED), services=["httpd"],
        )  # fmt: skip

    def is_active(self, vm: str) -> bool:
        return any(
            found["vm"] == vm and found["state"] == "active" for found in self.call("status")["vms"]
        )

    def collects(self, vm: str) -> bool:
        """All that is wanted."""
        for found in self.call("status")["vms"]:
            if found["vm"] == vm:
                states = {p["name"]: p["state"] for p in found["probes"]}
                return all(states.get(name) == "collecting" for name in LOADED)
        return False

    def follow(self, vm: str) -> Iterator[dict[str, Any]]:
        with Client(str(self._socket), timeout=None) as client:
            yield from client.stream_answers("events", vm=vm, follow=True)

    def events(self, vm: str, limit: int = 1000) -> list[dict[str, Any]]:
        """The newest, oldest first."""
        with Client(str(self._socket), timeout=60.0) as client:
            answers = client.stream_answers("events", vm=vm, limit=limit)
            return [answer["event"] for answer in answers if "event" in answer]

    def end(self) -> int:
        """:returns: exit status."""
        self._end.set()
        self._looker.join(60)
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()


@dataclass
class Heard:
    """What has arrived of one guest's signals, read by a thread of its own.

    :ivar times: of each SIGUSR1: s when it was read, and by the guest's clock.
    :ivar numbers: of all records.
    """

    times: list[tuple[float, float]] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    crashes: int = 0
    lost: int = 0

    def listen(self, vesperd: Vesperd, vm: str) -> None:
        def body() -> None:
            try:
                for answer in vesperd.follow(vm):
                    self.lost += answer.get("dropped", 0)
                    event = answer.get("event", {})
                    if event.get("event") == "lost":
                        self.lost += event["fields"]["count"]
                    elif event.get("event") == "send_signal":
                        self.numbers.append(event["seq"])
                        if event["fields"]["signal"] == "SIGUSR1":
                            self.times.append((event["received"], event["guest_ns"] / 1e9))
                        self.crashes += event["fields"]["signal"] == "SIGSEGV"
            except DaemonUnavailableError:
                pass  # its end

        threading.Thread(target=body, daemon=True).start()

    def late(self, first: int, last: int) -> list[float]:
        """s of delay of a stretch of records, beyond that of the fastest around each."""
        delays = [received - sent for received, sent in self.times]
        found = []
        low = high = first
        for number in range(first, last):
            at = self.times[number][1]
            while self.times[low][1] < at - WINDOW / 2:
                low += 1
            while high < last and self.times[high][1] < at + WINDOW / 2:
                high += 1
            found.append(delays[number] - min(delays[low:high]))
        return found


def words(late: list[float]) -> str:
    ms = sorted(1e3 * one for one in late)
    return (
        f"median {statistics.median(ms):.2f} ms, p99 {ms[len(ms) * 99 // 100]:.1f} ms, "
        f"longest {ms[-1]:.0f} ms"
    )


@contextmanager
def guests(
    kernel: Kernel, files: tuple[Path, ...], directory: Path, *names: str
) -> Iterator[tuple[Vesperd, dict[str, Machine]]]:
    """Real guests on the real device, known to vesperd as libvirt's domains are."""
    store = directory / "probes" / kernel.release
    store.mkdir(parents=True)
    for path in files:
        if path.stem in PROBES:
            (store / path.name).write_bytes(path.read_bytes())
    needed = {"vesper", "vsp_hostile", *FRONTENDS}
    guest_files = [p for p in files if p.suffix != ".ko" or p.stem in needed]
    with ExitStack() as stack:
        stack.enter_context(run_ivshmem_server(directory))
        machines = {}
        for name in names:
            folder = directory / name
            folder.mkdir()
            machines[name] = stack.enter_context(
                machine(
                    kernel, guest_files, folder, cpus=1, frontend="vesper_ivshmem",
                    qemu=(
                        "-pidfile", str(directory / f"{name}.pid"),
                        "-chardev", f"socket,path={directory}/qemu.sock,id=vesper",
                        "-device", "ivshmem-doorbell,chardev=vesper,vectors=1,master=on",
                    ),
                )
            )  # fmt: skip
            (directory / f"{name}.xml").write_text(
                DOMAIN_STATUS.format(pid=machines[name].process.pid, name=name, uuid=uuid.uuid4())
            )
        vesperd = Vesperd(directory)
        try:
            yield vesperd, machines
        except BaseException:
            print(vesperd.log.read_text()[-5000:])
            for guest in machines.values():
                print(guest.console[-3000:])
            raise
        finally:
            status = vesperd.end()
        assert status == 0, f"vesperd: exit status {status}"
        assert os.path.exists(vesperd.journal)
