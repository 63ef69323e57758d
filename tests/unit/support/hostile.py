# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that does whatever harms: stand-in guests of the test's own process, and their sessions.

Everything runs on one loop, so that the two guests' sessions compete for it
as they do in vesperd.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.session_listener import EventListener
from lab.standin.guest import StandinGuest
from lab.standin.kernel import StandinKernel
from lab.standin.memory import CCHAN_PAGE
from lab.standin.transport import StandinTransport
from vesper_monitor.guest import abi, session_link, session_probes
from vesper_monitor.guest.control import cchan
from vesper_monitor.guest.control.images import ImageStore
from vesper_monitor.guest.event import Event
from vesper_monitor.guest.session import Session
from vesper_monitor.guest.session_listener import SessionSettings
from vesper_monitor.guest.session_state import ProbeState
from vesper_monitor.hypervisor.transport import Domain
from vesper_monitor.util.logs import RateLimit

__all__ = ["ANSWERS", "Host", "HostileGuest", "impatient"]

PROBES = ("send_signal", "out_of_memory")
#: Events of the healthy guest that are timed before anybody disturbs it.
UNDISTURBED = 200
#: How a guest answers on C-chan.
ANSWERS = ("rightly", "late", "twice", "wrongly", "never")


class HostileKernel(StandinKernel):
    """
    :ivar answers: one of :data:`ANSWERS`.
    """

    answers = "rightly"

    # ------------------------------------------------------------ C-chan

    def take_request(self) -> bool:
        if self.answers == "never":
            return False
        if self.answers == "late":
            asyncio.get_running_loop().call_later(0.4, super().take_request)
            return False
        taken = super().take_request()
        if taken and self.answers == "twice":
            view = self._memory.view_region(self.cchan)
            at = abi.field_offset(abi.Cchan, "to_host") + abi.field_offset(abi.CchanRing, "prod")
            abi.store_u32(view, at, abi.load_u32(view, at) + 1)
            self._notify()
        return taken

    def _answer_request(self, request: bytes) -> bytes:
        answer = super()._answer_request(request)
        if self.answers == "wrongly":
            return bytes(byte ^ 0x55 for byte in answer)
        return answer

    # ------------------------------------------------------------ memory

    def scribble(self, page: int, offset: int, data: bytes) -> None:
        """Any bytes anywhere, from C-chan's page on."""
        memory = self._memory.view
        at = (CCHAN_PAGE * abi.PAGE_SIZE + page * abi.PAGE_SIZE + offset) % len(memory)
        piece = data[: len(memory) - at]
        memory[at : at + len(piece)] = piece
        self._notify()

    def set_position(self, probe: str, position: int) -> None:
        """A ring that is ahead or behind."""
        if (channel := self._channels.get(probe)) is not None:
            with channel.cpus[0]._index[:8].cast("Q") as word:
                word[0] = position
            self._notify()

    def set_buffer(self, probe: str, handle: int) -> None:
        """Another place for a CPU's buffer."""
        if (channel := self._channels.get(probe)) is not None:
            at = abi.field_offset(abi.Index, "buffer")
            with channel.cpus[0]._index[at : at + 8].cast("Q") as word:
                word[0] = handle
            self._notify()

    def set_channel(self, number: int, entry: abi.Channel) -> None:
        """An entry of the channel table, with a new generation."""
        at = abi.field_offset(abi.Table, "channel") + number * ctypes.sizeof(abi.Channel)
        view = self._memory.view_region(self._table_region)
        view[at : at + ctypes.sizeof(entry)] = bytes(entry)
        self._table.generation += 1
        abi.store_u32(view, abi.field_offset(abi.Table, "generation"), self._table.generation)
        self._notify()


class HostileGuest(StandinGuest):
    """Not hostile until told so."""

    kernel = HostileKernel
    _kernel: HostileKernel

    @property
    def inside(self) -> HostileKernel:
        return self._kernel

    async def begin(self) -> None:
        """In place of run(): the process is the test's."""
        self._living = asyncio.create_task(self._show_sign_of_life())
        await self._load_modules()

    def end(self) -> None:
        self._living.cancel()
        if self._host is not None:
            self._host.close()

    def flood(self, notifications: int) -> None:
        """As many as the socket takes."""
        for _ in range(-(-notifications // 4096)):
            if self._host is not None and self._host.transport.get_write_buffer_size() < 1 << 22:
                self._host.write(b"N" * 4096)

    def drop_link(self) -> None:
        """As if its modules were unloaded and loaded again."""
        if self._host is not None:
            self._host.close()
        self._active = False


class _Lines(logging.Handler):
    """What would be in the log, after the daemon's own limit."""

    def __init__(self) -> None:
        super().__init__()
        self.addFilter(RateLimit())
        self.lines: list[str] = []
        self.internal: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record)
        self.lines.append(line)
        if record.exc_info:
            self.internal.append(line)


class Watched:
    """A guest and its session."""

    def __init__(
        self, guest: HostileGuest, transport: StandinTransport, images: ImageStore
    ) -> None:
        self.guest = guest
        self.events: list[Event] = []
        record = guest._record
        self.session = Session(
            transport,
            Domain(record.name, record.domid, record.uuid),
            images,
            EventListener(self._take, hang_timeout_s=2.0),
            SessionSettings(activate_timeout_s=0.5),
        )
        self.taken = 0

    def _take(self, events: list[Event]) -> None:
        self.taken += len(events)
        self.events += events
        del self.events[:-1000]

    async def begin(self) -> None:
        await self.guest.begin()
        await self.session.set_probes(dict.fromkeys(PROBES, ""))
        self.task = asyncio.create_task(self.session.run_session())

    def collecting(self) -> bool:
        states = [status.state for status in self.session.probes.values()]
        return states.count(ProbeState.COLLECTING) >= len(PROBES)

    async def end(self) -> None:
        await self.session.close_session(deactivate=False)
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        self.guest.end()


class Host:
    """A loop with a healthy guest's session, and a hostile one's after the other."""

    def __init__(self, images: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self.images = ImageStore(images)
        self.log = _Lines()
        logging.getLogger("vesper_monitor").addHandler(self.log)
        self.transport: StandinTransport
        self.healthy: Watched
        self.hostile: Watched | None = None
        #: s from each of the healthy guest's events to its reading
        self.latencies: list[float] = []
        self._number = 0
        self.run(self._begin())
        for _ in range(UNDISTURBED):
            self.step()
        #: the same while there is no other guest
        self.undisturbed, self.latencies = self.latencies, []

    def run(self, work: object) -> object:
        return self.loop.run_until_complete(work)  # type: ignore[arg-type]

    async def _begin(self) -> None:
        self.transport = StandinTransport()
        await self.transport.start()
        self.healthy = Watched(HostileGuest("healthy"), self.transport, self.images)
        await self.healthy.begin()
        await _until(self.healthy.collecting)

    def enter(self) -> HostileGuest:
        """Another hostile guest, well until now."""

        async def body() -> Watched:
            self._number += 1
            watched = Watched(HostileGuest(f"hostile{self._number}"), self.transport, self.images)
            await watched.begin()
            await _until(watched.collecting)
            return watched

        self.hostile = self.loop.run_until_complete(body())
        self.log.lines.clear()
        return self.hostile.guest

    def leave(self) -> None:
        if self.hostile is not None:
            self.run(self.hostile.end())
            self.hostile = None

    def close(self) -> None:
        self.leave()
        self.run(self.healthy.end())
        self.run(self.transport.stop())
        logging.getLogger("vesper_monitor").removeHandler(self.log)
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()

    def step(self, seconds: float = 0.005) -> None:
        """Let all of them work, and see whether the healthy guest is heard."""

        async def body() -> None:
            await asyncio.sleep(seconds)
            seen = self.healthy.taken
            start = time.monotonic()
            assert self.healthy.guest.inside.emit_event("send_signal", {"comm": "cron"}).startswith(
                "ok"
            )
            await _until(lambda: self.healthy.taken > seen)
            self.latencies.append(time.monotonic() - start)

        self.run(body())


async def _until(condition: object, limit: float = 20.0) -> None:
    end = time.monotonic() + limit
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        await asyncio.sleep(0.001)


@contextmanager
def impatient() -> Iterator[None]:
    """What takes seconds takes a tenth of a second."""
    limits = {
        (session_link, "RETRY_FIRST_S"): 0.02,
        (session_link, "RETRY_MAX_S"): 0.1,
        (session_link, "RETRY_UNFIT_S"): 0.05,
        (session_probes, "RETRY_FIRST_S"): 0.02,
        (session_probes, "RETRY_MAX_S"): 0.1,
        (cchan, "LOAD_TIMEOUT_S"): 0.2,
    }
    before = {(module, name): getattr(module, name) for module, name in limits}
    request = cchan.Cchan._send_request
    defaults = request.__defaults__
    try:
        for (module, name), value in limits.items():
            setattr(module, name, value)
        request.__defaults__ = (0.1,)
        yield
    finally:
        for (module, name), value in before.items():
            setattr(module, name, value)
        request.__defaults__ = defaults
