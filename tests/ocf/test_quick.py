# SPDX-License-Identifier: GPL-2.0-or-later
"""A plain monitor of a VM that shows life to vesperd asks nobody else."""

from __future__ import annotations

import pytest

from tests.ocf.host import Host


def test_life_is_enough(host: Host) -> None:
    host.vesperd.listen()
    host.vesperd.answers["alive"] = lambda _: {"alive": True}
    host.vesperd.answers["wait"] = lambda _: {"result": "fine"}
    result = host.call("monitor")
    assert (result.code, result.stderr) == (0, "")
    assert host.calls() == []
    (asked,) = host.vesperd.requests
    assert asked == {"op": "alive", "resource": "r1"}
    # As after any plain monitor: Pacemaker waits for the next one.
    host.call("monitor", interval=1)
    assert host.vesperd.asked("wait")[0]["first"] is True


@pytest.mark.parametrize("answer", [{"alive": False}, {"ok": False}, None, {"alive": True, "x": 1}])
def test_anything_else_is_no_answer(host: Host, answer: dict[str, object] | None) -> None:
    host.vesperd.listen()
    host.vesperd.answers["alive"] = lambda _: answer
    assert host.call("monitor").code == 7
    assert host.calls() != []


def test_a_vesperd_that_hangs_is_not_waited_for(host: Host) -> None:
    host.vesperd.listen()
    host.vesperd.answers["alive"] = lambda _: 20.0
    result = host.call("monitor")
    assert result.code == 7
    assert result.seconds < 15


def test_a_deeper_look_is_one(host: Host) -> None:
    host.vesperd.listen()
    host.vesperd.answers["alive"] = lambda _: {"alive": True}
    assert host.call("monitor", OCF_CHECK_LEVEL="10").code != 0
    assert host.vesperd.asked("alive") == []
