# SPDX-License-Identifier: GPL-2.0-or-later
"""A host of a lab: what every one can do, whatever it is made of."""

from __future__ import annotations

import abc
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lab.confine import confine_like
from vesper_monitor.util.errors import VesperError

__all__ = [
    "VESPERD_SETTINGS",
    "ChannelError",
    "CommandFailed",
    "Host",
    "LabError",
    "Result",
]


class LabError(VesperError):
    """The lab cannot do what was asked; the text says why."""


class ChannelError(VesperError):
    """The host does not answer, or cannot do what was asked."""


class CommandFailed(ChannelError):
    """A command in the host ended with another status than 0."""


@dataclass(frozen=True)
class Result:
    """What a command in a host has done."""

    rc: int  #: exit status; negative: ended by that signal
    output: str  #: standard output and standard error


class Host(abc.ABC):
    """One host that a VM may run on."""

    name: str

    @abc.abstractmethod
    def run_command(
        self, command: str, *, timeout: float = 60.0, stdin: bytes = b"", check: bool = False
    ) -> Result:
        """Run a shell command.

        :param timeout: seconds, then it is killed.
        :param check: another exit status than 0 is an error.
        :raises ChannelError: no answer in time, with what it has printed.
        :raises CommandFailed: with ``check``.
        """

    @abc.abstractmethod
    def follow_command(
        self, command: str, *, timeout: float = 86400.0
    ) -> tuple[Callable[[], None], Iterator[bytes]]:
        """Start a command and hand out what it prints, as it comes.

        :returns: what kills the command (from another thread, too), and the
            pieces of output.
        """

    @abc.abstractmethod
    def put_file(self, path: str, data: bytes, *, mode: int = 0o644, timeout: float = 60.0) -> None:
        """Write a file in the host; folders are made."""

    @abc.abstractmethod
    def connect_to(self, host: str, port: int, *, timeout: float = 10.0) -> socket.socket:
        """A connection to somewhere the host can reach, e.g. into the guest.

        :raises ChannelError: it cannot be reached.
        """

    @abc.abstractmethod
    def connect_to_clock(self, *, timeout: float = 10.0) -> socket.socket | None:
        """A connection that answers each line with the host's CLOCK_REALTIME (ns).

        None: the host has this machine's clock.
        """

    @abc.abstractmethod
    def is_running(self) -> bool:
        """Whether it has power."""

    def wait_for_command(self, command: str, *, timeout: float, every: float = 0.3) -> str:
        """Run a command again and again until it succeeds.

        :returns: its output.
        :raises LabError: it did not within ``timeout`` seconds, with its output.
        """
        deadline = time.monotonic() + timeout
        while True:
            try:
                result = self.run_command(command, timeout=timeout)
                if result.rc == 0:
                    return result.output
                said = result.output
            except ChannelError as error:
                said = str(error)
            if time.monotonic() > deadline:
                raise LabError(f"{self.name}: {command!r}: not after {timeout:.0f} s:\n{said}")
            time.sleep(every)

    def start_daemon(self, command: str, log: str, socket: str, *, timeout: float = 120.0) -> None:
        """Start a daemon and wait until its socket is there.

        :param log: file in the host for what it says.
        :raises LabError: it does not start, with the end of the log.
        """
        self.run_command(f"setsid {command} >>{log} 2>&1 </dev/null &", check=True)
        try:
            self.wait_for_command(f"test -S {socket}", timeout=timeout, every=0.1)
        except LabError as error:
            said = self.run_command(f"tail -n 20 {log}").output
            raise LabError(f"{self.name}: {command} does not start:\n{said}") from error

    def stop_daemon(self, pattern: str, socket: str, *, signal: str = "TERM") -> None:
        """End a daemon, if it runs, and wait until it has gone.

        :param pattern: of its command line, for pgrep.
        """
        self.run_command(
            f"pids=$(pgrep -f '{pattern}') || exit 0; kill -{signal} $pids; "
            f"while kill -0 $pids 2>/dev/null; do sleep 0.1; done; rm -f {socket}",
            timeout=30,
            check=True,
        )

    def start_vesperd(self, *, timeout: float = 120.0) -> None:
        """Start vesperd and wait until its socket is there."""
        command = " ".join([*confine_like(), "/usr/sbin/vesperd"])
        self.start_daemon(command, "/var/log/vesperd.log", VESPERD_SOCKET, timeout=timeout)

    def stop_vesperd(self, *, signal: str = "TERM") -> None:
        """End vesperd, if it runs, and wait until it has gone."""
        self.stop_daemon("^/usr/bin/python3.* /usr/sbin/vesperd", VESPERD_SOCKET, signal=signal)


VESPERD_SOCKET = "/run/vesper/vesperd.sock"
#: In each lab's vesperd.toml: its guests fault more often than any that is in use.
VESPERD_SETTINGS = "max_failovers = 10000\n"
