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
from lab.xen import keeper
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

    def add(name: str, command: Any, help: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = commands.add_parser(name, help=help, description=help)
        parser.set_defaults(command=_guarded(command))
        return parser

    up = add("up", _up, "bring the lab up (the images are built first where they are missing)")
    up.add_argument("--hosts", type=int, choices=(1, 2), default=2, help="1: without a cluster")
    up.add_argument("--timeout", type=float, default=1200.0, help="seconds (default: 1200)")
    add("down", _down, "take the lab down; nothing remains but the images")
    add("status", _status, "what runs where")
    add("install", _install, "put the present project tree into the hosts once more")
    run = add("run", _run, "run one shell command in a host")
    run.add_argument("--timeout", type=float, default=300.0, help="seconds (default: 300)")
    run.add_argument("host", help="host-a or host-b (or a, b)")
    run.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND")
    shell = add("shell", _shell, "a terminal in a host, or the console of vm1")
    shell.add_argument("where", help="host-a, host-b or vm1 (leave the console with ctrl-])")
    guest = add("guest", _guest, "run one shell command in vm1")
    guest.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND")
    _add_faults(add("fault", _fault, "break something"))


def _add_faults(parser: argparse.ArgumentParser) -> None:
    kinds = faults.add(parser)
    for name, text in (
        ("power-off", "cut a host's power"),
        ("link-down", "pull a host's cluster link out"),
        ("link-up", "plug it in again"),
        ("kill-vesperd", "SIGKILL vesperd on a host"),
        ("start-vesperd", "start it again"),
    ):
        kind = kinds.add_parser(name, help=text)
        kind.add_argument("host")


def _guarded(command: Any) -> Any:
    def run(arguments: argparse.Namespace) -> int:
        try:
            status: int = command(arguments)
        except (LabError, ChannelError) as error:
            print(f"lab: {error}", file=sys.stderr)
            return 1
        return status

    return run


def _attach() -> XenLab:
    return XenLab.attach(keeper.DIRECTORY)


def _up(arguments: argparse.Namespace) -> int:
    keeper.begin(arguments.hosts, arguments.timeout)
    return 0


def _down(_arguments: argparse.Namespace) -> int:
    if not keeper.end():
        print("lab: was not up", file=sys.stderr)
    return 0


def _status(_arguments: argparse.Namespace) -> int:
    lab = _attach()
    for host in lab.hosts:
        print(f"== {host.name} ({host.ip}), files in {host.state}")
        if not host.running():
            print("powered off")
            continue
        print(host.run("xl list; pgrep -a vesperd || echo vesperd is not running").output, end="")
    if len(lab.hosts) > 1:
        for host in lab.hosts:
            if host.running():
                print(f"== cluster, seen from {host.name}")
                print(host.run("crm_mon -1 -r 2>&1").output, end="")
                break
    return 0


def _install(_arguments: argparse.Namespace) -> int:
    _attach().install()
    return 0


def _show(result: Result) -> int:
    sys.stdout.write(result.output)
    return result.rc if result.rc >= 0 else 128 - result.rc


def _run(arguments: argparse.Namespace) -> int:
    host = _attach().host(arguments.host)
    return _show(host.run(" ".join(arguments.words), timeout=arguments.timeout))


def _guest(arguments: argparse.Namespace) -> int:
    return _show(_attach().guest().run(" ".join(arguments.words)))


def _shell(arguments: argparse.Namespace) -> int:
    lab = _attach()
    if arguments.where == "vm1":
        host = lab.running_on()
        if host is None:
            raise LabError("vm1 runs on no host")
        _terminal(host.shell("exec xl console vm1"))
    else:
        _terminal(lab.host(arguments.where).shell())
    return 0


def _terminal(connection: socket.socket) -> None:
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


def _fault(arguments: argparse.Namespace) -> int:
    lab = _attach()
    if faults.in_guest(arguments, lab.guest()):
        return 0
    if arguments.fault == "destroy":
        host = lab.running_on()
        if host is None:
            raise LabError("vm1 runs on no host")
        host.run("xl destroy vm1", check=True)
    else:
        _host_fault(lab, arguments.fault, arguments.host)
    return 0


def _host_fault(lab: XenLab, kind: str, name: str) -> None:
    host = lab.host(name)
    if kind == "power-off":
        host.power_off()
    elif kind in ("link-down", "link-up"):
        host.set_link(kind == "link-up")
    elif kind == "kill-vesperd":
        host.stop_vesperd(signal="KILL")
    else:
        host.start_vesperd()
