# SPDX-License-Identifier: GPL-2.0-or-later
"""What became of one round's fault, and of all instances, by the records.

Pacemaker's own doings are told apart from what must never be: a node that is
fenced takes its VMs with it; one that has lost the quorum stops them; without
a DC a failure is recovered in place and counted for nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.chaos.cluster.records import Fault, Instance

__all__ = ["Failures", "Round", "Verdict", "judge"]


@dataclass(frozen=True)
class Failures:
    """Of a VM on a node."""

    vm: str
    node: str
    count: int
    shown: Sequence[str]  #: operation and exit reason

    def __str__(self) -> str:
        return f"{self.vm} has failed {self.count} times on {self.node}: {'; '.join(self.shown)}"


@dataclass(frozen=True)
class Round:
    """What was done, and what is on record of it."""

    victim: str | None  #: UUID of the instance in which a service was killed
    mark: int  #: number of the process that was killed
    at: float  #: s, CLOCK_REALTIME: when
    instances: Sequence[Instance]  #: all that ran in the round
    faults: Sequence[Fault]  #: of its time, in all journals
    failures: Sequence[Failures]  #: by Pacemaker
    fenced: Sequence[str]  #: node and reason
    no_quorum: str | None  #: the node that was cut off from more than one other
    #: by VM, in order: controllers that counted a failure, executors that began to stop it
    counters: Mapping[str, Sequence[str]]
    stoppers: Mapping[str, Sequence[str]]
    joining: bool  #: a DC was elected, or nodes joined one, and Pacemaker did not act
    settled: str | None  #: what was still amiss after all patience; None: nothing


@dataclass
class Verdict:
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)  #: healthy instances
    strange: list[str] = field(default_factory=list)  #: whatever else must not be
    #: words for the line of the round, and what to count in the end
    notes: list[str] = field(default_factory=list)
    delay: float | None = None  #: s from the fault to the end of its instance
    path: str = ""  #: the node on which it was, and that of the next instance

    @property
    def bad(self) -> list[str]:
        return [
            f"{what}: {text}"
            for what in ("lost", "doubled", "stopped", "strange")
            for text in getattr(self, what)
        ]


def judge(r: Round) -> Verdict:
    verdict = Verdict()
    victim = next((i for i in r.instances if i.uuid == r.victim), None)
    if victim is not None:
        _judge_fault(r, victim, verdict)
    for instance in r.instances:
        if instance is not victim and instance.ended is not None:
            _judge_end(r, instance, verdict)
    for failures in r.failures:
        if victim is None or (failures.vm, failures.node) != (victim.vm, victim.node):
            verdict.strange.append(str(failures))
        elif failures.count > 1 or len(failures.shown) > 1:
            again = _counted_again(r, failures) if victim.ends == 1 else ""
            if again:
                verdict.notes.append(again)
            else:
                verdict.doubled.append(str(failures))
        elif not all(_said(r.mark) in shown for shown in failures.shown):
            verdict.strange.append(str(failures))
    for fault in r.faults:
        if victim is None or fault.uuid != victim.uuid:
            verdict.doubled.append(f"fault of {fault.vm} on {fault.node}: {fault.reason}")
    for vm in {i.vm for i in r.instances}:
        lives = [i for i in r.instances if i.vm == vm]
        for one, next_one in itertools.pairwise(lives):
            if one.ended is None or one.ended > next_one.began:
                verdict.strange.append(f"{one} still ran when {next_one} began")
    for why in r.fenced:
        if ": peer" not in why:  # not for its own sake but for that of a resource
            verdict.strange.append(f"fenced {why}")
    if r.settled is not None and not verdict.lost:
        verdict.strange.append(f"not settled: {r.settled}")
    return verdict


def _counted_again(r: Round, failures: Failures) -> str:
    """Why one fault is rightly counted twice; empty: it is not.

    What began to recover the VM died before it had: so the next monitor of the
    faulty instance fails, too. Not to fail would be to lose the fault.
    """
    counters = r.counters.get(failures.vm, ())
    stoppers = r.stoppers.get(failures.vm, ())
    if len(counters) == failures.count == 2:
        if counters[0] != counters[1]:
            return "counted again by the next DC"
        if len(stoppers) == 2 and stoppers[0] != stoppers[1]:
            return "counted again, its stop was killed"
    return ""


def _said(mark: int) -> str:
    return f"httpd[{mark}] killed"


def _judge_fault(r: Round, victim: Instance, verdict: Verdict) -> None:
    found = [f for f in r.faults if f.uuid == victim.uuid]
    if len(found) > 1:
        verdict.doubled.append(f"{victim}: {len(found)} faults in the journal")
    if victim.ended is None:
        told = "told" if found and found[0].told else "nobody was told"
        verdict.lost.append(f"{victim} still runs, {told}")
        return
    if victim.ends > 1:
        verdict.strange.append(f"{victim} was ended {victim.ends} times")
    verdict.delay = victim.ended - r.at
    if victim.by == "power":
        verdict.notes.append("fault went with its node")
    elif not found:
        verdict.strange.append(f"{victim} was stopped, and its fault is in no journal")
    elif found[0].ended_by != "stop":
        verdict.strange.append(f"{victim} was stopped, its fault ended by {found[0].ended_by}")
    elif found[0].told is None:
        verdict.notes.append("stopped before it was told")
    elif not any(failures.vm == victim.vm and failures.count for failures in r.failures):
        verdict.notes.append("not counted")
    after = [i.node for i in r.instances if i.vm == victim.vm and i.began >= victim.ended]
    verdict.path = " to ".join([victim.node, *after[:1]])
    if victim.by != "power" and after[:1] == [victim.node]:
        verdict.notes.append("in place")
        if not r.joining:
            verdict.strange.append(f"{victim} was recovered in place though there was a DC")


def _judge_end(r: Round, instance: Instance, verdict: Verdict) -> None:
    """Of one without a fault."""
    if instance.by == "power":
        verdict.notes.append("healthy went with its node")
    elif instance.node == r.no_quorum:
        verdict.notes.append("healthy stopped without quorum")
    else:
        verdict.stopped.append(f"{instance}, {instance.by}")
