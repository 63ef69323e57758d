# SPDX-License-Identifier: GPL-2.0-or-later
"""A second monitor (OCF_CHECK_LEVEL) beside one that waits: its look is done meanwhile."""

from __future__ import annotations

import time

import pytest

from tests.unit.ocf.support.host import Host

SUCCESS, ERROR, NOT_RUNNING, DEGRADED = 0, 1, 7, 190
#: s from one of its looks to the next.
INTERVAL = 2
DEEP = {"OCF_CHECK_LEVEL": "10"}


@pytest.fixture
def watched(host: Host) -> Host:
    """A VM that runs, with vesperd, and a second monitor that has run once."""
    host.have(vm1="running")
    host.vesperd.listen()
    host.vesperd.answers["state"] = lambda _: {"watch": {"state": "active", "degraded": None}}
    host.vesperd.answers["wait"] = lambda _: 60.0
    assert host.call("monitor", interval=INTERVAL, **DEEP).code == SUCCESS
    return host


def test_what_only_the_second_one_sees_ends_the_first(watched: Host) -> None:
    """The toolstack knows that it is dead, and vesperd does not."""
    waiting, begun = watched.begin("monitor", interval=1, timeout=60), time.monotonic()
    while not watched.vesperd.asked("wait"):
        time.sleep(0.02)
    watched.domains()
    result = watched.end(waiting, begun, 60)
    assert result.code == NOT_RUNNING
    assert result.reason == "vm1 is not running"
    assert result.seconds < 20


def test_the_second_one_answers_at_once_from_what_was_found(watched: Host) -> None:
    looks = len(watched.calls(watched.look.split()[0]))
    waiting, begun = watched.begin("monitor", interval=1, timeout=60), time.monotonic()
    while len(watched.calls(watched.look.split()[0])) == looks:
        time.sleep(0.05)
    time.sleep(0.5)  # for its end
    looks = len(watched.calls(watched.look.split()[0]))
    assert watched.call("monitor", interval=INTERVAL, **DEEP).code == SUCCESS
    assert len(watched.calls(watched.look.split()[0])) == looks
    waiting.kill()
    waiting.communicate()
    assert time.monotonic() - begun < 30


def test_without_a_waiting_monitor_the_second_one_looks_itself(watched: Host) -> None:
    watched.domains()
    assert watched.call("monitor", interval=INTERVAL, **DEEP).code == NOT_RUNNING


def test_a_toolstack_that_hangs_is_no_failure(watched: Host) -> None:
    watched.be("hang")
    watched.vesperd.answers["state"] = lambda _: None
    result = watched.call("monitor", interval=INTERVAL, timeout=15, **DEEP)
    assert result.code == DEGRADED


def test_a_start_forgets_the_second_one(watched: Host) -> None:
    note = watched.folder / "rsctmp" / "vesper-r1.deep"
    assert note.exists()
    assert watched.call("stop").code == SUCCESS
    assert not note.exists()


def test_a_second_monitor_that_is_added_later_is_seen(host: Host) -> None:
    host.have(vm1="running")
    host.vesperd.listen()
    host.vesperd.answers["state"] = lambda _: {"watch": {"state": "active", "degraded": None}}
    host.vesperd.answers["wait"] = lambda _: {"result": "fine"}
    assert host.call("monitor", interval=1, timeout=60).code == SUCCESS
    # From here on a monitor asks vesperd as that one did, and does no more.
    assert host.call("monitor", interval=INTERVAL, **DEEP).code == SUCCESS
    host.vesperd.answers["wait"] = lambda _: 60.0
    waiting, begun = host.begin("monitor", interval=1, timeout=60), time.monotonic()
    while len(host.vesperd.asked("wait")) < 2:
        time.sleep(0.02)
    host.domains()
    result = host.end(waiting, begun, 60)
    assert result.code == NOT_RUNNING
    assert result.seconds < 20
