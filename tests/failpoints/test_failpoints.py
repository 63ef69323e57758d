# SPDX-License-Identifier: GPL-2.0-or-later
"""The short form of ``make failpoints``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.failpoints.rounds import Outcome, of_agent, of_locked_vesperd, of_vesperd, text

#: Points of each part.
POINTS = 4


@pytest.mark.parametrize("part", [of_vesperd, of_locked_vesperd, of_agent])
def test_each_fault_once_wherever_a_process_ends(
    part: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VESPER_STANDIN_DIR", str(tmp_path / "domains"))
    outcome = part(tmp_path, POINTS, print)
    print(text(outcome))
    assert outcome.wrong == []
    assert outcome.points >= 15
    assert outcome.kills >= POINTS / 2
