# SPDX-License-Identifier: GPL-2.0-or-later
"""The short form of ``make chaos-cluster``: some of the ways in which a part is lost."""

from __future__ import annotations

from tests.chaos.cluster.breaks import Break
from tests.chaos.cluster.judge import Verdict
from tests.chaos.cluster.rounds import Chaos, Plan, chaos


def do(found: Chaos, kind: str, fault_after: float | None, seconds: float = 0.0) -> Verdict:
    """Break something on the node of vm1, which has the fault, if there is one."""
    assert found.settle() is None
    node = found.place("vm1")
    assert node is not None
    vm = "vm1" if fault_after is not None else None
    return found.round(Plan(Break(kind, node, seconds), vm, fault_after or 0.0, is_dc=False))


def test_each_fault_once_and_no_healthy_instance_stopped() -> None:
    with chaos(2) as found:
        assert do(found, "controld", None).bad == []
        killed = do(found, "execd", -0.05)  # the stop may die with it
        assert killed.bad == []
        assert killed.delay is not None
        fenced = do(found, "corosync", -0.1)
        assert fenced.bad == []
        assert fenced.delay is not None
        assert found.outcome.faults == 2
    print(found.outcome.text())
