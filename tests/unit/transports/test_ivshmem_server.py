# SPDX-License-Identifier: GPL-2.0-or-later
"""The real holder process, with stand-ins for QEMU and for the daemon."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvm_transport.ivshmem_client import (
    IvshmemClient,
    IvshmemServerError,
    IvshmemServerRefusedError,
    QemuDeviceChange,
    ServerStatus,
    ping_server,
)
from kvm_transport.ivshmem_server import control, fdstore
from kvm_transport.ivshmem_server.vm import ROLES
from tests.unit.support.standins import until
from tests.unit.transports.support.ivshmem_servers import START, HolderProcess, StandinQemu, holder
from vesper_monitor.guest import abi

MIB = 1 << 20


@pytest.fixture
def running(tmp_path: Path) -> Iterator[HolderProcess]:
    with holder(tmp_path, "--size", "1", "--max-vms", "4") as process:
        yield process


def gone(process: HolderProcess, vms: int) -> None:
    end = time.monotonic() + START
    while ping_server(process.control).vms != vms:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_qemu_and_vesperd_get_the_same_memory(running: HolderProcess) -> None:
    """Both ends have the same memory, and each hears the other's doorbell."""
    qemu = StandinQemu(running.qemu)
    assert [number for number, _ in qemu.messages] == [0, 0, -1, 1, 0]
    assert len(qemu.map) == MIB
    assert qemu.head().mark == abi.SHM_MAGIC
    assert ping_server(running.control) == ServerStatus(vms=1, free=3, size=MIB)
    seals = fcntl.fcntl(qemu.memory_fd, fcntl.F_GET_SEALS)
    assert seals == fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    with pytest.raises(PermissionError):
        os.ftruncate(qemu.memory_fd, 0)

    async def body() -> None:
        client = IvshmemClient(running.control)
        assert [vm.pid for vm in await client.list_qemus()] == [os.getpid()]
        with pytest.raises(IvshmemServerRefusedError, match="process 1 has no VESPER device"):
            await client.attach_to_qemu(1)
        attachment = await client.attach_to_qemu(os.getpid())
        os.pwrite(attachment.memory, b"hello", 8192)
        assert bytes(qemu.view[8192:8197]) == b"hello"
        qemu.ring()
        assert os.eventfd_read(attachment.to_host) == 1
        os.eventfd_write(attachment.to_guest, 1)
        assert qemu.rung() == 1
        second = await client.attach_to_qemu(os.getpid())
        attachment.connection.settimeout(START)
        assert attachment.explain_loss() == "another daemon has attached to the guest"
        qemu.close()
        second.connection.settimeout(START)
        assert second.explain_loss() == "QEMU has ended, or the device was unplugged"
        attachment.close()
        second.close()

    asyncio.run(body())
    gone(running, 0)


def test_sockets_are_private(running: HolderProcess) -> None:
    assert os.stat(running.control).st_mode & 0o777 == 0o600
    assert os.stat(running.qemu).st_mode & 0o777 in (0o600, 0o660)


def test_a_watcher_is_told_of_guests_that_come_and_go(running: HolderProcess) -> None:
    async def body() -> None:
        first = StandinQemu(running.qemu)
        changes: list[QemuDeviceChange] = []

        async def follow() -> None:
            async for change in IvshmemClient(running.control).watch_qemus():
                changes.append(change)

        task = asyncio.create_task(follow())
        me = os.getpid()
        await until(lambda: changes == [QemuDeviceChange(me, True)], "the first")
        second = StandinQemu(running.qemu)
        second.close()
        await until(lambda: len(changes) == 3, "come and gone")
        assert changes[1:] == [QemuDeviceChange(me, True), QemuDeviceChange(me, False)]
        running.kill()
        with pytest.raises(IvshmemServerError, match="has ended"):
            await asyncio.wait_for(task, START)
        first.close()

    asyncio.run(body())


def test_who_stalls_or_floods_holds_nobody_up(running: HolderProcess) -> None:
    stalled = socket.socket(socket.AF_UNIX)
    stalled.connect(running.qemu)  # and never reads
    flood = socket.socket(socket.AF_UNIX)
    flood.connect(running.control)
    flood.settimeout(START)
    with pytest.raises(OSError):  # dropped, as soon as its answers are not taken
        while True:
            flood.sendall(b"list\n" * 1000)
    endless = socket.socket(socket.AF_UNIX)
    endless.connect(running.control)
    endless.settimeout(START)
    endless.sendall(b"x" * 4000)
    with pytest.raises(ConnectionResetError):
        endless.recv(1)
    silent = [socket.socket(socket.AF_UNIX) for _ in range(20)]
    for connection in silent:
        connection.connect(running.control)
    # A QEMU after the other, of one process: the last two stay.
    many = []
    for _ in range(50):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(running.qemu)
        many.append(connection)
    qemu = StandinQemu(running.qemu)
    assert ping_server(running.control).vms == 2
    # One that says something is no QEMU.
    qemu.connection.sendall(b"x")
    gone(running, 1)
    for connection in [stalled, flood, endless, *silent, *many]:
        connection.close()
    qemu.close()
    gone(running, 0)


CONNECT = """\
import socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
print(len(connection.recv(8)), flush=True)
sys.stdin.read()
"""


def other_qemu(path: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-S", "-E", "-c", CONNECT, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def test_no_more_than_there_is_room_for(running: HolderProcess) -> None:
    processes = [other_qemu(running.qemu) for _ in range(4)]
    lines = [process.stdout.readline() for process in processes if process.stdout]
    assert lines == [b"8\n"] * 4
    assert ping_server(running.control).free == 0
    refused = other_qemu(running.qemu)
    assert refused.communicate(timeout=START)[0] == b"0\n"
    processes[0].kill()
    gone(running, 3)
    processes.append(other_qemu(running.qemu))
    assert processes[-1].stdout is not None
    assert processes[-1].stdout.readline() == b"8\n"
    for process in processes:
        process.kill()
        process.communicate(timeout=START)


def test_a_second_server_does_not_start(running: HolderProcess, tmp_path: Path) -> None:
    second = HolderProcess(tmp_path)
    assert second.process.wait(START) == 1
    ping_server(running.control)


class Systemd:
    """The part of systemd that keeps descriptors."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(START)
        self.stored: dict[str, int] = {}

    def receive(self) -> str:
        data, descriptors, _flags, _address = socket.recv_fds(self._socket, 4096, 4)
        text = data.decode()
        lines = dict(line.split("=", 1) for line in text.splitlines())
        if "FDSTORE" in lines:
            (self.stored[lines["FDNAME"]],) = descriptors
        elif lines.get("FDSTOREREMOVE") and lines["FDNAME"] in self.stored:
            os.close(self.stored.pop(lines["FDNAME"]))
        return text

    def environment(self) -> dict[str, str]:
        return {
            "NOTIFY_SOCKET": str(self.path),
            "LISTEN_FDS": str(len(self.stored)),
            "LISTEN_FDNAMES": ":".join(self.stored),
        }


def test_the_next_life_goes_on_with_what_systemd_has_kept(tmp_path: Path) -> None:
    systemd = Systemd(tmp_path / "notify")
    first = HolderProcess(tmp_path, "--size", "1", environment=systemd.environment())
    qemus: list[StandinQemu] = []
    second: HolderProcess | None = None
    try:
        assert systemd.receive() == "READY=1"
        first.wait()
        for _ in range(2):
            qemus.append(StandinQemu(first.qemu))
            for _role in ROLES:
                systemd.receive()
        first.kill()
        # One QEMU ends while nobody is there: systemd drops its connection.
        qemus.pop().close()
        os.close(systemd.stored.pop(next(reversed([n for n in systemd.stored if "qemu" in n]))))
        second = HolderProcess(
            tmp_path,
            "--size",
            "1",
            environment=systemd.environment(),
            descriptors=list(systemd.stored.values()),
        )
        for _role in ROLES:
            assert systemd.receive().startswith("FDSTOREREMOVE=1")
        second.wait()
        qemu = qemus[0]

        async def body() -> None:
            attachment = await IvshmemClient(first.control).attach_to_qemu(os.getpid())
            os.pwrite(attachment.memory, b"again", 8192)
            assert bytes(qemu.view[8192:8197]) == b"again"
            os.eventfd_write(attachment.to_guest, 1)
            assert qemu.rung() == 1
            qemu.ring()
            assert os.eventfd_read(attachment.to_host) == 1
            attachment.close()

        asyncio.run(body())
        qemus.pop().close()
        gone(second, 0)
    finally:
        for qemu in qemus:
            qemu.close()
        first.kill()
        if second is not None:
            second.kill()
        for descriptor in systemd.stored.values():
            os.close(descriptor)


@given(st.binary(max_size=200))
def test_any_request_is_answered_or_refused(line: bytes) -> None:
    try:
        word, pid = control.parse_request(line)
    except control.BadRequestError as error:
        json.dumps(str(error))
    else:
        assert word in ("ping", "list", "watch", "attach") and pid >= 0


NAMES = st.one_of(
    st.text(max_size=30),
    st.builds("{}.{}.{}".format, st.integers(0, 99), st.integers(0, 99), st.sampled_from(ROLES)),
)


@given(st.lists(NAMES, max_size=20))
def test_names_of_kept_descriptors_are_read_back(names: list[str]) -> None:
    found = fdstore.group_descriptor_names(names)
    for (pid, since), positions in found.items():
        for role, at in positions.items():
            assert names[at] == f"{pid}.{since}.{role}" or "0" in names[at]
    assert sum(map(len, found.values())) <= len(names)
