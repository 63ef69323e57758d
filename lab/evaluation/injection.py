# SPDX-License-Identifier: GPL-2.0-or-later
"""Brings a fault about, and says when it has happened."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lab.evaluation.clock import Offset, measure_offset
from lab.evaluation.setting import Lab
from lab.guest import Fault
from lab.host import Host

__all__ = ["Injection", "inject_fault", "read_host_clock"]

#: Faults that end the guest as a whole, and how labd brings them about.
_GUEST_ENDS = {"panic": "panic", "panic-kept": "panic", "poweroff": "poweroff", "hang": "hang"}


@dataclass(frozen=True)
class Injection:
    """A fault that was brought about."""

    at: float  #: s, on this machine's clock
    error_s: float  #: wrong by at most this
    pid: int  #: of the process that was killed; 0: none was


def read_host_clock(host: Host) -> Offset:
    """A host's clock against this machine's."""
    connection = host.connect_to_clock()
    if connection is None:
        return Offset(0, 0)
    with connection:
        return measure_offset(_ask_hostd_line(connection, b"?\n"))


def inject_fault(lab: Lab, home: Host, fault: str, clocks: Mapping[str, Offset]) -> Injection:
    """
    :param home: where vm1 runs.
    :param fault: of :data:`lab.evaluation.run.FAULTS`.
    :param clocks: of the hosts, by name.
    :raises ChannelError: it cannot be brought about.
    """
    if fault == "destroy":
        # Dated by the order: from there on it is the operator's doing.
        said = home.run_command("date +%s%N; exec xl destroy vm1", timeout=60, check=True).output
        clock = clocks[home.name]
        return Injection(clock.convert_time(int(said.split()[0])), clock.error_ns / 1e9, 0)
    guest = lab.guest_through(through=home)
    with guest.connect_to_labd() as connection:
        clock = measure_offset(_ask_hostd_line(connection, b"clock\n"))
    done: Fault
    if fault == "sigsegv":
        done = guest.kill_service("SEGV", "httpd")
    elif fault in _GUEST_ENDS:
        done = guest.power_guest_off(_GUEST_ENDS[fault])
    else:
        done = guest.out_of_memory("httpd", spare=fault == "oom-other")
    error = (clock.error_ns + done.uncertainty_ns) / 1e9
    return Injection(clock.convert_time(done.at_ns), error, done.pid)


def _ask_hostd_line(connection: socket.socket, request: bytes) -> Callable[[], int]:
    stream = connection.makefile("rb")

    def ask_for_number() -> int:
        connection.sendall(request)
        return int(stream.readline().split()[0])

    return ask_for_number
