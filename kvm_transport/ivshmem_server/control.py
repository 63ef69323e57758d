# SPDX-License-Identifier: GPL-2.0-or-later
"""The control socket: one request a line, one JSON object a line back.

::

    ping          {"ok": true, "vms": 2, "free": 254, "size": 16777216}
    list          {"ok": true, "vms": [{"pid": 4711, "since": 1764081875.2}]}
    attach 4711   {"ok": true, "size": 16777216}   and three descriptors with it:
                  memory, eventfd to wait on, eventfd to ring
    watch         as list; then {"come": 4711} and {"gone": 4711}, as they do

A client that has attached keeps its connection: it is told ``{"lost":
"gone"}`` when that QEMU has ended, or ``{"lost": "taken"}`` when another client
has attached to it (the eventfd's notifications go to one alone).  An end of the
connection without that is the holder's own end, and the descriptors go on
working.

Errors: ``{"ok": false, "error": "..."}``.  A client that does not read what it
is sent, or sends more than a line of :data:`MAX_REQUEST_BYTES` bytes, is dropped.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kvm_transport.ivshmem_server.vm import VmDevice

__all__ = ["MAX_REQUEST_BYTES", "ControlClient", "parse_request"]

#: Bytes of a request.
MAX_REQUEST_BYTES = 128


class BadRequestError(Exception):
    """The text goes to the client."""


def parse_request(line: bytes) -> tuple[str, int]:
    """The request's word and its PID (0 where it takes none).

    :raises BadRequestError:
    """
    words = line.split()
    if len(words) == 1 and words[0] in (b"ping", b"list", b"watch"):
        return words[0].decode(), 0
    if len(words) == 2 and words[0] == b"attach" and words[1].isdigit():
        return "attach", int(words[1])
    raise BadRequestError("requests: ping, list, watch, attach PID")


class ControlClient:
    """One connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.watches = False
        self.attached: VmDevice | None = None
        self._buffer = b""

    def receive_requests(self) -> list[bytes]:
        """Requests that have come.

        :raises OSError: the client has gone, or is to be dropped.
        """
        data = self.connection.recv(4 * MAX_REQUEST_BYTES)
        if not data:
            raise ConnectionResetError("closed")
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        if len(self._buffer) > MAX_REQUEST_BYTES:
            raise ConnectionAbortedError("a request without end")
        return lines

    def answer_request(
        self,
        line: bytes,
        vms: Sequence[VmDevice],
        status: Mapping[str, int],
        attach: Callable[[VmDevice], None],
    ) -> None:
        """
        :param status: of the holder, for ``ping``.
        :param attach: called before this client gets a VM's descriptors.
        :raises OSError: as of :meth:`send_answer`.
        """
        try:
            word, pid = parse_request(line)
            if word == "ping":
                self.send_answer({"ok": True, "vms": len(vms), **status})
            elif word == "attach":
                vm = _find_newest(vms, pid)
                attach(vm)
                self.attached = vm
                self.send_answer(
                    {"ok": True, "size": status["size"]}, vm.memory, vm.to_host, vm.to_guest
                )
            else:
                self.watches |= word == "watch"
                listed = [{"pid": vm.pid, "since": vm.since} for vm in vms]
                self.send_answer({"ok": True, "vms": listed})
        except BadRequestError as error:
            self.send_answer({"ok": False, "error": str(error)})

    def send_answer(self, answer: Mapping[str, Any], *descriptors: int) -> None:
        """:raises OSError: the client has gone or does not read: drop it."""
        data = json.dumps(answer).encode() + b"\n"
        if socket.send_fds(self.connection, [data], list(descriptors)) != len(data):
            raise ConnectionAbortedError("the client does not read")


def _find_newest(vms: Sequence[VmDevice], pid: int) -> VmDevice:
    """A QEMU whose device was unplugged and plugged in again has a newer one."""
    found = [vm for vm in vms if vm.pid == pid]
    if not found:
        raise BadRequestError(f"process {pid} has no VESPER device")
    return found[-1]
