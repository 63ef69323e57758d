# SPDX-License-Identifier: GPL-2.0-or-later
"""How fast and how busy the machine is that the evaluation runs on.

Times of an emulated lab mean little without that: a stop of 60 s has failed on a machine
with twelve runnable threads.
"""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

__all__ = ["BUSY_SHARE", "Machine", "OtherLoad", "measure_machine"]

#: CPUs that a lab of two hosts keeps busy.
MIN_CPUS = 2
#: CPU seconds of :func:`_work_a_while` on the machine whose figures the documents have.
REFERENCE_CPU_S = 0.020
#: Operations' timeouts are made this many times longer at most.
MAX_TIMEOUT_FACTOR = 10.0
#: Figures count as unreliable if others used more than this share of the CPUs meanwhile.
BUSY_SHARE = 0.15

_SAMPLES = 10
_SAMPLE_PAUSE_S = 0.2


@dataclass(frozen=True)
class Machine:
    """What was measured before a lab was started."""

    cpus: int
    slowness: float  #: CPU time of a fixed piece of work against the reference; 2: half as fast
    runnable: float  #: mean number of threads that ran or wanted to, this process left out

    @property
    def timeout_factor(self) -> float:
        """Return how many times longer things may take here (1 to :data:`MAX_TIMEOUT_FACTOR`)."""
        crowd = (MIN_CPUS + self.runnable) / self.cpus
        return min(MAX_TIMEOUT_FACTOR, max(1.0, self.slowness) * max(1.0, crowd))

    @property
    def is_too_busy(self) -> bool:
        """Tell whether others already use more of the CPUs than figures bear."""
        return self.runnable > BUSY_SHARE * self.cpus

    def describe_machine(self) -> str:
        """Return a sentence for people."""
        speed = f"{1 / self.slowness:.1f} times the reference machine's speed"
        text = f"{self.cpus} CPUs, {speed}, {self.runnable:.1f} other runnable threads"
        if self.timeout_factor > 1.05:
            text += f"; timeouts are {self.timeout_factor:.1f} times as long as usual"
        return text


def _work_a_while() -> int:
    total = 0
    for number in range(1_000_000):
        total += number & 7
    return total


def _measure_cpu_time_s() -> float:
    begin = time.process_time()
    _work_a_while()
    return time.process_time() - begin


def _count_runnable() -> int:
    """Return the number of runnable threads of the machine, without this one."""
    return int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0]) - 1


def measure_machine() -> Machine:
    """Measure speed and load; takes about two and a half seconds."""
    runnable = []
    for _ in range(_SAMPLES):
        runnable.append(_count_runnable())
        time.sleep(_SAMPLE_PAUSE_S)
    cpu_s = min(_measure_cpu_time_s() for _ in range(5))
    cpus = len(os.sched_getaffinity(0))
    return Machine(cpus, cpu_s / REFERENCE_CPU_S, statistics.mean(runnable))


def _sum_own_cpu_s() -> float:
    """Return the CPU time of this process and of its descendants, the ended ones included."""
    total = 0.0
    me = psutil.Process()
    for process in [me, *me.children(recursive=True)]:
        try:
            total += sum(process.cpu_times()[:4])  # user, system, and those of ended children
        except psutil.NoSuchProcess:
            continue  # counted by its parent from now on
    return total


def _sum_busy_cpu_s() -> float:
    """Return the CPU time that this machine did not have for idling, stolen time included."""
    times = psutil.cpu_times()
    return float(sum(times[:8]) - times.idle - times.iowait)


class OtherLoad:
    """Measures which share of the CPUs was used by others than the lab."""

    def __init__(self) -> None:
        self._begin = time.monotonic(), _sum_busy_cpu_s(), _sum_own_cpu_s()

    def measure_share(self) -> float:
        """Return others' share of all CPUs (0 to 1) since this object was made."""
        begin, busy, own = self._begin
        elapsed = (time.monotonic() - begin) * (os.cpu_count() or 1)
        others = (_sum_busy_cpu_s() - busy) - (_sum_own_cpu_s() - own)
        return min(1.0, max(0.0, others / elapsed)) if elapsed else 0.0
