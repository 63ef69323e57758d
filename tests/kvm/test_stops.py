# SPDX-License-Identifier: GPL-2.0-or-later
"""Stops on a busy KVM host, of guests whose service was killed for want of memory."""

from __future__ import annotations

from lab.kvm import KvmLab
from tests.kvm.support.vm1 import agent
from tests.support.stops import STOP_TIMEOUT_S, count_stops, stop_faulty_guests


def test_stops_on_a_busy_host(cleaned: KvmLab) -> None:
    host = cleaned.hosts[0]
    guest = cleaned.guest_through(through=host)

    def start() -> None:
        assert agent(host, "start", timeout=90).rc == 0
        guest.wait_ready(60)

    stop_faulty_guests(
        host, guest, count_stops(3), start, lambda: agent(host, "stop", timeout=STOP_TIMEOUT_S)
    )
    assert host.list_domains() == []
