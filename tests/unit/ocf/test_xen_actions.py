# SPDX-License-Identifier: GPL-2.0-or-later
"""XenVM: the domain's name, and what its state says."""

from __future__ import annotations

import pytest

from tests.unit.ocf.support.host import Host

SUCCESS, ERROR = 0, 1


@pytest.fixture
def host(xen: Host) -> Host:
    return xen


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ('name = "web"', "web"),
        ("name='web'  # ours", "web"),
        ('fullname = "x"\nname = "web"', "web"),
        ('name = "vm%d" % 3', "r1"),
        ("", "r1"),
    ],
)
def test_the_name_is_read_from_the_xmfile(host: Host, config: str, name: str) -> None:
    host.config.write_text(config + "\n")
    host.domains(host.vm(name))
    assert host.call("status").code == SUCCESS


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        ("r-----", SUCCESS),
        ("-b----", SUCCESS),
        ("------", SUCCESS),
        ("--p---", SUCCESS),
        ("---s--", ERROR),
        ("---sc-", ERROR),
        ("----c-", ERROR),
        ("--psrd", ERROR),
    ],
)
@pytest.mark.parametrize("action", ["monitor", "status"])
def test_a_probe_reports_each_state(host: Host, action: str, flags: str, code: int) -> None:
    host.vesperd.listen()
    host.domains("vm10 -b----", f"vm1 {flags}", "vm -b----")
    assert host.call(action).code == code
    assert host.vesperd.asked("wait") == []


def test_of_two_domains_of_one_name_the_living_counts(host: Host) -> None:
    host.domains("vm1 --psrd", "vm1 -b----")
    assert host.call("monitor").code == SUCCESS


def test_a_stop_of_a_domain_that_stays_dying_succeeds(host: Host) -> None:
    host.be("undead")
    host.have(vm1="running")
    result = host.call("stop", timeout=8, OCF_RESKEY_shutdown_timeout="0")
    assert result.code == SUCCESS
    assert "dying" in result.stderr
