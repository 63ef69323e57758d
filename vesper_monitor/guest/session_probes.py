# SPDX-License-Identifier: GPL-2.0-or-later
"""The probes of one guest: which are wanted, which are loaded, which are tried again.

Each wanted probe goes WANTED → LOADING → COLLECTING → UNLOADING. A probe that an
earlier vesperd has loaded is found in the guest's channel table, and collects at once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping

from vesper_monitor.guest.control.commands import GuestControl
from vesper_monitor.guest.control.images import ImageStore
from vesper_monitor.guest.dynamic_probes.point import DynamicProbe
from vesper_monitor.guest.errors import SessionError
from vesper_monitor.guest.relay.channel import ChannelEntry, TableError
from vesper_monitor.guest.session_reader import MAX_LAST_ROUNDS, SessionReader, wait_for_event
from vesper_monitor.guest.session_state import ProbeState, ProbeStatus
from vesper_monitor.hypervisor.transport import TransportError

__all__ = ["SessionProbes"]

_log = logging.getLogger(__name__)

#: s between two tries to load a probe: the first pause; each further one is twice as long.
RETRY_FIRST_S = 0.5
#: s: the longest pause.
RETRY_MAX_S = 30.0


class SessionProbes:
    """The probes of one session.

    :ivar lock: held by the caller of each method that changes the guest's probes.
    :ivar wanted: parameters by name.
    """

    def __init__(
        self,
        vm: str,
        images: ImageStore,
        dynamic_probes: Mapping[str, DynamicProbe],
        reader: SessionReader,
        on_change: Callable[[], None],
    ) -> None:
        """
        :param dynamic_probes: those of this VM, by name; may change.
        :param reader: has the channels of the probes that are loaded.
        :param on_change: called when the state of a probe has changed.
        """
        self.lock = asyncio.Lock()
        self.wanted: dict[str, str] = {}
        self._vm = vm
        self._reader = reader
        self._images = images
        self._dynamic_probes = dynamic_probes
        self._on_change = on_change
        self._statuses: dict[str, ProbeStatus] = {}
        self._loaded_here: set[str] = set()  # in this boot of the guest core
        self._retry_at: dict[str, float] = {}  # CLOCK_MONOTONIC
        self._retry_pause_s: dict[str, float] = {}
        self._has_work = asyncio.Event()  # probes may have to be loaded or unloaded

    # ------------------------------------------------------------ what is known

    def list_statuses(self) -> dict[str, ProbeStatus]:
        """Return the wanted and the loaded probes, by name."""
        for name, channel in self._reader.channels.items():
            status = self._status_of(name)
            status.cpus, status.records, status.lost = channel.cpus, channel.records, channel.lost
        self._note_channel_errors()
        return self._statuses

    def describe_fault(self) -> str | None:
        """Return which wanted probe does not work, and why; None if all work."""
        self._note_channel_errors()
        for name in self.wanted:
            status = self._statuses.get(name)
            if status is None or status.state is not ProbeState.COLLECTING:
                reason = status.error if status else None
                return reason or f"{self._vm}: probe {name} is not loaded yet"
            if status.error:
                return f"{self._vm}: probe {name}: {status.error}"
        return None

    def _note_channel_errors(self) -> None:
        """Note which channels cannot be read in full."""
        for name, channel in self._reader.channels.items():
            if channel.error:
                self._status_of(name).error = channel.error

    # ------------------------------------------------------------ what is wanted

    def set_wanted(self, wanted: Mapping[str, str]) -> None:
        """Replace the wish; :meth:`reconcile_guest` carries it out.

        :param wanted: module parameters by name.
        """
        self.wanted = dict(wanted)
        for name, params in wanted.items():
            self._status_of(name).params = params
        self._retry_at.clear()
        self._retry_pause_s.clear()
        for name in list(self._statuses):
            if name not in self.wanted and name not in self._reader.channels:
                del self._statuses[name]
        self._has_work.set()

    async def load_now(self, guest: GuestControl, name: str, params: str) -> None:
        """Load a probe and keep it loaded; one that fails stays unwanted. :raises SessionError:"""
        if name in self._reader.channels:
            raise SessionError(f"{self._vm}: probe {name} is loaded already", code="bad-request")
        self._status_of(name).params = params
        try:
            await self._load_into_guest(guest, name)
        except SessionError:
            if name not in self.wanted:
                self._statuses.pop(name, None)
            raise
        self.wanted[name] = params
        self._on_change()

    async def unload_now(self, guest: GuestControl, name: str) -> None:
        """Unload a probe, and want it no longer. :raises SessionError:"""
        if name not in self._reader.channels:
            raise SessionError(f"{self._vm}: probe {name} is not loaded", code="no-such-probe")
        self.wanted.pop(name, None)
        await self._unload_from_guest(guest, name)
        self._on_change()

    async def unload_all(self, guest: GuestControl) -> None:
        for name in list(self._reader.channels):
            try:
                await self._unload_from_guest(guest, name)
            except SessionError as error:
                _log.warning("%s", error)

    # ------------------------------------------------------------ guest and wish

    async def reconcile_guest(self, guest: GuestControl) -> None:
        """Load what is wanted and missing. Unload what was loaded here and is unwanted now."""
        self._has_work.clear()
        now = time.monotonic()
        for name in list(self.wanted):
            if name not in self._reader.channels and self._retry_at.get(name, 0.0) <= now:
                try:
                    await self._load_into_guest(guest, name)
                except SessionError as error:
                    _log.warning("%s", error)
        for name in [name for name in self._loaded_here if name not in self.wanted]:
            if name in self._reader.channels:
                try:
                    await self._unload_from_guest(guest, name)
                except SessionError as error:
                    _log.warning("%s", error)
            self._loaded_here.discard(name)

    async def wait_for_work(self) -> None:
        """Return when the wish has changed, or a probe that failed is to be tried again."""
        now = time.monotonic()
        due = [at - now for name, at in self._retry_at.items() if name in self.wanted]
        await wait_for_event(self._has_work, max(min(due), 0.01) if due else None)

    def follow_table(self, guest: GuestControl) -> None:
        """Open the channels that are new in the guest's table, close those that have left it."""
        entries = guest.read_table()
        channels = self._reader.channels
        left = [name for name, channel in channels.items() if entries.get(name) != channel.entry]
        if left:
            self._reader.drain_rest(MAX_LAST_ROUNDS)  # records since the rest was read
        for name in left:
            self._drop_channel(name, "the guest has unloaded it")
        for name, entry in entries.items():
            status = self._status_of(name)
            if name not in channels and status.state is not ProbeState.LOADING:
                self._open_channel(guest, entry)
                if name not in channels and name not in self.wanted:
                    # The guest may show ever new names.
                    _log.warning("%s", status.error)
                    self._forget_probe(name)

    def leave_link(self) -> None:
        """Close all channels; they may be opened again over another link."""
        for name in list(self._reader.channels):
            self._close_channel(name, for_good=False)
            self._set_state(self._status_of(name), ProbeState.WANTED, None)

    def meet_new_boot(self) -> None:
        """Note that the guest core has started anew: nothing was loaded into it."""
        self._loaded_here.clear()

    # ------------------------------------------------------------ one probe

    async def _load_into_guest(self, guest: GuestControl, name: str) -> None:
        """:raises SessionError: and the probe is FAILED."""
        status = self._status_of(name)
        self._set_state(status, ProbeState.LOADING, status.error)  # of the last try
        try:
            dynamic_probe = self._dynamic_probes.get(name)
            if dynamic_probe is not None:
                await guest.load_dynamic_probe(self._images, dynamic_probe)
            else:
                await guest.load_probe(self._images, name, status.params)
            self._loaded_here.add(name)
            entry = guest.read_table().get(name)
            if entry is None:
                raise SessionError(
                    f"{self._vm}: {name} was loaded but shows no relay channel: "
                    "is it a probe of VESPER?",
                    code="guest",
                )
        except (SessionError, TableError) as error:
            self._fail_probe(status, str(error))
            if isinstance(error, SessionError):
                raise
            raise SessionError(str(error), code="guest") from None
        finally:
            guest.table.look_again()  # it was read here for one channel only
        self._open_channel(guest, entry)
        if status.state is not ProbeState.COLLECTING:
            raise SessionError(status.error or "", code="guest")
        self._retry_at.pop(name, None)
        self._retry_pause_s.pop(name, None)

    async def _unload_from_guest(self, guest: GuestControl, name: str) -> None:
        """Read the rest, unmap, and unload. :raises SessionError: and the probe is FAILED."""
        status = self._status_of(name)
        self._set_state(status, ProbeState.UNLOADING, None)
        self._reader.drain_rest()
        self._close_channel(name, for_good=True)
        try:
            await guest.unload_probe(name)
        except SessionError as error:
            self._fail_probe(status, str(error))
            raise
        self._loaded_here.discard(name)
        if name not in self.wanted:
            self._statuses.pop(name, None)

    def _open_channel(self, guest: GuestControl, entry: ChannelEntry) -> None:
        status = self._status_of(entry.probe)
        try:
            channel = self._reader.open_channel(guest.link, entry)
        except TransportError as error:
            self._fail_probe(status, str(error))
            return
        self._set_state(status, ProbeState.COLLECTING, channel.error)

    def _drop_channel(self, name: str, reason: str) -> None:
        """Close a channel that has left the table and was read; load the probe again later."""
        self._close_channel(name, for_good=False)
        if name in self.wanted:
            error = f"{self._vm}: probe {name} has stopped: {reason}"
            self._fail_probe(self._status_of(name), error)
        else:
            self._forget_probe(name)
            self._on_change()

    def _close_channel(self, name: str, *, for_good: bool) -> None:
        channel = self._reader.collector.close_channel(name, for_good=for_good)
        status = self._status_of(name)
        status.records, status.lost, status.cpus = channel.records, channel.lost, 0

    def _forget_probe(self, name: str) -> None:
        """Forget a probe that is neither wanted nor loaded."""
        for kept in (self._statuses, self._retry_at, self._retry_pause_s):
            kept.pop(name, None)

    def _status_of(self, name: str) -> ProbeStatus:
        return self._statuses.setdefault(name, ProbeStatus(name, params=self.wanted.get(name, "")))

    def _set_state(self, status: ProbeStatus, state: ProbeState, error: str | None) -> None:
        status.error = error
        status.state = state
        self._on_change()

    def _fail_probe(self, status: ProbeStatus, error: str) -> None:
        """Note a failure; a wanted probe is tried again, each time after a longer pause."""
        pause = self._retry_pause_s.get(status.name, RETRY_FIRST_S)
        self._retry_at[status.name] = time.monotonic() + pause
        self._retry_pause_s[status.name] = min(pause * 2, RETRY_MAX_S)
        self._set_state(status, ProbeState.FAILED, error)
        self._has_work.set()
