# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab's hand in the guest (the other end is lab/images/labd.c)."""

from __future__ import annotations

import base64
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from lab.host import ChannelError, Host, Result

__all__ = ["CHECK_PAGE", "CHECK_PAGE_RAN", "GUEST_ADDRESS", "Fault", "Guest"]

GUEST_ADDRESS = "10.77.0.10"
GUEST_PORT = 7777
#: bytes of a file in one command, whose length labd bounds
PIECE_BYTES = 12_000

#: Monitor script for the stock agents, which fetches the guest's page. Its
#: source is beside this file.
CHECK_PAGE = "/usr/local/bin/check-page"
#: What that script touches when it begins.
CHECK_PAGE_RAN = "/run/check-page.ran"


@dataclass(frozen=True)
class Fault:
    """A fault that was brought about: when, on the guest's CLOCK_MONOTONIC."""

    at_ns: int
    uncertainty_ns: int
    pid: int  #: of the process that was killed; 0: it was none


class Guest:
    """Requests to the guest; each uses a connection of its own."""

    def __init__(self, through: Host) -> None:
        """:param through: a host that reaches the guest's network."""
        self._host = through

    def connect_to_labd(self, *, timeout: float = 10.0) -> socket.socket:
        """A connection to labd."""
        return self._host.connect_to(GUEST_ADDRESS, GUEST_PORT, timeout=timeout)

    def _send_request(self, request: str, timeout: float) -> tuple[list[str], BinaryIO]:
        connection = self.connect_to_labd()
        connection.settimeout(timeout)
        connection.sendall(request.encode() + b"\n")
        stream = connection.makefile("rb")
        connection.close()  # the file keeps it open
        try:
            line = stream.readline().decode(errors="replace").strip()
        except OSError as error:
            stream.close()
            raise ChannelError(f"guest: {request!r}: {error}") from error
        if not line or line.startswith("error"):
            stream.close()
            raise ChannelError(f"guest: {request!r}: {line or 'no answer'}")
        return line.split(), stream

    def run_command(self, command: str, *, timeout: float = 30.0) -> Result:
        """Run a shell command in the guest."""
        (status, length), stream = self._send_request(f"sh exec 2>&1; {command}", timeout)
        with stream:
            output = stream.read(int(length))
        return Result(int(status), output.decode(errors="replace"))

    def start_command(self, command: str) -> None:
        """Run a shell command in the guest and do not wait for its end."""
        connection = self.connect_to_labd()
        with connection:
            connection.sendall(f"sh {command}\n".encode())
            time.sleep(0.5)  # labd must have read it before the connection ends

    def put_file(self, path: str, data: bytes) -> None:
        """Write a file that root may execute.

        :raises ChannelError: it cannot be written.
        """
        for at in range(0, len(data), PIECE_BYTES):
            text = base64.b64encode(data[at : at + PIECE_BYTES]).decode()
            to = ">>" if at else ">"
            done = self.run_command(f"echo {text} | base64 -d {to}{path} && chmod 700 {path}")
            if done.rc != 0:
                raise ChannelError(f"guest: writing {path}: {done.output}")

    def _request_fault(self, request: str, timeout: float) -> list[int]:
        words, stream = self._send_request(request, timeout)
        stream.close()
        return [int(word) for word in words]

    def kill_service(self, signal: str, name: str) -> Fault:
        """Send a signal (``SEGV``) to the main process of a service.

        :raises ChannelError: there is no such process.
        """
        before, after, pid = self._request_fault(f"kill {signal} {name}", 10)
        return Fault((before + after) // 2, (after - before) // 2, pid)

    def out_of_memory(self, name: str, *, spare: bool = False) -> Fault:
        """Use memory up until the OOM killer kills ``name``'s main process.

        :param spare: it must kill another process instead.
        :raises ChannelError: it did not within a minute.
        """
        word = "oom-other" if spare else "oom"
        return Fault(*self._request_fault(f"{word} {name}", 90))

    @contextmanager
    def fill_memory(self) -> Iterator[None]:
        """Fill the memory but for 16 MiB, until the block is left.

        What then runs out of memory does so at once.

        :raises ChannelError: the guest does not answer.
        """
        with self.connect_to_labd() as connection:
            connection.sendall(b"fill\n")
            if not connection.recv(64).strip().isdigit():
                raise ChannelError("guest: 'fill': no answer")
            yield

    def power_guest_off(self, how: str) -> Fault:
        """End the guest as a whole, half a second from now.

        :param how: ``panic``, ``poweroff``, ``reboot``, ``hang``.
        """
        (when,) = self._request_fault(f"end {how}", 10)
        return Fault(when, 0, 0)

    def fetch_page(self, *, timeout: float = 1.0) -> str | None:
        """Fetch the web page; None if it does not come.

        It names the boot it comes from, so that an old and a new instance of
        the guest can be told from each other.
        """
        try:
            with self._host.connect_to(GUEST_ADDRESS, 80, timeout=timeout) as connection:
                connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
                data = b"".join(iter(lambda: connection.recv(4096), b""))
        except (ChannelError, OSError):
            return None
        # Without the headers: one of them is the time.
        body = data.partition(b"\r\n\r\n")[2]
        return body.decode(errors="replace") if b"VM1 OK" in body else None

    def wait_ready(self, timeout: float) -> None:
        """Wait until the guest answers.

        :raises ChannelError: it does not.
        """
        deadline = time.monotonic() + timeout
        while True:
            try:
                self._request_fault("clock", 5)
                return
            except ChannelError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
