# SPDX-License-Identifier: GPL-2.0-or-later
"""The short form of ``make fuzz``: a few seconds on each reader."""

from __future__ import annotations

import pytest

from tests.fuzz.__main__ import TARGETS, fuzz

#: s, and executions that are enough; the coverage's beginning is in the seeds.
SECONDS, RUNS = 2, 10_000
#: Edges that the seeds alone must reach, by half of what they do: else they
#: do not fit the readers any more (tests/fuzz/capture.py).
LEAST = {
    "relay": 100, "records": 100, "words": 50, "guest": 150, "socket": 300, "group": 300,
    "texts": 300,
}  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
def test_any_bytes(target: str) -> None:
    result = fuzz(target, runs=RUNS, seconds=SECONDS)
    assert not result.wrong, result.wrong
    assert result.executions > 100
    assert result.coverage >= LEAST.get(target, 10)
