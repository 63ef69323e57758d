# SPDX-License-Identifier: GPL-2.0-or-later
"""``python3 -m tests.chaos``: vesperd killed at random, and what becomes of the faults."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.chaos.rounds import chaos


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m tests.chaos", description=__doc__)
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--vms", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="vesper-chaos-") as directory,
        chaos(Path(directory), vms=options.vms, seed=options.seed) as found,
    ):
        for number in range(1, options.rounds + 1):
            found.round()
            if number % 50 == 0 or found.outcome.lost:
                print(found.outcome.text(), flush=True)
            if found.outcome.lost:
                break
        outcome = found.count()
    print(outcome.text())
    print("\n".join(outcome.bad), file=sys.stderr)
    return 1 if outcome.bad else 0


if __name__ == "__main__":
    sys.exit(main())
