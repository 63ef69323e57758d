# SPDX-License-Identifier: GPL-2.0-or-later
"""The judge of the rounds sees what must never be, and tells Pacemaker's own doings apart."""

from __future__ import annotations

from dataclasses import replace

from tests.chaos.cluster.judge import Failures, Round, judge
from tests.chaos.cluster.records import Fault, Instance, counters, fencing_reasons, stoppers

FAULTY = Instance("vm1", "node1", "a", began=10.0, ended=21.0, by="SIGTERM", ends=1)
NEXT = Instance("vm1", "node2", "b", began=22.0)
OTHER = Instance("vm2", "node2", "c", began=10.0)
FAULT = Fault("vm1", "node1", "a", "httpd[7] killed by SIGSEGV", 20.1, 20.2, "stop")
FAILURES = Failures("vm1", "node1", 1, ["vm1_monitor_1000: httpd[7] killed by SIGSEGV"])
#: A failover as it should be.
GOOD = Round(
    victim="a",
    mark=7,
    at=20.0,
    instances=[FAULTY, OTHER, NEXT],
    faults=[FAULT],
    failures=[FAILURES],
    fenced=[],
    no_quorum=None,
    counters={"vm1": ["node2 70"]},
    stoppers={"vm1": ["node1 62"]},
    joining=False,
    settled=None,
)


def test_a_failover_is_right() -> None:
    verdict = judge(GOOD)
    assert (verdict.bad, verdict.notes) == ([], [])
    assert verdict.delay == 1.0
    assert verdict.path == "node1 to node2"


def test_a_lost_fault_is_found() -> None:
    running = replace(FAULTY, ended=None, by="", ends=0)
    untold = replace(FAULT, told=None, ended_by=None)
    verdict = judge(replace(GOOD, instances=[running, OTHER], faults=[untold], failures=[]))
    assert verdict.lost == ["vm1 on node1 still runs, nobody was told"]


def test_a_doubled_fault_is_found() -> None:
    twice = replace(FAILURES, count=2)
    assert len(judge(replace(GOOD, failures=[twice])).doubled) == 1
    one = {"vm1": ["node2 70", "node2 70"]}
    assert len(judge(replace(GOOD, failures=[twice], counters=one)).doubled) == 1
    assert len(judge(replace(GOOD, faults=[FAULT, FAULT])).doubled) == 1
    of_next = replace(FAULT, uuid="b", node="node2")
    assert len(judge(replace(GOOD, faults=[FAULT, of_next])).doubled) == 1


def test_a_fault_counted_again_is_found() -> None:
    """What began to recover it was killed; there is one stop, one failover."""
    twice = replace(GOOD, failures=[replace(FAILURES, count=2)])
    two = {"vm1": ["node2 70", "node1 75"]}
    same = {"vm1": ["node2 70", "node2 70"]}
    killed = {"vm1": ["node1 62", "node1 158"]}
    for round, note in (
        (replace(twice, counters=two), "counted again by the next DC"),
        (replace(twice, counters=same, stoppers=killed), "counted again, its stop was killed"),
    ):
        verdict = judge(round)
        assert (verdict.bad, verdict.notes) == ([], [note])
    lives = [replace(FAULTY, ends=2), OTHER, NEXT]
    assert len(judge(replace(twice, counters=two, instances=lives)).doubled) == 1


def test_a_healthy_instance_that_was_stopped_is_found() -> None:
    for healthy in (OTHER, NEXT):
        ended = replace(healthy, ended=25.0, by="SIGTERM", ends=1)
        lives = [ended if i is healthy else i for i in GOOD.instances]
        assert len(judge(replace(GOOD, instances=lives)).stopped) == 1
    stopped = replace(OTHER, ended=25.0, by="SIGTERM", ends=1)
    alone = replace(GOOD, instances=[FAULTY, stopped, NEXT], no_quorum="node2")
    assert judge(alone).notes == ["healthy stopped without quorum"]
    dead = replace(OTHER, ended=25.0, by="power")
    assert judge(replace(GOOD, instances=[FAULTY, dead, NEXT])).notes == [
        "healthy went with its node"
    ]


def test_strange_records_are_found() -> None:
    def strange(round: Round) -> int:
        return len(judge(round).strange)

    assert strange(replace(GOOD, faults=[])) == 1
    assert strange(replace(GOOD, settled="node2 is off")) == 1
    assert strange(replace(GOOD, fenced=["node1: vm1 failed to stop"])) == 1
    assert strange(replace(GOOD, fenced=["node1: peer is no longer part of the cluster"])) == 0
    both = [FAULTY, OTHER, replace(NEXT, began=20.5)]
    assert strange(replace(GOOD, instances=both)) == 1
    assert strange(replace(GOOD, failures=[replace(FAILURES, node="node2")])) == 1


def test_a_recovery_in_place_is_right_only_while_a_node_joins() -> None:
    here = [FAULTY, OTHER, replace(NEXT, node="node1")]
    in_place = replace(GOOD, instances=here, failures=[])
    assert len(judge(in_place).strange) == 1
    verdict = judge(replace(in_place, joining=True))
    assert (verdict.bad, verdict.notes) == ([], ["not counted", "in place"])


def test_who_has_counted() -> None:
    line = (
        "Nov 28 09:42:06.497 node3 pacemaker-controld  [75] (update_failcount) \tinfo: Updating "
        "failcount for vm2 on node2 after failed monitor: rc=1 (update=value++, time=1795858926)\n"
    )
    assert counters(line) == {"vm2": ["node3 pacemaker-controld [75]"]}


def test_who_has_begun_to_stop() -> None:
    line = (
        "Nov 28 10:05:28.941 node2 pacemaker-execd     [158] (log_execute) \tinfo: executing - "
        "rsc:vm1 action:stop call_id:12\n"
    )
    assert stoppers(line) == {"vm1": ["node2 pacemaker-execd [158]"]}


def test_why_a_node_is_fenced() -> None:
    text = (
        "schedulerd[70] (pe_fence_node) \twarning: Cluster node node2 will be fenced: "
        "peer is no longer part of the cluster\n"
    )
    assert fencing_reasons(text * 2) == ["node2: peer is no longer part of the cluster"]
