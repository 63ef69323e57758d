# SPDX-License-Identifier: GPL-2.0-or-later
"""One host of the KVM lab: a namespace node, and libvirt in it."""

from __future__ import annotations

import os
import shlex
import signal as signals
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator

from lab import netns
from lab.cluster.node import ENVIRONMENT, Node
from lab.host import ChannelError, CommandFailed, Host, Result

__all__ = ["IVSHMEM_SOCKET", "KvmHost"]

LIBVIRTD_SOCKET = "/run/libvirt/libvirt-sock"
#: Of vesper-ivshmem, which QEMU connects to when it starts.
IVSHMEM_SOCKET = "/run/vesper-ivshmem/qemu.sock"


class KvmHost(Host):
    """See :class:`lab.host.Host`."""

    def __init__(self, node: Node) -> None:
        self.name = node.name
        self.node = node  #: another one after its power was cut

    def run_command(
        self, command: str, *, timeout: float = 60.0, stdin: bytes = b"", check: bool = False
    ) -> Result:
        # A file and no pipe: what the command leaves running may hold it open.
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as input:
            input.write(stdin)
            input.seek(0)
            process = self._start_command(command, input.fileno(), output.fileno())
            try:
                rc: int | None = process.wait(timeout)
            except subprocess.TimeoutExpired:
                _kill_session(process)
                rc = None
            output.seek(0)
            text = output.read().decode(errors="replace")
        if rc is None:
            raise ChannelError(f"{self.name}: {command!r}: not done in {timeout:.0f} s:\n{text}")
        if check and rc != 0:
            raise CommandFailed(f"{self.name}: {command!r}: exit status {rc}:\n{text}")
        return Result(rc, text)

    def _start_command(self, command: str, stdin: int, stdout: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self.node.build_command("bash", "-c", command),
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.STDOUT,
            env=ENVIRONMENT,
            start_new_session=True,
        )

    def follow_command(
        self, command: str, *, timeout: float = 86400.0
    ) -> tuple[Callable[[], None], Iterator[bytes]]:
        # foreground: in a process group of its own it would not be killed
        process = self._start_command(
            f"timeout --foreground {timeout} bash -c {shlex.quote(command)}", *_PIPE_ENDS
        )
        assert process.stdout
        read = process.stdout.fileno()
        return lambda: _kill_session(process), iter(lambda: os.read(read, 65536), b"")

    def put_file(self, path: str, data: bytes, *, mode: int = 0o644, timeout: float = 60.0) -> None:
        self.run_command(
            f"mkdir -p $(dirname {path}) && cat >{path} && chmod {mode:o} {path}",
            stdin=data,
            timeout=timeout,
            check=True,
        )

    def connect_to(self, host: str, port: int, *, timeout: float = 10.0) -> socket.socket:
        try:
            return netns.connect_from_namespace(self.node.init, host, port, timeout)
        except OSError as error:
            raise ChannelError(f"{self.name}: {host} port {port}: {error}") from error

    def connect_to_clock(self, *, timeout: float = 10.0) -> None:
        return None

    def is_running(self) -> bool:
        return self.node.is_running()

    def power_off(self) -> None:
        """Cut its power; its guests die with it."""
        self.node.cut_power()

    # -- its daemons ----------------------------------------------------------

    def start_libvirtd(self) -> None:
        """Start libvirtd and wait until its socket is there."""
        self.start_daemon("/usr/sbin/libvirtd --listen", "/var/log/libvirt/out", LIBVIRTD_SOCKET)
        # It asks QEMU what it can do (1.5 s) when that is first needed.
        self.run_command("virsh domcapabilities >/dev/null 2>&1 &", check=True)

    def stop_libvirtd(self, *, signal: str = "TERM") -> None:
        """End libvirtd, if it runs, and wait until it has gone; guests go on."""
        self.stop_daemon("^/usr/sbin/libvirtd", LIBVIRTD_SOCKET, signal=signal)

    def signal_libvirtd(self, signal: str) -> None:
        """Send it a signal, e.g. STOP."""
        self.run_command(f"pkill -{signal} -f ^/usr/sbin/libvirtd", check=True)

    def start_holder(self) -> None:
        """Start vesper-ivshmem and wait until its sockets are there."""
        self.start_daemon("/usr/sbin/vesper-ivshmem", "/var/log/vesper-ivshmem.log", IVSHMEM_SOCKET)

    def stop_holder(self, *, signal: str = "TERM") -> None:
        """End vesper-ivshmem, if it runs, and wait until it has gone."""
        self.stop_daemon(
            "^/usr/bin/python3.* /usr/sbin/vesper-ivshmem", IVSHMEM_SOCKET, signal=signal
        )

    def list_domains(self) -> list[str]:
        """Names of the domains whose QEMU runs, by libvirt's files and not by itself."""
        said = self.run_command(
            "cd /run/libvirt/qemu || exit 0; for f in *.pid; do case $f in driver.pid) ;; "
            '*) [ -e "$f" ] && kill -0 $(cat $f) 2>/dev/null && echo ${f%.pid} ;; esac; done; true',
            check=True,
        )
        return said.output.split()


_PIPE_ENDS = (subprocess.DEVNULL, subprocess.PIPE)


def _kill_session(process: subprocess.Popen[bytes]) -> None:
    """With all that it has started and that is still in its session."""
    if process.poll() is None:
        os.killpg(process.pid, signals.SIGKILL)
        process.wait(10)
