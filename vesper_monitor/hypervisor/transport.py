# SPDX-License-Identifier: GPL-2.0-or-later
"""What a hypervisor's transport offers to the layers above it.

A transport is found through the entry point group ``vesper.transports``; the
entry point names a class that implements :class:`Transport`.  Everything in
here runs on the asyncio loop and returns soon: a transport that must block
(a store's round trip, a mapping) does so in a thread of its own with a time
limit.

The words are those of ``probe_modules/include/vesper_abi.h``: the guest
shares *regions*, the host maps them; one *notification* in each direction
serves C-chan and D-chan together.
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

#: States in which a guest does not run and will not again.
ENDED = frozenset({DomainState.SHUTDOWN, DomainState.CRASHED, DomainState.DYING, DomainState.GONE})


class TransportError(VesperError):
    """The hypervisor or its store refused or did not answer in time.

    The text says what was tried, on what, and what to do.
    """


class FrontendMissingError(TransportError):
    """The guest has no VESPER frontend, or it did not answer in time."""


class FrontendSilentError(FrontendMissingError):
    """The guest has the device, and no kernel answers on it: it boots, or lacks the modules.

    :ivar was_active: a kernel had been activated there and has not said good-bye: it
        hangs, or was reset.
    """

    def __init__(self, text: str, *, was_active: bool = False) -> None:
        super().__init__(text)
        self.was_active = was_active


class LinkLostError(TransportError):
    """The guest has gone, or has taken its end of the link down."""


@dataclass(frozen=True)
class Domain:
    """One life of a virtual machine: another start is another one."""

    name: str
    domid: int
    uuid: str


class Cause(enum.Enum):
    """What is behind a state, as far as that decides what is to be done."""

    ASKED = "asked"  #: somebody wants it so: an operator, a migration, the guest itself
    LIKELY = "likely"  #: the same, most likely: the hypervisor does not say by whom
    REBOOT = "reboot"  #: as the first, and the domain's next life is about to begin
    FAILURE = "failure"  #: an error of the guest's, of its host's, or of the hypervisor's
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class DomainReport:
    """A domain's state, and why it is in it."""

    state: DomainState
    cause: Cause = Cause.UNKNOWN
    #: continues "vm1 is paused: ", "vm1 has shut down: "; empty: not known
    why: str = ""
    #: continues "vm1 ", in place of the usual words for the state and of ``why``
    says: str = ""


@dataclass(frozen=True)
class Notice:
    """Something that the hypervisor has seen and that shows in no state."""

    kind: str  #: one word, e.g. ``watchdog``
    text: str  #: continues "vm1: "
    failure: bool = False  #: the guest is not to be relied on after it
    #: the guest's kernel has ended, announced or not, and another one boots in the same domain
    reset: bool = False


@dataclass(frozen=True)
class DomainEvent:
    """A domain's state may have changed; look."""

    domid: int | None  #: None: the hypervisor does not say which
    notice: Notice | None = None


class VcpuState(enum.Enum):
    RUNNING = "running"
    RUNNABLE = "runnable"  #: waits for a CPU of the host's
    BLOCKED = "blocked"  #: sleeps until an interrupt
    OFFLINE = "offline"


@dataclass(frozen=True)
class VcpuUse:
    """A virtual CPU, as the hypervisor sees it."""

    cpu: int  #: number in the guest's kernel
    ran: float  #: s of CPU time since the domain's start
    state: VcpuState  #: at this moment


@dataclass(frozen=True)
class CpuUse:
    """A domain's use of the host's CPUs."""

    state: DomainState
    vcpus: tuple[VcpuUse, ...]
    #: s of CLOCK_MONOTONIC: a reset of the guest before that may have gone unnoticed
    resets_known_since: float = 0.0


class Mapping(Protocol):
    """A region of the guest's, mapped. The guest may change it at any time."""

    @property
    def view(self) -> memoryview:
        """The bytes (format 'B'). Invalid after :meth:`close`."""

    def close(self) -> None:
        """Unmap. Views on it must have been released. May be called twice."""


class Link(Protocol):
    """The host's end of one activated guest: C-chan page, regions, notifications."""

    domain: Domain

    @property
    def cchan(self) -> Mapping:
        """The C-chan page, writable."""

    def map_region(self, handle: int, pages: int, *, writable: bool = False) -> Mapping:
        """Map a region.

        :param handle: the guest's word (``vsp_region.handle``): hostile.
        :param pages: number of 4096-byte pages; bounded by the caller.
        :raises TransportError: the guest did not share what it said.
        """

    def notify_guest(self) -> None:
        """Tell the guest that C-chan has moved. Never blocks."""

    def on_notify(self, callback: Callable[[], None] | None) -> None:
        """Call ``callback`` on the loop for each notification (they coalesce)."""

    def on_lost(self, callback: Callable[[str], None] | None) -> None:
        """Call ``callback`` once, with the reason, when the guest's end goes away."""

    async def close(self, *, deactivate: bool) -> None:
        """Unmap everything and give the link up.

        :param deactivate: also take the device away from the guest; if not,
            the guest keeps it and a later :meth:`Transport.connect_domain` goes on
            with it (restart of the daemon). Every mapping is closed first.
        """


class Transport(Protocol):
    """One hypervisor's side of VESPER. One object per daemon."""

    #: as in the configuration and in status output, e.g. ``xen``
    name: str

    @classmethod
    def explain_unusable(cls) -> str | None:
        """None if this host runs that hypervisor, else the reason why not."""

    async def start(self) -> None:
        """Open the store and begin to watch domains.

        :raises TransportError: not to be had now; the daemon tries again.
        """

    async def stop(self) -> None:
        """Release everything; devices of guests stay (see :meth:`Link.close`)."""

    async def list_domains(self) -> list[Domain]:
        """The running domains, without the host's own."""

    async def find_domain(self, name: str) -> Domain | None:
        """The domain of that name, if there is one."""

    async def report_domain(self, domain: Domain) -> DomainReport:
        """Its state. Asked of the hypervisor each time.

        Of a domain that has ended the cause is told if it is known or becomes
        known within a moment.

        :raises TransportError: not known now.
        """

    async def list_active_domains(self) -> list[Domain]:
        """Domains that already have a VESPER device, connected or waiting."""

    async def connect_domain(self, domain: Domain, timeout: float) -> Link:  # noqa: ASYNC109
        """Activate the guest, or take over its link if it is active already.

        :param timeout: seconds to wait for the guest's frontend.
        :raises FrontendMissingError: no answer from the guest; its device stays,
            so that a frontend that comes later is found by the next call.
        :raises LinkLostError: the domain went away meanwhile.
        :raises TransportError: anything else.
        """

    async def deactivate_domain(self, domain: Domain) -> None:
        """Take the device away from a guest to which there is no link, if it has one.

        :raises TransportError: it may still have it.
        """

    def follow_events(self) -> AsyncIterator[DomainEvent]:
        """Domains that came, went, or changed, as they do; for ever."""


@runtime_checkable
class ReportsTrouble(Protocol):
    """A transport that goes on while some of the hypervisor's daemons are away. Optional."""

    @property
    def trouble(self) -> str | None:
        """What is away, and what is not known meanwhile; None: nothing."""


@runtime_checkable
class WatchesArrivals(Protocol):
    """A transport that may connect to a domain that has come and does not run yet. Optional."""

    #: also called by the name that it will have
    watches_arrivals: bool


@runtime_checkable
class ReportsCpuUse(Protocol):
    """A transport that can tell a guest that hangs from one that gets no CPU.

    Optional: without it the guest's signs of life are not judged.
    """

    async def cpu_use(self, domain: Domain) -> CpuUse:
        """Asked of the hypervisor each time. Only of a guest that shows no life.

        :raises TransportError: not known now.
        """
