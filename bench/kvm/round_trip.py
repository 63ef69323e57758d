# SPDX-License-Identifier: GPL-2.0-or-later
"""From the guest's store to the decoded event, against the bare round trip.

The host rings a second ivshmem device of the guest (tests/guest_modules/vsp_echo.c).
Its interrupt handler answers in one of two ways, which take turns:

- bare: a number in that device's memory and its doorbell; the host waits in
  poll(2) for it, and does nothing else,
- event: a record, written as a probe does; the host's end of it is a real
  session over the real link, and the answer is the event, made into words.

Both have the way to the guest in common.  Half of the bare round trip stands
for one way; so event less that half is the time from the guest's store on.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import statistics
import struct
import threading
import time
from pathlib import Path

from kvm_transport.ivshmem_server.vm import VmDevice
from lab import images
from lab.progress import show_step
from tests.kernel.support.build import build
from tests.kernel.support.ivshmem import KvmMachine, Watch, kvm_machine, watch
from vesper_monitor.guest.event import Event

__all__ = ["measure_round_trips"]

#: struct echo of vsp_echo.c
ECHO_MARK = 0x45505356
NUMBER_OFFSET = 4
ANSWER_OFFSET = 64

#: For one answer.
ANSWER_LIMIT_S = 10.0
#: Between two round trips, so that both ends sleep at the start of each.
ROUND_PAUSE_S = 0.002


class Echo:
    """The second device: its memory and its two doorbells, and no daemon."""

    def __init__(self, path: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(1)
        self.vm: VmDevice | None = None
        threading.Thread(target=self._serve_device, daemon=True).start()

    def _serve_device(self) -> None:
        connection, _ = self._listener.accept()
        vm = VmDevice.create_for_qemu(connection, 1 << 20, time.time())
        os.pwrite(vm.memory, bytes(4096), 0)  # not VESPER's mark
        os.pwrite(vm.memory, struct.pack("<I", ECHO_MARK), 0)
        vm.send_handshake()
        self.vm = vm

    def ring_doorbell(self, number: int, *, record: bool) -> None:
        assert self.vm is not None
        os.pwrite(self.vm.memory, struct.pack("<II", number, record), NUMBER_OFFSET)
        os.eventfd_write(self.vm.to_guest, 1)

    def wait_for_answer(self, number: int) -> None:
        """Wait for the bare answer."""
        assert self.vm is not None
        poll = select.poll()
        poll.register(self.vm.to_host, select.POLLIN)
        while struct.unpack("<I", os.pread(self.vm.memory, 4, ANSWER_OFFSET)) != (number,):
            if not poll.poll(ANSWER_LIMIT_S * 1000):
                raise TimeoutError("the guest does not answer")
            os.eventfd_read(self.vm.to_host)

    def close_device(self) -> None:
        self._listener.close()
        if self.vm is not None:
            self.vm.close_descriptors()


async def _alternate_round_trips(echo: Echo, seen: Watch, rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {"bare": [], "event": []}
    answered = asyncio.Event()

    def note_answer(events: list[Event]) -> None:
        for event in events:
            if event.text and event.fields["addr"] == number:
                answered.set()

    seen.on_events = note_answer
    # The first of each warm the caches and do not count.
    for number in range(1, 2 * (rounds + 50) + 1):
        record = number % 2 == 0
        answered.clear()
        start = time.perf_counter_ns()
        echo.ring_doorbell(number, record=record)
        if record:
            async with asyncio.timeout(ANSWER_LIMIT_S):
                await answered.wait()
        else:
            echo.wait_for_answer(number)
        taken = (time.perf_counter_ns() - start) / 1000
        if number > 100:
            times["event" if record else "bare"].append(taken)
        await asyncio.sleep(ROUND_PAUSE_S)
    return times


def measure_round_trips(directory: Path, rounds: int) -> dict[str, list[float]]:
    """Return µs of each round trip, by its kind."""
    directory.mkdir()
    kernel = images.kernel_of_tree()
    files = build(kernel)
    echo = Echo(directory / "echo.sock")
    device = [
        "-chardev", f"socket,path={directory}/echo.sock,id=echo",
        "-device", "ivshmem-doorbell,chardev=echo,vectors=1,master=on",
    ]  # fmt: skip
    (guest_directory := directory / "guest").mkdir()

    async def measure_in_guest(guest: KvmMachine) -> dict[str, list[float]]:
        async with watch(guest) as seen:
            guest.machine.tell("insmod /vsp_echo.ko")
            await seen.wait_until(lambda: "vsp_echo" in seen.session.probes, "the echo")
            with show_step(f"{rounds} round trips of each kind"):
                return await _alternate_round_trips(echo, seen, rounds)

    try:
        with kvm_machine(kernel, files, guest_directory, more=("vsp_echo",), qemu=device) as guest:
            times = asyncio.run(measure_in_guest(guest))
    finally:
        echo.close_device()
    _print_report(times)
    return times


def _print_report(times: dict[str, list[float]]) -> None:
    way = statistics.median(times["bare"]) / 2
    rows = {
        "bare round trip": times["bare"],
        "bare, halved": [value / 2 for value in times["bare"]],
        "record instead of an answer": times["event"],
        "guest store -> decoded event": [value - way for value in times["event"]],
    }
    print(f"{'(µs)':30}{'median':>9}{'25%':>9}{'75%':>9}{'p99':>9}{'max':>9}{'n':>7}")
    found = {}
    for name, values in rows.items():
        parts = statistics.quantiles(values, n=100)
        found[name] = statistics.median(values), parts[98]
        print(
            f"{name:30}{found[name][0]:9.0f}{parts[24]:9.0f}{parts[74]:9.0f}"
            f"{parts[98]:9.0f}{max(values):9.0f}{len(values):7}"
        )
    event, bare = found["guest store -> decoded event"], found["bare, halved"]
    print(
        f"event against the bare round trip halved: median {event[0] - bare[0]:+.0f} µs, "
        f"p99 {event[1] - bare[1]:+.0f} µs"
    )
