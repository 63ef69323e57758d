# SPDX-License-Identifier: GPL-2.0-or-later
"""Stops on a busy Xen host, of guests whose service was killed for want of memory."""

from __future__ import annotations

from lab.xen import XenLab
from tests.support.stops import STOP_TIMEOUT_S, count_stops, stop_faulty_guests
from tests.xen.support.vm1 import agent, create_guest


def test_stops_on_a_busy_host(cleaned: XenLab) -> None:
    lab = cleaned
    stop_faulty_guests(
        lab.a,
        lab.guest_through(through=lab.a),
        count_stops(2),
        start=lambda: create_guest(lab),
        stop=lambda: agent(lab.a, "stop", timeout=STOP_TIMEOUT_S),
    )
    assert "vm1" not in lab.a.run_command("xl list", timeout=60, check=True).output
