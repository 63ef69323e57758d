# SPDX-License-Identifier: GPL-2.0-or-later
"""A pause: who is likely to have asked for it has more time, or not."""

from __future__ import annotations

import asyncio

import pytest

from kvm_transport import libvirt_states
from vesper_monitor.daemon.domain_state_watch import DomainStateWatch
from vesper_monitor.guest.event import Event
from vesper_monitor.hypervisor.transport import Cause, Domain, DomainReport, DomainState

VM1 = Domain("vm1", 3, "uuid")


@pytest.mark.parametrize(
    ("cause", "own", "failures"),
    [
        (Cause.UNKNOWN, None, 1),
        (Cause.LIKELY, None, 0),
        (Cause.LIKELY, 0.2, 1),
        (Cause.ASKED, 0.2, 0),
    ],
)
def test_a_long_pause(cause: Cause, own: float | None, failures: int) -> None:
    """:param own: pause_timeout of the resource."""
    told: list[Event] = []
    report = DomainReport(DomainState.PAUSED, cause)

    async def still(_: Domain) -> DomainReport:
        return report

    async def body() -> None:
        watch = DomainStateWatch(
            lambda _, event: told.append(event),
            still,
            lambda _, likely: own or (0.0 if likely else 0.2),
        )
        watch.record_report(VM1, report)
        await asyncio.sleep(0.6)
        await watch.close()

    asyncio.run(body())
    assert [event.fields["failure"] for event in told] == [False, *[True] * failures]


def heard(*happens: str | DomainReport) -> list[Event]:
    """What is said of reports, with the cluster's stops and new instances in between."""
    told: list[Event] = []

    async def still(_: Domain) -> None:
        return None

    async def body() -> None:
        watch = DomainStateWatch(
            lambda _, event: told.append(event), still, lambda _, likely: 0.0
        )
        for what in happens:
            if isinstance(what, str):
                watch.note_stop(VM1, what == "stop")
            else:
                watch.record_report(VM1, what)
        await watch.close()

    asyncio.run(body())
    return told


DESTROYED = DomainReport(DomainState.GONE, Cause.FAILURE, "destroyed by hand (xl destroy)")
CRASHED = DomainReport(DomainState.CRASHED, Cause.FAILURE, "its kernel has panicked")
BY_HAND = "vm1 does not run any more: destroyed by hand (xl destroy)"
BY_CLUSTER = "vm1 does not run any more: stopped by the cluster"


def test_the_cause_of_a_domains_end_is_named() -> None:
    stop = ("stop", CRASHED, DESTROYED, DESTROYED)
    said = [(event.text, event.fields["cause"]) for event in heard(*stop)]
    assert said == [
        ("vm1 has crashed: its kernel has panicked", "failure"),
        (BY_CLUSTER, "asked"),
        (BY_HAND, "failure"),  # the next life's
    ]
    assert [event.text for event in heard("stop", "a new instance", DESTROYED)] == [BY_HAND]


def test_sleep_and_shutdown_are_not_called_pauses() -> None:
    states = [libvirt_states.make_report(state, "unknown") for state in ("pmsuspended", "shutdown")]
    texts = [event.text for event in heard(*states)]
    assert texts == ["vm1 sleeps (suspend to RAM)", "vm1 shuts down"]
