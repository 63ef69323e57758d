# SPDX-License-Identifier: GPL-2.0-or-later
"""The interface that a transport to a hypervisor implements.

A transport is an entry point of the group ``vesper.transports``: a class that
implements :class:`Transport`. All methods run on the asyncio loop and return
soon. A transport that must block (a store's round trip, a mapping) does so in a
thread of its own, with a time limit.

The terms are those of ``probe_modules/include/vesper_abi.h``: the guest shares
*regions*, and the host maps them. One *notification* in each direction serves
C-chan and D-chan together.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from vesper_monitor.hypervisor.domain_state import DomainState
from vesper_monitor.util.errors import VesperError

__all__ = [
    "ENDED",
    "Cause",
    "CpuUse",
    "Domain",
    "DomainEvent",
    "DomainReport",
    "DomainState",
    "FrontendMissingError",
    "FrontendSilentError",
    "Link",
    "LinkLostError",
    "Mapping",
    "Notice",
    "ReportsCpuUse",
    "ReportsTrouble",
    "Transport",
    "TransportError",
    "VcpuState",
    "VcpuUse",
    "WatchesArrivals",
]

#: States of a guest that does not run and will not run again.
ENDED = frozenset({DomainState.SHUTDOWN, DomainState.CRASHED, DomainState.DYING, DomainState.GONE})


class TransportError(VesperError):
    """The hypervisor or its store refused, or did not answer in time.

    The text says what was tried, on what, and what to do.
    """


class FrontendMissingError(TransportError):
    """The guest has no VESPER frontend, or it did not answer in time."""


class FrontendSilentError(FrontendMissingError):
    """The guest has the device, but no kernel answers: it boots, or lacks the modules.

    :ivar was_active: a kernel was active there and has not closed its link: it
        hangs, or was reset.
    """

    def __init__(self, text: str, *, was_active: bool = False) -> None:
        super().__init__(text)
        self.was_active = was_active


class LinkLostError(TransportError):
    """The guest has ended, or has closed its end of the link."""


@dataclass(frozen=True)
class Domain:
    """One run of a virtual machine: each start makes a new domain."""

    name: str
    domid: int
    uuid: str

    @property
    def key(self) -> tuple[str, int]:
        """What identifies this domain: its UUID and its number."""
        return self.uuid, self.domid


class Cause(enum.Enum):
    """Why a domain is in its state, as far as the verdict depends on it."""

    ASKED = "asked"  #: an operator, a migration or the guest itself requested it
    LIKELY = "likely"  #: most likely requested: the hypervisor does not say by whom
    REBOOT = "reboot"  #: requested, and the VM is about to start again
    FAILURE = "failure"  #: an error of the guest, its host or the hypervisor
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class DomainReport:
    """A domain's state, and why it is in it."""

    state: DomainState
    cause: Cause = Cause.UNKNOWN
    #: continues "vm1 is paused: ", "vm1 has shut down: "; empty: unknown
    why: str = ""
    #: continues "vm1 ", and replaces the usual words for the state and ``why``
    says: str = ""


@dataclass(frozen=True)
class Notice:
    """An observation of the hypervisor that no state shows."""

    kind: str  #: one word, e.g. ``watchdog``
    text: str  #: continues "vm1: "
    failure: bool = False  #: the guest cannot be relied on after it
    #: the guest's kernel has ended, and another one boots in the same domain
    reset: bool = False


@dataclass(frozen=True)
class DomainEvent:
    """A domain's state may have changed: ask for it."""

    domid: int | None  #: None: the hypervisor does not say which
    notice: Notice | None = None


class VcpuState(enum.Enum):
    RUNNING = "running"
    RUNNABLE = "runnable"  #: waits for a CPU of the host
    BLOCKED = "blocked"  #: sleeps until an interrupt
    OFFLINE = "offline"


@dataclass(frozen=True)
class VcpuUse:
    """A virtual CPU's use of the host's CPUs."""

    cpu: int  #: number in the guest's kernel
    ran: float  #: s of CPU time since the domain's start
    state: VcpuState  #: at this moment


@dataclass(frozen=True)
class CpuUse:
    """A domain's use of the host's CPUs."""

    state: DomainState
    vcpus: tuple[VcpuUse, ...]
    #: s of CLOCK_MONOTONIC: a reset of the guest before may have gone unnoticed
    resets_known_since: float = 0.0


class Mapping(Protocol):
    """A mapped region of the guest. The guest may change it at any time."""

    @property
    def view(self) -> memoryview:
        """The bytes (format 'B'). Invalid after :meth:`close`."""

    def close(self) -> None:
        """Unmap. All views on it must be released before. Idempotent."""


class Link(Protocol):
    """The host's end of one activated guest: C-chan page, regions, notifications."""

    domain: Domain

    @property
    def cchan(self) -> Mapping:
        """The C-chan page, writable."""

    def map_region(self, handle: int, pages: int, *, writable: bool = False) -> Mapping:
        """Map a region.

        :param handle: as the guest says (``vsp_region.handle``): not trusted.
        :param pages: number of 4096-byte pages; the caller bounds it.
        :raises TransportError: the guest does not share this region.
        """

    def notify_guest(self) -> None:
        """Notify the guest of a change in C-chan. Never blocks."""

    def on_notify(self, callback: Callable[[], None] | None) -> None:
        """Call ``callback`` on the loop for each notification (they coalesce)."""

    def on_lost(self, callback: Callable[[str], None] | None) -> None:
        """Call ``callback`` once, with the reason, when the guest's end is closed."""

    async def close(self, *, deactivate: bool) -> None:
        """Close the link; all mappings are closed already.

        :param deactivate: also remove the device from the guest. Otherwise the guest
            keeps it, and a later :meth:`Transport.connect_domain` goes on with it
            (restart of vesperd).
        """


class Transport(Protocol):
    """VESPER's access to one hypervisor. vesperd has one object of each class."""

    #: as in the configuration and in status output, e.g. ``xen``
    name: str

    @classmethod
    def explain_unusable(cls) -> str | None:
        """Return why this host does not run that hypervisor; None: it does."""

    async def start(self) -> None:
        """Open the store and begin to watch domains.

        :raises TransportError: unavailable now; vesperd tries again.
        """

    async def stop(self) -> None:
        """Release everything; devices of guests stay (see :meth:`Link.close`)."""

    async def list_domains(self) -> list[Domain]:
        """Return the running domains, without the host's own."""

    async def find_domain(self, name: str) -> Domain | None:
        """Return the domain of that name; None: there is none."""

    async def report_domain(self, domain: Domain) -> DomainReport:
        """Ask the hypervisor for the domain's state.

        For a domain that has ended, the report has the cause if it is known within
        a moment.

        :raises TransportError: the state is unknown now.
        """

    async def list_active_domains(self) -> list[Domain]:
        """Return the domains that already have a VESPER device, connected or waiting."""

    async def connect_domain(self, domain: Domain, timeout: float) -> Link:  # noqa: ASYNC109
        """Activate the guest, or take over its link if it is active already.

        :param timeout: s to wait for the guest's frontend.
        :raises FrontendMissingError: no answer from the guest. Its device stays, and
            the next call finds a frontend that has started meanwhile.
        :raises LinkLostError: the domain ended meanwhile.
        :raises TransportError: anything else.
        """

    async def deactivate_domain(self, domain: Domain) -> None:
        """Remove the device from a guest without a link, if the guest has one.

        :raises TransportError: the guest may still have it.
        """

    def follow_events(self) -> AsyncIterator[DomainEvent]:
        """Yield an event whenever domains start, end or change; without end."""


@runtime_checkable
class ReportsTrouble(Protocol):
    """A transport that works on while a daemon of the hypervisor is down. Optional."""

    @property
    def trouble(self) -> str | None:
        """Which daemon is down, and what is unknown meanwhile; None: none is."""


@runtime_checkable
class WatchesArrivals(Protocol):
    """A transport that can connect to an incoming domain before it runs. Optional."""

    #: also for a domain that still has a temporary name
    watches_arrivals: bool


@runtime_checkable
class ReportsCpuUse(Protocol):
    """A transport that distinguishes a guest that hangs from one that gets no CPU.

    Optional: without it the guest's heartbeat is not judged.
    """

    async def cpu_use(self, domain: Domain) -> CpuUse:
        """Ask the hypervisor for the CPU time of a guest without heartbeat.

        :raises TransportError: unknown now.
        """
