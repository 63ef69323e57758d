# SPDX-License-Identifier: GPL-2.0-or-later
"""The ``fault`` command of the labs: it breaks vm1."""

from __future__ import annotations

import argparse
from typing import Any

from lab.guest import Guest

__all__ = ["add_fault_commands", "cause_fault_in_guest"]


def add_fault_commands(parser: argparse.ArgumentParser) -> Any:
    """Add the faults.

    :returns: where a lab adds those of its own.
    """
    kinds = parser.add_subparsers(dest="fault", metavar="FAULT", required=True)
    kind = kinds.add_parser("signal", help="kill the main process of a service in the guest")
    kind.add_argument("signal", help="SEGV, KILL, ... or a number")
    kind.add_argument("service", nargs="?", default="httpd")
    kind = kinds.add_parser("oom", help="the guest runs out of memory, the service is killed")
    kind.add_argument("service", nargs="?", default="httpd")
    kind = kinds.add_parser("oom-other", help="the same, but the service is spared")
    kind.add_argument("service", nargs="?", default="httpd")
    kinds.add_parser("panic", help="the guest's kernel panics")
    kinds.add_parser("destroy", help="the domain is destroyed behind Pacemaker's back")
    return kinds


def cause_fault_in_guest(arguments: argparse.Namespace, guest: Guest) -> bool:
    """Bring the fault about, if it is one that the guest does to itself.

    :returns: whether it is.
    :raises ChannelError: it cannot be brought about.
    """
    kind = arguments.fault
    if kind == "signal":
        fault = guest.kill_service(arguments.signal, arguments.service)
        print(f"{arguments.service}[{fault.pid}]: signal {arguments.signal} sent")
    elif kind in ("oom", "oom-other"):
        fault = guest.out_of_memory(arguments.service, spare=kind == "oom-other")
        print(f"out of memory: process {fault.pid} was killed")
    elif kind == "panic":
        guest.start_command("echo c >/proc/sysrq-trigger")
    else:
        return False
    return True
