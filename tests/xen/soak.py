# SPDX-License-Identifier: GPL-2.0-or-later
"""``python3 -m tests.xen.soak``: hours of what is no fault in the Xen lab; now and then a fault.

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

from lab.evaluation import cluster, trial
from lab.guest import Guest
from lab.host import ChannelError, LabError
from lab.xen import XenHost, XenLab
from tests.vm1 import fail_count, wait_started
from tests.xen.conftest import LOGS
from tests.xen.happenings import EACH, Happening, migrate
from tests.xen.innocent import Innocent
from tests.xen.vm1 import begin, clean

#: After so many that are none comes a fault.
FAULT_AFTER = 5


def segv(host: XenHost) -> None:
    Guest(host).kill("SEGV", "httpd")


def panic(host: XenHost) -> None:
    Guest(host).end("panic")


def hang(host: XenHost) -> None:
    Guest(host).end("hang")


#: How, and words of the exit reason.
FAULTS: tuple[tuple[Callable[[XenHost], None], str], ...] = (
    (segv, "SIGSEGV"),
    (panic, "kernel panic"),
    (hang, "kernel hangs"),
)


class Soak:
    """
    :param kind: of guest: ``pv``, ``pvh`` (which can be migrated).
    """

    def __init__(self, lab: XenLab, kind: str, seed: int) -> None:
        self._lab = lab
        self._kind = kind
        self._random = random.Random(seed)
        self._each: tuple[Happening, ...] = EACH if kind == "pv" else (*EACH, migrate)
        self._bag: list[Happening] = []
        self.done: Counter[str] = Counter()
        self.bad: list[str] = []
        self._begun = time.monotonic()

    def run(self, seconds: float, rounds: int) -> None:
        """For so long, and until each has happened so often.

        :raises LabError: vm1 cannot be had.
        """
        begin(self._lab, self._kind)
        number = 0
        while time.monotonic() < self._begun + seconds or self._least() < rounds:
            number += 1
            if number % (FAULT_AFTER + 1) == 0:
                how, word = FAULTS[number // (FAULT_AFTER + 1) % len(FAULTS)]
                self._do(how.__name__, lambda: self._fault(how, word))  # noqa: B023
            else:
                happens = self._next()
                self._do(happens.__name__, lambda: self._no_fault(happens))  # noqa: B023

    def _least(self) -> int:
        return min(self.done[happens.__name__] for happens in self._each)

    def _next(self) -> Happening:
        if not self._bag:
            self._bag = self._random.sample(self._each, len(self._each))
        return self._bag.pop()

    def _do(self, name: str, work: Callable[[], str]) -> None:
        start = time.monotonic()
        try:
            said = work()
        except (AssertionError, ChannelError, LabError) as error:
            said = f"BAD: {error}"
            self.bad.append(f"{name}: {error}")
            self._say(name, start, said)
            for host in self._lab.hosts:
                print(f"== {host.name}\n{host.run(LOGS, timeout=60).output}", flush=True)
            begin(self._lab, self._kind)
            return
        self.done[name] += 1
        self._say(name, start, said)

    def _say(self, name: str, start: float, said: str) -> None:
        now = time.monotonic()
        print(f"[{(now - self._begun) / 60:6.1f} min] {name} {self.done[name]}: "
              f"{now - start:.0f} s {said}", flush=True)  # fmt: skip

    def _no_fault(self, happens: Happening) -> str:
        now = Innocent(self._lab)
        happens(now)
        now.check(happens.__name__)
        return "; ".join(now.remarks)

    def _fault(self, how: Callable[[XenHost], None], word: str) -> str:
        home = self._lab.running_on()
        assert home is not None
        (standby,) = (host for host in self._lab.hosts if host is not home)
        how(home)
        wait_started(standby, 180)
        mon = standby.run("crm_mon -1 --output-as=xml", timeout=60, check=True).output
        reason = trial.exit_reason(mon.encode())
        assert word in reason, f"{word!r} is not in {reason!r}"
        assert (count := fail_count(self._lab)) == 1, f"{count} failures"
        cluster.settle(self._lab, "vesper", lambda _: None)
        return reason

    def text(self) -> str:
        """How often each has gone well, and what has not."""
        minutes = (time.monotonic() - self._begun) / 60
        counts = ", ".join(f"{name} {count}" for name, count in sorted(self.done.items()))
        return f"{self._kind}: {minutes:.0f} min: {counts}; bad: {len(self.bad)}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m tests.xen.soak", description=__doc__)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=0, help="of each, at least (default: 0)")
    parser.add_argument("--kind", choices=("pv", "pvh"), default="pvh", help="(default: pvh)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    for ends in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ends, signal.default_int_handler)
    with XenLab.resume() as lab:
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
