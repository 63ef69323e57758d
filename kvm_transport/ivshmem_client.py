# SPDX-License-Identifier: GPL-2.0-or-later
"""The holder (vesper-ivshmem), asked by ``vesperd`` and by the agent.

What is asked and answered: :mod:`kvm_transport.ivshmem_server.control`.
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
#: s for the holder to answer: it does nothing else.
ANSWER_LIMIT_S = 2.0
_MAX_ANSWER_BYTES = 1 << 20


class IvshmemServerError(VesperError):
    """The holder does not run or does not answer; the text says what to do."""


class IvshmemServerRefusedError(IvshmemServerError):
    """It has answered, with an error: there is no such QEMU."""


@dataclass(frozen=True)
class ServerStatus:
    vms: int  #: devices that it holds
    free: int  #: that it has room for
    size: int  #: bytes of shared memory of each


@dataclass(frozen=True)
class QemuWithDevice:
    """A QEMU that has a VESPER device."""

    pid: int
    since: float  #: s, CLOCK_REALTIME


@dataclass(frozen=True)
class QemuDeviceChange:
    pid: int
    come: bool  #: False: its device has gone


@dataclass
class Attachment:
    """Descriptors of one VM, ours to close; and the connection that tells of its end."""

    size: int
    memory: int
    to_host: int
    to_guest: int
    connection: socket.socket

    def explain_loss(self) -> str | None:
        """To be asked when :attr:`connection` can be read: why the VM is lost.

        None: the holder itself has ended; the descriptors go on working.
        """
        try:
            line = self.connection.recv(4096)
        except OSError:
            return None
        if b'"gone"' in line:
            return "QEMU has ended, or the device was unplugged"
        return "another daemon has attached to the guest" if line else None

    def close(self) -> None:
        """May be called twice."""
        self.connection.close()
        for descriptor in (self.memory, self.to_host, self.to_guest):
            if descriptor >= 0:
                os.close(descriptor)
        self.memory = self.to_host = self.to_guest = -1


def ping_server(path: str = CONTROL_SOCKET_PATH, *, limit: float = 1.0) -> ServerStatus:
    """Is the holder there, and has it room for another VM?

    Blocks for ``limit`` seconds at most.

    :raises IvshmemServerError: it does not answer: a QEMU that is started now with a
        VESPER device would fail, or wait for ever.
    """
    connection, answer, _ = _exchange_request(path, "ping", limit)
    connection.close()
    try:
        return ServerStatus(int(answer["vms"]), int(answer["free"]), int(answer["size"]))
    except (KeyError, TypeError, ValueError):
        raise IvshmemServerError(f"{path}: not an answer to ping: {answer}") from None


class IvshmemClient:
    """For asyncio; each call is a connection of its own."""

    def __init__(self, path: str = CONTROL_SOCKET_PATH) -> None:
        self.path = path

    async def list_qemus(self) -> list[QemuWithDevice]:
        """:raises IvshmemServerError:"""
        connection, answer, _ = await asyncio.to_thread(
            _exchange_request, self.path, "list", ANSWER_LIMIT_S
        )
        connection.close()
        return _parse_qemus(self.path, answer)

    async def attach_to_qemu(self, pid: int) -> Attachment:
        """Whoever is attached to this QEMU now loses it.

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
            raise IvshmemServerError(f"{self.path}: not an answer to attach: {answer}")
        memory, to_host, to_guest = descriptors
        return Attachment(size, memory, to_host, to_guest, connection)

    async def watch_qemus(self) -> AsyncIterator[QemuDeviceChange]:
        """First those that are there, then what changes, until the holder ends.

        :raises IvshmemServerError: it does not run, or has ended: call again later.
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
                news = _parse_answer(self.path, line)
                come = "come" in news
                pid = news.get("come" if come else "gone")
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
    """:raises IvshmemServerError:"""
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
    """:raises IvshmemServerError:"""
    try:
        answer = json.loads(line)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise IvshmemServerError(f"{path}: that is not vesper-ivshmem: {line[:80]!r}")
    if answer.get("ok") is False:
        raise IvshmemServerRefusedError(f"{path}: {answer.get('error')}")
    return answer


def _parse_qemus(path: str, answer: dict[str, Any]) -> list[QemuWithDevice]:
    try:
        return [QemuWithDevice(int(vm["pid"]), float(vm["since"])) for vm in answer["vms"]]
    except (KeyError, TypeError, ValueError):
        raise IvshmemServerError(f"{path}: not a list of VMs: {answer}") from None


def _unreachable_error(path: str, error: Exception) -> IvshmemServerError:
    if isinstance(error, TimeoutError):
        return IvshmemServerError(f"{path}: no answer; see: systemctl status vesper-ivshmem")
    if isinstance(error, (FileNotFoundError, ConnectionRefusedError)):
        return IvshmemServerError(
            f"{path}: vesper-ivshmem does not run; start it with: systemctl start vesper-ivshmem"
        )
    return IvshmemServerError(f"{path}: {error}")
