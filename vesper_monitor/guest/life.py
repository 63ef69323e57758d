# SPDX-License-Identifier: GPL-2.0-or-later
"""Watches one guest's signs of life; what they mean is liveness.py's."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import time
from collections.abc import Callable

from vesper_monitor.guest import abi
from vesper_monitor.guest.decode import Event
from vesper_monitor.guest.last_words import PROBE
from vesper_monitor.guest.liveness import MIN_TIMEOUT, Depth, Hang, LifeState, Liveness, Sign
from vesper_monitor.guest.region import map_region
from vesper_monitor.transport import (
    CpuUse,
    Domain,
    Link,
    ReportsCpuUse,
    Transport,
    TransportError,
)

__all__ = ["LifeReader", "LifeWatch"]

_LOG = logging.getLogger(__name__)

_HEAD = ctypes.sizeof(abi.Life)
_CPU = ctypes.sizeof(abi.LifeCpu)


class LifeReader:
    """The mapped region of one link."""

    def __init__(self, link: Link, region: abi.Region, nr_cpus: int) -> None:
        """
        :param region: as in the guest's HELLO; raises as :func:`map_region`.
        :param nr_cpus: likewise; already bounded.
        """
        self.closed = False
        self._size = _HEAD + nr_cpus * _CPU
        self._mapping = map_region(
            link, region, self._size, abi.Life,
            magic=abi.LIFE_MAGIC, version=abi.LIFE_VERSION, what="signs of life",
        )  # fmt: skip

    def read(self) -> list[Sign]:
        """Of the CPUs that are online."""
        data = bytes(self._mapping.view[_HEAD : self._size])
        cpus = (abi.LifeCpu.from_buffer_copy(data, at) for at in range(0, len(data), _CPU))
        return [
            Sign(number, cpu.irqs, cpu.runs)
            for number, cpu in enumerate(cpus)
            if cpu.state == abi.LifeState.SHOWN
        ]

    def close(self) -> None:
        """May be called twice."""
        self.closed = True
        self._mapping.close()


class LifeWatch:
    """Looks at a guest's signs of life, and asks the hypervisor if need be."""

    def __init__(
        self,
        transport: Transport,
        domain: Domain,
        timeout: Callable[[], float],
        tell: Callable[[Event], None],
    ) -> None:
        """
        :param timeout: s, asked each time; below :data:`MIN_TIMEOUT`: do not watch.
        :param tell: gets an event ``hang``, and ``alive`` if it was none in the end.
        """
        self._transport = transport
        self._domain = domain
        self._timeout = timeout
        self._tell = tell
        self._liveness = Liveness()
        self._number = 0
        self._question: asyncio.Task[None] | None = None
        self._complained = False

    @property
    def state(self) -> LifeState:
        return self._liveness.state

    @property
    def shown(self) -> bool:
        """Whether the guest's kernel has shown life in the last moment."""
        return self._liveness.shows_life(time.monotonic())

    async def run(self, reader: LifeReader) -> None:
        """Until the reader is closed."""
        if not isinstance(self._transport, ReportsCpuUse):
            return  # a silent guest might be a paused one: nothing can be said
        try:
            while not reader.closed:
                self._look(reader)
                await asyncio.sleep(self._liveness.next_look(time.monotonic()))
        except Exception:
            _LOG.exception("%s: internal error; its signs of life are not watched any more",
                           self._domain.name)  # fmt: skip
        finally:
            if self._question is not None:
                self._question.cancel()

    def _look(self, reader: LifeReader) -> None:
        now, timeout = time.monotonic(), self._timeout()
        if timeout < MIN_TIMEOUT:
            self._liveness = Liveness()
            return
        before = self._liveness.state
        self._liveness.signs(now, reader.read())
        hang = self._liveness.judge(timeout)
        if hang is not None:
            self._number += 1
            self._tell(self._event("hang", hang, timeout))
        elif before is LifeState.HUNG and self._liveness.state is LifeState.ALIVE:
            self._tell(self._event("alive", None, timeout))
        if self._question is None and self._liveness.asks(now, timeout):
            self._question = asyncio.get_running_loop().create_task(self._ask(timeout))

    async def _ask(self, hang_timeout: float) -> None:
        """The answer is judged after another look at the signs."""
        use: CpuUse | None = None
        transport = self._transport
        assert isinstance(transport, ReportsCpuUse)
        try:
            use = await transport.cpu_use(self._domain)
        except TransportError as error:
            if not self._complained:
                _LOG.warning("%s: shows no life, and nothing is known of its CPU time: %s",
                             self._domain.name, error)  # fmt: skip
            self._complained = True
        finally:
            self._question = None
        self._liveness.usage(time.monotonic(), use, hang_timeout)

    def _event(self, name: str, hang: Hang | None, timeout: float) -> Event:
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
            vm=vm, domid=self._domain.domid, probe=PROBE, event=name,
            cpu=hang.cpu if hang else 0, seq=self._number, guest_ns=0, received=time.time(),
            fields=fields, text=text,
        )  # fmt: skip
