# SPDX-License-Identifier: GPL-2.0-or-later
"""A stand-in guest for one test, and waiting for what it leads to."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.standin.registry import DomainDirectory

PROJECT = Path(__file__).parents[3]


class GuestProcess:
    """A child that runs ``python3 -m lab.standin guest``."""

    def __init__(self, name: str, cmdline: str = "") -> None:
        self.name = name
        self.place = DomainDirectory(name)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lab.standin", "guest", name, "--cmdline", cmdline],
            cwd=PROJECT,
            env=os.environ,
        )
        end = time.monotonic() + 30
        while not (self.place.read_record() and self.place.control.exists()):
            assert time.monotonic() < end and self.process.poll() is None
            time.sleep(0.01)

    async def tell(self, *words: str) -> str:
        reader, writer = await self._connect()
        writer.write(" ".join(words).encode() + b"\n")
        answer = (await asyncio.wait_for(reader.readline(), 10)).decode().strip()
        writer.close()
        return answer

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to its control socket, which exists a moment before it takes connections."""
        async with asyncio.timeout(10):
            while True:
                try:
                    return await asyncio.open_unix_connection(self.place.control)
                except ConnectionRefusedError:
                    await asyncio.sleep(0.01)

    async def migrate(self, directory: Path) -> None:
        """Move the guest to another host, whose domains are in that folder."""
        assert await self.tell("migrate", str(directory)) == "ok"
        self.place = DomainDirectory(self.name, directory)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)


@contextmanager
def guest(name: str = "vm1", cmdline: str = "") -> Iterator[GuestProcess]:
    process = GuestProcess(name, cmdline)
    try:
        yield process
    finally:
        process.kill()


async def until(condition: Callable[[], object], what: str, limit: float = 20.0) -> None:
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, f"not within {limit} s: {what}"
        await asyncio.sleep(0.005)
