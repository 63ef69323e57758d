# SPDX-License-Identifier: GPL-2.0-or-later
"""The client of the ivshmem server (vesper-ivshmem), for ``vesperd``.

The requests and answers: see :mod:`kvm_transport.ivshmem_server.control`.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from vesper_monitor.util.errors import VesperError

__all__ = [
    "CONTROL_SOCKET_PATH",
    "Attachment",
    "IvshmemClient",
    "IvshmemServerError",
    "IvshmemServerRefusedError",
    "QemuDeviceChange",
    "QemuWithDevice",
    "ServerStatus",
    "ping_server",
]

CONTROL_SOCKET_PATH = "/run/vesper-ivshmem/control.sock"
#: For the server to answer a request.
ANSWER_LIMIT_S = 2.0
_MAX_ANSWER_BYTES = 1 << 20


class IvshmemServerError(VesperError):
    """The ivshmem server does not run or does not answer. The text says what to do."""


class IvshmemServerRefusedError(IvshmemServerError):
    """The ivshmem server refused the request: there is no such QEMU."""


@dataclass(frozen=True)
class ServerStatus:
    """The answer to ``ping``."""

    vms: int  #: devices that it serves
    free: int  #: devices that it can serve besides
    size: int  #: bytes of shared memory of each


@dataclass(frozen=True)
class QemuWithDevice:
    """A QEMU that has a VESPER device."""

    pid: int
    since: float  #: s, CLOCK_REALTIME


@dataclass(frozen=True)
class QemuDeviceChange:
    """A QEMU has connected a VESPER device, or its device was dropped."""

    pid: int
    come: bool  #: False: its device was dropped


@dataclass
class Attachment:
    """The descriptors of one device, and the connection that reports its end.

    The owner of the object closes them.
    """

    size: int
    memory: int
    to_host: int
    to_guest: int
    connection: socket.socket

    def explain_loss(self) -> str | None:
        """Return why the guest is lost. Call it when :attr:`connection` is readable.

        None: the ivshmem server has ended; the descriptors go on working.
        """
        try:
            line = self.connection.recv(4096)
        except OSError:
            return None
        if b'"gone"' in line:
            return "QEMU has ended, or the device was unplugged"
        return "another daemon has attached to the guest" if line else None

    def close(self) -> None:
        """Close the connection and the descriptors. Idempotent."""
        self.connection.close()
        for descriptor in (self.memory, self.to_host, self.to_guest):
            if descriptor >= 0:
                os.close(descriptor)
        self.memory = self.to_host = self.to_guest = -1


def ping_server(path: str = CONTROL_SOCKET_PATH, *, limit: float = 1.0) -> ServerStatus:
    """Return how many devices the ivshmem server serves and has room for.

    Blocks for ``limit`` seconds at most.

    :raises IvshmemServerError: it does not answer. A QEMU with a VESPER device would
        fail to start now, or never get on.
    """
    connection, answer, _ = _exchange_request(path, "ping", limit)
    connection.close()
    try:
        return ServerStatus(int(answer["vms"]), int(answer["free"]), int(answer["size"]))
    except (KeyError, TypeError, ValueError):
        raise IvshmemServerError(f"{path}: unexpected answer to ping: {answer}") from None


class IvshmemClient:
    """The client for asyncio. Each call opens a connection of its own."""

    def __init__(self, path: str = CONTROL_SOCKET_PATH) -> None:
        self.path = path

    async def list_qemus(self) -> list[QemuWithDevice]:
        """Return the QEMUs that have a VESPER device.

        :raises IvshmemServerError:
        """
        connection, answer, _ = await asyncio.to_thread(
            _exchange_request, self.path, "list", ANSWER_LIMIT_S
        )
        connection.close()
        return _parse_qemus(self.path, answer)

    async def attach_to_qemu(self, pid: int) -> Attachment:
        """Attach to the device of a QEMU. A client that was attached before loses it.

        :raises IvshmemServerRefusedError: that process has no VESPER device.
        :raises IvshmemServerError:
        """
        connection, answer, descriptors = await asyncio.to_thread(
            _exchange_request, self.path, f"attach {pid}", ANSWER_LIMIT_S
        )
        connection.setblocking(False)
        size = answer.get("size")
        if len(descriptors) != 3 or not isinstance(size, int):
            connection.close()
            for descriptor in descriptors:
                os.close(descriptor)
            raise IvshmemServerError(f"{self.path}: unexpected answer to attach: {answer}")
        memory, to_host, to_guest = descriptors
        return Attachment(size, memory, to_host, to_guest, connection)

    async def watch_qemus(self) -> AsyncIterator[QemuDeviceChange]:
        """Yield all QEMUs that have a device, then each change, until the server ends.

        :raises IvshmemServerError: the server does not run, or has ended: call again later.
        """
        try:
            reader, writer = await asyncio.open_unix_connection(self.path, limit=_MAX_ANSWER_BYTES)
        except OSError as error:
            raise _unreachable_error(self.path, error) from None
        try:
            writer.write(b"watch\n")
            async with asyncio.timeout(ANSWER_LIMIT_S):
                first = await reader.readline()
            for qemu in _parse_qemus(self.path, _parse_answer(self.path, first)):
                yield QemuDeviceChange(qemu.pid, come=True)
            while line := await reader.readline():
                change = _parse_answer(self.path, line)
                come = "come" in change
                pid = change.get("come" if come else "gone")
                if isinstance(pid, int):
                    yield QemuDeviceChange(pid, come=come)
        except (OSError, TimeoutError, ValueError) as error:
            raise _unreachable_error(self.path, error) from None
        finally:
            writer.close()
        raise IvshmemServerError(f"{self.path}: vesper-ivshmem has ended")


def _exchange_request(
    path: str, request: str, limit: float
) -> tuple[socket.socket, dict[str, Any], list[int]]:
    """Send a request; return the connection, the answer, and its descriptors.

    :raises IvshmemServerError:
    """
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(limit)
    descriptors: list[int] = []
    try:
        connection.connect(path)
        connection.sendall(request.encode() + b"\n")
        data = b""
        while not data.endswith(b"\n") and len(data) < _MAX_ANSWER_BYTES:
            more, found, _flags, _address = socket.recv_fds(connection, 65536, 3)
            descriptors += found
            if not more:
                raise ConnectionResetError("closed by vesper-ivshmem")
            data += more
        answer = _parse_answer(path, data)
    except (OSError, IvshmemServerError) as error:
        connection.close()
        for descriptor in descriptors:
            os.close(descriptor)
        if isinstance(error, IvshmemServerError):
            raise
        raise _unreachable_error(path, error) from None
    return connection, answer, descriptors


def _parse_answer(path: str, line: bytes) -> dict[str, Any]:
    """Return the answer as a dictionary.

    :raises IvshmemServerError: it is an error, or no answer of vesper-ivshmem.
    """
    try:
        answer = json.loads(line)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise IvshmemServerError(f"{path} is not vesper-ivshmem: it answered {line[:80]!r}")
    if answer.get("ok") is False:
        raise IvshmemServerRefusedError(f"{path}: {answer.get('error')}")
    return answer


def _parse_qemus(path: str, answer: dict[str, Any]) -> list[QemuWithDevice]:
    try:
        return [QemuWithDevice(int(vm["pid"]), float(vm["since"])) for vm in answer["vms"]]
    except (KeyError, TypeError, ValueError):
        raise IvshmemServerError(f"{path}: unexpected answer to list: {answer}") from None


def _unreachable_error(path: str, error: Exception) -> IvshmemServerError:
    if isinstance(error, TimeoutError):
        return IvshmemServerError(
            f"{path}: vesper-ivshmem does not answer; see: systemctl status vesper-ivshmem"
        )
    if isinstance(error, (FileNotFoundError, ConnectionRefusedError)):
        return IvshmemServerError(
            f"{path}: vesper-ivshmem is not running; start it with: systemctl start vesper-ivshmem"
        )
    return IvshmemServerError(f"{path}: {error}")
