# SPDX-License-Identifier: GPL-2.0-or-later
"""``python3 -m tests.chaos.cluster``: parts of clusters with fencing killed at random."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.chaos.cluster.rounds import Outcome, chaos


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m tests.chaos.cluster", description=__doc__)
    parser.add_argument("--rounds", type=int, default=200, help="in all (default: 200)")
    parser.add_argument(
        "--nodes", type=int, nargs="+", default=[2, 3], help="one cluster of each size"
    )
    parser.add_argument("--vms", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="folder for logs and journals of bad rounds")
    options = parser.parse_args()
    rounds = options.rounds // len(options.nodes)
    outcomes = [_run(nodes, rounds, options) for nodes in options.nodes]
    return 1 if any(outcome.bad for outcome in outcomes) else 0


def _run(nodes: int, rounds: int, options: argparse.Namespace) -> Outcome:
    print(f"{nodes} nodes, {options.vms} VMs, {rounds} rounds, seed {options.seed}", flush=True)
    with chaos(nodes, vms=options.vms, seed=options.seed, keep=options.keep) as found:
        try:
            for _ in range(rounds):
                found.round()
        finally:
            print(found.outcome.text(), flush=True)
            print("\n".join(found.outcome.bad), file=sys.stderr)
    return found.outcome


if __name__ == "__main__":
    sys.exit(main())
