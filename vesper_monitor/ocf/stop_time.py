# SPDX-License-Identifier: GPL-2.0-or-later
"""How much of a stop's time is reserved for destroying the domain.

A stop that runs out of time before the domain is destroyed fails, and a failed
stop gets the node fenced.  So what a destroy has taken on this host is noted,
and a busy host is recognised by how long the looks of this stop take.
"""

from __future__ import annotations

import os

from vesper_monitor.ocf.invocation import log_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vesper_monitor.ocf.invocation import OcfInvocation

__all__ = ["DestroyReserve"]

#: Seconds that are kept at least, if the operation has the time.
FLOOR_S = 15.0
#: Share of the operation that is kept at least, and at most.
LEAST_SHARE = 1 / 3
MOST_SHARE = 2 / 3
#: A destroy takes as long as so many looks.  Measured in an emulated dom0
#: without load: xl list 0.4 s, xl destroy 3.6 to 7 s.
LOOKS_PER_DESTROY = 10.0
#: A destroy may take so much longer than the slowest that was noted.
SLOWER_FACTOR = 1.5
#: Destroys that are noted.
NOTED_DESTROYS = 8


class DestroyReserve:
    """The reserve of one stop.

    :param toolstack: its name; each has times of its own.
    """

    def __init__(self, call: OcfInvocation, toolstack: str) -> None:
        self._call = call
        self._path = os.path.join(call.state_dir, f"vesper-destroy-{toolstack}.times")
        self._noted = self._read_durations()

    def reserve_seconds(self, slowest_look: float) -> float:
        """Return the seconds to keep for destroying the domain.

        :param slowest_look: seconds, of this stop's looks at the domain.
        """
        slowest = max(self._noted, default=0.0)
        wanted = max(SLOWER_FACTOR * slowest, LOOKS_PER_DESTROY * slowest_look) + 2 * slowest_look
        timeout = self._call.timeout
        least = min(FLOOR_S, timeout * LEAST_SHARE)
        return min(max(wanted, least), max(least, timeout * MOST_SHARE))

    def note_duration(self, seconds: float) -> None:
        """Note how long a destroy took. Never fails."""
        self._noted = [*self._noted, seconds][-NOTED_DESTROYS:]
        new = f"{self._path}.{os.getpid()}"
        try:
            os.makedirs(self._call.state_dir, exist_ok=True)
            with open(new, "w") as file:
                file.write(" ".join(f"{value:.2f}" for value in self._noted))
            os.rename(new, self._path)
        except OSError as error:
            log_line(f"{self._path}: {error.strerror}")

    def _read_durations(self) -> list[float]:
        try:
            with open(self._path) as file:
                noted = [float(word) for word in file.read(4096).split()]
        except (OSError, ValueError):
            return []
        return [value for value in noted if 0.0 <= value < 86_400.0][-NOTED_DESTROYS:]
