# SPDX-License-Identifier: GPL-2.0-or-later
"""The stand-in guest: a process, its domain's directory, and what it is told to do."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import socket
from pathlib import Path

from lab.standin.image import RELEASE
from lab.standin.kernel import StandinKernel
from lab.standin.memory import GuestMemory, map_file_view
from lab.standin.registry import Place
from vesper_monitor.guest import abi

__all__ = ["StandinGuest"]


class StandinGuest:
    """
    :param cmdline: see the package's docstring.
    """

    #: what runs in it
    kernel = StandinKernel

    def __init__(self, name: str, cmdline: str = "") -> None:
        options = dict(word.split("=", 1) for word in cmdline.split() if "=" in word)
        self._vesper = options.get("lab.vesper", "yes") != "no"
        self._place = Place(name)
        self._record, self._lock = self._place.occupy_place()
        self._servers: list[asyncio.Server] = []
        self._host: asyncio.StreamWriter | None = None
        self._view = map_file_view(self._place.memory)
        self._options = options
        self._kernel = self._boot_kernel()
        self._silent = options.get("lab.silent", "no") == "yes"
        self._life = "on"
        self._active = False
        self._booted = asyncio.Event()  # since the last reset
        self._booted.set()
        self._end = asyncio.Event()

    async def run_until_ended(self) -> None:
        """Until SIGTERM, or ``tell NAME die``."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._end.set)
        living = asyncio.create_task(self._show_sign_of_life())
        await self._listen_for_commands()
        await self._end.wait()
        living.cancel()
        for server in self._servers:
            server.close()

    async def _listen_for_commands(self) -> None:
        path = self._place.control
        self._servers = [await asyncio.start_unix_server(self._serve_control, path)]
        if self._vesper:
            await self._load_modules()

    def _boot_kernel(self) -> StandinKernel:
        options = self._options
        return self.kernel(
            GuestMemory(self._view),
            self._notify_host,
            cpus=int(options.get("lab.cpus", 1)),
            release=options.get("lab.release", RELEASE),
            version=int(options.get("lab.version", abi.ABI_VERSION)),
        )

    async def _load_modules(self) -> None:
        self._servers.append(
            await asyncio.start_unix_server(self._serve_host_requests, self._place.link)
        )

    async def _migrate_to_domain(self, directory: Path) -> None:
        """Become a domain of another host, live: the same memory, and the same UUID."""
        old, lock, servers = self._place, self._lock, self._servers
        self._place = Place(old.name, directory)
        self._place.directory.mkdir(parents=True, exist_ok=True)
        self._place.memory.unlink(missing_ok=True)
        os.link(old.memory, self._place.memory)
        self._record, self._lock = self._place.occupy_place(self._record.uuid)
        if self._active:
            self._place.active.touch()
        old.leave_place(lock)
        for server in servers:
            server.close()
        if self._host is not None:
            self._host.close()
            self._host = None
        await self._listen_for_commands()

    # ------------------------------------------------------------- the link

    async def _serve_host_requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Bytes are notifications (N); D from the host deactivates, R to it: ready."""
        await self._booted.wait()
        if not self._active:
            self._active = True
            self._place.active.touch()
            self._kernel.open_cchan()
        self._host = writer
        writer.write(b"R")
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(256):
                if b"D" in data:
                    self._active = False
                    self._place.active.unlink(missing_ok=True)
                    break
                while self._answers and self._kernel.take_request():
                    pass
        if self._host is writer:
            self._host = None
        writer.close()

    @property
    def _answers(self) -> bool:
        return not self._silent and self._booted.is_set()

    def _notify_host(self) -> None:
        if self._host is not None:
            self._host.write(b"N")

    # -------------------------------------------------------------- control

    async def _serve_control(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while line := await reader.readline():
            try:
                answer = await self._obey_command(line.decode().split())
            except (KeyError, ValueError, AttributeError, TypeError) as error:
                answer = f"error {error!r}"
            writer.write(f"{answer}\n".encode())
            await writer.drain()
        writer.close()

    async def _obey_command(self, words: list[str]) -> str:
        """:returns: ``ok``, after an event with CLOCK_MONOTONIC (ns) just before it."""
        match words:
            case ["emit", probe, *pairs]:
                return self._kernel.emit_event(probe, dict(pair.split("=", 1) for pair in pairs))
            case ["words", kind, *message]:
                self._kernel.leave_words(abi.WordsKind[kind.upper()], " ".join(message))
                self._notify_host()
            case ["quiet", "words", kind, *message]:
                self._kernel.leave_words(abi.WordsKind[kind.upper()], " ".join(message))
            case ["asleep", "0" | "1" as asleep]:
                self._kernel.fall_asleep(asleep == "1")
            case ["silent", "yes" | "no" as silent]:
                self._silent = silent == "yes"
            case ["life", "on" | "no-runs" | "off" as life]:
                self._life = life
            case ["cpu", "spin" | "starve" | "sleep" as what]:
                self._place.use_cpu(what)
            case ["state", state]:
                self._record = dataclasses.replace(self._record, state=state)
                self._place.write_record(self._record)
            case ["migrate", directory]:
                await self._migrate_to_domain(Path(directory))
            case ["reset", *quiet]:
                # What the kernel has shown stays, and its end of the link says nothing.
                self._booted.clear()
                if not quiet:
                    self._record = dataclasses.replace(self._record, resets=self._record.resets + 1)
                    self._place.write_record(self._record)
            case ["boot"]:
                if self._host is not None:
                    # Before the memory is cleared: the host must not take that for a table.
                    self._host.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
                    self._host.close()
                self._view[:] = bytes(len(self._view))
                self._kernel, self._active = self._boot_kernel(), False
                self._booted.set()
            case ["load-modules"]:
                await self._load_modules()
            case ["processes", uptime, *entries]:
                self._kernel.uptime_s = float(uptime)
                found = (entry.split(":") for entry in entries)
                self._kernel.processes = {name: (int(pid), float(age)) for name, pid, age in found}
            case ["rmmod", name]:
                self._kernel.unload_module(name)
            case ["hide", name]:
                self._kernel.hide_channel(name, True)
            case ["show", name]:
                self._kernel.hide_channel(name, False)
            case ["die"]:
                os.kill(os.getpid(), signal.SIGKILL)
            case _:
                return f"error unknown command {' '.join(words)}"
        return "ok"

    async def _show_sign_of_life(self) -> None:
        """Not while it is paused."""
        while True:
            shown = self._life != "off" and self._booted.is_set()
            if shown and self._record.state == "running":
                self._kernel.show_sign_of_life(runs=self._life == "on")
            await asyncio.sleep(abi.LIFE_PERIOD_MS / 1000)
