# SPDX-License-Identifier: GPL-2.0-or-later
"""``python3 -m lab cluster``: the cluster lab's command line."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from typing import Any

from lab.cluster.node import ENVIRONMENT, ClusterError, Node
from lab.cluster.owner_process import LabOwner

__all__ = ["add_commands"]

OWNER = LabOwner("cluster")

EXAMPLES = """\
examples:
  python3 -m lab cluster up -n 3              three nodes with a DC, some 5 s
  python3 -m lab cluster run node1 crm_mon -1
  python3 -m lab cluster shell node1          a terminal (leave with exit)
  python3 -m lab cluster kill node1           cut its power
  python3 -m lab cluster kill node1 vesperd   SIGKILL to vesperd alone
  python3 -m lab cluster start node1          power on again
  python3 -m lab cluster down
"""


def add_commands(subparsers: Any) -> None:
    """Add ``cluster`` and its commands."""
    cluster = subparsers.add_parser(
        "cluster",
        help="namespace nodes with real Corosync and Pacemaker, stand-in guests",
        description="Namespace nodes with real Corosync, Pacemaker and vesperd. The guests are "
        "stand-ins: for real ones use the Xen lab.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = cluster.add_subparsers(metavar="COMMAND", required=True)

    def add_command(name: str, command: Any, help: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = commands.add_parser(name, help=help, description=help)
        parser.set_defaults(command=_report_errors(command))
        return parser

    up = add_command("up", _bring_lab_up, "bring the lab up")
    up.add_argument("-n", "--nodes", type=int, default=2, help="how many (default: 2)")
    up.add_argument("--timeout", type=float, default=900.0, help="seconds (default: 900)")
    add_command("down", _take_lab_down, "take the lab down; nothing remains but the images")
    add_command("status", _show_status, "what runs where")
    run = add_command("run", _run_in_node, "run one command in a node")
    run.add_argument("--timeout", type=float, default=300.0, help="seconds (default: 300)")
    run.add_argument("node")
    run.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND")
    shell = add_command("shell", _open_node_shell, "a terminal in a node")
    shell.add_argument("node")
    kill = add_command("kill", _kill_node_or_daemon, "cut a node's power, or kill its vesperd")
    kill.add_argument("node")
    kill.add_argument("what", nargs="?", choices=("node", "vesperd"), default="node")
    start = add_command("start", _start_node_or_daemon, "power a node on, or start its vesperd")
    start.add_argument("node")
    start.add_argument("what", nargs="?", choices=("node", "vesperd"), default="node")


def _report_errors(command: Any) -> Any:
    def run_reporting_errors(arguments: argparse.Namespace) -> int:
        try:
            status: int = command(arguments)
        except ClusterError as error:
            print(f"lab: {error}", file=sys.stderr)
            return 1
        return status

    return run_reporting_errors


def _find_named_node(arguments: argparse.Namespace) -> Node:
    return OWNER.find_node(arguments.node)


def _bring_lab_up(arguments: argparse.Namespace) -> int:
    if not 1 <= arguments.nodes <= 16:
        raise ClusterError("between 1 and 16 nodes")
    OWNER.bring_lab_up(arguments.nodes, arguments.timeout)
    return 0


def _take_lab_down(_arguments: argparse.Namespace) -> int:
    if not OWNER.take_lab_down():
        print("lab: was not up", file=sys.stderr)
    return 0


def _show_status(_arguments: argparse.Namespace) -> int:
    nodes = OWNER.attach_to_lab()
    for node in nodes:
        state = "off"
        if node.is_running():
            state = "on, vesperd " + ("runs" if node.vesperd_pids() else "does not run")
        print(f"{node.name}  {state:26}  logs in {node.directory / 'log'}")
    for node in nodes:
        if node.is_running():
            print(f"== cluster, seen from {node.name}")
            print(node.run("crm_mon", "-1", "-r", check=False).stdout, end="")
            break
    return 0


def _run_in_node(arguments: argparse.Namespace) -> int:
    words = arguments.words[1:] if arguments.words[:1] == ["--"] else arguments.words
    if not words:
        raise ClusterError("which command?")
    command = _find_named_node(arguments).build_command(*words, limit=arguments.timeout)
    return subprocess.run(command, env=ENVIRONMENT).returncode


def _open_node_shell(arguments: argparse.Namespace) -> int:
    node = _find_named_node(arguments)
    prompt = {"PS1": f"{node.name}:\\w# ", "TERM": "linux"}
    return subprocess.run(
        node.build_command("bash", "--norc", "-i"), env={**ENVIRONMENT, **prompt}
    ).returncode


def _kill_node_or_daemon(arguments: argparse.Namespace) -> int:
    node = _find_named_node(arguments)
    if arguments.what == "vesperd":
        node.stop_vesperd(signal.SIGKILL)
    else:
        node.cut_power()
    return 0


def _start_node_or_daemon(arguments: argparse.Namespace) -> int:
    if arguments.what == "vesperd":
        _find_named_node(arguments).start_vesperd()
    else:
        OWNER.power_node_on(OWNER.find_node(arguments.node, running=False))
    return 0
