# SPDX-License-Identifier: GPL-2.0-or-later
"""A rule set, tried on events that were recorded."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from vesper_monitor.faults.language import Rule
from vesper_monitor.faults.rules import RuleSet
from vesper_monitor.faults.sentences import Verdict
from vesper_monitor.guest.decode import Event

__all__ = ["Hit", "event_of", "trial"]

_KEYS = {field.name for field in fields(Event)} - {"words"}


@dataclass(frozen=True)
class Hit:
    """An event that would have been a fault."""

    event: Event
    rule: Rule
    verdict: Verdict


def event_of(answer: Mapping[str, Any]) -> Event:
    """As vesperd sends it (docs/api.md).

    :raises TypeError: it is not complete.
    """
    return Event(**{key: value for key, value in answer.items() if key in _KEYS})


def trial(
    text: str, events: Iterable[Event], services: Callable[[str], Collection[str]]
) -> list[Hit]:
    """Which events the rules call faults, each for itself.

    A resource holds one fault at a time: less than these would be reported.

    :param services: of a VM.
    :raises RuleError:
    """
    # Each life of a VM is judged, and counted, on its own.
    sets: dict[tuple[str, int], RuleSet] = {}
    hits = []
    for event in events:
        rules = sets.setdefault((event.vm, event.domid), RuleSet(text))
        named = services(event.vm)
        rule = rules.match(event, named)
        if rule is not None:
            hits.append(Hit(event, rule, rules.say(rule, event, named)))
    return hits
