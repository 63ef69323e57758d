# SPDX-License-Identifier: GPL-2.0-or-later
"""The short form of ``make chaos``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.rounds import chaos

ROUNDS = 6


def test_each_fault_once_however_vesperd_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VESPER_STANDIN_DIR", "")  # put back afterwards
    with chaos(tmp_path, vms=2, seed=7) as found:
        for _ in range(ROUNDS):
            found.round()
        outcome = found.count()
    print(outcome.text())
    assert outcome.rounds == ROUNDS
    assert outcome.bad == []
