# SPDX-License-Identifier: GPL-2.0-or-later
"""When a fault comes between two of the stock agent's monitors.

What polling costs depends on it.  One fault comes at the middle of the interval, which is the
mean case; several are spread evenly over it.  The interval begins when the monitor script does.
"""

from __future__ import annotations

import time

from lab.guest import CHECK_PAGE_RAN
from lab.host import Host

__all__ = ["Phase"]

#: Seconds between two of the stock agent's monitors.
POLL_INTERVAL_S = 10.0

#: Waits for the script's next run, and prints how long ago that is (ns).
_NEXT_RUN = (
    f"touch /run/now; until [ {CHECK_PAGE_RAN} -nt /run/now ]; do sleep 0.3; done; "
    f"echo $(( $(date +%s%N) - $(date -r {CHECK_PAGE_RAN} +%s%N) ))"
)


class Phase:
    """Waits for the right moment."""

    def __init__(self) -> None:
        #: of the interval that has gone by when the fault happens (0 to 1)
        self.share = 0.5
        self._script_began = 0.0  #: this machine's clock
        #: seconds from the end of the wait to the fault, by kind: memory does not fill at once
        self._lead: dict[str, float] = {}

    def wait_for_moment(self, host: Host, fault: str) -> None:
        """Until a fault of that kind must be ordered.

        :raises ChannelError: no monitor has run for half a minute.
        """
        ago = int(host.run_command(_NEXT_RUN, timeout=30, check=True).output) / 1e9
        self._script_began = time.time() - ago
        left = self.share * POLL_INTERVAL_S - ago - self._lead.get(fault, 0.0)
        time.sleep(left % POLL_INTERVAL_S)  # if it is too late for this interval, in the next

    def note_injection_lead(self, fault: str, seconds: float) -> None:
        """A fault has come that long after the order."""
        self._lead[fault] = seconds

    def measure_since_poll_s(self, at: float) -> float:
        """Return the seconds from the script's last run to a fault, by the interval."""
        return (at - self._script_began) % POLL_INTERVAL_S
