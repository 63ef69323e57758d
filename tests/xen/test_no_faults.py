# SPDX-License-Identifier: GPL-2.0-or-later
"""What looks like a fault and is none: no failure is recorded, and the guest stays watched.

Each once, one after the other; ``make soak`` does them for an hour and longer.
"""

from __future__ import annotations

from lab.xen import XenLab
from tests.xen.support.benign_events import IN_SHORT
from tests.xen.support.invariants import Innocent


def test_benign_events_are_no_faults(vm1: XenLab) -> None:
    now = Innocent(vm1)
    for happens in IN_SHORT:
        happens(now)
        now.same(happens.__name__)
    now.check(", ".join(happens.__name__ for happens in IN_SHORT))
