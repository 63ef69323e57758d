# SPDX-License-Identifier: GPL-2.0-or-later
"""A real guest whose kernel writes at random over all that it shares.

tests/guest_modules/hostile.c is the module that does. A whole vesperd watches it,
and beside it a healthy one, each of whose events must arrive.
``VESPER_CORRUPTIONS=10000`` makes it so many (``make hostile``).
"""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path

from tests.kernel.support.hostile import MOST_LINES, MOST_MEMORY, last_counts
from tests.kernel.support.loopback_guest import TestGuest
from tests.kernel.support.machine import Machine
from tests.kernel.support.neighbours import Heard, Vesperd, guests, until, words

CORRUPTIONS = int(os.environ.get("VESPER_CORRUPTIONS", "500"))
#: In a row, at most; then the frontend is loaded anew, and the host begins anew, too.
BATCH = 200
#: s before anybody is disturbed.
QUIET = 5.0 if CORRUPTIONS < 10000 else 30.0
#: s after which a healthy guest is heard at the latest, and vesperd answers, on a busy machine.
HEARD = 5.0

SIGNALS = "trap '' USR1; (while [ ! -e /calm ]; do kill -USR1 $$; usleep 20000; done) &"
HTTPD = "sh -c 'printf httpd >/proc/self/comm; kill -SEGV $$'"


def faults(vesperd: Vesperd) -> list[str]:
    """What the healthy guest is said to have."""
    return [fault["reason"] for fault in vesperd.call("faults", vm="healthy")["faults"]]


def attack(vesperd: Vesperd, guest: Machine, seed: int) -> tuple[int, int, int]:
    """One batch.

    :returns: how many corruptions there have been in all, after how many of
        them vesperd has looked, and how often it was rung.
    """
    until(lambda: vesperd.is_active("hostile"), "a session with the hostile guest")
    guest.tell(f"echo {seed} {BATCH} >/proc/vsp_hostile; cat /proc/vsp_hostile; echo batch {seed}")
    guest.wait_said(f"batch {seed}")
    guest.tell("rmmod vesper_ivshmem; insmod /vesper_ivshmem.ko")
    return last_counts(guest.console)


def test_a_hostile_guest_disturbs_no_other(test_guest: TestGuest, tmp_path: Path) -> None:
    names = ("healthy", "hostile")
    with guests(test_guest.kernel, test_guest.files, tmp_path, *names) as (vesperd, machines):
        heard = Heard()
        for name in names:
            vesperd.start(name)
            until(partial(vesperd.collects, name), f"the probes of {name}")
        heard.listen(vesperd, "healthy")
        machines["healthy"].tell(SIGNALS)
        machines["hostile"].tell("insmod /vsp_hostile.ko")
        until(lambda: heard.times, "the first signal")
        # What is compared is not that its neighbour has a CPU to do.
        machines["hostile"].tell("while :; do :; done &")
        time.sleep(QUIET)
        machines["hostile"].tell("kill $!")
        quiet, memory, begin = len(heard.times), max(vesperd.memory), time.monotonic()
        vesperd.answered.clear()

        seed = looked_at = 0
        while looked_at < CORRUPTIONS:
            seed += 1
            made, looked_at, rung = attack(vesperd, machines["hostile"], seed)
            print(f"{looked_at} of {CORRUPTIONS} corruptions", end="\r", flush=True)
        took = time.monotonic() - begin

        late = heard.late(quiet, len(heard.times))
        lines = vesperd.log.read_text().splitlines()
        print(f"{made} corruptions, {looked_at} of them looked at, {rung} rings in {took:.0f} s; "
              f"{seed} sessions; {len(lines)} lines logged")  # fmt: skip
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
