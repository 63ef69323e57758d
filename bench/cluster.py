# SPDX-License-Identifier: GPL-2.0-or-later
"""``python3 -m bench.cluster``: from the event to the agent's stop, and what waiting costs.

On one cluster of namespace nodes two resources take turns: ``vm1``, an
ocf:vesper:XenVM with a stand-in guest, and ``fifo``, the least that a waiting
monitor can be (bench/fifo_agent).  A fault is a record in the guest's relay
channel, stamped just before it is written and vesperd is notified; for the
other a line written to the fifo, stamped just before.  The end of both is
the moment at which Pacemaker calls the agent's stop, which pacemaker-execd
logs with milliseconds.  Between the two stamps of ``vm1`` lie all of vesperd:
drained, decoded, judged, written durably to the journal, told.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import random
import re
import socket
import statistics
import sys
import time
from pathlib import Path

from lab import idle
from lab.cluster import ClusterError, ClusterLab, Node
from lab.cluster.node import wait_until
from lab.progress import note_progress, show_step

__all__ = ["main"]

HERE = Path(__file__).parent
XMFILE = "/etc/xen/vm1.cfg"
STATE = "/run/fifo-state"

#: What one idle waiting monitor may cost.
PSS_LIMIT_KB = 12 * 1024
IDLE_WINDOW_S = 20.0


class Watched:
    """A resource whose faults are timed."""

    #: resource's id
    name = ""

    def __init__(self, lab: ClusterLab) -> None:
        self.lab = lab

    def find_active_node(self) -> Node:
        """The node it runs on."""
        for _ in wait_until(f"{self.name} on one node", 30):
            status = self.lab.read_status()
            found = [] if status is None else status.findall(f".//resource[@id='{self.name}']/node")
            if len(found) == 1:
                return self.lab.find_node(str(found[0].get("name")))
        raise AssertionError

    def wait_for_idle_monitor(self, node: Node) -> int:
        """Wait for a monitor that has nothing to do but wait. :returns: its pid in the node."""
        pattern = f"^/usr/bin/python3 .*{self.agent} monitor"
        for _ in wait_until(f"{self.name}: a waiting monitor", 60):
            pids = node.run("pgrep", "-f", pattern, check=False).stdout.split()
            if len(pids) == 1 and self.is_ready_for_fault(node):
                return int(pids[0])
        raise AssertionError

    agent = ""

    def is_ready_for_fault(self, node: Node) -> bool:
        raise NotImplementedError

    def cause_fault(self, node: Node) -> float:
        """:returns: s of CLOCK_REALTIME, right before the event is handed over."""
        raise NotImplementedError

    def time_one_failover(self) -> float:
        """One fault and its failover. :returns: ms from the event to the stop."""
        node = self.find_active_node()
        self.wait_for_idle_monitor(node)
        time.sleep(0.5)  # the start before this has nothing more to do
        before = node.pacemaker_log.stat().st_size
        start = self.cause_fault(node)
        end = _find_stop_time(node, self.name, before)
        for _ in wait_until(f"{self.name}: failover", 30):
            if self.find_active_node().name != node.name:
                break
        node.run("crm_resource", "--cleanup", "-r", self.name)
        node.run("sh", "-c", idle.COMMAND, timeout=idle.LIMIT_S + 10)
        return (end - start) * 1000


class Vesper(Watched):
    name = "vm1"
    agent = "XenVM"

    def is_ready_for_fault(self, node: Node) -> bool:
        answer = json.loads(node.run("vesper", "status", "--json").stdout)
        return any(
            vm["vm"] == self.name and vm["waiting"] and len(vm["probes"]) == 2
            for vm in answer["vms"]
        )

    def cause_fault(self, node: Node) -> float:
        # Not with a command in the node: its own end would take time from what
        # is measured.
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(10)
            control.connect(str(node.host_path("/run/vesper-standin/vm1/control.sock")))
            control.sendall(b"emit send_signal sig=11 comm=httpd fatal=1\n")
            told = control.makefile().readline().split()
        if told[:1] != ["ok"]:
            raise ClusterError(f"{node.name}: the stand-in guest says: {' '.join(told)}")
        return int(told[1]) / 1e9 + (time.time() - time.monotonic())


class Fifo(Watched):
    name = "fifo"
    agent = "Fifo"

    def is_ready_for_fault(self, node: Node) -> bool:
        return node.host_path(STATE + ".first").exists()

    def cause_fault(self, node: Node) -> float:
        fd = os.open(node.host_path(STATE + ".fifo"), os.O_WRONLY | os.O_NONBLOCK)
        try:
            now = time.time()
            os.write(fd, b"httpd[97] killed by SIGSEGV\n")
        finally:
            os.close(fd)
        return now


def _find_stop_time(node: Node, resource: str, offset: int) -> float:
    """When execd called stop, by its log from ``offset`` on (s, CLOCK_REALTIME)."""
    pattern = re.compile(
        rf"^(\w+ \d+ [\d:.]+) .*executing - rsc:{resource} action:stop ", re.MULTILINE
    )
    for _ in wait_until(f"{node.name}: stop of {resource}", 30, 0.02):
        with node.pacemaker_log.open(errors="replace") as log:
            log.seek(offset)
            found = pattern.search(log.read())
        if found:
            now = datetime.datetime.now(datetime.UTC)
            stamp = datetime.datetime.strptime(f"{now.year} {found[1]}", "%Y %b %d %H:%M:%S.%f")
            # The nodes have no time zone of their own: UTC.
            return stamp.replace(tzinfo=datetime.UTC).timestamp()
    raise AssertionError


def _configure_cluster(lab: ClusterLab) -> None:
    for node in lab.nodes:
        node.write_file(XMFILE, 'name = "vm1"\nmemory = 64\n')
        agent = "/usr/lib/ocf/resource.d/bench/Fifo"
        node.write_file(agent, (HERE / "fifo_agent").read_text())
        node.host_path(agent).chmod(0o755)
    monitor = "op monitor interval=1s timeout=30s"
    text = (
        f"primitive vm1 ocf:vesper:XenVM params xmfile={XMFILE} services=httpd {monitor} "
        f"meta migration-threshold=1\n"
        f"primitive fifo ocf:bench:Fifo params state={STATE} {monitor} "
        "meta migration-threshold=1\n"
        "rsc_defaults resource-stickiness=100\n"
    )
    node = lab.nodes[0]
    node.write_file("/run/bench.crm", text)
    node.run("crm", "-F", "configure", "load", "update", "/run/bench.crm", timeout=60)
    node.run("sh", "-c", idle.COMMAND, timeout=idle.LIMIT_S + 10)


def _measure_idle_cost(vesper: Vesper) -> dict[str, float]:
    """Of one monitor that waits."""
    node = vesper.find_active_node()
    # Long enough for the measurement: a fresh monitor.
    old = vesper.wait_for_idle_monitor(node)
    for _ in wait_until("the next monitor", 60):
        pid = vesper.wait_for_idle_monitor(node)
        if pid != old:
            break
    proc = node.host_path(f"/proc/{pid}")
    time.sleep(0.5)
    before = _read_cpu_time(proc)
    time.sleep(IDLE_WINDOW_S)
    after = _read_cpu_time(proc)
    memory = {
        line.split()[0].rstrip(":"): int(line.split()[1])
        for line in (proc / "smaps_rollup").read_text().splitlines()[1:]
    }
    return {
        "cpu_ms": (after - before) * 1000,
        "start_cpu_ms": before * 1000,
        "pss_kb": memory["Pss"],
        "rss_kb": memory["Rss"],
    }


def _read_cpu_time(proc: Path) -> float:
    """Seconds of CPU, user and system (nanoseconds since Linux 2.6.26: schedstat)."""
    return int((proc / "schedstat").read_text().split()[0]) / 1e9


def _format_result_row(name: str, values: list[float]) -> str:
    quarters = statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
    return (
        f"{name:28}{statistics.median(values):8.1f}{quarters[0]:8.1f}{quarters[2]:8.1f}"
        f"{min(values):8.1f}{max(values):8.1f}{len(values):6}"
    )


def _bootstrap_interval(ours: list[float], bare: list[float]) -> tuple[float, float]:
    """Between which the ratio of the medians lies with 95 % (bootstrap): Pacemaker's
    own share is most of the time, and varies by more than what is compared."""
    draw = random.Random(1)
    ratios = sorted(
        statistics.median(draw.choices(ours, k=len(ours)))
        / statistics.median(draw.choices(bare, k=len(bare)))
        for _ in range(2000)
    )
    return ratios[50], ratios[-51]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python3 -m bench.cluster", description=__doc__)
    parser.add_argument("--rounds", type=int, default=60, help="faults of each (default: 60)")
    arguments = parser.parse_args(argv)
    if arguments.rounds < 1:
        parser.error("--rounds: at least 1")
    if os.geteuid() != 0:
        print("bench: needs root (namespaces)", file=sys.stderr)
        return 1
    try:
        with ClusterLab(2) as lab:
            with show_step("configuring both resources"):
                _configure_cluster(lab)
            vesper, fifo = Vesper(lab), Fifo(lab)
            times: dict[str, list[float]] = {"vesper": [], "fifo": []}
            # The first of each warms the caches and does not count.
            for count in range(arguments.rounds + 1):
                pair = [("vesper", vesper), ("fifo", fifo)]
                for name, watched in pair if count % 2 else reversed(pair):
                    value = watched.time_one_failover()
                    if count:
                        times[name].append(value)
                        note_progress(f"round {count}: {name:7} {value:6.1f} ms")
            with show_step("cost of one idle monitor"):
                cost = _measure_idle_cost(vesper)
    except ClusterError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    _print_report(times, cost)
    return 0


def _print_report(times: dict[str, list[float]], cost: dict[str, float]) -> None:
    ours, bare = (statistics.median(times[name]) for name in ("vesper", "fifo"))
    print("event handed over -> agent's stop called (ms)")
    print(f"{'':28}{'median':>8}{'25%':>8}{'75%':>8}{'min':>8}{'max':>8}{'n':>6}")
    print(_format_result_row("vesperd and XenVM", times["vesper"]))
    print(_format_result_row("bare waiting monitor", times["fifo"]))
    low, high = _bootstrap_interval(times["vesper"], times["fifo"])
    print(f"ratio of the medians: {ours / bare:.2f} (95 % between {low:.2f} and {high:.2f})")
    print(
        f"one idle waiting monitor: CPU {cost['cpu_ms']:.2f} ms in {IDLE_WINDOW_S:.0f} s "
        f"(its start {cost['start_cpu_ms']:.0f} ms), "
        f"PSS {cost['pss_kb'] / 1024:.1f} MB, RSS {cost['rss_kb'] / 1024:.1f} MB "
        f"(limit {PSS_LIMIT_KB // 1024} MB)"
    )
    path = Path("build/bench-cluster.json")
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"ms": times, "idle": cost}, indent=1) + "\n")
    note_progress(f"all figures: {path}")


if __name__ == "__main__":
    sys.exit(main())
