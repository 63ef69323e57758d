# SPDX-License-Identifier: GPL-2.0-or-later
"""Both benchmarks, and their figures in build/bench-kvm.json."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from bench.kvm import round_trip, throughput


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m bench.kvm", description=__doc__)
    parser.add_argument("--rounds", type=int, default=2000, help="round trips of each (2000)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each load (5)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vesper-bench-") as directory:
        figures = {
            "round_trip_us": round_trip.measure_round_trips(
                Path(directory) / "1", arguments.rounds
            ),
            "throughput": throughput.measure_all_loads(Path(directory) / "2", arguments.seconds),
        }
    path = Path("build/bench-kvm.json")
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(figures, indent=1) + "\n")
    print(f"all figures: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
