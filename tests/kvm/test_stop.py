# SPDX-License-Identifier: GPL-2.0-or-later
"""A real guest is stopped: while it boots, without libvirtd, and into a file."""

from __future__ import annotations

import time

from lab.host import Result
from lab.kvm import KvmHost, KvmLab
from tests.kvm.support.vm1 import agent, fatal_signals
from tests.support.vm1 import wait_collecting

#: s, of the operation; far more than any of these needs.
TIMEOUT = 180


def stopped(host: KvmHost, within: float) -> Result:
    begin = time.monotonic()
    stop = agent(host, "stop", timeout=TIMEOUT)
    assert stop.rc == 0, stop.output
    assert host.list_domains() == []
    assert time.monotonic() - begin < within, stop.output
    return stop


def test_a_guest_that_boots_is_stopped(cleaned: KvmLab) -> None:
    """Its kernel does not see the first press of the power button."""
    host = cleaned.a
    assert agent(host, "start").rc == 0
    stop = stopped(host, TIMEOUT / 2)
    assert "asked to shut down once more" in stop.output
    assert "destroying it" not in stop.output


def test_a_guest_is_stopped_without_libvirtd(cleaned: KvmLab) -> None:
    """Dead: QEMU itself presses the button. Hung: it has the monitor, and is not waited for."""
    host = cleaned.a
    assert agent(host, "start").rc == 0
    cleaned.guest_through(through=host).wait_ready(60)
    host.stop_libvirtd(signal="KILL")
    try:
        stop = stopped(host, TIMEOUT / 2)
    finally:
        host.start_libvirtd()
    assert "destroying it" not in stop.output

    assert agent(host, "start").rc == 0
    cleaned.guest_through(through=host).wait_ready(60)
    host.signal_libvirtd("STOP")
    try:
        stop = stopped(host, TIMEOUT / 2)
    finally:
        host.signal_libvirtd("CONT")
    assert "ending its QEMU" in stop.output


def test_a_guest_is_saved_and_restored_with_its_probes(cleaned: KvmLab) -> None:
    host = cleaned.a
    saved = {"snapshot": "/var/lib/libvirt"}
    guest = cleaned.guest_through(through=host)
    assert agent(host, "start", **saved).rc == 0
    guest.wait_ready(60)
    wait_collecting(host)
    boot = guest.fetch_page(timeout=10)
    guest.run_command("sleep 1000 & sleep 1; kill -ILL $!; sleep 1")
    host.wait_for_command("vesper events --json | tail -n 1 | grep -q SIGILL", timeout=30)
    before = fatal_signals(host)
    assert agent(host, "stop", **saved).rc == 0
    assert host.list_domains() == []
    host.run_command("test -e /var/lib/libvirt/vm1.state", check=True)
    host.run_command("truncate -s 0 /var/log/vesperd.log", check=True)

    assert agent(host, "start", **saved).rc == 0
    guest.wait_ready(60)
    assert guest.fetch_page(timeout=10) == boot
    wait_collecting(host)
    guest.run_command("sleep 1000 & sleep 1; kill -FPE $!; sleep 1")
    host.wait_for_command("vesper events --json | tail -n 1 | grep -q SIGFPE", timeout=30)
    assert fatal_signals(host)[len(before) :] == ["SIGFPE"]
    assert "loaded probe" not in host.run_command("cat /var/log/vesperd.log").output
    assert agent(host, "stop").rc == 0
