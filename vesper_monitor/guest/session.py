# SPDX-License-Identifier: GPL-2.0-or-later
"""The session with one guest, as the daemon sees it.

The parts:

- :mod:`vesper_monitor.guest.session_link` connects, says HELLO, reads until the link is
  lost, and has the session's state;
- :mod:`vesper_monitor.guest.session_reader` reads the channels;
- :mod:`vesper_monitor.guest.session_probes` loads and unloads probes;
- :mod:`vesper_monitor.guest.session_contact` knows why a guest is not active;
- :mod:`vesper_monitor.guest.health.heartbeat` watches for hangs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping

from vesper_monitor.guest.control.cchan import CchanError, GuestRefusedError
from vesper_monitor.guest.control.commands import GuestControl, Hello
from vesper_monitor.guest.control.images import ImageStore
from vesper_monitor.guest.control.processes import Processes, find_processes
from vesper_monitor.guest.errors import SessionError
from vesper_monitor.guest.health.heartbeat import HeartbeatWatch
from vesper_monitor.guest.relay.channel import ChannelReader
from vesper_monitor.guest.relay.collector import Collector
from vesper_monitor.guest.relay.positions import Position
from vesper_monitor.guest.relay.raw_stream import RawStream
from vesper_monitor.guest.session_link import SessionLink
from vesper_monitor.guest.session_listener import SessionListener, SessionSettings
from vesper_monitor.guest.session_probes import SessionProbes
from vesper_monitor.guest.session_reader import SessionReader
from vesper_monitor.guest.session_state import ProbeStatus, SessionState, StateError, require_state
from vesper_monitor.hypervisor.transport import Domain, DomainReport, Transport

__all__ = ["Session"]


class Session:
    """Watches one domain until :meth:`close_session` or the domain's end."""

    def __init__(
        self,
        transport: Transport,
        domain: Domain,
        images: ImageStore,
        listener: SessionListener,
        settings: SessionSettings | None = None,
    ) -> None:
        settings = settings or SessionSettings()
        self.transport = transport
        self.domain = domain
        raw = RawStream()
        collector = Collector(
            domain, raw, settings.clock, settings.resume_from, settings.dynamic_probes
        )
        self._reader = SessionReader(collector, raw, listener)
        self._probes = SessionProbes(
            domain.name, images, settings.dynamic_probes, self._reader, self._note_probe_change
        )
        self._link = SessionLink(transport, domain, listener, settings, self._reader, self._probes)

    def _note_probe_change(self) -> None:
        self._link.notify_change()

    # ------------------------------------------------------------ what is known

    @property
    def state(self) -> SessionState:
        return self._link.state

    @property
    def guest(self) -> GuestControl | None:
        """The guest; None: it has not answered HELLO, or the link is closed."""
        return self._link.guest

    @property
    def hello(self) -> Hello | None:
        """The guest's answer to HELLO; None: there is none."""
        return self.guest.hello if self.guest is not None else None

    @property
    def heartbeat(self) -> HeartbeatWatch:
        return self._link.heartbeat

    @property
    def alive(self) -> bool:
        """Whether the guest's kernel has certainly shown a heartbeat in the last moment."""
        return self.linked and self.heartbeat.shown

    @property
    def last_sign(self) -> float | None:
        """When the guest's last heartbeat was seen (CLOCK_MONOTONIC); None: unknown."""
        return self.heartbeat.last_sign

    @property
    def linked(self) -> bool:
        """Whether the guest's pages are mapped and its end of the link is open."""
        return self._link.is_linked

    @property
    def degraded(self) -> str | None:
        """What is missing on this VM, and what to do; None: nothing."""
        return self._link.degraded

    @property
    def is_paused(self) -> bool:
        """Whether the hypervisor has reported the domain as paused."""
        return self._link.contact.is_paused

    @property
    def missing(self) -> str | None:
        """Why the guest is not active, at once, where :attr:`degraded` waits; None: unknown."""
        return self._link.contact.missing if self.state is not SessionState.ACTIVE else None

    def describe_obstacle(self) -> str:
        """Return why the guest is not active, for a :class:`StateError`."""
        return self._link.contact.missing or f"{self.domain.name}: the guest is not active"

    @property
    def standstill(self) -> tuple[str, float | None] | None:
        """That the domain is paused, or why its guest is silent, and since when; None: neither."""
        is_active = self.state is SessionState.ACTIVE
        return self._link.contact.describe_standstill(is_active=is_active)

    @property
    def probes(self) -> dict[str, ProbeStatus]:
        """The wanted and the loaded probes, by name."""
        return self._probes.list_statuses()

    @property
    def positions(self) -> dict[Position, int]:
        """Next sequence number of each buffer of the guest core; {} before HELLO.

        Also of buffers that an earlier vesperd has read and this one has not
        opened yet: whoever saves positions must not lose those.
        """
        return self._reader.positions

    def take_reads(self) -> list[tuple[ChannelReader, int, int]]:
        """Within ``take_events``: promise to note when these events are written.

        Else they count as written when ``take_events`` returns; see
        :meth:`Collector.take_reads`.
        """
        return self._reader.collector.take_reads()

    def rewind_to_written(self) -> None:
        """Read again what was read and not written, as far as the guest still has it."""
        self._reader.rewind_to_written()

    def subscribe_raw(
        self, probe: str, cpu: int | None = None
    ) -> AsyncIterator[tuple[int, int, bytes]]:
        """Return (cpu, seq, record) as they are read; a slow reader loses some."""
        return self._reader.subscribe_raw(probe, cpu)

    # ------------------------------------------------------------ requests

    async def set_probes(self, wanted: Mapping[str, str]) -> None:
        """Set which probes are loaded: module parameters by name.

        Probes that this session loaded for an earlier wish are unloaded. Returns at
        once; :meth:`run_session` does the work, and :attr:`probes` shows failures.
        """
        self._probes.set_wanted(wanted)

    async def load_probe(self, name: str, params: str = "") -> None:
        """Load a probe now and keep it loaded; one that fails stays unwanted.

        :raises SessionError:
        """
        async with self._probes.lock:
            await self._load_now(name, params)

    @require_state(SessionState.ACTIVE, "load a probe")
    async def _load_now(self, name: str, params: str) -> None:
        await self._probes.load_now(self._require_guest(), name, params)

    async def unload_probe(self, name: str) -> None:
        """Unload a probe now, and want it no longer. :raises SessionError:"""
        async with self._probes.lock:
            await self._unload_now(name)

    @require_state(SessionState.ACTIVE, "unload a probe")
    async def _unload_now(self, name: str) -> None:
        await self._probes.unload_now(self._require_guest(), name)

    @require_state(SessionState.ACTIVE, "ask for processes")
    async def find_processes(self, names: Collection[str]) -> Processes | None:
        """Return the main processes of some names. None: the guest core is too old to say.

        :raises SessionError: unknown now.
        """
        guest = self._require_guest()
        if guest.cchan.asleep or self.is_paused:
            raise SessionError(f"{self.domain.name}: the guest sleeps", code="not-active")
        try:
            return await find_processes(guest.cchan, names)
        except (CchanError, GuestRefusedError) as error:
            raise SessionError(str(error), code="guest") from None

    def _require_guest(self) -> GuestControl:
        """:raises StateError: the session is leaving the guest."""
        if (guest := self.guest) is None:
            text = f"{self.domain.name}: the link to the guest is being closed"
            raise StateError(text, self.state, SessionState.ACTIVE)
        return guest

    def note_report(self, report: DomainReport) -> None:
        """Take the domain's state as the hypervisor has reported it."""
        self._link.note_report(report)

    def note_reset(self) -> None:
        """The hypervisor has reset the domain: drop the link to the kernel that is gone."""
        self._link.note_reset()

    def read_last_words(self) -> None:
        """The domain is dead: read its crash log while it is mapped."""
        self._reader.read_crash_log()

    # ------------------------------------------------------------ begin and end

    async def run_session(self) -> None:
        """Run until the session is closed, or the domain has ended."""
        await self._link.run_until_closed()

    async def close_session(self, *, deactivate: bool) -> None:
        """Close the session. Idempotent.

        :param deactivate: unload the probes and remove the device; otherwise leave
            both for the next vesperd.
        """
        await self._link.close(deactivate=deactivate)
