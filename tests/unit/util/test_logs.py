# SPDX-License-Identifier: GPL-2.0-or-later
"""What of the log is left out when a guest makes much of it."""

from __future__ import annotations

import logging

from vesper_monitor.util.logs import ALWAYS, BURST_LINES, RateLimit


def record(message: str, **more: bool) -> logging.LogRecord:
    made = logging.LogRecord("x", logging.ERROR, "file", 1, message, (), None)
    made.__dict__.update(more)
    return made


def test_a_flood_about_a_vm_keeps_no_fault_of_it_out() -> None:
    limit = RateLimit()
    passed = [limit.filter(record(f"vm1: its channels have gone, time {n}")) for n in range(100)]
    assert BURST_LINES <= sum(passed) < 2 * BURST_LINES
    assert limit.filter(record("vm1: fault 12: httpd killed by SIGSEGV", **{ALWAYS: True}))
    assert not limit.filter(record("vm1: its channels have gone again"))
    assert limit.filter(record("vm2: its channels have gone"))
