# SPDX-License-Identifier: GPL-2.0-or-later
"""``agent.py CONTROL AGENT ACTION``: an agent, with points."""

import os
import runpy
import sys

sys.dont_write_bytecode = True  # it would be a point, the first time
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from tests.failpoints.instrument import Points, watch_files  # noqa: E402

if __name__ == "__main__":
    control, agent = sys.argv[1:3]
    sys.argv[:3] = [agent]
    watch_files(Points(control))
    runpy.run_path(agent, run_name="__main__")
