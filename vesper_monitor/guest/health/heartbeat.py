# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads one guest's heartbeat page, and asks the hypervisor where the heartbeat stops.

:mod:`vesper_monitor.guest.health.hang_detector` judges what is read.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import struct
import time
from collections.abc import Callable
from typing import Protocol

from vesper_monitor.guest import abi
from vesper_monitor.guest.event import CORE_PROBE, Event
from vesper_monitor.guest.health.hang_detector import (
    LOOK_INTERVAL_S,
    MIN_TIMEOUT_S,
    Depth,
    Hang,
    HangDetector,
    Heartbeat,
    LifeState,
    Silence,
)
from vesper_monitor.guest.region import map_region
from vesper_monitor.guest.ticker import SharedTicker
from vesper_monitor.hypervisor.domain_state import DomainState
from vesper_monitor.hypervisor.transport import (
    CpuUse,
    Domain,
    Link,
    ReportsCpuUse,
    Transport,
    TransportError,
)

__all__ = [
    "MAX_CPUS", "HeartbeatListener", "HeartbeatReader", "HeartbeatWatch", "find_heartbeat_page",
]  # fmt: skip

_log = logging.getLogger(__name__)

#: More CPUs than any guest has (Xen: 512 for PV guests).
MAX_CPUS = 4096
_HEAD_BYTES = ctypes.sizeof(abi.Life)
_CPU_BYTES = ctypes.sizeof(abi.LifeCpu)
#: state, irqs, runs of one struct vsp_life_cpu. They are read often; ctypes is too slow.
_CPU_FORMAT = "I4xQ8xQ32x"
_SHOWN = int(abi.LifeState.SHOWN)


def find_heartbeat_page(link: Link) -> tuple[abi.Region, int]:
    """Return the heartbeat region and the number of CPUs from the C-chan page, before HELLO.

    Handle 0: an older guest core does not name it there, or the page is not valid.
    """
    view = link.cchan.view
    if abi.load_u32(view, abi.field_offset(abi.Cchan, "magic")) != abi.CCHAN_MAGIC:
        return abi.Region(), 0
    return (
        abi.Region.from_buffer_copy(view, abi.field_offset(abi.Cchan, "life")),
        abi.load_u32(view, abi.field_offset(abi.Cchan, "nr_cpus")),
    )


class HeartbeatReader:
    """Reads the mapped heartbeat page of one link."""

    def __init__(self, link: Link, region: abi.Region, nr_cpus: int) -> None:
        """
        :param region: as in the guest's HELLO, or of :func:`find_heartbeat_page`.
        :param nr_cpus: from the same place.
        :raises TransportError: :raises ValueError: as :func:`map_region`.
        """
        self.closed = False
        if not 0 < nr_cpus <= MAX_CPUS:
            raise ValueError(f"{link.domain.name}: signs of life of {nr_cpus} CPUs")
        self._signs = struct.Struct(f"<{_CPU_FORMAT * nr_cpus}")
        self._mapping = map_region(
            link, region, _HEAD_BYTES + nr_cpus * _CPU_BYTES, abi.Life,
            magic=abi.LIFE_MAGIC, version=abi.LIFE_VERSION, what="signs of life",
        )  # fmt: skip

    def read_signs(self) -> list[Heartbeat]:
        """Return the heartbeats of the online CPUs."""
        found = self._signs.unpack_from(self._mapping.view, _HEAD_BYTES)
        cpus = zip(found[::3], found[1::3], found[2::3], strict=True)
        return [
            Heartbeat(number, irqs, runs)
            for number, (state, irqs, runs) in enumerate(cpus)
            if state == _SHOWN
        ]

    def close(self) -> None:
        """Unmap. Idempotent."""
        self.closed = True
        self._mapping.close()


class HeartbeatListener(Protocol):
    """Who hears of one guest's heartbeat."""

    def take_events(self, events: list[Event]) -> None:
        """Take an event ``hang``, or ``alive`` if the guest goes on after that."""

    def recheck_domain(self) -> None:
        """Ask for the domain's state: most likely it was paused, or runs again."""

    def get_hang_timeout(self) -> float:
        """Return after how many s without a heartbeat the guest hangs; 0: do not watch."""


class HeartbeatWatch:
    """Watches one guest's heartbeat, and asks the hypervisor where it stops."""

    def __init__(
        self,
        transport: Transport,
        domain: Domain,
        listener: HeartbeatListener,
        ticker: SharedTicker,
        on_unsure: Callable[[], None],
    ) -> None:
        """
        :param ticker: of period :data:`LOOK_INTERVAL_S`.
        :param on_unsure: called when the guest shows no heartbeat, and the hypervisor
            may have reset it unheard since the last one.
        """
        self._transport = transport
        self._domain = domain
        self._listener = listener
        self._ticker = ticker
        self._on_unsure = on_unsure
        self._stands_still = False  # the hypervisor said so
        self._detector = HangDetector()
        self._silence: Silence | None = None
        self._silence_text = ""
        self._hang_count = 0
        self._question: asyncio.Task[None] | None = None
        self._has_complained = False
        self._reader: HeartbeatReader | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def task(self) -> asyncio.Task[None] | None:
        """The task that watches; None: no heartbeat page is watched."""
        return self._task

    def begin_watching(self, link: Link, region: abi.Region, nr_cpus: int) -> None:
        """Watch the heartbeat page of a link, unless one is watched already.

        :param region: as of :class:`HeartbeatReader`; handle 0: the guest has none.
        """
        if not region.handle or self._task is not None:
            return
        try:
            self._reader = HeartbeatReader(link, region, nr_cpus)
        except (TransportError, ValueError) as error:
            _log.warning("signs of life cannot be read: %s", error)
            return
        self._task = asyncio.create_task(self._watch_reader(self._reader))

    def stop_reading(self) -> None:
        """Judge no more of the heartbeat page: the link is lost."""
        if self._reader is not None:
            self._reader.close()

    async def end_watching(self) -> None:
        """Stop, and wait until the task has ended. Idempotent."""
        self.stop_reading()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _watch_reader(self, reader: HeartbeatReader) -> None:
        try:
            await self.run_until_closed(reader)
        finally:
            reader.close()

    @property
    def state(self) -> LifeState:
        return self._detector.state

    @property
    def shown(self) -> bool:
        """Whether the guest's kernel has shown a heartbeat in the last moment."""
        return self._detector.shows_life(time.monotonic())

    @property
    def is_silent(self) -> bool:
        """Whether the guest's kernel may hang: there is no heartbeat."""
        return self._detector.is_silent

    @property
    def unexplained(self) -> str | None:
        """The text that the guest has been silent for long for an unknown reason, or None.

        The text stays while the silence lasts.
        """
        if self._silence is None:
            return None
        return f"{self._silence_text} and {self._silence.value}"

    @property
    def last_sign(self) -> float | None:
        """When the last heartbeat was seen (CLOCK_MONOTONIC); None: unknown."""
        return self._detector.last_sign

    async def run_until_closed(self, reader: HeartbeatReader) -> None:
        """Watch until the reader is closed. An internal error is raised.

        What was seen of an earlier kernel counts for nothing.
        """
        if not isinstance(self._transport, ReportsCpuUse):
            return  # a silent guest may be a paused one: no verdict is possible
        self._detector, self._silence = HangDetector(), None
        if self._stands_still:
            self._stands_still = False
            self._listener.recheck_domain()
        loop = asyncio.get_running_loop()
        closed: asyncio.Future[None] = loop.create_future()
        sooner: asyncio.TimerHandle | None = None

        def turn(now: float) -> None:
            nonlocal sooner
            if closed.done():
                return
            try:
                if reader.closed:
                    closed.set_result(None)
                    self._ticker.remove_call(turn)
                    return
                pause = self._look_at_signs(reader, now)
            except Exception as error:
                closed.set_exception(error)
                self._ticker.remove_call(turn)
                return
            if pause < LOOK_INTERVAL_S:
                if sooner is not None:
                    sooner.cancel()
                sooner = loop.call_later(pause, lambda: turn(time.monotonic()))

        self._ticker.add_call(turn)
        turn(time.monotonic())
        try:
            await closed
        finally:
            self._ticker.remove_call(turn)
            if sooner is not None:
                sooner.cancel()
            if self._question is not None:
                self._question.cancel()

    def _look_at_signs(self, reader: HeartbeatReader, now: float) -> float:
        """Read the heartbeats and judge them. :returns: s until the next look."""
        timeout = self._listener.get_hang_timeout()
        if timeout < MIN_TIMEOUT_S:
            self._detector, self._silence = HangDetector(), None
            return LOOK_INTERVAL_S
        before = self._detector.state
        self._detector.note_signs(now, reader.read_signs())
        hang = self._detector.find_hang(timeout)
        if hang is not None:
            self._hang_count += 1
            self._listener.take_events([self._make_event("hang", hang, timeout)])
        elif before is not LifeState.ALIVE is self._detector.state:
            if before is LifeState.HUNG:
                self._listener.take_events([self._make_event("alive", None, timeout)])
            if self._stands_still:
                self._stands_still = False
                self._listener.recheck_domain()
        self._note_silence(now, timeout)
        if self._question is None and self._detector.needs_cpu_use(now):
            self._question = asyncio.get_running_loop().create_task(self._ask_hypervisor(timeout))
        return self._detector.next_look(now, timeout)

    def _note_silence(self, now: float, timeout: float) -> None:
        before, self._silence = self._silence, self._detector.unexplained(timeout)
        if before is None is not self._silence:
            silent = now - self._detector.silent_since
            at = time.localtime(time.time() - silent)
            who = "" if self._detector.is_all_silent else "a CPU of "
            since = time.strftime("%Y-%m-%d %H:%M:%S", at)
            self._silence_text = f"{who}{self._domain.name} shows no sign of life since {since}"

    async def _ask_hypervisor(self, hang_timeout: float) -> None:
        """Ask for the guest's CPU time; the answer counts from the next look on."""
        use: CpuUse | None = None
        transport = self._transport
        assert isinstance(transport, ReportsCpuUse)
        try:
            use = await transport.cpu_use(self._domain)
        except TransportError as error:
            if not self._has_complained:
                _log.warning("%s: shows no life, and nothing is known of its CPU time: %s",
                             self._domain.name, error)  # fmt: skip
            self._has_complained = True
        finally:
            self._question = None
        self._detector.note_cpu_use(time.monotonic(), use, hang_timeout)
        if use is not None and use.state is not DomainState.RUNNING and not self._stands_still:
            # Not every hypervisor reports a pause.
            self._stands_still = True
            self._listener.recheck_domain()
        if (
            use is not None
            and use.state is DomainState.RUNNING
            and self._detector.state is LifeState.DOUBTED
            and self._detector.last_interrupt < use.resets_known_since
        ):
            self._on_unsure()

    def _make_event(self, name: str, hang: Hang | None, timeout: float) -> Event:
        vm = self._domain.name
        fields: dict[str, object] = {"timeout": timeout}
        text = f"the kernel of {vm} shows signs of life again"
        if hang is not None:
            how = f"ran {hang.ran:.1f} s" if hang.ran else f"slept {hang.stuck:.1f} s"
            what = (
                f"CPU {hang.cpu} took no interrupt"
                if hang.depth is Depth.INTERRUPTS
                else "no CPU ran a thread of the normal class"
            )
            text = f"{what} for {hang.silent:.1f} s, of which it {how} under watch"
            fields |= {
                "depth": hang.depth.value,
                "silent_s": round(hang.silent, 3),
                "ran_s": round(hang.ran, 3),
                "stuck_s": round(hang.stuck, 3),
            }
        return Event(
            vm=vm, domid=self._domain.domid, probe=CORE_PROBE, event=name,
            cpu=hang.cpu if hang else 0, seq=self._hang_count, guest_ns=0, received=time.time(),
            fields=fields, text=text,
        )  # fmt: skip
