# SPDX-License-Identifier: GPL-2.0-or-later
"""Each way in which a domain can fail, brought about for real: crm_mon shows it with its cause.

Each failover's boot serves the next: they are one test.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from lab import images
from lab.evaluation import cluster, trial
from lab.evaluation.setting import PRIMITIVES
from lab.guest import Guest
from lab.images.kernel import module_files
from lab.xen import XenHost, XenLab, project
from tests.vm1 import fail_count, wait_started
from tests.xen.vm1 import clean

PRIMITIVE = PRIMITIVES["xen"]["vesper"].replace(
    "services=httpd", "services=httpd keep_crashed=true pause_timeout=5"
)


#: bytes of a file that go into one command of the guest's
LINE = 12_000


class Way(NamedTuple):
    """To fail."""

    name: str
    happens: Callable[[XenHost], None]
    #: words of the exit reason
    reason: tuple[str, ...]


def panic(host: XenHost) -> None:
    Guest(host).end("panic")


def destroy(host: XenHost) -> None:
    host.run("xl destroy vm1", timeout=60, check=True)


def hang(host: XenHost) -> None:
    Guest(host).end("hang")


def poweroff(host: XenHost) -> None:
    Guest(host).end("poweroff")


def pause(host: XenHost) -> None:
    host.run("xl pause vm1", timeout=60, check=True)


def watchdog(host: XenHost) -> None:
    """Xen's own, of which the guest has begun to take care and then does not."""
    guest = Guest(host)
    for file in module_files(images.kernel(), "xen_wdt"):
        data = file.read_bytes()
        for at in range(0, len(data), LINE):
            text = base64.b64encode(data[at : at + LINE]).decode()
            assert guest.run(f"echo {text} | base64 -d >>/{file.name}").rc == 0
        assert guest.run(f"insmod /{file.name} timeout=5").rc == 0
    assert guest.run("echo >/dev/watchdog").rc == 0


WAYS = (
    Way("panic", panic, ("kernel panic", "sysrq triggered crash", "system")),
    Way("pause", pause, ("vm1 is paused for", "xl pause", "system")),
    Way("watchdog", watchdog, ("watchdog has expired",)),
    Way("hang", hang, ("kernel hangs", "system")),
    Way("destroy", destroy, ("xl destroy",)),
    Way("poweroff", poweroff, ("power-off",)),
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


def test_each_way_to_fail_is_told_with_its_cause(kept: XenLab) -> None:
    lab = kept
    for way in WAYS:
        home = lab.running_on()
        assert home is not None, way.name
        (standby,) = (host for host in lab.hosts if host is not home)
        way.happens(home)
        wait_started(standby)
        shown = standby.run("crm_mon -1 --output-as=xml", timeout=60, check=True).output
        reason = trial.exit_reason(shown.encode())
        print(f"{way.name}: {reason}", flush=True)
        assert [word for word in way.reason if word not in reason] == [], f"{way.name}: {reason}"
        assert fail_count(lab) == 1, way.name
        if way.name == "panic":
            it_left_its_last_words(home)
        left = home.run("xl list", timeout=60, check=True).output
        assert ("vm1--crashed" in left) is (way.name == "panic"), left
        assert "vm1 " not in left
        home.run("xl destroy vm1--crashed", timeout=60)
        cluster.settle(lab, "vesper", print)
    a_wanted_power_off_is_no_failure(lab)


def it_left_its_last_words(home: XenHost) -> None:
    fault = json.loads(home.run("vesper faults --json -n 1", timeout=60, check=True).output)[0]
    shown = home.run(f"vesper faults {fault['id']}", timeout=60, check=True).output
    assert "sysrq_handle_crash" in shown  # of the stack


def a_wanted_power_off_is_no_failure(lab: XenLab) -> None:
    home = lab.running_on()
    assert home is not None
    change = "crm_resource --resource vm1 --set-parameter poweroff_wanted --parameter-value true"
    home.run(f"{change} && crm_resource --wait", timeout=120, check=True)
    cluster.ready(lab, "vesper")
    poweroff(home)
    home.wait("crm_resource --resource vm1 --meta --get-parameter target-role | grep Stopped",
              timeout=60)  # fmt: skip
    home.run("crm_resource --wait", timeout=120, check=True)
    assert fail_count(lab) == 0
    mon = home.run("crm_mon -1 -r", timeout=60, check=True).output
    assert "vm1\t(ocf:vesper:XenVM):\t Stopped" in mon, mon
    assert "Failed" not in mon
