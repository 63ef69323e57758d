# SPDX-License-Identifier: GPL-2.0-or-later
"""vesperd's child, with points: it ends with vesperd there."""

from __future__ import annotations

import os
import sys

from tests.failpoints.instrument import Points, watch_commits
from vesper_monitor.journal.journal_server import main

if __name__ == "__main__":
    watch_commits(Points(os.environ["VESPER_TEST_FAILPOINTS"], with_parent=True))
    main(sys.argv[1:])
