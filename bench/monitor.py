# SPDX-License-Identifier: GPL-2.0-or-later
"""``python3 -m bench.monitor``: what watching costs a host, the stock agent against ours.

In the Xen lab's dom0, both in one run: one plain monitor (a probe), CPU and
wall time; and the CPU time that goes into watching one VM: of all processes
of the agents (with their executor in Pacemaker), of vesperd, and of the rest
of Pacemaker, each in a control group of its own, whose counter misses no
process however short. The window of ours is one whole turn of its monitor, which
takes ten minutes. What Pacemaker's executor takes for itself (it wakes twice a
second) is measured on the other host meanwhile, and subtracted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from lab.evaluation import cluster
from lab.host import ChannelError, LabError
from lab.images.store import BuildError
from lab.progress import note_progress, show_step
from lab.xen import XenHost, XenLab

__all__ = ["main"]

HERE = Path(__file__).parent
AGENTS = {"stock": "heartbeat/Xen", "ours": "vesper/XenVM"}
#: Processes by control group, as pgrep has them; of two groups the later one counts.
GROUPS = {"pacemaker": "'^pacemaker'", "agents": "-x pacemaker-execd", "vesperd": "-x vesperd"}
MAKE_GROUPS = "mkdir -p /run/cg; mountpoint -q /run/cg || mount -t cgroup2 none /run/cg; "
MAKE_GROUPS += "; ".join(
    f"mkdir -p /run/cg/{group}; for p in $(pgrep {words}); do "
    f"echo $p >/run/cg/{group}/cgroup.procs; done"
    for group, words in GROUPS.items()
)
READ_USAGE = "; ".join(
    f"awk '/usage_usec/{{print \"{g}\", $2}}' /run/cg/{g}/cpu.stat" for g in GROUPS
)
#: s that the stock agent is looked at: some dozen monitors.
STOCK_WINDOW_S = 130.0


def _read_group_usage(host: XenHost) -> dict[str, float]:
    """s of CPU time so far."""
    said = host.run_command(READ_USAGE, timeout=30, check=True).output
    return {name: int(value) / 1e6 for name, value in map(str.split, said.splitlines())}


def _wait_for_monitor(host: XenHost, old: str = "none") -> tuple[str, float]:
    """Until another monitor of ours waits. :returns: its pid, and for how long (s)."""
    find = f"pgrep -f '^/usr/bin/python3 .*XenVM monitor' | grep -vx '{old}'"
    pid = host.wait_for_command(find, timeout=900, every=0.5).split()[0]
    return pid, float(host.run_command(f"ps -o etimes= {pid}", check=True).output)


def measure_watching(lab: XenLab, watch: str) -> dict[str, float]:
    """s of CPU time per VM-hour, by control group."""
    home = lab.running_on()
    assert home is not None
    (other,) = (host for host in lab.hosts if host is not home)
    for host in (home, other):
        host.run_command(MAKE_GROUPS, timeout=60, check=True)
    pid, age = _wait_for_monitor(home) if watch == "vesper" else ("", 0.0)
    before, idle, begin = (
        _read_group_usage(home),
        _read_group_usage(other)["agents"],
        time.monotonic(),
    )
    if pid:
        _, new = _wait_for_monitor(home, pid)
        time.sleep(max(0.0, age - new))  # one whole turn, with one start in it
    else:
        time.sleep(STOCK_WINDOW_S)
    after, seconds = _read_group_usage(home), time.monotonic() - begin
    before["agents"] += _read_group_usage(other)["agents"] - idle
    note_progress(f"{watch}: {seconds:.0f} s watched")
    return {name: (after[name] - before[name]) / seconds * 3600 for name in GROUPS}


def measure_probes(lab: XenLab, rounds: int) -> dict[str, list[dict[str, Any]]]:
    home = lab.running_on()
    assert home is not None
    home.put_file("/root/monitor_cost.py", (HERE / "monitor_cost.py").read_bytes())
    said = home.run_command(
        f"python3 /root/monitor_cost.py {rounds} {' '.join(AGENTS.values())}",
        timeout=600,
        check=True,
    ).output
    runs = [json.loads(line) for line in said.splitlines()]
    if wrong := [run for run in runs if run["code"] != 0]:
        raise LabError(f"{home.name}: a monitor says that vm1 is not well: {wrong[0]}")
    return {name: [r for r in runs if r["agent"] == agent] for name, agent in AGENTS.items()}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python3 -m bench.monitor", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="probes of each (default: 20)")
    arguments = parser.parse_args(argv)
    if os.geteuid() != 0:
        print("bench: needs root (the lab's images)", file=sys.stderr)
        return 1
    hours: dict[str, dict[str, float]] = {}
    try:
        with XenLab.resume_lab() as lab:
            for name, watch in (("stock", "polling"), ("ours", "vesper")):
                cluster.configure_resource(lab, watch, note_progress)
                with show_step(f"watching, {name}"):
                    hours[name] = measure_watching(lab, watch)
            with show_step("plain monitors"):
                single = measure_probes(lab, arguments.rounds)
    except (LabError, ChannelError, BuildError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    _print_report(single, hours)
    return 0


def _print_report(
    single: dict[str, list[dict[str, Any]]], hours: dict[str, dict[str, float]]
) -> None:
    print("One plain monitor of a VM that runs (median, ms)")
    for what in ("cpu", "wall"):
        stock, ours = (statistics.median(run[what] for run in single[name]) for name in AGENTS)
        print(f"  {what:6} stock {stock * 1000:7.0f}   ours {ours * 1000:7.0f}   "
              f"ours/stock {ours / stock:.2f}")  # fmt: skip
    print("Watching, s of CPU time per VM-hour (stock: every 10 s; ours: waiting)")
    for group in GROUPS:
        stock, ours = (hours[name][group] for name in AGENTS)
        print(f"  {group:10} stock {stock:7.1f}   ours {ours:7.1f}")
    # The stock agent does without vesperd, which is there, too.
    stock, ours = hours["stock"]["agents"], hours["ours"]["agents"] + hours["ours"]["vesperd"]
    print(f"  agents, of ours with vesperd: 1/{stock / ours:.1f} of the stock agent's")
    path = Path("build/bench-monitor.json")
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"monitor": single, "per_hour_s": hours}, indent=1) + "\n")
    note_progress(f"all figures: {path}")


if __name__ == "__main__":
    sys.exit(main())
