# SPDX-License-Identifier: GPL-2.0-or-later
"""a real ivshmem server for one test, and the stand-ins that connect to it."""

from __future__ import annotations

import mmap
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from kvm_transport.ivshmem_client import IvshmemServerError, ping_server
from vesper_monitor.guest import abi

PROJECT = Path(__file__).parents[4]
COMMAND = "import sys; from kvm_transport.ivshmem_server.main import main; sys.exit(main())"
#: s for a process to start and listen, on a busy machine.
START = 30.0


class IvshmemServerProcess:
    """``vesper-ivshmem``, its sockets in a directory."""

    def __init__(
        self,
        directory: Path,
        *options: str,
        environment: Mapping[str, str] | None = None,
        descriptors: Sequence[int] = (),
    ) -> None:
        """:param descriptors: what it finds from 3 on, as systemd passes them."""
        self.qemu = str(directory / "qemu.sock")
        self.control = str(directory / "control.sock")

        def pass_them() -> None:
            os.environ["LISTEN_PID"] = str(os.getpid())
            high = [os.dup(descriptor) for descriptor in descriptors]
            for at, descriptor in enumerate(high):
                os.dup2(descriptor, 3 + at)

        command = [sys.executable, "-c", COMMAND, "--directory", str(directory), *options]
        if descriptors:
            # The PID is not known before: LISTEN_PID is set by a shell that becomes it.
            command = ["sh", "-c", 'LISTEN_PID=$$ exec "$@"', "sh", *command]
        self.process = subprocess.Popen(
            command,
            cwd=PROJECT,
            env={**os.environ, **(environment or {})},
            close_fds=not descriptors,
            preexec_fn=pass_them if descriptors else None,
        )

    def wait(self) -> None:
        """Until it answers."""
        end = time.monotonic() + START
        while True:
            try:
                ping_server(self.control)
                return
            except IvshmemServerError:
                assert time.monotonic() < end, "the ivshmem server does not answer"
                assert self.process.poll() is None, "the ivshmem server has ended"
                time.sleep(0.02)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)


@contextmanager
def run_ivshmem_server(directory: Path, *options: str) -> Iterator[IvshmemServerProcess]:
    process = IvshmemServerProcess(directory, *options)
    try:
        process.wait()
        yield process
    finally:
        process.process.terminate()
        try:
            assert process.process.wait(10) in (0, -signal.SIGKILL)
        finally:
            process.process.kill()


class StandinQemu:
    """Takes the handshake as QEMU does; the guest's half of the protocol by hand.

    :param where: the ivshmem server's socket, or a connection to it, which another
        process may have made.
    """

    def __init__(self, where: str | socket.socket) -> None:
        if isinstance(where, str):
            self.connection = socket.socket(socket.AF_UNIX)
            self.connection.settimeout(START)
            self.connection.connect(where)
        else:
            self.connection = where
            self.connection.settimeout(START)
        self.messages: list[tuple[int, list[int]]] = []
        for _ in range(5):
            data, descriptors, _flags, _address = socket.recv_fds(self.connection, 8, 4)
            assert len(data) == 8, "no handshake"
            self.messages.append((struct.unpack("<q", data)[0], descriptors))
        ((self.memory_fd,), (self.to_host,), (self.to_guest,)) = [
            descriptors for _number, descriptors in self.messages[2:]
        ]
        self.map = mmap.mmap(self.memory_fd, os.fstat(self.memory_fd).st_size)
        self.view = memoryview(self.map)

    def head(self) -> abi.ShmHead:
        return abi.ShmHead.from_buffer_copy(self.view)

    def set(self, field: str, value: int) -> None:
        abi.store_u32(self.view, abi.field_offset(abi.ShmHead, field), value)

    def come_up(self, epoch: int = 1) -> None:
        """Answer what is wanted now, as a frontend does."""
        self.set("magic", abi.SHM_MAGIC)
        self.set("version", abi.ABI_VERSION)
        self.set("cchan", abi.PAGE_SIZE)
        self.set("epoch", epoch)
        self.set("state", abi.ShmState.ACTIVE)
        self.set("answer", self.head().wanted)
        self.ring()

    def ring(self) -> None:
        os.eventfd_write(self.to_host, 1)

    def rung(self) -> int:
        """How often the host has rung."""
        try:
            return os.eventfd_read(self.to_guest)
        except BlockingIOError:
            return 0

    def close(self) -> None:
        self.view.release()
        self.map.close()
        self.connection.close()
        for _number, descriptors in self.messages:
            for descriptor in descriptors:
                os.close(descriptor)
        self.messages.clear()
