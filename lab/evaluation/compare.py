# SPDX-License-Identifier: GPL-2.0-or-later
"""The stock agent against ours on Xen, fault by fault, in one run.

A guest's ``on_crash`` is that of its start.  So what the next fault needs is
in the configuration files before the present one's failover starts the guest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from lab.evaluation import cluster, table, trial
from lab.evaluation.phase import Phase
from lab.evaluation.run import FAULTS, WATCHES, Run
from lab.host import Host
from lab.xen import XenLab, project

__all__ = ["KINDS", "Verdict", "make_verdicts", "perform_trials", "render_markdown"]

#: Kinds of faults, and how often in each round: the first is what the figures
#: are about, and polling takes its time by chance.
KINDS = {
    "panic": 2,
    "panic-kept": 1,
    "poweroff": 1,
    "destroy": 1,
    "hang": 1,
    "sigsegv": 1,
    "oom": 1,
}

#: Columns of the table for people: steps of a run.
_COLUMNS = {
    "recorded_s": "noticed",
    "stopped_s": "stopped",
    "started_elsewhere_s": "runs elsewhere",
    "service_back_s": "page back",
}


@dataclass(frozen=True)
class _Trial:
    watch: str
    fault: str
    share: float  #: of the stock agent's interval that had passed


def _plan_trials(kinds: Sequence[str], rounds: int, watches: Iterable[str]) -> list[_Trial]:
    trials = []
    for watch in watches:
        for number, fault in enumerate(kinds):
            times = KINDS[fault] * rounds
            # One alone gets its own place among those of the other kinds.
            shares = [(i + 0.5) / times for i in range(times)]
            if times == 1:
                shares = [(number + 0.5) / len(kinds)]
            trials += [_Trial(watch, fault, share) for share in shares]
    return trials


def perform_trials(
    lab: XenLab,
    kinds: Sequence[str],
    rounds: int,
    watches: Iterable[str],
    show: Callable[[str], None],
    done: Callable[[Run], None],
    time_factor: float = 1.0,
) -> None:
    """
    :param done: is given each run.
    :param time_factor: how many times longer than usual each step may take.
    :raises LabError: :raises ChannelError:
    """
    trials = _plan_trials(kinds, rounds, watches)
    phase = Phase()
    watch = ""
    _configure_guest(lab.hosts, trials[0].fault)
    for number, now in enumerate(trials):
        if now.watch != watch:
            watch = now.watch
            cluster.configure_resource(lab, watch, show, time_factor)
        show("")
        following = trials[number + 1 :]
        if following:
            _configure_guest(lab.hosts, following[0].fault)
        phase.share = now.share
        moment = phase if watch == "polling" else None
        run = trial.perform_trial(lab, now.fault, watch, show, moment, time_factor)
        done(run)
        show("")
        if following:
            _repair_cluster(lab, run, show)
            cluster.settle_after_failover(lab, watch, show, time_factor)


def _configure_guest(hosts: Sequence[Host], fault: str) -> None:
    on_crash = "preserve" if fault == "panic-kept" else "destroy"
    for host in hosts:
        host.put_file("/etc/xen/vm1.cfg", project.guest_config(on_crash=on_crash).encode())


def _repair_cluster(lab: XenLab, run: Run, show: Callable[[str], None]) -> None:
    """Do what an operator must do if the cluster does not recover by itself."""
    home = lab.running_on()
    if home is None or run.started_elsewhere_s is not None:
        return
    show(f"{home.name}# xl destroy vm1")
    home.run_command("xl destroy vm1", timeout=60)


# ------------------------------------------------------------ what it says


@dataclass(frozen=True)
class Verdict:
    """How much sooner our agent is, at one step of one fault."""

    fault: str
    step: str
    times: float | None
    at_least: bool  #: the stock agent's never came; that was given up then


def make_verdicts(runs: Sequence[Run]) -> list[Verdict]:
    """Return the verdict on each fault that both agents have had."""
    found = []
    for fault in dict.fromkeys(run.fault for run in runs):
        stock, ours = (
            [run for run in runs if (run.fault, run.watch) == (fault, watch)] for watch in WATCHES
        )
        for step in _COLUMNS:
            slow, quick = ([run.find_step_time(step) for run in some] for some in (stock, ours))
            times = table.ratio_of_medians(slow, quick)
            at_least = False
            if times is None and step != "recorded_s":
                # Its stop has failed: until then at least it was not done.
                slow = [run.find_step_time(step) or run.stuck_s for run in stock]
                times = table.ratio_of_medians(slow, quick)
                at_least = times is not None
            found.append(Verdict(fault, step, times, at_least))
    return found


def render_markdown(runs: Sequence[Run]) -> str:
    """Return the table for readers, in Markdown."""
    by = {(v.fault, v.step): v for v in make_verdicts(runs)}
    head = ["fault", *(f"{name}: stock, ours" for name in _COLUMNS.values())]
    rows = [head, ["---"] * len(head)]
    for fault in dict.fromkeys(run.fault for run in runs):
        cells = [FAULTS[fault]]
        for step in _COLUMNS:
            slow, quick = (_median_seconds(runs, fault, watch, step) for watch in WATCHES)
            verdict = by[fault, step]
            more = ""
            if verdict.times is not None:
                more = f" ({'> ' if verdict.at_least else ''}{verdict.times:.1f} x)"
            cells.append(f"{slow}, {quick}{more}")
        rows.append(cells)
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _median_seconds(runs: Sequence[Run], fault: str, watch: str, step: str) -> str:
    some = [run for run in runs if (run.fault, run.watch) == (fault, watch)]
    value = table.find_median([run.find_step_time(step) for run in some])
    return "never" if value is None else f"{value:.1f}"
