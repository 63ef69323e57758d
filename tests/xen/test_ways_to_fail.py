# SPDX-License-Identifier: GPL-2.0-or-later
"""A way in which a domain can fail, brought about for real: crm_mon shows it with its cause.

``make compare`` does the others.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from lab.evaluation import cluster, trial
from lab.evaluation.setting import PRIMITIVES
from lab.guest import Guest
from lab.xen import XenHost, XenLab, project
from tests.vm1 import fail_count, wait_started
from tests.xen.vm1 import clean

PRIMITIVE = PRIMITIVES["xen"]["vesper"].replace(
    "services=httpd", "services=httpd keep_crashed=true"
)


@pytest.fixture
def kept(lab: XenLab) -> Iterator[XenLab]:
    """vm1 whose crashed domain is preserved, and kept for its dump."""
    clean(lab)
    for host in lab.hosts:
        host.put("/etc/xen/vm1.cfg", project.guest_config(on_crash="preserve").encode())
    cluster.type_in(lab, f"crm configure {PRIMITIVE}", print)
    cluster.ready(lab, "vesper")
    yield lab
    for host in lab.hosts:
        host.run("xl destroy vm1--crashed", timeout=60)
    clean(lab)


def test_a_panic_is_told_and_the_domain_kept_for_its_dump(kept: XenLab) -> None:
    lab = kept
    home = lab.running_on()
    assert home is not None
    (standby,) = (host for host in lab.hosts if host is not home)
    Guest(home).end("panic")
    wait_started(standby)
    shown = standby.run("crm_mon -1 --output-as=xml", timeout=60, check=True).output
    reason = trial.exit_reason(shown.encode())
    assert "kernel panic: sysrq triggered crash (system)" in reason
    assert fail_count(lab) == 1
    it_left_its_last_words(home)
    left = home.run("xl list", timeout=60, check=True).output
    assert "vm1--crashed" in left and "vm1 " not in left


def it_left_its_last_words(home: XenHost) -> None:
    fault = json.loads(home.run("vesper faults --json -n 1", timeout=60, check=True).output)[0]
    shown = home.run(f"vesper faults {fault['id']}", timeout=60, check=True).output
    assert "sysrq_handle_crash" in shown  # of the stack
