# SPDX-License-Identifier: GPL-2.0-or-later
"""Something of VESPER is missing: the VM runs all the same, and it is said."""

from __future__ import annotations

import time

import pytest

from lab.host import Result
from lab.kvm import KvmHost, KvmLab
from tests.kvm.support.vm1 import CONFIG, agent


def degraded(host: KvmHost) -> Result:
    """The second monitor's verdict: the first one returns before anything is known."""
    agent(host, "monitor")
    deadline = time.monotonic() + 120
    while (result := agent(host, "monitor")).rc == 0:
        assert time.monotonic() < deadline, "not degraded"
    return result


def test_a_guest_without_modules_is_degraded(cleaned: KvmLab) -> None:
    host = cleaned.a
    host.put_file(CONFIG, cleaned.domain_xml(extra="lab.vesper=no").encode())
    assert agent(host, "start").rc == 0
    cleaned.guest_through(through=host).wait_ready(60)
    result = degraded(host)
    assert result.rc == 190, result.output
    assert "modules" in result.output
    assert agent(host, "stop").rc == 0


@pytest.mark.parametrize("trouble", ["absent", "hung"])
def test_without_the_ivshmem_server_it_is_degraded(cleaned: KvmLab, trouble: str) -> None:
    """QEMU would wait for it for ever: so it gets no device that needs it."""
    host = cleaned.a
    if trouble == "absent":
        host.stop_holder()
    else:
        host.run_command("pkill -STOP -f /usr/sbin/vesper-ivshmem", check=True)
    try:
        start = agent(host, "start")
        assert start.rc == 0, start.output
        assert "vesper-ivshmem" in start.output
        cleaned.guest_through(through=host).wait_ready(60)
        result = degraded(host)
        assert result.rc == 190, result.output
        assert "vesper-ivshmem" in result.output or "device" in result.output
        stop = agent(host, "stop")
        assert stop.rc == 0, stop.output
    finally:
        if trouble == "absent":
            host.start_holder()
        else:
            host.run_command("pkill -CONT -f /usr/sbin/vesper-ivshmem", check=True)
