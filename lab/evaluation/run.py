# SPDX-License-Identifier: GPL-2.0-or-later
"""The figures of one run of the evaluation."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from lab.evaluation.machine import BUSY_SHARE

__all__ = ["FAULTS", "STEPS", "WATCHES", "Run", "make_json_record"]

#: Kinds of faults, and their texts.
FAULTS = {
    "sigsegv": "httpd gets a SIGSEGV",
    "oom": "out of memory, httpd killed",
    "oom-other": "out of memory, another process killed",
    "panic": "kernel panic, domain destroyed",
    "panic-kept": "kernel panic, domain preserved",
    "poweroff": "power-off from inside",
    "destroy": "xl destroy by hand",
    "hang": "kernel hangs",
}
WATCHES = {"polling": "stock agent, 10 s", "vesper": "VESPER"}

#: Steps of the timeline in order: field and text.
STEPS = {
    "seen_s": "seen by vesperd",
    "recorded_s": "failure recorded",
    "stop_s": "stop called",
    "stopped_s": "stopped",
    "started_elsewhere_s": "running on the standby",
    "service_back_s": "page answers again",
}


@dataclass
class Run:
    """The figures of one run: s after the fault; None: not within the time limit."""

    fault: str
    watch: str
    fault_at: float  #: seconds since the epoch
    seen_s: float | None = None
    recorded_s: float | None = None
    stop_s: float | None = None
    stopped_s: float | None = None
    started_elsewhere_s: float | None = None
    service_back_s: float | None = None
    stuck_s: float | None = None  #: the stop has failed
    exit_reason: str = ""
    clock_error_s: float = 0.0  #: bound, of the worst clock that took part
    since_poll_s: float | None = None  #: from the stock agent's last look to the fault
    others_cpu_share: float = 0.0  #: of all CPUs, used by others than the lab meanwhile

    @property
    def is_reliable(self) -> bool:
        """Tell whether the machine was the lab's own while this was measured."""
        return self.others_cpu_share <= BUSY_SHARE

    def find_step_time(self, name: str) -> float | None:
        """Return the time of a step, by its field's name."""
        value: float | None = getattr(self, name)
        return value


def make_json_record(runs: list[Run], how: str) -> list[dict[str, Any]]:
    """Return the report: a list of runs, each with the clock of its times."""
    report = []
    for run in runs:
        entry: dict[str, Any] = {}
        for key, value in asdict(run).items():
            entry[key] = round(value, 4) if isinstance(value, float) else value
        entry["clock"] = {"how": how, "error_s": entry.pop("clock_error_s")}
        report.append(entry)
    return report
