# SPDX-License-Identifier: GPL-2.0-or-later
"""``python3 -m lab.evaluation demo|evaluate|compare``: see docs/architecture.md."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from lab.evaluation import clock, cluster, compare, picture, setting, table, trial
from lab.evaluation.machine import Machine, measure_machine
from lab.evaluation.phase import Phase
from lab.evaluation.run import WATCHES, Run, make_json_record
from lab.host import ChannelError, LabError
from lab.images.probes import PROJECT
from lab.images.store import BuildError, cache_directory
from lab.xen import XenLab

DEMO = ("sigsegv", "oom")
EVALUATION = ("oom-other", "sigsegv", "oom")

#: Seconds on the reference machine: until vm1 runs in both ways, and of each fault.
DURATION_S = {"xen": (80.0, 45.0), "kvm": (30.0, 20.0)}
#: Seconds to build a lab's images, and the image that is built last.
BUILD_S = {"xen": 300.0, "kvm": 180.0}
IMAGES = {"xen": "cluster", "kvm": "libvirt"}


_BEGIN = time.monotonic()


def _print_progress_line(line: str) -> None:
    """A line of the story, with the seconds since the beginning."""
    print(f"{time.monotonic() - _BEGIN:6.1f}  {line}" if line else "", flush=True)


def _run_trial_series(
    lab: setting.Lab, watch: str, faults: Sequence[str], rounds: int, time_factor: float
) -> list[Run]:
    cluster.configure_resource(lab, watch, _print_progress_line, time_factor)
    runs = []
    total = rounds * len(faults)
    phase = Phase() if watch == "polling" else None
    for number in range(total):
        fault = faults[number % len(faults)]
        if phase:
            phase.share = (number // len(faults) + 0.5) / rounds
        _print_progress_line("")
        runs.append(
            trial.perform_trial(lab, fault, watch, _print_progress_line, phase, time_factor)
        )
        _print_progress_line("")
        if number + 1 < total and runs[-1].recorded_s is not None:
            cluster.settle_after_failover(lab, watch, _print_progress_line, time_factor)
    return runs


def _write_report(runs: list[Run], folder: Path, title: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = table.render_table(runs)
    (folder / "report.json").write_text(
        json.dumps(make_json_record(runs, clock.CLOCK_DESCRIPTION), indent=1) + "\n"
    )
    (folder / "table.txt").write_text(text)
    (folder / "timelines.svg").write_text(picture.draw_timelines(runs, title))
    print(text)
    if any(run.fault == "panic" for run in runs):
        text = compare.render_markdown(runs)
        (folder / "table.md").write_text(text)
        print(text)
    for watch in WATCHES:
        reasons = {run.exit_reason for run in runs if run.watch == watch and run.recorded_s}
        for reason in sorted(reasons):
            print(f"exit reason in crm_mon, {WATCHES[watch]}: {reason or '(none)'}")
    worst = max((run.clock_error_s for run in runs), default=0.0)
    print(f"\nClock: {clock.CLOCK_DESCRIPTION}; worst bound {worst * 1000:.0f} ms.")
    print(f"Report, table and picture of the timelines: {folder}/", flush=True)


def _announce_run(command: str, vmm: str, rounds: int, machine: Machine) -> None:
    """Say how long this will take, and on what kind of machine it runs."""
    seconds = estimate_duration_s(command, vmm, rounds) * machine.timeout_factor
    _print_progress_line(f"This takes about {max(1, round(seconds / 60))} minutes.")
    if not any(cache_directory().glob(f"{IMAGES[vmm]}-*")):
        minutes = max(1, round(BUILD_S[vmm] * machine.timeout_factor / 60))
        _print_progress_line(
            f"This is the first run: it builds the images first, {minutes} minutes more."
        )
    _print_progress_line(f"The machine: {machine.describe_machine()}.")
    if machine.is_too_busy:
        _print_progress_line(
            "It is busy: times will be longer than on an idle machine, and are marked so."
        )
    if command == "demo":
        _print_progress_line(
            "Each fault comes at the middle of the stock agent's interval, the mean case."
        )


def estimate_duration_s(command: str, vmm: str, rounds: int) -> float:
    """Return the seconds that a command takes on the reference machine, images built."""
    begin, of_fault = DURATION_S[vmm]
    kinds = {"demo": len(DEMO), "evaluate": len(EVALUATION), "compare": sum(compare.KINDS.values())}
    return begin + 2 * rounds * kinds[command] * of_fault


def _parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python3 -m lab.evaluation", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", help="two faults, watched in two ways, once each")
    evaluate = commands.add_parser("evaluate", help="three faults, several times each")
    evaluate.add_argument("--runs", type=int, default=5, help="of each (default: 5)")
    evaluate.add_argument("--fault", choices=EVALUATION, action="append", help="only this kind")
    against = commands.add_parser("compare", help="all faults on Xen, stock agent against ours")
    against.add_argument("--runs", type=int, default=1, help="rounds (default: 1)")
    against.add_argument("--fault", choices=tuple(compare.KINDS), action="append")
    against.set_defaults(vmm="xen")
    for command in (demo, evaluate):
        command.add_argument("--vmm", choices=setting.VMMS, default="xen", help="default: xen")
    for command in (demo, evaluate, against):
        command.add_argument(
            "--watch", choices=("polling", "vesper"), action="append", help="only this way"
        )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    arguments = _parse_arguments(argv)
    if os.geteuid() != 0:
        print("lab.evaluation: needs root (the labs' images)", file=sys.stderr)
        return 1
    rounds = 1 if arguments.command == "demo" else arguments.runs
    name = {"evaluate": "evaluation"}.get(arguments.command, arguments.command)
    folder = PROJECT / "build" / (name if arguments.vmm == "xen" else f"{name}-{arguments.vmm}")
    runs: list[Run] = []
    machine = measure_machine()
    _announce_run(arguments.command, arguments.vmm, rounds, machine)
    try:
        watches = arguments.watch or tuple(WATCHES)
        if arguments.command == "compare":
            with XenLab.resume_lab() as lab:
                kinds = arguments.fault or tuple(compare.KINDS)
                compare.perform_trials(
                    lab,
                    kinds,
                    rounds,
                    watches,
                    _print_progress_line,
                    runs.append,
                    machine.timeout_factor,
                )
        else:
            faults = DEMO if arguments.command == "demo" else arguments.fault or EVALUATION
            with setting.open_lab_of_setting(arguments.vmm) as lab:
                for watch in watches:
                    runs += _run_trial_series(lab, watch, faults, rounds, machine.timeout_factor)
    except (LabError, ChannelError, BuildError) as error:
        print(f"lab.evaluation: {error}", file=sys.stderr)
        if runs:
            _write_report(runs, folder, "unfinished")
        return 1
    _write_report(runs, folder, "From the fault in the guest to the failover")
    _print_progress_line(f"{len(runs)} runs, {time.monotonic() - _BEGIN:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
