# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest is asked to shut down, in the way of its toolstack, until it has heard it."""

from __future__ import annotations

import time

from vesper_monitor.ocf.call import log
from vesper_monitor.ocf.toolstack import ToolstackHangs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vesper_monitor.ocf.toolstack import Background, Toolstack

__all__ = ["Shutdown"]

#: Seconds between two tries of a request that failed.
RETRY_PAUSE = 2.0
#: Seconds without anybody who could ask the guest: a toolstack that hangs for
#: that long is not waited for.
NOBODY_LIMIT = 10.0


class Shutdown:
    """One guest's. Close it."""

    def __init__(self, toolstack: Toolstack, vm: str) -> None:
        self._toolstack = toolstack
        self._vm = vm
        self._request: Background | None = None
        self._next = 0.0  #: of the next try, CLOCK_MONOTONIC
        self._nobody_since: float | None = None

    def go_on(self, limit: float) -> bool:
        """Ask, ask again, or look what has become of it, for ``limit`` seconds at most.

        :returns: whether there is any hope; False: nobody can ask the guest.
        :raises ToolstackMissing: the toolstack is not installed.
        """
        if self._request is None:
            return time.monotonic() < self._next or self._ask()
        code = self._request.wait(limit)
        if code is None and time.monotonic() < self._next:
            return True
        if code != 0:
            what = self._request.output().strip() if code else "no answer"
            log(f"{self._vm}: shutdown failed, trying again: {what}")
            self._next = time.monotonic() + (RETRY_PAUSE if code else 0.0)
        self.close()
        return True

    def _ask(self) -> bool:
        again = self._next > 0
        self._next = time.monotonic() + self._toolstack.shutdown_again
        try:
            self._request = self._toolstack.shutdown(self._vm)
        except ToolstackHangs as error:
            self._next = time.monotonic() + RETRY_PAUSE
            if self._nobody_since is None:
                log(f"{self._vm}: cannot be asked to shut down: {error}")
                self._nobody_since = time.monotonic()
            return time.monotonic() < self._nobody_since + NOBODY_LIMIT
        self._nobody_since = None
        if again:
            log(f"{self._vm}: still there: asked to shut down once more")
        return True

    def close(self) -> None:
        """What has not come back by now is not waited for."""
        if self._request is not None:
            self._request.close()
        self._request = None
