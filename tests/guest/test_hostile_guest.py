# SPDX-License-Identifier: GPL-2.0-or-later
"""A real guest whose kernel writes at random over all that it shares (vsp_hostile.c).

A whole vesperd watches it, and beside it a healthy one, each of whose events
must arrive. ``VESPER_CORRUPTIONS=10000`` makes it so many (``make hostile``).
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any

from tests.guest.machine import Machine
from tests.guest.neighbours import Heard, Vesperd, guests, until, words

CORRUPTIONS = int(os.environ.get("VESPER_CORRUPTIONS", "500"))
#: In a row; then the frontend is loaded anew, as nothing else would be looked at any more.
BATCH = 50
#: s before anybody is disturbed.
QUIET = 5.0 if CORRUPTIONS < 10000 else 30.0
#: s after which a healthy guest is heard at the latest, and vesperd answers, on a busy machine.
HEARD = 5.0
#: KiB that a hostile guest can make vesperd take.
MOST_MEMORY = 64 << 10
#: Lines that it can make vesperd log in a second: one for each place, and some at once.
MOST_LINES = 10

SIGNALS = "trap '' USR1; (while [ ! -e /calm ]; do kill -USR1 $$; usleep 20000; done) &"
HTTPD = "sh -c 'printf httpd >/proc/self/comm; kill -SEGV $$'"


def faults(vesperd: Vesperd) -> list[str]:
    """What the healthy guest is said to have."""
    return [fault["reason"] for fault in vesperd.call("faults", vm="healthy")["faults"]]


def attack(vesperd: Vesperd, guest: Machine, seed: int) -> tuple[int, bool]:
    """One batch.

    :returns: how many corruptions there have been in all, and whether there
        still is a session after the last of them.
    """
    until(lambda: vesperd.is_active("hostile"), "a session with the hostile guest")
    guest.tell(f"echo {seed} {BATCH} >/proc/vsp_hostile; cat /proc/vsp_hostile; echo batch {seed}")
    guest.wait_said(f"batch {seed}")
    active = vesperd.is_active("hostile")
    guest.tell("rmmod vesper_ivshmem; insmod /vesper_ivshmem.ko")
    return int(re.findall(r"^corrupted (\d+) ", guest.console, re.MULTILINE)[-1]), active


def test_hostile_guest(test_guest: Any, tmp_path: Path) -> None:
    names = ("healthy", "hostile")
    with guests(test_guest.kernel, test_guest.files, tmp_path, *names) as (vesperd, machines):
        heard = Heard()
        for name in names:
            vesperd.start(name)
            until(lambda name=name: vesperd.collects(name), f"the probes of {name}")
        heard.listen(vesperd, "healthy")
        machines["healthy"].tell(SIGNALS)
        machines["hostile"].tell("insmod /vsp_hostile.ko")
        until(lambda: heard.times, "the first signal")
        time.sleep(QUIET)
        quiet, memory, begin = len(heard.times), max(vesperd.memory), time.monotonic()
        vesperd.answered.clear()

        seed = made = active = 0
        while made < CORRUPTIONS:
            seed += 1
            made, there = attack(vesperd, machines["hostile"], seed)
            active += there
            if seed % 20 == 0:
                print(f"{made} of {CORRUPTIONS} corruptions", flush=True)
        took = time.monotonic() - begin

        late = heard.late(quiet, len(heard.times))
        lines = vesperd.log.read_text().splitlines()
        print(f"{made} corruptions in {took:.0f} s, {seed} batches, after {active} of which the "
              f"session still was; {len(lines)} lines logged")  # fmt: skip
        print("not disturbed:", words(heard.late(0, quiet)))
        print("disturbed:    ", words(late))
        print(f"vesperd: {memory} KiB before, {max(vesperd.memory)} at most; answers after "
              f"{max(vesperd.answered):.2f} s at most")  # fmt: skip
        assert not [line for line in lines if "Traceback" in line]
        assert len(lines) <= 20 + MOST_LINES * took
        assert max(vesperd.memory) - memory <= MOST_MEMORY
        assert max(late) <= HEARD
        assert max(vesperd.answered) <= HEARD
        # The hostile one is well again, and a fault of the other is a fault.
        until(lambda: vesperd.collects("hostile"), "the hostile guest is watched again")
        assert not faults(vesperd)
        machines["healthy"].tell(f"touch /calm; wait; {HTTPD}")
        until(lambda: faults(vesperd), "the healthy guest's fault")
        (fault,) = faults(vesperd)
        assert "SIGSEGV" in fault
        until(lambda: heard.crashes, "the last record")
        assert heard.numbers == list(range(heard.numbers[0], heard.numbers[-1] + 1))
        assert not heard.lost
