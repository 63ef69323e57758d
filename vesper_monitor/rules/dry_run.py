# SPDX-License-Identifier: GPL-2.0-or-later
"""A rule set, tried on events that were recorded."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from vesper_monitor.guest.event import Event
from vesper_monitor.rules.fault_class import FaultClass, classify_event
from vesper_monitor.rules.language import Rule
from vesper_monitor.rules.reasons import Verdict
from vesper_monitor.rules.rule_set import RuleSet

__all__ = ["Comparison", "Hit", "compare_with_faults", "event_of", "try_rules"]

#: Keys of an event that vesperd sends.
_KEYS = {field.name for field in fields(Event)} - {"crash_log", "is_reread"}


@dataclass(frozen=True)
class Hit:
    """An event that would have been a fault."""

    event: Event
    rule: Rule
    verdict: Verdict

    @property
    def fault_class(self) -> FaultClass:
        """What would have failed."""
        return classify_event(self.event.event, self.event.probe, self.event.fields)


@dataclass(frozen=True)
class Comparison:
    """The faults of a dry run, beside those found by the rules that were in force.

    :ivar was: event's number → the faults that it was, of one resource or several.
    :ivar dropped: faults that the rules do not find, as vesperd sends them.
    """

    was: Mapping[int, tuple[int, ...]]
    dropped: tuple[Mapping[str, Any], ...]


def compare_with_faults(
    hits: Iterable[Hit], events: Iterable[Event], faults: Iterable[Mapping[str, Any]]
) -> Comparison:
    """Compare the faults that a dry run has found with those on record.

    :param events: that were tried; faults of other events do not count.
    :param faults: as vesperd sends them (docs/api.md).
    """
    tried = {event.id for event in events}
    found = {hit.event.id for hit in hits}
    was: dict[int, tuple[int, ...]] = {}
    dropped = []
    for fault in faults:
        number = fault["event"].get("id")
        if number is None or number not in tried:
            continue
        was[number] = (*was.get(number, ()), fault["id"])
        if number not in found:
            dropped.append(fault)
    return Comparison(was, tuple(dropped))


def event_of(answer: Mapping[str, Any]) -> Event:
    """Return the event of an answer of vesperd (docs/api.md).

    :raises TypeError: it is not complete.
    """
    return Event(**{key: value for key, value in answer.items() if key in _KEYS})


def try_rules(
    text: str, events: Iterable[Event], services: Callable[[str], Collection[str]]
) -> list[Hit]:
    """Return the events that the rules call faults, each judged for itself.

    A resource holds one fault at a time, so fewer than these would be reported.

    :param services: of a VM.
    :raises RuleError:
    """
    # Each life of a VM is judged, and counted, on its own.
    sets: dict[tuple[str, int], RuleSet] = {}
    hits = []
    for event in events:
        rules = sets.setdefault((event.vm, event.domid), RuleSet(text))
        named = services(event.vm)
        rule = rules.match_event(event, named)
        if rule is not None:
            hits.append(Hit(event, rule, rules.describe_match(rule, event, named)))
    return hits
