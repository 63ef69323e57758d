# SPDX-License-Identifier: GPL-2.0-or-later
"""Logging to standard error, where journald reads; no guest can flood it."""

from __future__ import annotations

import logging
import os
import sys
import time

__all__ = ["ALWAYS", "RateLimit", "set_up_logging"]

#: Messages that may come at once, and how many per second after that; for
#: each place in the source that logs.
BURST_LINES = 20
LINES_PER_S = 1.0
#: In ``extra`` of a message that there are few of, whatever a guest does.
ALWAYS = "vesper_always"

#: syslog's priorities, which journald takes from the start of a line.
_PRIORITY = {
    logging.DEBUG: 7,
    logging.INFO: 6,
    logging.WARNING: 4,
    logging.ERROR: 3,
    logging.CRITICAL: 2,
}


class RateLimit(logging.Filter):
    """Lets :data:`BURST_LINES` messages pass, then :data:`LINES_PER_S` per second.

    A message with :data:`ALWAYS` passes in any case: a guest that makes vesperd log
    must not keep its own fault out of the log.

    The measure is per VM: messages that begin with ``NAME:`` as all about a
    guest do; others go by their text before formatting.
    """

    def __init__(self) -> None:
        super().__init__()
        self._buckets: dict[str, tuple[float, float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if getattr(record, ALWAYS, False):
            return True
        message = record.getMessage()
        head, colon, _ = message.partition(":")
        key = head if colon and len(head) < 80 else str(record.msg)
        now = time.monotonic()
        level, since, suppressed = self._buckets.get(key, (float(BURST_LINES), now, 0))
        level = min(float(BURST_LINES), level + (now - since) * LINES_PER_S)
        if level < 1.0:
            self._buckets[key] = (level, now, suppressed + 1)
            return False
        if suppressed:
            record.msg, record.args = f"{message} ({suppressed} messages before left out)", None
        if len(self._buckets) > 1000:
            self._buckets.clear()
        self._buckets[key] = (level - 1.0, now, 0)
        return True


class _Priority(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        mark = f"<{_PRIORITY.get(record.levelno, 6)}>"
        return "\n".join(mark + line for line in text.splitlines())


def set_up_logging(level: str) -> None:
    """
    :param level: "debug" .. "error".
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(RateLimit())
    if os.environ.get("JOURNAL_STREAM"):
        handler.setFormatter(_Priority("%(message)s"))
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # pyxs and asyncio tell more than anyone wants below this.
    logging.getLogger("asyncio").setLevel(logging.WARNING)
