# SPDX-License-Identifier: GPL-2.0-or-later
"""The transports of this host: starts them, and starts them again where they fail.

A transport is a package of its own with an entry point.  Of several, each may
know a VM: that a VM runs nowhere is known only if all of them say so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, Protocol

from vesper_monitor.daemon.background_tasks import BackgroundTasks
from vesper_monitor.hypervisor.transport import (
    Domain,
    DomainEvent,
    ReportsTrouble,
    Transport,
    TransportError,
)
from vesper_monitor.util.errors import VesperError

__all__ = ["NoTransportError", "TransportListener", "Transports", "find_transports"]

_log = logging.getLogger(__name__)

#: Entry points of transports; another hypervisor is a new package.
ENTRY_POINT_GROUP = "vesper.transports"
#: s between two tries to start a transport: the first, then doubled up to the last.
RETRY_FIRST_S = 1.0
RETRY_LAST_S = 30.0
#: s for a transport to stop when vesperd does.
STOP_LIMIT_S = 5.0


class NoTransportError(VesperError):
    """No hypervisor can be asked now; the text says why."""


class TransportListener(Protocol):
    """What a started transport is reported to."""

    async def note_transport_up(self, transport: Transport) -> None:
        """Begin the sessions that are wanted on it.

        :raises TransportError: it does not answer; it is started again later.
        """

    def note_transport_event(self, transport: Transport, event: DomainEvent) -> None:
        """Look at the domains that an event is about."""


@dataclass
class _Slot:
    """One transport, and why it does not work now (None: it does)."""

    name: str
    transport: Transport | None
    error: str | None = "not started yet"
    usable: bool = True  # False: it will not come up by itself
    elsewhere: bool = False  # its hypervisor does not run here, which is no trouble
    #: set when the first try has ended, well or not
    tried: asyncio.Event = field(default_factory=asyncio.Event)


def find_transports(wanted: tuple[str, ...]) -> dict[str, type[Transport] | str]:
    """Return the classes of installed transports by name, or a text that says why there is none.

    :param wanted: names; empty: all.
    """
    found: dict[str, type[Transport] | str] = {}
    for entry in metadata.entry_points(group=ENTRY_POINT_GROUP):
        if wanted and entry.name not in wanted:
            continue
        try:
            found[entry.name] = entry.load()
        except Exception as error:  # whatever a foreign package does at import
            found[entry.name] = f"cannot be loaded: {error}"
    for name in wanted:
        found.setdefault(name, "not installed")
    return found


class Transports:
    """All transports of this host."""

    def __init__(self) -> None:
        self._slots: list[_Slot] = []
        self._tasks = BackgroundTasks()

    def start(
        self,
        listener: TransportListener,
        transports: Mapping[str, type[Transport] | str],
        settings: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Begin to start the transports. Those that fail are tried again without end.

        :param settings: by name of the transport: its class's keyword arguments.
        """
        settings = settings or {}
        for name in settings.keys() - transports.keys():
            _log.error("settings in [%s]: no transport of that name is installed", name)
        for name, factory in transports.items():
            slot = _Slot(name, None)
            self._slots.append(slot)
            if isinstance(factory, str):
                slot.error, slot.usable = factory, False
                slot.tried.set()
                _log.warning("transport %s: %s", name, factory)
            else:
                given = settings.get(name, {})
                self._tasks.spawn_task(self._keep_up(listener, slot, factory, given))
        if not self._slots:
            _log.warning("no transport is installed (entry points %s)", ENTRY_POINT_GROUP)

    async def close(self) -> None:
        """Stop all transports."""
        await self._tasks.cancel_all()
        for slot in self._slots:
            if slot.transport is not None:
                try:
                    async with asyncio.timeout(STOP_LIMIT_S):
                        await slot.transport.stop()
                except Exception as error:
                    _log.warning("transport %s: stopping: %s", slot.name, error)

    # ------------------------------------------------------------ which of them work

    def list_states(self) -> dict[str, str | None]:
        """Return by name why each transport does not work; None: it does."""
        return {slot.name: slot.error for slot in self._slots}

    def list_troubles(self) -> dict[str, str | None]:
        """Return by name what is wrong with each transport; None: nothing.

        One whose hypervisor does not run here is left out where another one works.
        """
        works = bool(self.list_usable(""))
        found: dict[str, str | None] = {}
        for slot in self._slots:
            if slot.elsewhere and works:
                continue
            found[slot.name] = slot.error
            if slot.error is None and isinstance(slot.transport, ReportsTrouble):
                found[slot.name] = slot.transport.trouble
        return found

    def list_usable(self, name: str) -> list[Transport]:
        """Return the transports of that name that work; of any name if it is empty."""
        return [
            slot.transport
            for slot in self._slots
            if slot.transport is not None and slot.error is None and name in ("", slot.name)
        ]

    @property
    def settled(self) -> bool:
        """Whether each transport works, or never will: a VM that none of them knows is gone."""
        return all(slot.error is None or not slot.usable for slot in self._slots)

    async def wait_for_first_try(self, name: str) -> None:
        """Return when the transport of that name has been tried; each if it is empty."""
        for slot in self._slots:
            if name in ("", slot.name):
                await slot.tried.wait()

    def explain_down(self, transport: Transport) -> str | None:
        """Return why a transport does not work now; None: it does."""
        return next((slot.error for slot in self._slots if slot.transport is transport), None)

    def explain_unwatched(self, transport: str) -> str:
        """Return why no session is kept for a domain.

        :param transport: name of the one on which it runs; empty: not known.
        """
        slots = [slot for slot in self._slots if transport in ("", slot.name)]
        if not slots and transport:
            used = ", ".join(slot.name for slot in self._slots) or "none"
            return (
                f"it runs on transport {transport}, which vesperd does not use (it uses: {used}; "
                "see transports in vesperd.toml)"
            )
        if any(slot.error is None for slot in slots):
            return "vesperd has not begun to watch it yet"
        return _join_errors(slots)

    async def find_domain(self, vm: str) -> tuple[Transport, Domain] | None:
        """Return the running domain of that name; None: it runs on none of the transports.

        :raises NoTransportError: no transport knows it, and one that might does not answer.
        """
        transports = self.list_usable("")
        if not transports:
            why = _join_errors(self._slots)
            raise NoTransportError(f"vesperd can watch no VM on this host: {why}")
        problem: NoTransportError | None = None
        for transport in transports:
            try:
                domain = await transport.find_domain(vm)
            except TransportError as error:
                problem = NoTransportError(f"{vm}: cannot ask {transport.name}: {error}")
                continue
            if domain is not None:
                return transport, domain
        if problem is not None:
            raise problem
        if missing := [slot for slot in self._slots if slot.error and not slot.elsewhere]:
            raise NoTransportError(f"cannot tell whether {vm} runs: {_join_errors(missing)}")
        return None

    # ------------------------------------------------------------ start, and start again

    async def _keep_up(
        self,
        listener: TransportListener,
        slot: _Slot,
        factory: type[Transport],
        settings: Mapping[str, Any],
    ) -> None:
        pause_s = RETRY_FIRST_S
        started = False
        while True:
            error = None if started else factory.explain_unusable()
            slot.usable, slot.elsewhere = error is None, error is not None
            if error is None:
                try:
                    transport = slot.transport or _make_transport(factory, settings)
                    slot.transport = transport
                    if not started:
                        await transport.start()
                        started = True
                    slot.error, pause_s = None, RETRY_FIRST_S
                    _log.info("transport %s: up", slot.name)
                    await listener.note_transport_up(transport)
                    slot.tried.set()
                    async for event in transport.follow_events():
                        listener.note_transport_event(transport, event)
                    error = "its events have ended"
                except TransportError as problem:
                    error = str(problem)
                except asyncio.CancelledError:
                    raise
                except Exception as problem:
                    _log.exception("transport %s: internal error", slot.name)
                    error = f"internal error: {problem}"
            if error != slot.error:
                # That another hypervisor is not here is no trouble.
                level = logging.INFO if slot.elsewhere else logging.WARNING
                _log.log(level, "transport %s: %s", slot.name, error)
            slot.error = error
            slot.tried.set()
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, RETRY_LAST_S)


def _join_errors(slots: list[_Slot]) -> str:
    """Return why none of some transports works, without hypervisors that do not run here."""
    expected = [slot for slot in slots if not slot.elsewhere] or slots
    said = "; ".join(f"transport {slot.name}: {slot.error}" for slot in expected)
    return said or f"no transport is installed (entry points {ENTRY_POINT_GROUP})"


def _make_transport(factory: type[Transport], settings: Mapping[str, Any]) -> Transport:
    """:raises TransportError: its settings are wrong."""
    try:
        return factory(**settings)
    except (TypeError, ValueError) as error:
        raise TransportError(f"settings in [{factory.name}]: {error}") from None
