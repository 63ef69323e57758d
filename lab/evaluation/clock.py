# SPDX-License-Identifier: GPL-2.0-or-later
"""One clock for a timeline that spans guest, two hosts and this machine.

The other clock is asked many times; the answer lies between the question's
and its own arrival here, so each exchange bounds the offset, and the quickest
bounds it best (Cristian's algorithm).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

__all__ = ["CLOCK_DESCRIPTION", "Offset", "Sample", "measure_offset", "pick_best_sample"]

CLOCK_DESCRIPTION = (
    "CLOCK_REALTIME of the machine that runs the lab; the guest's clock, and each host's where it "
    "has one of its own, were compared with it by ping-pong before and after the fault, the "
    "quickest exchange counts, half of its round trip is the error bound"
)


@dataclass(frozen=True)
class Sample:
    """One exchange, in ns."""

    asked: int  #: on this machine's clock
    answer: int  #: on the other clock
    received: int  #: on this machine's clock


@dataclass(frozen=True)
class Offset:
    """What to add to another clock to get this machine's, in ns."""

    ns: int
    error_ns: int  #: it is wrong by at most this

    def convert_time(self, there_ns: int) -> float:
        """A time of the other clock in seconds of this machine's."""
        return (there_ns + self.ns) / 1e9


def pick_best_sample(samples: Iterable[Sample]) -> Offset:
    """The offset by the quickest exchange.

    :raises ValueError: there are no samples.
    """
    quickest = min(samples, key=lambda sample: sample.received - sample.asked)
    half = (quickest.received - quickest.asked) // 2
    return Offset(quickest.asked + half - quickest.answer, half)


def measure_offset(ask: Callable[[], int], times: int = 40) -> Offset:
    """Compare a clock with this machine's.

    :param ask: asks the other clock and returns its answer in ns.
    """
    samples = []
    for _ in range(times):
        asked = time.time_ns()
        answer = ask()
        samples.append(Sample(asked, answer, time.time_ns()))
    return pick_best_sample(samples)
