# SPDX-License-Identifier: GPL-2.0-or-later
"""The table at the end: medians, spread, and how much sooner."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from lab.evaluation.run import FAULTS, STEPS, WATCHES, Run

__all__ = ["find_median", "find_spread", "ratio_of_medians", "render_table"]

#: Under a table that has negative times.
_BEFORE = """
Negative: an out-of-memory fault is dated by the guest's own line about it, which its kernel
logs after the probe; guest and host share one CPU in this lab, and vesperd may run in between.
"""


def _collect_values(runs: Sequence[Run], fault: str, watch: str, step: str) -> list[float | None]:
    return [run.find_step_time(step) for run in runs if run.fault == fault and run.watch == watch]


def find_median(values: Sequence[float | None]) -> float | None:
    """Return the median; None if half or more of the values are None ("never")."""
    if not values:
        return None
    result = median(float("inf") if value is None else value for value in values)
    return None if result == float("inf") else result


def find_spread(values: Sequence[float | None]) -> tuple[float, float] | None:
    """Smallest and largest of the values that there are."""
    there = [value for value in values if value is not None]
    return (min(there), max(there)) if there else None


def ratio_of_medians(slow: Sequence[float | None], quick: Sequence[float | None]) -> float | None:
    """Return how many times sooner the median of ``quick`` is; None if one is never."""
    a, b = find_median(slow), find_median(quick)
    return a / b if a is not None and b is not None and b > 0 else None


def _format_cell(values: Sequence[float | None]) -> str:
    if not values:
        return "-"
    center, ends = find_median(values), find_spread(values)
    missing = sum(value is None for value in values)
    if ends is None:
        return "never"
    text = "never" if center is None else _format_seconds(center)
    if len(values) > 1:
        text += f" ({_format_seconds(ends[0])} to {_format_seconds(ends[1])})"
    return text + (f", {missing} of {len(values)} never" if missing else "")


def _format_seconds(value: float) -> str:
    return f"{value:.3f}" if value < 1 else f"{value:.1f}"


def render_table(runs: Sequence[Run]) -> str:
    """Return the table as text: medians in seconds after the fault (smallest to largest)."""
    rows = [["", *WATCHES.values(), "sooner"]]
    for fault, meaning in FAULTS.items():
        if not any(run.fault == fault for run in runs):
            continue
        counts = {
            watch: len(_collect_values(runs, fault, watch, "recorded_s")) for watch in WATCHES
        }
        rows.append([f"{meaning} (n={'/'.join(str(n) for n in counts.values())})", "", "", ""])
        for step, name in STEPS.items():
            slow, quick = (_collect_values(runs, fault, watch, step) for watch in WATCHES)
            times = ratio_of_medians(slow, quick)
            cells = [_format_cell(slow), _format_cell(quick)]
            if step == "seen_s":
                cells[0] = "-"
                times = None
            rows.append([f"  {name}", *cells, f"{times:.1f} x" if times else ""])
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    text = "Seconds after the fault: median (smallest to largest)\n\n" + "\n".join(lines) + "\n"
    text += _BEFORE if any((run.seen_s or 0) < 0 for run in runs) else ""
    return text + _describe_unreliable(runs)


def _describe_unreliable(runs: Sequence[Run]) -> str:
    shares = [run.others_cpu_share for run in runs if not run.is_reliable]
    if not shares:
        return ""
    return (
        f"\nUNRELIABLE: in {len(shares)} of {len(runs)} runs other processes used up to "
        f"{max(shares):.0%} of this machine's CPUs. Run it again when the machine is idle.\n"
    )
