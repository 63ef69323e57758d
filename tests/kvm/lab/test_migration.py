# SPDX-License-Identifier: GPL-2.0-or-later
"""Live migration under Pacemaker, with VESPER's device in place."""

from __future__ import annotations

import os
import time

from lab.kvm import KvmHost, KvmLab
from tests.kvm.lab.vm1 import fatal_signals, other
from tests.vm1 import fail_count, status, wait_collecting, wait_started

#: ``make migrations`` does 20.
COUNT = int(os.environ.get("VESPER_MIGRATIONS", "3"))


def seconds_until_watched(target: KvmHost) -> float:
    """From the first moment at which the guest runs there."""
    target.wait("virsh domstate vm1 | grep -q running", timeout=120, every=0.02)
    begin = time.monotonic()
    while True:
        now = status(target)
        if [probe["state"] for probe in now.get("probes", [])] == ["collecting"] * 2:
            return time.monotonic() - begin
        assert time.monotonic() < begin + 60, f"not watched: {now}"


def test_migrations_are_no_fault(vm1: KvmLab) -> None:
    home = vm1.running_on()
    assert home is not None
    wait_collecting(home)
    boot = vm1.guest(through=home).page(timeout=5)
    took = []
    for number in range(COUNT):
        target = other(vm1, home)
        target.run("truncate -s 0 /var/log/vesperd.log", check=True)
        before = fatal_signals(target)
        # A worker dies on each side of the migration; that is no fault.
        guest = vm1.guest(through=target)
        guest.run("sleep 1000 & sleep 1; kill -ILL $!; sleep 1")
        home.wait("vesper events --json | tail -n 1 | grep -q SIGILL", timeout=30)
        target.run(f"crm_resource --resource vm1 --move --node {target.name}", check=True)
        took.append(seconds_until_watched(target))
        wait_started(target)
        target.run("crm_resource --resource vm1 --clear", check=True)
        assert vm1.running_on() is target
        assert home.domains() == []
        assert guest.page(timeout=10) == boot, "it was started anew, not migrated"
        assert fail_count(vm1) == 0, f"migration {number + 1}"
        # The probes came along: none was loaded, and what they see comes once.
        assert "loaded probe" not in target.run("cat /var/log/vesperd.log").output
        guest.run("sleep 1000 & sleep 1; kill -FPE $!; sleep 1")
        target.wait("vesper events --json | tail -n 1 | grep -q SIGFPE", timeout=30)
        new = fatal_signals(target)[len(before) :]
        assert new[-1] == "SIGFPE"
        assert new.count("SIGFPE") == 1
        target.wait(
            "vesper status --json | grep -q '\"waiting\": *true'", timeout=60
        )  # a monitor of Pacemaker's
        home = target
    print("watched again after", ", ".join(f"{seconds:.2f} s" for seconds in took))
