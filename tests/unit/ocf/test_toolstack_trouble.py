# SPDX-License-Identifier: GPL-2.0-or-later
"""A toolstack that is slow, hangs or is gone: nothing runs past its bound, nothing is guessed."""

from __future__ import annotations

import time

import pytest

from tests.unit.ocf.support.host import Host

SUCCESS, ERROR = 0, 1
#: s that each call of it takes.
SLOW = 1.0


def slow_down(host: Host) -> None:
    fake = host.tool.rename(host.bin / "fake")
    host.script(host.command, f'sleep {SLOW}; exec "{fake}" "$@"')


def vesperd_says(host: Host, state: str | None) -> None:
    """None: no such domain."""
    host.vesperd.listen()
    domain = {"name": "vm1", "domid": 7, "uuid": "u", "state": state}
    host.vesperd.answers["state"] = lambda _: {"domain": domain if state else None}


def test_a_slow_one_is_waited_for(host: Host) -> None:
    slow_down(host)
    assert host.call("start", timeout=60).code == SUCCESS
    assert host.call("monitor", timeout=30).code == SUCCESS
    result = host.call("stop", timeout=60)
    assert result.code == SUCCESS
    assert host.running() == []


@pytest.mark.parametrize("kind", ["hang", "gone"])
def test_a_stop_whose_domain_is_gone_as_vesperd_sees_it(host: Host, kind: str) -> None:
    """A failed one would have the node fenced."""
    vesperd_says(host, None)
    host.tool.unlink() if kind == "gone" else host.be(kind)
    assert host.call("stop", timeout=20).code == SUCCESS


def test_a_monitor_is_right_as_long_as_anybody_answers(host: Host) -> None:
    vesperd_says(host, "running")
    host.be("hang")
    assert host.call("monitor", timeout=20).code == SUCCESS
    host.vesperd.answers["wait"] = lambda _: {"result": "fine"}
    assert host.call("monitor", timeout=20, interval=1.0).code == SUCCESS


def test_vesperd_may_take_a_moment_to_know(host: Host) -> None:
    """Its guest's next sign of life is late, on a busy host."""
    vesperd_says(host, "running")
    known, host.vesperd.answers["state"] = host.vesperd.answers["state"], lambda _: None
    host.be("hang")
    monitor, begun = host.begin("monitor", timeout=20), time.monotonic()
    while not host.vesperd.asked("state"):
        time.sleep(0.05)
    host.vesperd.answers["state"] = known
    assert host.end(monitor, begun).code == SUCCESS


@pytest.mark.parametrize("action", ["start", "stop", "monitor"])
def test_nobody_answers(host: Host, action: str) -> None:
    """It says which command was tried, and keeps to its time."""
    host.have(vm1="running")
    host.be("hang")
    result = host.call(action, timeout=8)
    assert result.code == ERROR
    assert host.command in (result.reason or "")
    assert result.seconds < 8
