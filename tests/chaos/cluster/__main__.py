# SPDX-License-Identifier: GPL-2.0-or-later
"""``python3 -m tests.chaos.cluster``: parts of a cluster with fencing killed at random."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.chaos.cluster.rounds import chaos


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m tests.chaos.cluster", description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--vms", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="folder for logs and journals of bad rounds")
    options = parser.parse_args()
    print(f"{options.nodes} nodes, {options.vms} VMs, seed {options.seed}", flush=True)
    with chaos(options.nodes, vms=options.vms, seed=options.seed, keep=options.keep) as found:
        try:
            for _ in range(options.rounds):
                found.round()
        finally:
            outcome = found.outcome
            print(outcome.text())
            for reason, count in outcome.reasons.most_common():
                print(f"fenced because: {reason}: {count}")
            print("\n".join(outcome.bad), file=sys.stderr)
    return 1 if outcome.bad else 0


if __name__ == "__main__":
    sys.exit(main())
