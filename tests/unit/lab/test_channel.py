# SPDX-License-Identifier: GPL-2.0-or-later
"""The channel into a host: both ends, on this machine instead of in dom0."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.host import ChannelError, CommandFailed
from lab.xen.channel import Channel
from lab.xen.host import find_free_port

HOSTD = Path(__file__).parents[3] / "lab/xen/dom0/hostd.py"


@pytest.fixture(scope="module")
def channel() -> Iterator[Channel]:
    port = find_free_port()
    server = subprocess.Popen([sys.executable, "-S", "-E", str(HOSTD), "127.0.0.1", str(port)])
    try:
        channel = Channel("here", port)
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < deadline
                time.sleep(0.05)
        yield channel
    finally:
        server.kill()
        server.wait(10)


def test_command_gives_status_and_all_output(channel: Channel) -> None:
    result = channel.run_command("echo out; echo err >&2; exit 3")
    assert (result.rc, result.output) == (3, "out\nerr\n")
    assert len(channel.run_command("head -c 1000000 /dev/zero | tr '\\0' x").output) == 1000000
    assert channel.run_command("kill -9 $$").rc == -9


def test_input_reaches_the_command(channel: Channel) -> None:
    data = bytes(range(256)) * 1000
    assert channel.run_command("wc -c", stdin=data).output.strip() == str(len(data))


def test_failure_is_an_error_if_wanted(channel: Channel) -> None:
    with pytest.raises(CommandFailed, match=r"(?s)exit status 1.*words"):
        channel.run_command("echo words; false", check=True)


def test_command_that_hangs_is_killed(channel: Channel, tmp_path: Path) -> None:
    with pytest.raises(ChannelError, match=r"(?s)not done.*started"):
        channel.run_command(f"echo started; echo $$ >{tmp_path}/pid; sleep 100", timeout=1)
    pid = (tmp_path / "pid").read_text().strip()
    assert not Path(f"/proc/{pid}").exists()


def test_daemon_left_behind_is_not_waited_for(channel: Channel, tmp_path: Path) -> None:
    """Even when it keeps the output open."""
    result = channel.run_command(f"(sleep 30 & echo $! >{tmp_path}/pid); echo done", timeout=20)
    assert (result.rc, result.output) == (0, "done\n")
    subprocess.run(["kill", (tmp_path / "pid").read_text().strip()], check=True)


def test_followed_command_dies_with_its_connection(channel: Channel, tmp_path: Path) -> None:
    end, pieces = channel.follow_command(f"echo $$ >{tmp_path}/pid; echo first; exec sleep 100")
    assert next(pieces) == b"first\n"
    pid = (tmp_path / "pid").read_text().strip()
    end()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_files_go_there_and_back(channel: Channel, tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000
    path = tmp_path / "new folder/file"
    channel.put_file(str(path), data, mode=0o755)
    assert path.stat().st_mode & 0o777 == 0o755
    assert channel.get_file(str(path)) == data
    with pytest.raises(ChannelError, match="FileNotFoundError"):
        channel.get_file(str(tmp_path / "none"))


def test_a_connection_goes_through_the_host(channel: Channel) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def echo() -> None:
            with listener.accept()[0] as other:
                while data := other.recv(100):
                    other.sendall(data.upper())

        thread = threading.Thread(target=echo)
        thread.start()
        with channel.connect_to("127.0.0.1", listener.getsockname()[1]) as connection:
            connection.sendall(b"hello")
            assert connection.recv(100) == b"HELLO"
        thread.join(10)
        assert not thread.is_alive()
    with pytest.raises(ChannelError, match="Refused"):
        channel.connect_to("127.0.0.1", find_free_port())


def test_the_clock_can_be_read(channel: Channel) -> None:
    with channel.connect_to_clock() as connection:
        before = time.time_ns()
        connection.sendall(b"?\n")
        answer = int(connection.recv(100))
        assert before <= answer <= time.time_ns()


def test_a_host_that_does_not_listen_is_an_error() -> None:
    with pytest.raises(ChannelError, match="nowhere"):
        Channel("nowhere", find_free_port()).run_command("true")
    assert not Channel("nowhere", find_free_port()).is_connected()
