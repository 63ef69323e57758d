# SPDX-License-Identifier: GPL-2.0-or-later
"""``python3 -m tests.kernel.support.impatient_vesperd CONFIG``: vesperd, on guests
that no libvirt knows.

It comes back soon to a guest that it could not talk to: a hostile one is to be
read, not waited for.  Nor does it wait long for a service to be back.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from bench.load.vesperd import run_until_sigterm
from vesper_monitor.daemon import config
from vesper_monitor.faults import service_watch
from vesper_monitor.guest import session_link, session_probes
from vesper_monitor.util import logs

#: s, in place of up to 30.
AGAIN = 0.2
#: s, in place of 60, and of 10.
BACK, LOOK_MISSING = 15.0, 2.0

if __name__ == "__main__":
    session_link.RETRY_FIRST_S = session_link.RETRY_MAX_S = session_link.RETRY_UNFIT_S = AGAIN
    session_probes.RETRY_FIRST_S = session_probes.RETRY_MAX_S = AGAIN
    service_watch.BACK_S, service_watch.LOOK_MISSING_S = BACK, LOOK_MISSING
    logs.set_up_logging("warning")
    asyncio.run(run_until_sigterm(config.load_config(Path(sys.argv[1]), required=True)))
