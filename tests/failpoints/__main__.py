# SPDX-License-Identifier: GPL-2.0-or-later
"""``make failpoints``: vesperd and the agent ended at every point of what they do, in turn."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from tests.failpoints.rounds import of_agent, of_locked_vesperd, of_vesperd, text


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m tests.failpoints", description=__doc__)
    parser.add_argument("--most", type=int, default=0, help="points of each part, spread evenly")
    options = parser.parse_args()
    wrong = []
    for part in (of_vesperd, of_locked_vesperd, of_agent):
        with tempfile.TemporaryDirectory(prefix="vesper-failpoints-") as name:
            directory = Path(name)
            os.environ["VESPER_STANDIN_DIR"] = str(directory / "domains")
            outcome = part(directory, options.most, print)
        print(text(outcome), flush=True)
        wrong += outcome.wrong
    print("\n".join(wrong), file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
