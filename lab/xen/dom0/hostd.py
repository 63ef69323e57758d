# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab's hand in dom0: serves requests from the outer machine.

One request a connection: a line of JSON with an ``op``, then its data.

    run      {argv | command, stdin: bytes that follow, timeout}: frames
    shell    {command}: a terminal, raw bytes in both directions
    put      {path, mode, size}, then the bytes: one frame
    get      {path}: frames
    connect  {host, port}: one frame, then raw bytes in both directions
    clock    each line that comes is answered with CLOCK_REALTIME in ns
    settime  {ns}: sets CLOCK_REALTIME: one frame

A frame: one letter (``o`` output, ``r`` result as JSON), four bytes of
length, big endian, the data.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
import socket
import socketserver
import subprocess
import sys
import time
from typing import Any

CHUNK = 65536
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "TERM": "xterm",
    "LC_ALL": "C.UTF-8",
}


class ClientGone(Exception):
    """Nobody is there to be answered."""


class Session(socketserver.StreamRequestHandler):
    """One connection."""

    disable_nagle_algorithm = True
    #: Requests are read by hand: nothing may be read ahead of raw bytes.
    rbufsize = 0

    def send_frame(self, kind: bytes, data: bytes) -> None:
        self.connection.sendall(kind + len(data).to_bytes(4, "big") + data)

    def send_result(self, **result: Any) -> None:
        self.send_frame(b"r", json.dumps(result).encode())

    def read_exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece = self.connection.recv(min(CHUNK, size - len(data)))
            if not piece:
                raise ClientGone
            data += piece
        return bytes(data)

    def handle(self) -> None:
        line = bytearray()
        while not line.endswith(b"\n"):
            line += self.read_exactly(1)
        request = json.loads(line)
        try:
            getattr(self, "op_" + request.pop("op"))(**request)
        except (ClientGone, BrokenPipeError, ConnectionResetError):
            pass
        except Exception as error:
            with contextlib.suppress(OSError):
                self.send_result(error=f"{type(error).__name__}: {error}")

    def op_run(
        self,
        argv: list[str] | None = None,
        command: str = "",
        stdin: int = 0,
        timeout: float = 60.0,
    ) -> None:
        data = self.read_exactly(stdin)
        process = subprocess.Popen(
            argv or ["/bin/bash", "-c", command],
            stdin=subprocess.PIPE if data else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=ENVIRONMENT,
            cwd="/root",
            start_new_session=True,
        )
        try:
            if process.stdin:
                with process.stdin as pipe:
                    pipe.write(data)
            ended = self.stream_output(process, time.monotonic() + timeout)
        finally:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            if process.stdout:
                process.stdout.close()
        self.send_result(rc=process.returncode if ended else None)

    def stream_output(self, process: subprocess.Popen[bytes], deadline: float) -> bool:
        """Send what it prints until it ends; what it leaves running is not waited for."""
        assert process.stdout
        out = process.stdout.fileno()
        ended = os.pidfd_open(process.pid)
        try:
            while (left := deadline - time.monotonic()) > 0:
                ready, _, _ = select.select([out, ended, self.connection], [], [], left)
                if self.connection in ready and not self.connection.recv(CHUNK):
                    raise ClientGone
                if out in ready:
                    data = os.read(out, CHUNK)
                    if data:
                        self.send_frame(b"o", data)
                        continue
                    # It has closed its output; its end is what counts.
                    return bool(select.select([ended], [], [], left)[0])
                if ended in ready:
                    return True
            return False
        finally:
            os.close(ended)

    def op_shell(self, command: str = "exec bash -i") -> None:
        pid, terminal = pty.fork()
        if pid == 0:
            os.chdir("/root")
            os.execve("/bin/bash", ["bash", "-c", command], ENVIRONMENT)
        try:
            while True:
                ready, _, _ = select.select([terminal, self.connection], [], [])
                if terminal in ready:
                    self.connection.sendall(os.read(terminal, CHUNK))
                if self.connection in ready:
                    data = self.connection.recv(CHUNK)
                    if not data:
                        break
                    os.write(terminal, data)
        except OSError:
            pass  # EIO: the shell has ended
        finally:
            os.close(terminal)
            os.kill(pid, signal.SIGHUP)
            os.waitpid(pid, 0)

    def op_put(self, path: str, mode: int, size: int) -> None:
        data = self.read_exactly(size)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        temporary = f"{path}.{os.getpid()}"
        with open(temporary, "wb") as file:
            file.write(data)
        os.chmod(temporary, mode)
        os.replace(temporary, path)
        self.send_result()

    def op_get(self, path: str) -> None:
        with open(path, "rb") as file:
            while data := file.read(CHUNK):
                self.send_frame(b"o", data)
        self.send_result()

    def op_connect(self, host: str, port: int, timeout: float = 5.0) -> None:
        with socket.create_connection((host, port), timeout) as other:
            other.settimeout(None)
            other.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.send_result()
            ends = {self.connection: other, other: self.connection}
            while True:
                for end in select.select(list(ends), [], [])[0]:
                    data = end.recv(CHUNK)
                    if not data:
                        return
                    ends[end].sendall(data)

    def op_clock(self) -> None:
        while self.connection.recv(16):
            self.connection.sendall(b"%d\n" % time.time_ns())

    def op_settime(self, ns: int) -> None:
        time.clock_settime_ns(time.CLOCK_REALTIME, ns)
        self.send_result()


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 32


if __name__ == "__main__":
    host, port = sys.argv[1:]
    with Server((host, int(port)), Session) as server:
        server.serve_forever()
