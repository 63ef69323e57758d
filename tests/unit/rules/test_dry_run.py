# SPDX-License-Identifier: GPL-2.0-or-later
"""Events of vesperd's answers, for a dry run of rules."""

from __future__ import annotations

import pytest

from vesper_monitor.guest.event import Event
from vesper_monitor.rules.dry_run import event_of

EVENT = Event(
    vm="vm1", domid=1, probe="lockup", event="lockup", cpu=0, seq=1, guest_ns=2, received=3.0,
    fields={}, text="a lockup", id=4,
)  # fmt: skip


def test_an_answer_is_the_event_it_was_made_of() -> None:
    # Keys of a newer vesperd are left out, also one that an event has in this process alone.
    assert event_of({**EVENT.to_json(), "crash_log": "?", "is_reread": True, "new": 1}) == EVENT


def test_an_answer_that_lacks_a_key_is_no_event() -> None:
    with pytest.raises(TypeError):
        event_of({"vm": "vm1"})
