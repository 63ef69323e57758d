# SPDX-License-Identifier: GPL-2.0-or-later
"""Probes and fault rules that fit a symptom, or the events on record.

A symptom is proposed for one of three reasons, and names it: its words are in the user's
text, events on record show it, or it concerns every VM.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from vesper_monitor.guest.event import Event
from vesper_monitor.knowledge import Symptom, matched_words
from vesper_monitor.knowledge.probes import PROBES
from vesper_monitor.rules.dry_run import Hit, try_rules
from vesper_monitor.rules.fields import FIELDS
from vesper_monitor.rules.language import parse_rules

__all__ = ["Advice", "Proposal", "combine_advice", "propose_advice"]


@dataclass(frozen=True)
class Advice:
    """A symptom that is proposed, and why."""

    symptom: Symptom
    #: its words in the user's text
    words: tuple[str, ...]
    #: events on record that show it
    seen: tuple[Hit, ...]

    @property
    def reason(self) -> str:
        """Why it is proposed."""
        reasons = []
        if self.words:
            reasons.append("you said: " + ", ".join(self.words))
        if self.seen:
            last = self.seen[-1].event
            times = f"{len(self.seen)} times" if len(self.seen) > 1 else "once"
            reasons.append(f"it is on record {times}, last as event {last.id}: {last.text}")
        return "; ".join(reasons) or "it concerns every VM"

    @property
    def cost(self) -> str:
        """The cost of its probes."""
        known = [f"{name}: {PROBES[name].cost}" for name in self.symptom.probes if name in PROBES]
        return self.symptom.cost or " ".join(known)

    @property
    def kernels(self) -> str:
        """The places of its probes in the kernel, and since which version."""
        known = [
            f"{name}: {'; '.join(PROBES[name].hooks)}"
            for name in self.symptom.probes
            if name in PROBES
        ]
        return self.symptom.kernels or ". ".join(known)


@dataclass(frozen=True)
class Proposal:
    """The parameters to set."""

    probes: tuple[str, ...]
    services: tuple[str, ...]
    fault_on: str


def propose_advice(
    symptoms: Iterable[Symptom],
    events: Sequence[Event],
    said: str,
    services: Collection[str],
) -> list[Advice]:
    """Return the symptoms that fit: first those in the user's text, then those on record.

    :param said: the user's text; empty: none.
    :param services: of the resource; without any, symptoms that need one are left out,
        unless the user's text has them.
    """
    found = []
    for symptom in symptoms:
        words = tuple(matched_words(symptom, said))
        hits = (
            tuple(try_rules(_only_these_rules(symptom.seen), events, lambda _: services))
            if symptom.seen
            else ()
        )
        wanted = bool(words or hits) or (symptom.always and not said)
        if wanted and (services or words or not symptom.service):
            found.append(Advice(symptom, words, hits))
    replaced = {name for advice in found for name in advice.symptom.instead}
    found = [advice for advice in found if advice.symptom.name not in replaced]
    return sorted(found, key=lambda advice: (-len(advice.words), not advice.seen))


def combine_advice(
    advices: Iterable[Advice],
    probes: Iterable[str] = (),
    services: Iterable[str] = (),
    fault_on: str = "",
) -> Proposal:
    """Return the parameters to set for all advice together.

    :param probes: that are set already, as are ``services`` and ``fault_on``.
    """
    wanted, advices = dict.fromkeys(probes), list(advices)
    rules = {rule.text: rule.probe for rule in parse_rules(fault_on).rules}
    before = set(rules.values())
    for advice in advices:
        wanted |= dict.fromkeys(advice.symptom.probes)
        rules |= {rule.text: rule.probe for rule in parse_rules(advice.symptom.rules).rules}
    # One symptom's rules must not replace default rules that another symptom needs.
    for advice in advices:
        if not advice.symptom.rules:
            named = {name for name in advice.symptom.probes if name in rules.values()} - before
            rules |= {f"{name}: default": name for name in sorted(named)}
    return Proposal(tuple(wanted), tuple(services), "; ".join(rules))


def _only_these_rules(rules: str) -> str:
    """Return these rules, and for each other probe the rule ``none``."""
    named = {rule.probe for rule in parse_rules(rules).rules}
    return "; ".join([rules, *(f"{name}: none" for name in FIELDS if name not in named)])
