# SPDX-License-Identifier: GPL-2.0-or-later
"""Each way in which a domain can fail, brought about for real: crm_mon shows it with its cause.

Each failover's boot serves the next: they are one test.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from lab import idle
from lab.evaluation import cluster
from lab.evaluation.setting import PRIMITIVES
from lab.xen import XenHost, XenLab, project
from tests.support.vm1 import fail_count
from tests.xen.support.failure_modes import (
    DESTROY,
    HANG,
    PANIC,
    PAUSE,
    POWEROFF,
    WATCHDOG,
    fail_over,
)
from tests.xen.support.vm1 import clean

PRIMITIVE = PRIMITIVES["xen"]["vesper"].replace(
    "services=httpd", "services=httpd keep_crashed=true pause_timeout=5"
)

WAYS = (PANIC, PAUSE, WATCHDOG, HANG, DESTROY, POWEROFF)


@pytest.fixture
def kept(lab: XenLab) -> Iterator[XenLab]:
    """vm1 whose crashed domain is preserved, and kept for its dump."""
    clean(lab)
    for host in lab.hosts:
        host.put_file("/etc/xen/vm1.cfg", project.guest_config(on_crash="preserve").encode())
    cluster.type_in_crm_shell(lab, f"crm configure {PRIMITIVE}", print)
    cluster.wait_until_ready(lab, "vesper")
    yield lab
    for host in lab.hosts:
        host.run_command("xl destroy vm1--crashed", timeout=60)
    clean(lab)


def test_each_way_to_fail_is_told_with_its_cause(kept: XenLab) -> None:
    lab = kept
    for way in WAYS:
        home, reason = fail_over(lab, way)
        print(f"{way.name}: {reason}", flush=True)
        if way is PANIC:
            it_left_its_last_words(home)
        left = home.run_command("xl list", timeout=60, check=True).output
        assert ("vm1--crashed" in left) is (way is PANIC), left
        assert "vm1 " not in left
        home.run_command("xl destroy vm1--crashed", timeout=60)
        cluster.settle_after_failover(lab, "vesper", print)
    a_wanted_power_off_is_no_failure(lab)


def it_left_its_last_words(home: XenHost) -> None:
    fault = json.loads(
        home.run_command("vesper faults --json -n 1", timeout=60, check=True).output
    )[0]
    shown = home.run_command(f"vesper faults {fault['id']}", timeout=60, check=True).output
    assert "sysrq_handle_crash" in shown  # of the stack


def a_wanted_power_off_is_no_failure(lab: XenLab) -> None:
    home = lab.running_on()
    assert home is not None
    change = "crm_resource --resource vm1 --set-parameter poweroff_wanted --parameter-value true"
    home.run_command(f"{change} && ({idle.COMMAND})", timeout=240, check=True)
    cluster.wait_until_ready(lab, "vesper")
    POWEROFF.happens(home)
    home.wait_for_command("crm_resource --resource vm1 --meta --get-parameter target-role | "
                          "grep Stopped",
              timeout=60)  # fmt: skip
    home.run_command(f"({idle.COMMAND})", timeout=240, check=True)
    assert fail_count(lab) == 0
    mon = home.run_command("crm_mon -1 -r", timeout=60, check=True).output
    assert "vm1\t(ocf:vesper:XenVM):\t Stopped" in mon, mon
    assert "Failed" not in mon
