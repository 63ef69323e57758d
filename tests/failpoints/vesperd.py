# SPDX-License-Identifier: GPL-2.0-or-later
"""``python3 -m tests.failpoints.vesperd CONTROL ...``: vesperd, with points."""

from __future__ import annotations

import os
import sys

from tests.failpoints.instrument import Points, watch_awaits, watch_files
from vesper_monitor.daemon.main import main
from vesper_monitor.journal import journal_process

if __name__ == "__main__":
    control = sys.argv.pop(1)
    os.environ["VESPER_TEST_FAILPOINTS"] = control  # for the child
    journal_process.SERVER_MODULE = "tests.failpoints.journal_server"
    points = Points(control)
    watch_awaits(points)
    watch_files(points)
    sys.exit(main())
