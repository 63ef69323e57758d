# SPDX-License-Identifier: GPL-2.0-or-later
"""Asks a guest to shut down, in its toolstack's way, until it hears."""

from __future__ import annotations

import time

from vesper_monitor.ocf.invocation import log_line
from vesper_monitor.ocf.toolstack import ToolstackError, ToolstackMissingError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vesper_monitor.ocf.toolstack import Background, Toolstack

__all__ = ["Shutdown"]

#: Seconds between two tries of a request that failed.
RETRY_PAUSE_S = 2.0
#: Seconds after which a request that does not return is ended and repeated:
#: it hangs in the toolstack itself.
REQUEST_LIMIT_S = 10.0
#: Seconds without a way to ask the guest, after which the shutdown is given up: longer
#: than a toolstack restarts, or hangs on a busy host.
UNREACHABLE_LIMIT_S = 30.0


class Shutdown:
    """The shutdown of one guest. Close it."""

    def __init__(self, toolstack: Toolstack, vm: str) -> None:
        self._toolstack = toolstack
        self._vm = vm
        self._request: Background | None = None
        self._asked = False
        self._ask_at = 0.0  # next, CLOCK_MONOTONIC
        self._give_up_at = 0.0  # the request under way
        self._unreachable_since: float | None = None

    @property
    def is_hopeless(self) -> bool:
        """Whether there was no way to ask the guest for long."""
        since = self._unreachable_since
        return since is not None and time.monotonic() >= since + UNREACHABLE_LIMIT_S

    def go_on(self, limit: float) -> None:
        """Ask, ask again, or wait for the request under way, for ``limit`` s at most.

        :raises ToolstackMissingError: the toolstack is not installed.
        """
        if self._request is None:
            if time.monotonic() >= self._ask_at:
                self._ask_guest()
            return
        code = self._request.wait_for_exit(limit)
        if code is None and time.monotonic() < self._give_up_at:
            return
        if code != 0:
            what = self._request.read_output().strip() if code else "no answer"
            log_line(f"{self._vm}: shutdown failed, trying again: {what}")
            self._ask_at = time.monotonic() + RETRY_PAUSE_S
        self.close()

    def _ask_guest(self) -> None:
        now = time.monotonic()
        try:
            self._request = self._toolstack.request_shutdown(self._vm)
        except ToolstackMissingError:
            raise
        except ToolstackError as error:
            self._ask_at = time.monotonic() + RETRY_PAUSE_S
            if self._unreachable_since is None:
                log_line(f"{self._vm}: cannot be asked to shut down: {error}; trying again")
                self._unreachable_since = now
            return
        self._ask_at = now + self._toolstack.shutdown_again
        self._give_up_at = now + REQUEST_LIMIT_S
        if self._asked:
            log_line(f"{self._vm}: still runs; asked to shut down once more")
        self._asked, self._unreachable_since = True, None

    def close(self) -> None:
        """End a request that is still under way. Idempotent."""
        if self._request is not None:
            self._request.close()
        self._request = None
