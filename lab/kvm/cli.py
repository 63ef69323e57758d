# SPDX-License-Identifier: GPL-2.0-or-later
"""``python3 -m lab kvm``: the KVM lab's command line."""

from __future__ import annotations

import argparse
import subprocess
import sys
from typing import Any

from lab import faults
from lab.cluster.node import ENVIRONMENT
from lab.cluster.owner_process import LabOwner
from lab.guest import Guest
from lab.host import ChannelError, LabError
from lab.kvm.host import KvmHost

__all__ = ["add_commands"]

OWNER = LabOwner("kvm")

EXAMPLES = """\
examples:
  python3 -m lab kvm up                       two hosts with a ready cluster
  python3 -m lab kvm run node1 virsh create /etc/lab/vm1.xml
  python3 -m lab kvm run node1 virsh migrate --live vm1 qemu+tcp://node2/system
  python3 -m lab kvm shell node2              a terminal (leave with exit)
  python3 -m lab kvm guest ps                 a command in the guest vm1
  python3 -m lab kvm fault signal SEGV httpd  kill the web server in the guest
  python3 -m lab kvm down
"""

#: Faults of a host: command, help, function.
HOST_FAULTS = (
    ("power-off", "cut a host's power", KvmHost.power_off),
    ("kill-vesperd", "SIGKILL vesperd on a host", lambda h: h.stop_vesperd(signal="KILL")),
    ("start-vesperd", "start it again", KvmHost.start_vesperd),
    ("kill-libvirtd", "SIGKILL libvirtd on a host", lambda h: h.stop_libvirtd(signal="KILL")),
    ("start-libvirtd", "start it again", KvmHost.start_libvirtd),
    ("hang-libvirtd", "SIGSTOP libvirtd on a host", lambda h: h.signal_libvirtd("STOP")),
    ("resume-libvirtd", "SIGCONT it", lambda h: h.signal_libvirtd("CONT")),
)


def add_commands(subparsers: Any) -> None:
    """Add ``kvm`` and its commands."""
    kvm = subparsers.add_parser(
        "kvm",
        help="namespace hosts with real libvirt, QEMU guests, Corosync and Pacemaker",
        description="Namespace hosts with real libvirt, Corosync and Pacemaker; vm1, a QEMU "
        "machine (/etc/lab/vm1.xml), is their guest.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = kvm.add_subparsers(metavar="COMMAND", required=True)

    def add_command(name: str, command: Any, help: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = commands.add_parser(name, help=help, description=help)
        parser.set_defaults(command=_report_errors(command))
        return parser

    up = add_command(
        "up", _bring_lab_up, "bring the lab up (the images are built first where they are missing)"
    )
    up.add_argument("-n", "--nodes", type=int, default=2, help="how many hosts (default: 2)")
    up.add_argument("--timeout", type=float, default=1200.0, help="seconds (default: 1200)")
    add_command("down", _take_lab_down, "take the lab down; nothing remains but the images")
    add_command("status", _show_status, "what runs where")
    run = add_command("run", _run_in_host, "run one shell command in a host")
    run.add_argument("--timeout", type=float, default=300.0, help="seconds (default: 300)")
    run.add_argument("host")
    run.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND")
    shell = add_command("shell", _open_host_shell, "a terminal in a host, or the console of vm1")
    shell.add_argument("where", help="node1, node2 or vm1 (leave the console with ctrl-])")
    guest = add_command("guest", _run_in_guest, "run one shell command in vm1")
    guest.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND")
    start = add_command("start", _power_host_on, "power a host on again")
    start.add_argument("host")
    kinds = faults.add_fault_commands(add_command("fault", _bring_fault_about, "break something"))
    for name, text, _ in HOST_FAULTS:
        kinds.add_parser(name, help=text).add_argument("host")


def _report_errors(command: Any) -> Any:
    def run_reporting_errors(arguments: argparse.Namespace) -> int:
        try:
            status: int = command(arguments)
        except (LabError, ChannelError) as error:
            print(f"lab: {error}", file=sys.stderr)
            return 1
        return status

    return run_reporting_errors


def _list_lab_hosts() -> list[KvmHost]:
    return [KvmHost(node) for node in OWNER.attach_to_lab()]


def _find_host_of_vm1() -> KvmHost:
    """Return the host on which vm1 runs.

    :raises LabError: nowhere.
    """
    for host in _list_lab_hosts():
        if host.is_running() and "vm1" in host.list_domains():
            return host
    raise LabError("vm1 runs on no host")


def _bring_lab_up(arguments: argparse.Namespace) -> int:
    if not 1 <= arguments.nodes <= 9:
        raise LabError("between 1 and 9 hosts")
    OWNER.bring_lab_up(arguments.nodes, arguments.timeout)
    return 0


def _take_lab_down(_arguments: argparse.Namespace) -> int:
    if not OWNER.take_lab_down():
        print("lab: was not up", file=sys.stderr)
    return 0


def _show_status(_arguments: argparse.Namespace) -> int:
    hosts = _list_lab_hosts()
    for host in hosts:
        print(f"== {host.name}, logs in {host.node.directory / 'log'}")
        if not host.is_running():
            print("powered off")
            continue
        for daemon in ("libvirtd", "vesper-ivshmem", "vesperd"):
            if host.run_command(f"pgrep -f /usr/sbin/{daemon}").rc != 0:
                print(f"{daemon} is not running")
        print(f"domains: {' '.join(host.list_domains()) or 'none'}")
    for host in hosts:
        if host.is_running():
            print(f"== cluster, seen from {host.name}")
            print(host.run_command("crm_mon -1 -r 2>&1").output, end="")
            break
    return 0


def _run_in_host(arguments: argparse.Namespace) -> int:
    host = KvmHost(OWNER.find_node(arguments.host))
    result = host.run_command(" ".join(arguments.words), timeout=arguments.timeout)
    print(result.output, end="")
    return result.rc if result.rc >= 0 else 128 - result.rc


def _open_host_shell(arguments: argparse.Namespace) -> int:
    if arguments.where == "vm1":
        node, command = _find_host_of_vm1().node, ["virsh", "console", "vm1"]
    else:
        node, command = OWNER.find_node(arguments.where), ["bash", "--norc", "-i"]
    prompt = {"PS1": f"{node.name}:\\w# ", "TERM": "linux"}
    return subprocess.run(node.build_command(*command), env={**ENVIRONMENT, **prompt}).returncode


def _run_in_guest(arguments: argparse.Namespace) -> int:
    result = Guest(_find_host_of_vm1()).run_command(" ".join(arguments.words))
    print(result.output, end="")
    return result.rc


def _power_host_on(arguments: argparse.Namespace) -> int:
    OWNER.power_node_on(OWNER.find_node(arguments.host, running=False))
    return 0


def _bring_fault_about(arguments: argparse.Namespace) -> int:
    for name, _, breaks in HOST_FAULTS:
        if arguments.fault == name:
            breaks(KvmHost(OWNER.find_node(arguments.host)))
            return 0
    host = _find_host_of_vm1()
    if not faults.cause_fault_in_guest(arguments, Guest(host)):
        host.run_command("virsh destroy vm1", check=True)
    return 0
