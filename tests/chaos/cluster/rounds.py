# SPDX-License-Identifier: GPL-2.0-or-later
"""Parts of the cluster are killed or cut off around a fault, on nodes that can be fenced.

In each round a service dies in one of the VMs (in some rounds in none), and
something of :mod:`tests.chaos.cluster.breaks` breaks a moment before or
after. When all is well again, :mod:`tests.chaos.cluster.judge` looks at what
is on record.
"""

from __future__ import annotations

import random
import shutil
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.cluster import ClusterError, ClusterLab, Node
from lab.standin.registry import DomainDirectory
from tests.chaos.cluster import records
from tests.chaos.cluster.breaks import KINDS, Break
from tests.chaos.cluster.judge import Failures, Round, Verdict, judge
from tests.cluster.support.vm import forget_fail_count
from vesper_monitor.client import Client, DaemonError, DaemonUnavailableError

__all__ = ["Chaos", "Outcome", "Plan", "chaos"]

#: s for the cluster to be well again, on a busy machine. A node takes 5 s to boot,
#: and Pacemaker up to 20 s for an election whose votes it has missed.
PATIENT_S = 150.0
#: s in which nothing more must happen.
QUIET_S = 2.0
POLL_S = 0.3
#: Tries to clean up what the last round has left.
CLEANUPS = 5
#: Of the rounds: without a fault.
NO_FAULT = 0.25
#: s by which the fault may come before or after what breaks. What breaks a
#: node is noticed late: so is the fault, in half of the rounds.
CLOSE_S, LATER_S = 0.4, 4.0
#: s that a cable is out: some shorter than Corosync's patience (1 to 2 s).
CUT = (0.5, 8.0)
#: Numbers of the processes that die; each is one fault.
FIRST_MARK = 1000


@dataclass(frozen=True)
class Plan:
    """What one round does."""

    broken: Break
    vm: str | None  #: whose service dies
    fault_after: float  #: s from what breaks; may be negative
    is_dc: bool  #: what breaks is on the DC's node; for the report

    def __str__(self) -> str:
        where = "DC" if self.is_dc else "not DC"
        fault = f"fault in {self.vm} {self.fault_after:+.2f} s" if self.vm else "no fault"
        return f"{self.broken} ({where}), {fault}"


@dataclass
class Outcome:
    rounds: int = 0
    faults: int = 0
    cuts: int = 0  #: power was cut, by the cluster or as the round's plan
    bad: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)  #: for fencing
    delays: list[float] = field(default_factory=list)

    def add(self, verdict: Verdict, label: str) -> None:
        self.rounds += 1
        for what in ("lost", "doubled", "stopped", "strange"):
            self.counts[what] += len(getattr(verdict, what))
        self.bad += [f"{label}: {text}" for text in verdict.bad]
        self.notes.update(verdict.notes)
        if verdict.delay is not None:
            self.faults += 1
            self.delays.append(verdict.delay)

    def text(self) -> str:
        delays = sorted(self.delays) or [0.0]
        own = ", ".join(f"{note}: {count}" for note, count in sorted(self.notes.items()))
        why = ", ".join(f"{reason}: {count}" for reason, count in sorted(self.reasons.items()))
        return (
            f"{self.rounds} rounds, {self.faults} faults: {self.counts['lost']} lost, "
            f"{self.counts['doubled']} doubled, {self.counts['stopped']} healthy instances "
            f"stopped, {self.counts['strange']} strange\n"
            f"from the fault to the end of its instance: median {delays[len(delays) // 2]:.2f} s, "
            f"longest {delays[-1]:.1f} s; nodes' power cut {self.cuts} times\n"
            f"Pacemaker's own: {own or 'nothing'}\n"
            f"nodes were to be fenced because: {why or 'none was'}"
        )


class Chaos:
    """A cluster with a few VMs; see :func:`chaos`."""

    def __init__(self, lab: ClusterLab, *, vms: int = 2, seed: int = 1, keep: Path | None) -> None:
        self.lab = lab
        self.outcome = Outcome()
        self.vms = [f"vm{number}" for number in range(1, vms + 1)]
        self._random = random.Random(seed)
        self._seed = seed
        self._keep = keep
        self._mark = FIRST_MARK
        self._faulty: str | None = None  #: the last round's VM that had a fault

    def configure(self) -> None:
        """Add the VMs, as a user would."""
        for vm in self.vms:
            xmfile = f"/etc/xen/{vm}.cfg"
            text = f'name = "{vm}"\nmemory = 64\n'
            for node in self.lab.nodes:
                node.write_file(xmfile, text)
                kept = node.directory / xmfile.lstrip("/")  # for when it boots again
                kept.parent.mkdir(parents=True, exist_ok=True)
                kept.write_text(text)
            # fmt: off
            self.lab.nodes[0].run(
                "crm", "-F", "configure", "primitive", vm, "ocf:vesper:XenVM",
                "params", f"xmfile={xmfile}", "services=httpd",
                "op", "monitor", "interval=1s", "timeout=30s",
                "op", "start", "timeout=60s", "op", "stop", "timeout=60s",
                "meta", "migration-threshold=1", "resource-stickiness=100",
                timeout=60,
            )
            # fmt: on

    # ------------------------------------------------------------ one round

    def plan(self) -> Plan:
        """The next round's, when all is well."""
        dice = self._random
        kind = dice.choices(list(KINDS), list(KINDS.values()))[0]
        dc = self._dc() or self.lab.nodes[0].name
        vm = dice.choice(self.vms)
        others = sorted(node.name for node in self.lab.nodes if node.name != dc)
        # Each of these is likely to matter.
        node = dice.choice([dc, dice.choice(others), self.place(vm) or dc])
        seconds = dice.uniform(*CUT) if kind == "cut" else 0.0
        broken = Break(kind, node, seconds)
        late = broken.of_node and dice.random() < 0.5
        after = dice.uniform(-CLOSE_S, LATER_S if late else CLOSE_S)
        return Plan(broken, vm if dice.random() >= NO_FAULT else None, after, node == dc)

    def round(self, plan: Plan | None = None) -> Verdict:
        """Do one, and judge it."""
        self._prepare()
        plan = plan or self.plan()
        self._mark += 1
        assert self.lab.power is not None
        began, cuts = time.time(), len(self.lab.power.cuts)
        logs = [records.Log(node.pacemaker_log) for node in self.lab.nodes]
        victim, at = self._do(plan)
        self._faulty = plan.vm
        amiss = self.settle(victim)
        if amiss is None:
            time.sleep(QUIET_S)  # what happens now is on record, too
        text = "".join(log.read() for log in logs)
        reasons = records.fencing_reasons(text)
        instances = records.instances(self.lab)
        alone = plan.broken.kind == "cut" and len(self.lab.nodes) > 2
        verdict = judge(
            Round(
                victim=victim,
                mark=self._mark,
                at=at,
                instances=[i for i in instances if i.ended is None or i.ended > began],
                faults=records.faults(self.lab, began),
                failures=self._failures(),
                fenced=reasons,
                no_quorum=plan.broken.node if alone else None,
                counters=records.counters(text),
                stoppers=records.stoppers(text),
                joining=records.joining(text),
                settled=amiss,
            )
        )
        self.outcome.reasons.update(reason.partition(": ")[2] for reason in reasons)
        self.outcome.cuts += len(self.lab.power.cuts) - cuts
        self._report(plan, verdict, reasons, time.time() - began)
        return verdict

    def _prepare(self) -> None:
        """All is well, and no failure of the last round is left."""
        for _ in range(CLEANUPS):
            amiss = self.settle()
            assert amiss is None, f"before round {self.outcome.rounds + 1}: {amiss}"
            if not self._failures() and self._faulty is None:
                return
            self._clean_up()
        raise AssertionError(f"failures stay after {CLEANUPS} cleanups: {self._failures()}")

    def _clean_up(self) -> None:
        """As an administrator does after a failover, and what shows nowhere, too."""
        self.lab.nodes[0].run("crm_resource", "--cleanup", check=False)
        if self._faulty is not None:
            forget_fail_count(self.lab, self._faulty)
            self._faulty = None

    def _report(self, plan: Plan, verdict: Verdict, reasons: list[str], took: float) -> None:
        number = self.outcome.rounds + 1
        self.outcome.add(verdict, f"round {number} ({plan})")
        delay = f"{verdict.delay:.2f} s, {verdict.path}" if verdict.delay is not None else "-"
        rest = "; ".join([*verdict.bad, *verdict.notes, *(f"fenced {r}" for r in reasons)])
        result = "BAD" if verdict.bad else "ok"
        print(f"{number:4} {result:3} {plan}: {delay} [{took:.0f} s] {rest}", flush=True)
        if (
            verdict.bad or "in place" in verdict.notes or verdict.stopped
        ) and self._keep is not None:
            for node in self.lab.nodes:
                target = self._keep / f"seed{self._seed}-round{number}" / node.name
                for folder in ("log", "state"):
                    shutil.copytree(node.directory / folder, target / folder, dirs_exist_ok=True)

    def _do(self, plan: Plan) -> tuple[str | None, float]:
        """:returns: UUID of the instance that has the fault, if there was one left, and when."""
        breaking = threading.Thread(target=plan.broken.do, args=(self.lab,))
        if plan.vm is None:
            breaking.start()
            breaking.join()
            return None, 0.0
        if plan.fault_after < 0:
            victim = self._kill_httpd(plan.vm)
            time.sleep(-plan.fault_after)
            breaking.start()
        else:
            breaking.start()
            time.sleep(plan.fault_after)
            victim = self._kill_httpd(plan.vm)
        breaking.join()
        return victim

    # ------------------------------------------------------------ guests

    def _record(self, node: Node, vm: str) -> Any:
        """The domain's, if it runs there."""
        return (
            DomainDirectory(vm, node.host_path("/run/vesper-standin")).read_record()
            if node.is_running()
            else None
        )

    def place(self, vm: str) -> str | None:
        """The node on which it runs."""
        return next((n.name for n in self.lab.nodes if self._record(n, vm) is not None), None)

    def _kill_httpd(self, vm: str) -> tuple[str | None, float]:
        for node in self.lab.nodes:
            record = self._record(node, vm)
            if record is None:
                continue
            control = DomainDirectory(vm, node.host_path("/run/vesper-standin")).control
            at = time.time()
            try:
                with socket.socket(socket.AF_UNIX) as sock:
                    sock.settimeout(10)
                    sock.connect(str(control))
                    sock.sendall(
                        f"emit send_signal sig=11 comm=httpd fatal=1 pid={self._mark}\n".encode()
                    )
                    answer = sock.makefile().readline()
            except OSError:
                continue  # it has just died
            if answer.startswith("ok"):  # else it has no probes yet, or is no more
                return record.uuid, at
        return None, 0.0

    # ------------------------------------------------------------ the cluster

    def _dc(self) -> str | None:
        status = self.lab.read_status()
        dc = status.find("./summary/current_dc") if status is not None else None
        return dc.get("name") if dc is not None and dc.get("present") == "true" else None

    def settle(self, victim: str | None = None) -> str | None:
        """Wait until all is well.

        :param victim: UUID of an instance that must not be there any more.
        :returns: what is still amiss when the time is up.
        """
        end = time.monotonic() + PATIENT_S
        amiss: str | None = "?"
        while amiss is not None:
            if time.monotonic() > end:
                return amiss
            try:
                amiss = self._amiss(victim) or self._busy()
            except (ClusterError, OSError) as error:
                amiss = str(error)
            if amiss is not None:
                time.sleep(POLL_S)
        return None

    def _amiss(self, victim: str | None) -> str | None:
        for node in self.lab.nodes:
            if not node.is_running():
                return f"{node.name} is off"
        for vm in self.vms:
            amiss = self._amiss_with(vm, victim)
            if amiss is not None:
                return amiss
        names, dcs = {node.name for node in self.lab.nodes}, set()
        for node in self.lab.nodes:
            status = self.lab.read_status(node)
            if status is None:
                return f"{node.name}: crm_mon does not answer"
            online = {
                str(n.get("name"))
                for n in status.findall("./nodes/node")
                if n.get("online") == "true" and n.get("pending") == "false"
            }
            if online != names:
                return f"{node.name} sees online: {sorted(online)}"
            dc = status.find("./summary/current_dc")
            if dc is None or dc.get("present") != "true":
                return f"{node.name} sees no DC"
            dcs.add(dc.get("name"))
        return None if len(dcs) == 1 else f"the DC is {sorted(map(str, dcs))}"

    def _amiss_with(self, vm: str, victim: str | None) -> str | None:
        there = [(n, r) for n in self.lab.nodes if (r := self._record(n, vm)) is not None]
        if len(there) != 1:
            return f"{vm} on {[node.name for node, _ in there]}"
        node, record = there[0]
        if record.uuid == victim:
            return f"the faulty {vm} runs on {node.name}"
        try:
            with Client(str(node.host_path("/run/vesper/vesperd.sock")), timeout=10.0) as client:
                found = client.call_vesperd("status")["vms"]
        except (DaemonUnavailableError, DaemonError) as error:
            return str(error)
        for entry in found:
            if entry["vm"] == vm and entry["uuid"] == record.uuid:
                collecting = [p for p in entry["probes"] if p["state"] == "collecting"]
                if len(collecting) == 2 and entry["waiting"]:
                    return None
        return f"{vm} on {node.name} is not watched, or no monitor waits"

    def _busy(self) -> str | None:
        """(``crm_resource --wait`` looks every 2 s, and at least twice.)"""
        dc = self._dc() or "no DC"
        state = self.lab.nodes[0].run("crmadmin", "-S", dc, check=False).stdout.strip()
        return None if "S_IDLE" in state else f"the DC is not idle: {state}"

    def _failures(self) -> list[Failures]:
        """What Pacemaker counts, or shows."""
        status = self.lab.read_status()
        assert status is not None
        found: dict[tuple[str, str], tuple[int, list[str]]] = {}
        for node in status.findall("./node_history/node"):
            for history in node.findall("resource_history"):
                count = history.get("fail-count") or "0"
                if count != "0" and history.get("id") in self.vms:
                    number = 1_000_000 if count == "INFINITY" else int(count)
                    found[str(history.get("id")), str(node.get("name"))] = number, []
        for failure in status.iter("failure"):
            operation = str(failure.get("op_key"))
            vm = operation.partition("_")[0]
            if vm in self.vms:
                reason = failure.get("exitreason") or failure.get("exitstatus")
                entry = found.setdefault((vm, str(failure.get("node"))), (0, []))
                entry[1].append(f"{operation}: {reason}")
        return [Failures(*place, *what) for place, what in found.items()]


@contextmanager
def chaos(nodes: int, *, vms: int = 2, seed: int = 1, keep: Path | None = None) -> Iterator[Chaos]:
    """A cluster in which everything runs.

    :param keep: folder for the logs and journals of rounds that are bad.
    """
    with ClusterLab(nodes, fencing=True, vesperd_config="activate_timeout = 3.0\n") as lab:
        found = Chaos(lab, vms=vms, seed=seed, keep=keep)
        found.configure()
        yield found
