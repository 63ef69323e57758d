# SPDX-License-Identifier: GPL-2.0-or-later
"""``python3 -m lab xen``: the Xen lab's command line."""

from __future__ import annotations

import argparse
import os
import select
import socket
import sys
import termios
import tty
from typing import Any

from lab import faults
from lab.host import ChannelError, LabError, Result
from lab.xen import owner_process
from lab.xen.lab import XenLab

__all__ = ["add_commands"]

EXAMPLES = """\
examples:
  python3 -m lab xen up                       two hosts with a ready cluster
  python3 -m lab xen run host-a xl create /etc/xen/vm1.cfg
  python3 -m lab xen shell host-b             a terminal (leave with exit)
  python3 -m lab xen guest ps                 a command in the guest vm1
  python3 -m lab xen fault signal SEGV httpd  kill the web server in the guest
  python3 -m lab xen down
"""


def add_commands(subparsers: Any) -> None:
    """Add ``xen`` and its commands."""
    xen = subparsers.add_parser(
        "xen",
        help="emulated hosts with real Xen, Corosync and Pacemaker",
        description="Emulated hosts with real Xen, Corosync and Pacemaker; vm1 is their guest.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = xen.add_subparsers(metavar="COMMAND", required=True)

    def add_command(name: str, command: Any, help: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = commands.add_parser(name, help=help, description=help)
        parser.set_defaults(command=_report_errors(command))
        return parser

    up = add_command(
        "up", _bring_lab_up, "bring the lab up (the images are built first where they are missing)"
    )
    up.add_argument("--hosts", type=int, choices=(1, 2), default=2, help="1: without a cluster")
    up.add_argument("--timeout", type=float, default=1200.0, help="seconds (default: 1200)")
    add_command("down", _take_lab_down, "take the lab down; nothing remains but the images")
    add_command("status", _show_status, "what runs where")
    add_command(
        "install", _install_project, "put the present project tree into the hosts once more"
    )
    run = add_command("run", _run_in_host, "run one shell command in a host")
    run.add_argument("--timeout", type=float, default=300.0, help="seconds (default: 300)")
    run.add_argument("host", help="host-a or host-b (or a, b)")
    run.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND")
    shell = add_command("shell", _open_host_shell, "a terminal in a host, or the console of vm1")
    shell.add_argument("where", help="host-a, host-b or vm1 (leave the console with ctrl-])")
    guest = add_command("guest", _run_in_guest, "run one shell command in vm1")
    guest.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND")
    _add_fault_parsers(add_command("fault", _bring_fault_about, "break something"))


def _add_fault_parsers(parser: argparse.ArgumentParser) -> None:
    kinds = faults.add_fault_commands(parser)
    for name, text in (
        ("power-off", "cut a host's power"),
        ("link-down", "pull a host's cluster link out"),
        ("link-up", "plug it in again"),
        ("kill-vesperd", "SIGKILL vesperd on a host"),
        ("start-vesperd", "start it again"),
    ):
        kind = kinds.add_parser(name, help=text)
        kind.add_argument("host")


def _report_errors(command: Any) -> Any:
    def run_reporting_errors(arguments: argparse.Namespace) -> int:
        try:
            status: int = command(arguments)
        except (LabError, ChannelError) as error:
            print(f"lab: {error}", file=sys.stderr)
            return 1
        return status

    return run_reporting_errors


def _attach_to_lab() -> XenLab:
    return XenLab.attach_to_lab(owner_process.DIRECTORY)


def _bring_lab_up(arguments: argparse.Namespace) -> int:
    owner_process.bring_lab_up(arguments.hosts, arguments.timeout)
    return 0


def _take_lab_down(_arguments: argparse.Namespace) -> int:
    if not owner_process.take_lab_down():
        print("lab: was not up", file=sys.stderr)
    return 0


def _show_status(_arguments: argparse.Namespace) -> int:
    lab = _attach_to_lab()
    for host in lab.hosts:
        print(f"== {host.name} ({host.ip}), files in {host.state}")
        if not host.is_running():
            print("powered off")
            continue
        print(
            host.run_command("xl list; pgrep -a vesperd || echo vesperd is not running").output,
            end="",
        )
    if len(lab.hosts) > 1:
        for host in lab.hosts:
            if host.is_running():
                print(f"== cluster, seen from {host.name}")
                print(host.run_command("crm_mon -1 -r 2>&1").output, end="")
                break
    return 0


def _install_project(_arguments: argparse.Namespace) -> int:
    _attach_to_lab().install_project()
    return 0


def _show_result(result: Result) -> int:
    sys.stdout.write(result.output)
    return result.rc if result.rc >= 0 else 128 - result.rc


def _run_in_host(arguments: argparse.Namespace) -> int:
    host = _attach_to_lab().find_host(arguments.host)
    return _show_result(host.run_command(" ".join(arguments.words), timeout=arguments.timeout))


def _run_in_guest(arguments: argparse.Namespace) -> int:
    return _show_result(_attach_to_lab().guest_through().run_command(" ".join(arguments.words)))


def _open_host_shell(arguments: argparse.Namespace) -> int:
    lab = _attach_to_lab()
    if arguments.where == "vm1":
        host = lab.running_on()
        if host is None:
            raise LabError("vm1 runs on no host")
        _join_terminal(host.open_shell("exec xl console vm1"))
    else:
        _join_terminal(lab.find_host(arguments.where).open_shell())
    return 0


def _join_terminal(connection: socket.socket) -> None:
    """Join this terminal and the connection until one of them ends."""
    stdin = sys.stdin.fileno()
    saved = termios.tcgetattr(stdin) if os.isatty(stdin) else None
    try:
        if saved:
            tty.setraw(stdin)
        ends = [connection, stdin]
        while True:
            ready, _, _ = select.select(ends, [], [])
            if connection in ready:
                data = connection.recv(65536)
                if not data:
                    return
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()
            if stdin in ready:
                data = os.read(stdin, 4096)
                if not data:
                    ends.remove(stdin)
                    data = b"\x04"  # what a terminal sends at the end of input
                connection.sendall(data)
    finally:
        if saved:
            termios.tcsetattr(stdin, termios.TCSADRAIN, saved)
        connection.close()


def _bring_fault_about(arguments: argparse.Namespace) -> int:
    lab = _attach_to_lab()
    if faults.cause_fault_in_guest(arguments, lab.guest_through()):
        return 0
    if arguments.fault == "destroy":
        host = lab.running_on()
        if host is None:
            raise LabError("vm1 runs on no host")
        host.run_command("xl destroy vm1", check=True)
    else:
        _cause_host_fault(lab, arguments.fault, arguments.host)
    return 0


def _cause_host_fault(lab: XenLab, kind: str, name: str) -> None:
    host = lab.find_host(name)
    if kind == "power-off":
        host.power_off()
    elif kind in ("link-down", "link-up"):
        host.set_network_link(kind == "link-up")
    elif kind == "kill-vesperd":
        host.stop_vesperd(signal="KILL")
    else:
        host.start_vesperd()
