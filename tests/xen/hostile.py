# SPDX-License-Identifier: GPL-2.0-or-later
"""A real guest of Xen whose kernel writes at random over all that it shares.

Pages, what grants lead to which, xenstore (tests/guest_modules/hostile_xen.c);
tests/kernel/test_hostile_guest.py has a healthy guest beside one that does
likewise. Not part of ``make test``; ``make hostile`` runs it, with
``VESPER_CORRUPTIONS=1000``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from lab import images
from lab.guest import Guest
from lab.xen import XenHost, XenLab
from tests.kernel.support.build import build
from tests.kernel.support.hostile import MAX_LINES_PER_S, MAX_MEMORY_KIB, last_counts
from tests.support.vm1 import wait_collecting
from tests.xen.support.invariants import check_seen
from tests.xen.support.vm1 import clean, create_guest

CORRUPTIONS = int(os.environ.get("VESPER_CORRUPTIONS", "50"))
#: Batches in a row, at most; then the guest is activated anew.
BATCH = 100
#: s until vesperd answers, on a busy emulated host.
ANSWERED_S = 10
LOG = "/var/log/vesperd.log"
ANEW = "vesper deactivate vm1; vesper activate vm1"
MEMORY = "grep ^Private /proc/$(pgrep -o vesperd)/smaps_rollup"


@pytest.fixture
def host(lab: XenLab) -> Iterator[XenHost]:
    """host-a with vm1, which was hostile before it was activated."""
    clean(lab)
    create_guest(lab)
    (module,) = (path for path in build(images.kernel_of_tree()) if path.name == "vsp_hostile.ko")
    guest = Guest(lab.a)
    guest.put_file("/vsp_hostile.ko", module.read_bytes())
    assert guest.run_command("insmod /vsp_hostile.ko").rc == 0
    lab.a.run_command("vesper activate vm1", timeout=60, check=True)
    yield lab.a
    clean(lab)


def memory(host: XenHost) -> int:
    """Return the private memory of vesperd in KiB."""
    output = host.run_command(MEMORY, timeout=60, check=True).output
    return sum(int(line.split()[1]) for line in output.splitlines())


def attack(guest: Guest, seed: int) -> tuple[int, int, int]:
    """Return one batch's corruptions, those before the host's last look, and its rings."""
    said = guest.run_command(
        f"echo {seed} {BATCH} >/proc/vsp_hostile; cat /proc/vsp_hostile", timeout=300
    )
    assert "error" not in said.output
    return last_counts(said.output)


def test_hostile_guest(lab: XenLab, host: XenHost) -> None:
    guest = Guest(host)
    wait_collecting(host)
    before, begin = memory(host), time.monotonic()
    most, seed, looked_at = before, 0, 0
    while looked_at < CORRUPTIONS:
        seed += 1
        made, looked_at, rung = attack(guest, seed)
        host.run_command("vesper status", timeout=ANSWERED_S, check=True)
        most = max(most, memory(host))
        host.run_command(ANEW, timeout=120, check=True)
        wait_collecting(host)
        print(f"{looked_at} of {CORRUPTIONS} corruptions", end="\r", flush=True)
    took = time.monotonic() - begin

    log = host.run_command(f"cat {LOG}", check=True).output
    lines = len(log.splitlines())
    print(f"{made} corruptions, {looked_at} of them looked at, {rung} rings in {took:.0f} s; "
          f"{seed} sessions; {lines} lines logged")  # fmt: skip
    print(f"vesperd: {before} KiB before, {most} at most")
    assert "Traceback" not in log
    assert lines <= 60 + MAX_LINES_PER_S * took
    assert most - before <= MAX_MEMORY_KIB
    # It is well again, and when it is gone nobody holds on to its pages.
    check_seen(lab, host, "a hostile guest")
    domid = host.run_command("xl domid vm1", check=True).output.strip()
    host.run_command("xl destroy vm1", timeout=60, check=True)
    host.wait_for_command(f"! xl list {domid}", timeout=20)
