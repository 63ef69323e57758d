# SPDX-License-Identifier: GPL-2.0-or-later
"""Why a guest is not active: while its kernel is silent, what the hypervisor knows comes first."""

from __future__ import annotations

import pytest

from vesper_monitor.guest.control.cchan import (
    CchanBrokenError,
    CchanLostError,
    GuestSilentError,
    WrongVersionError,
)
from vesper_monitor.guest.session_contact import GuestContact
from vesper_monitor.hypervisor.transport import (
    FrontendMissingError,
    FrontendSilentError,
    LinkLostError,
    TransportError,
)


def contact_that_left() -> GuestContact:
    contact = GuestContact("vm1", heard=False, activate_timeout_s=0.0, clock=lambda: 1.7e9)
    contact.begin_waiting()
    assert contact.note_answer() is None
    contact.note_leave()
    return contact


@pytest.mark.parametrize(
    "silence", [FrontendSilentError, LinkLostError, CchanLostError, GuestSilentError]
)
def test_a_guest_that_has_left_is_not_described_by_its_silence(silence: type[Exception]) -> None:
    contact = contact_that_left()
    contact.note_failure(silence("vm1: no answer"))
    assert (contact.describe_absence() or "").startswith("vm1 has said good-bye at ")


@pytest.mark.parametrize(
    "obstacle", [FrontendMissingError, TransportError, CchanBrokenError, WrongVersionError]
)
def test_any_other_obstacle_is_said(obstacle: type[Exception]) -> None:
    contact = contact_that_left()
    contact.note_failure(obstacle("vm1: an obstacle"))
    assert contact.describe_absence() == "vm1: an obstacle"
