# SPDX-License-Identifier: GPL-2.0-or-later
"""The pace of one guest's reading."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vesper_monitor.guest.read_budget import BURST_S, MIN_PAUSE_S, READING_SHARE, ReadBudget

rounds = st.lists(st.floats(0.0001, 0.1), min_size=1, max_size=20)


@given(rounds)
def test_without_end_it_gets_its_share(lengths: list[float]) -> None:
    pace, begin, now, busy = ReadBudget(), 1.0, 1.0, 0.0
    while busy < 10 * BURST_S:
        for taken in lengths:
            pace.take_time(now, now + taken)
            now, busy = now + taken, busy + taken
            # One round and a pause that is not worth it are too much at most.
            assert (
                busy
                <= READING_SHARE * (now - begin) + BURST_S + taken + READING_SHARE * MIN_PAUSE_S
            )
            now += pace.pause_needed(now)
            assert pace.pause_needed(now) == 0.0
    # It gets it, too.
    assert busy >= READING_SHARE * (now - begin)


@given(rounds, st.floats(0.0001, 0.1))
def test_who_leaves_pauses_is_never_held_up(lengths: list[float], more: float) -> None:
    pace, now = ReadBudget(), 1.0
    for taken in lengths * 10:
        pace.take_time(now, now + taken)
        now += taken
        now += taken / READING_SHARE - taken + more
        assert pace.pause_needed(now) == 0.0


def test_a_burst_is_not_held_up() -> None:
    pace, now = ReadBudget(), 1.0
    for _ in range(50):
        pace.take_time(now, now + BURST_S / 50)
        now += BURST_S / 50
        assert pace.pause_needed(now) == 0.0
