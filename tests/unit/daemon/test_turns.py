# SPDX-License-Identifier: GPL-2.0-or-later
"""However a guest tries, it has the daemon's loop for a moment only before others have their turn.

Measured in CPU time of the loop's thread, which does not depend on what else the machine does.
"""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab.standin.image import make_store
from tests.unit.support.hostile import Host, HostileGuest, impatient
from vesper_monitor.guest import abi

#: s of CPU time; the longest has some 10 ms.
LONGEST = 0.05
SECONDS = 2.0
RECORD = 24
PAGES = 64


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setenv("VESPER_STANDIN_DIR", str(tmp_path / "domains"))
    (tmp_path / "domains").mkdir()
    make_store(tmp_path / "images")
    with impatient():
        host = Host(tmp_path / "images")
        try:
            yield host
        finally:
            host.close()


def full_channels(guest: HostileGuest) -> Callable[[], None]:
    """:returns: what shows 16 new channels, each with as much to read as fits."""
    memory = guest.inside._memory
    size = PAGES * abi.PAGE_SIZE // 4
    buffer, index = memory.allocate_pages(PAGES), memory.allocate_pages(1)
    record = bytearray(RECORD)
    for number in range(PAGES * abi.PAGE_SIZE // RECORD):
        head = abi.Record(len=RECORD, event=999, seq=number, time_ns=number)
        record[: ctypes.sizeof(head)] = bytes(head)
        memory.view_region(buffer)[number * RECORD : (number + 1) * RECORD] = record
    one = abi.Index(pos=3 * size, buffer=buffer)
    one.pad[:] = [size % RECORD] * abi.MAX_SUBBUFS
    memory.view_region(index)[: ctypes.sizeof(one)] = bytes(one)
    numbers = itertools.count()

    def show() -> None:
        number = next(numbers)
        for place in range(abi.MAX_CHANNELS):
            # Read by an earlier one up to there.
            at = abi.field_offset(abi.Index, "read")
            memory.view_region(index)[at : at + 8] = bytes(8)
            guest.inside.set_channel(
                place,
                abi.Channel(
                    state=abi.ChannelState.OPEN, generation=number, subbuf_size=size,
                    n_subbufs=4, nr_cpus=1, index=abi.Region(handle=index.handle, pages=1),
                    modname=b"%d-%d" % (number, place),
                ),
            )  # fmt: skip

    return show


def test_a_turn_is_short(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Channels that come and go without end, all of them full of the shortest records."""
    guest = host.enter()
    show = full_channels(guest)
    assert host.hostile is not None
    before, turns = host.hostile.taken, [0.0]
    run = asyncio.Handle._run

    def timed(handle: asyncio.Handle) -> None:
        begin = time.thread_time()
        run(handle)
        turns.append(time.thread_time() - begin)

    async def attack() -> None:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            show()
            await asyncio.sleep(0.005)

    monkeypatch.setattr(asyncio.Handle, "_run", timed)
    host.run(attack())
    monkeypatch.setattr(asyncio.Handle, "_run", run)
    print(f"longest turn: {max(turns) * 1e3:.1f} ms, {host.hostile.taken - before} records")
    assert host.hostile.taken - before > 1000
    assert max(turns) < LONGEST
    host.step()  # the other guest is heard
