# SPDX-License-Identifier: GPL-2.0-or-later
"""The pace of one guest's reading."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vesper_monitor.guest.pace import FULL_SPEED_ROUNDS, PAUSE, Pace

seconds = st.floats(0.0001, 0.1)


@given(st.lists(seconds, min_size=1, max_size=20))
def test_without_end_it_gets_a_quarter_at_most(rounds: list[float]) -> None:
    pace, now, busy, idle = Pace(), 1.0, 0.0, 0.0
    for number, taken in enumerate(rounds * 3 * FULL_SPEED_ROUNDS, 1):
        pace.begin(now)
        now += taken
        pace.end(now)
        pause = pace.pause(now)
        assert (pause > 0) == (number >= FULL_SPEED_ROUNDS)
        if pause:
            busy, idle = busy + taken, idle + pause
            now += pause
            pace.waited(now)
    assert abs(PAUSE * busy - idle) < 1e-6


@given(st.lists(seconds, min_size=1), seconds)
def test_who_leaves_pauses_is_never_held_up(rounds: list[float], more: float) -> None:
    pace, now = Pace(), 1.0
    for taken in rounds * FULL_SPEED_ROUNDS:
        pace.begin(now)
        now += taken
        pace.end(now)
        now += 2 * taken + more
        assert pace.pause(now) == 0.0
