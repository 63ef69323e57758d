# SPDX-License-Identifier: GPL-2.0-or-later
"""``python3 -m tests.xen.support.soak``: hours of benign events in the Xen
lab, and now and then a fault.

No failover but for a fault, and each fault is found.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable

from lab.evaluation import cluster
from lab.host import ChannelError, LabError
from lab.xen import XenLab
from tests.xen.conftest import LOGS
from tests.xen.support.benign_events import RARE, USUAL, Happening, migrate
from tests.xen.support.failure_modes import HANG, PANIC, SEGV, Way, fail_over
from tests.xen.support.invariants import Innocent
from tests.xen.support.vm1 import begin, clean

#: After so many benign events all is checked, and a fault follows.
SERIES = 5

FAULTS = (SEGV, PANIC, HANG)


class Soak:
    """
    :param kind: of guest: ``pv``, ``pvh`` (which can be migrated).
    """

    def __init__(self, lab: XenLab, kind: str, seed: int) -> None:
        self._lab = lab
        self._kind = kind
        self._random = random.Random(seed)
        self._usual = USUAL if kind == "pv" else (*USUAL, migrate)
        self._bag: list[Happening] = []
        self.done: Counter[str] = Counter()
        self.bad: list[str] = []
        self._begun = time.monotonic()

    def run(self, seconds: float, rounds: int) -> None:
        """Run for so long, and until each event has happened so often.

        :raises LabError: vm1 cannot be had.
        """
        begin(self._lab, self._kind)
        number = 0
        while time.monotonic() < self._begun + seconds or self._least() < rounds:
            self._try(self._no_faults)
            way = FAULTS[number % len(FAULTS)]
            self._try(lambda: self._fault(way))  # noqa: B023
            number += 1

    def _least(self) -> int:
        return min(self.done[happens.__name__] for happens in self._usual)

    def _next(self) -> Happening:
        """Return the next event: all usual ones and one rare one in random order, then anew."""
        if not self._bag:
            bag = [*self._usual, self._random.choice(RARE)]
            self._bag = self._random.sample(bag, len(bag))
        return self._bag.pop()

    def _try(self, work: Callable[[], None]) -> None:
        try:
            work()
        except (AssertionError, ChannelError, LabError) as error:
            self.bad.append(str(error))
            self._say(f"BAD: {error}")
            for host in self._lab.hosts:
                print(f"== {host.name}\n{host.run_command(LOGS, timeout=60).output}", flush=True)
            begin(self._lab, self._kind)

    def _say(self, text: str) -> None:
        print(f"[{(time.monotonic() - self._begun) / 60:6.1f} min] {text}", flush=True)

    def _no_faults(self) -> None:
        now = Innocent(self._lab)
        series = []
        for _ in range(SERIES):
            happens = self._next()
            name, start = happens.__name__, time.monotonic()
            series.append(name)
            happens(now)
            now.same(name)
            said = "; ".join(now.remarks)
            now.remarks.clear()
            self._say(f"{name} {time.monotonic() - start:.0f} s {said}")
        now.check(", ".join(series))
        self.done.update(series)
        self._say(f"all is well {' '.join(now.remarks)}")

    def _fault(self, way: Way) -> None:
        start = time.monotonic()
        _, reason = fail_over(self._lab, way, 180)
        took = time.monotonic() - start
        cluster.settle_after_failover(self._lab, "vesper", lambda _: None)
        self.done[way.name] += 1
        self._say(f"{way.name}, on the standby and judged after {took:.0f} s: {reason}")

    def text(self) -> str:
        """Return how often each event went well, and what went wrong."""
        minutes = (time.monotonic() - self._begun) / 60
        counts = ", ".join(f"{name} {count}" for name, count in sorted(self.done.items()))
        return f"{self._kind}: {minutes:.0f} min: {counts}; bad: {len(self.bad)}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m tests.xen.support.soak", description=__doc__)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=0, help="of each that is usual, at least")
    parser.add_argument("--kind", choices=("pv", "pvh"), default="pvh", help="(default: pvh)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    for ends in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ends, signal.default_int_handler)
    with XenLab.resume_lab() as lab:
        soak = Soak(lab, options.kind, options.seed)
        try:
            soak.run(options.hours * 3600, options.rounds)
            clean(lab)
        except KeyboardInterrupt:
            pass
        finally:
            print(soak.text(), *soak.bad, sep="\n", flush=True)
    return 1 if soak.bad else 0


if __name__ == "__main__":
    sys.exit(main())
