# SPDX-License-Identifier: GPL-2.0-or-later
"""A pause: who is likely to have asked for it has more time, or not."""

from __future__ import annotations

import asyncio

import pytest

from vesper_monitor.daemon.hearsay import Hearsay
from vesper_monitor.guest.decode import Event
from vesper_monitor.transport import Cause, Domain, DomainReport, DomainState

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
        hearsay = Hearsay(
            lambda _, event: told.append(event),
            still,
            lambda _, likely: own or (0.0 if likely else 0.2),
        )
        hearsay.reported(VM1, report)
        await asyncio.sleep(0.6)
        await hearsay.close()

    asyncio.run(body())
    assert [event.fields["failure"] for event in told] == [False, *[True] * failures]
