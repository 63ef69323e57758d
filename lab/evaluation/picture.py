# SPDX-License-Identifier: GPL-2.0-or-later
"""The timelines as a picture: one row a run, time since the fault to the right (SVG)."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

from lab.evaluation.run import FAULTS, STEPS, WATCHES, Run

__all__ = ["draw_timelines"]

LEFT_PX = 150
RIGHT_PX = 40
TOP_PX = 92
ROW_PX = 24
HEAD_PX = 30
WIDTH_PX = 960

#: Colour-blind safe (Okabe and Ito), one a step, with a shape of its own.
MARKS = {
    "seen_s": ("#0072b2", "triangle"),
    "recorded_s": ("#d55e00", "circle"),
    "stop_s": ("#e69f00", "square"),
    "stopped_s": ("#cc79a7", "square"),
    "started_elsewhere_s": ("#56b4e9", "diamond"),
    "service_back_s": ("#009e73", "circle"),
}
GIVEN_UP_AFTER_S = 60.0  #: seconds after which a run was given up


def _draw_event_mark(x: float, y: float, colour: str, shape: str) -> str:
    r = 5.0
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r}" fill="{colour}"/>'
    points = {
        "square": [(-r, -r), (r, -r), (r, r), (-r, r)],
        "diamond": [(0, -r - 1), (r + 1, 0), (0, r + 1), (-r - 1, 0)],
        "triangle": [(-r, r), (r, r), (0, -r - 1)],
    }[shape]
    path = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in points)
    return f'<polygon points="{path}" fill="{colour}"/>'


def _draw_text_at(x: float, y: float, text: str, style: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'


def _find_axis_span(runs: Sequence[Run]) -> float:
    """Seconds that the axis must hold, rounded up to tens."""
    last = max(
        (value for run in runs for step in STEPS if (value := run.find_step_time(step))),
        default=10.0,
    )
    if any(run.recorded_s is None for run in runs):
        last = max(last, GIVEN_UP_AFTER_S)
    return 10.0 * (int(last / 10) + 1)


def _draw_timeline_row(run: Run, number: int, y: float, scale: float) -> list[str]:
    times = {step: value for step in STEPS if (value := run.find_step_time(step)) is not None}
    out = [
        _draw_text_at(LEFT_PX - 12, y + 4, f"{WATCHES[run.watch]} #{number}", 'text-anchor="end"')
    ]
    end = max(times.values(), default=0.0)
    never = run.recorded_s is None
    x_end = LEFT_PX + (GIVEN_UP_AFTER_S if never else end) * scale
    dash = ' stroke-dasharray="3 4"' if never else ""
    out.append(f'<line x1="{LEFT_PX}" y1="{y}" x2="{x_end:.1f}" y2="{y}" stroke="#bbb"{dash}/>')
    if run.recorded_s is not None:
        x = LEFT_PX + run.recorded_s * scale
        out.append(
            f'<line x1="{LEFT_PX}" y1="{y}" x2="{x:.1f}" y2="{y}" stroke="#d55e00" '
            'stroke-width="3"/>'
        )
    else:
        out.append(_draw_text_at(x_end + 8, y + 4, "not detected", 'fill="#d55e00"'))
    for step, value in times.items():
        out.append(_draw_event_mark(LEFT_PX + value * scale, y, *MARKS[step]))
    return out


def _draw_time_axis(span: float, scale: float, bottom: float) -> list[str]:
    out = []
    step = 5 if span <= 60 else 10
    for second in range(0, int(span) + 1, step):
        x = LEFT_PX + second * scale
        out.append(
            f'<line x1="{x:.1f}" y1="{TOP_PX - 8}" x2="{x:.1f}" y2="{bottom}" stroke="#eee"/>'
        )
        out.append(_draw_text_at(x, bottom + 16, str(second), 'text-anchor="middle" fill="#666"'))
    out.append(
        _draw_text_at(
            LEFT_PX + span * scale / 2,
            bottom + 34,
            "seconds after the fault",
            'text-anchor="middle"',
        )
    )
    return out


def _draw_legend() -> list[str]:
    out, x = [], float(LEFT_PX)
    for step, name in STEPS.items():
        out.append(_draw_event_mark(x, 62, *MARKS[step]))
        out.append(_draw_text_at(x + 10, 66, name))
        x += 40 + 6.6 * len(name)
    return out


def draw_timelines(runs: Sequence[Run], title: str) -> str:
    """The picture as an SVG document."""
    scale = (WIDTH_PX - LEFT_PX - RIGHT_PX) / (span := _find_axis_span(runs))
    rows: list[str] = []
    y = float(TOP_PX)
    for fault, meaning in FAULTS.items():
        if not any(run.fault == fault for run in runs):
            continue
        rows.append(_draw_text_at(LEFT_PX, y + 8, meaning, 'font-weight="bold"'))
        y += HEAD_PX
        for watch in WATCHES:
            some = [run for run in runs if run.fault == fault and run.watch == watch]
            for number, run in enumerate(some, 1):
                rows += _draw_timeline_row(run, number, y, scale)
                y += ROW_PX
        y += 8
    height = y + 46
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH_PX}" height="{height:.0f}" '
            f'viewBox="0 0 {WIDTH_PX} {height:.0f}" font-family="sans-serif" font-size="12">',
            f'<rect width="{WIDTH_PX}" height="{height:.0f}" fill="white"/>',
            _draw_text_at(LEFT_PX, 30, title, 'font-size="17" font-weight="bold"'),
            *_draw_legend(),
            *_draw_time_axis(span, scale, y),
            *rows,
            "</svg>",
            "",
        ]
    )
