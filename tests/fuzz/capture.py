# SPDX-License-Identifier: GPL-2.0-or-later
"""Captures what a real guest's kernel shares, for the fuzzer to begin with.

``python3 -m tests.fuzz.capture`` boots a guest on QEMU, has real faults happen
in it, ends it by a panic, and writes its shared pages to ``tests/fuzz/captured``
(zeros at their end left out).  To be run again when the ABI changes.
"""

from __future__ import annotations

import asyncio
import ctypes
import tempfile
from pathlib import Path

from lab import images
from tests.fuzz.seeds import CAPTURED
from tests.kernel.support.build import build
from tests.kernel.support.ivshmem import PROBES, KvmMachine, Watch, kvm_machine, watch
from vesper_monitor.guest import abi

FAULTS = "sh -c 'kill -SEGV $$'; sh -c 'exit 3'; ip link set lo up; tail /dev/zero"


def _write(name: str, data: bytes | memoryview) -> None:
    (CAPTURED / name).write_bytes(bytes(data).rstrip(b"\0"))


def _regions(seen: Watch) -> None:
    guest = seen.session.guest
    assert guest is not None
    _write("cchan", guest.link.cchan.view[: ctypes.sizeof(abi.Cchan)])
    _write("table", guest.table._mapping.view[: ctypes.sizeof(abi.Table)])
    life = guest.link.map_region(guest.hello.life.handle, 1)
    _write("life", life.view)
    for name in ("send_signal", "out_of_memory", "process_exit"):
        channel = seen.session._reader.channels[name]
        cpu = max(channel._cpus, key=lambda buffer: buffer.reader.records)
        assert cpu.mapping is not None
        _write(f"index-{name}", cpu.index)
        _write(f"buffer-{name}", cpu.mapping.view)


async def _capture(guest: KvmMachine) -> None:
    async with watch(guest) as seen:
        await seen.collecting(*PROBES)
        guest.machine.tell(FAULTS)
        await seen.see(lambda: seen.of("out_of_memory", comm="tail"), "OOM")
        await seen.see(lambda: seen.of("process_exit", comm="tail"), "its end")
        _regions(seen)
        guest.machine.tell("echo c >/proc/sysrq-trigger")
        await seen.see(lambda: seen.of("last_words"), "last words")
        hello = seen.session.guest
        assert hello is not None
        region = hello.hello.words
        _write("words", hello.link.map_region(region.handle, region.pages).view)


def main() -> None:
    CAPTURED.mkdir(exist_ok=True)
    kernel = images.kernel_of_tree()
    with (
        tempfile.TemporaryDirectory() as directory,
        kvm_machine(kernel, build(kernel), Path(directory), cmdline="panic=0") as guest,
    ):
        asyncio.run(_capture(guest))


if __name__ == "__main__":
    main()
