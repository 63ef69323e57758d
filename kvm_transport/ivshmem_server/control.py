# SPDX-License-Identifier: GPL-2.0-or-later
"""The control socket: a request is a line, its answer a JSON object on a line.

::

    ping          {"ok": true, "vms": 2, "free": 254, "size": 16777216}
    list          {"ok": true, "vms": [{"pid": 4711, "since": 1764081875.2}]}
    attach 4711   {"ok": true, "size": 16777216}   and three descriptors with it:
                  memory, eventfd to wait on, eventfd to ring
    watch         as list; then {"come": 4711} for each new device, {"gone": 4711} for
                  each that is dropped

A client that has attached keeps its connection.  The server sends it ``{"lost":
"gone"}`` when that QEMU has ended, or ``{"lost": "taken"}`` when another client
has attached to the QEMU (only one client can wait on the eventfd).  If the
connection ends without either, the server itself has ended; the descriptors
go on working.

Errors: ``{"ok": false, "error": "..."}``.  The server drops a client that does not
read its answers, or that sends a request of more than :data:`MAX_REQUEST_BYTES` bytes.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kvm_transport.ivshmem_server.vm import VmDevice
from vesper_monitor.util.errors import VesperError

__all__ = ["MAX_REQUEST_BYTES", "ControlClient", "parse_request"]

#: Of a request, without its end of line.
MAX_REQUEST_BYTES = 128


class BadRequestError(VesperError):
    """A request is wrong. Its text is sent to the client."""


def parse_request(line: bytes) -> tuple[str, int]:
    """Return the request's word and its PID (0 if it takes none).

    :raises BadRequestError:
    """
    words = line.split()
    if len(words) == 1 and words[0] in (b"ping", b"list", b"watch"):
        return words[0].decode(), 0
    if len(words) == 2 and words[0] == b"attach" and words[1].isdigit():
        return "attach", int(words[1])
    raise BadRequestError("unknown request; there are: ping, list, watch, attach PID")


class ControlClient:
    """One connection to the control socket."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.watches = False
        self.attached: VmDevice | None = None
        self._buffer = b""

    def receive_requests(self) -> list[bytes]:
        """Return the requests that have arrived.

        :raises OSError: the client has closed the connection, or must be dropped.
        """
        data = self.connection.recv(4 * MAX_REQUEST_BYTES)
        if not data:
            raise ConnectionResetError("closed")
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        if len(self._buffer) > MAX_REQUEST_BYTES:
            raise ConnectionAbortedError("the request is too long")
        return lines

    def answer_request(
        self,
        line: bytes,
        vms: Sequence[VmDevice],
        status: Mapping[str, int],
        attach: Callable[[VmDevice], None],
    ) -> None:
        """Send the answer to a request.

        :param status: of the server, for ``ping``.
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
        """Send one JSON object, and descriptors with it.

        :raises OSError: the client has closed the connection or does not read: drop it.
        """
        data = json.dumps(answer).encode() + b"\n"
        if socket.send_fds(self.connection, [data], list(descriptors)) != len(data):
            raise ConnectionAbortedError("the client does not read")


def _find_newest(vms: Sequence[VmDevice], pid: int) -> VmDevice:
    """Return the newest device of a QEMU. A device that was plugged in again is newer."""
    found = [vm for vm in vms if vm.pid == pid]
    if not found:
        raise BadRequestError(f"process {pid} has no VESPER device")
    return found[-1]
