# SPDX-License-Identifier: GPL-2.0-or-later
"""Which event is a fault of a resource.

A rule set has the rules of the parameter ``fault_on``.  A probe that ``fault_on`` does
not name has its rules in :data:`DEFAULTS`.  The language is in language.py, the
sentences are in reasons.py.  No event makes a rule raise.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from functools import cache

from vesper_monitor.guest.event import Event
from vesper_monitor.rules.fields import Facts, probe_of
from vesper_monitor.rules.language import Rule, RuleError, parse_rules
from vesper_monitor.rules.reasons import Scope, Verdict, make_verdict

__all__ = ["DEFAULTS", "RuleError", "RuleSet", "Scope", "Verdict", "default_rules",
           "judge_by_defaults"]  # fmt: skip

#: What a careful administrator would choose.  Why: vesper_monitor/knowledge/probes.py.
DEFAULTS = """
send_signal: fatal and main and believed and not ordered and not elder;
send_signal: fatal and main and believed and not ordered and age_ms < 5000, 3 in 60s;
out_of_memory: constraint not in ["cgroup", "cpuset", "memory_policy"]  # else a limit of its own
    or main and believed and not elder;
process_exit: main and believed and not ordered
    and age_ms >= 5000                 # a younger one may be httpd -t
    and (sig != 0 or status != 0);     # with 0 ends what has forked, or was asked to
hung_task: main and believed;
block_error: none;
fs_error: error != "ESHUTDOWN";      # a shutdown that was asked for
net_link: none;
memory_failure: result in ["ignored", "failed"];  # else a signal tells whom it hit
lockup: none;
die: none;                             # last_words is the fault
probe_point: none;
# After an oops the kernel has killed a task in the middle of its own code,
# with whatever locks it held: not to be relied on, even where it goes on.
last_words: kind in ["panic", "oops"];
hang: any;
domain: failure;
"""


@cache
def default_rules() -> Mapping[str, tuple[Rule, ...]]:
    """Return the rules of :data:`DEFAULTS`, by probe."""
    return _by_probe(parse_rules(DEFAULTS).rules)


def _by_probe(rules: Collection[Rule]) -> dict[str, tuple[Rule, ...]]:
    found: dict[str, tuple[Rule, ...]] = {}
    for rule in rules:
        found[rule.probe] = (*found.get(rule.probe, ()), rule)
    return found


class _Window:
    """The times of the last events that a counting rule matched, at most its number."""

    def __init__(self, number: int, seconds: int) -> None:
        self._ns = seconds * 1_000_000_000
        self._times: deque[int] = deque(maxlen=number)

    def add_event(self, event: Event) -> bool:
        """Count an event. :returns: whether there are enough; then the count begins anew."""
        # The guest's own clock: what vesperd finds late has not happened late.
        self._times.append(event.guest_ns or int(event.received * 1e9))
        full = len(self._times) == self._times.maxlen
        # CPUs are read one after the other: not in the order of time.
        if not full or max(self._times) - min(self._times) > self._ns:
            return False
        self._times.clear()
        return True

    def clear_count(self) -> None:
        self._times.clear()


class RuleSet:
    """The rules of one activation, and their counts.

    :param text: ``fault_on``.
    :raises RuleError:
    """

    def __init__(self, text: str = "") -> None:
        parsed = parse_rules(text)
        self.text = text
        self.doubts = parsed.doubts
        #: by probe
        self.rules: dict[str, tuple[Rule, ...]] = dict(default_rules())
        for probe, rules in _by_probe(parsed.rules).items():
            expanded = [
                one
                for rule in rules
                for one in (default_rules().get(probe, ()) if rule.default else (rule,))
            ]
            # A rule that is written twice must not count twice.
            self.rules[probe] = tuple(dict.fromkeys(expanded))
        self._windows = {
            rule: _Window(rule.count.number, rule.count.seconds)
            for rules in self.rules.values()
            for rule in rules
            if rule.count is not None
        }

    def match_event(self, event: Event, services: Collection[str]) -> Rule | None:
        """Count an event, and return the first rule that calls it a fault; None: none does."""
        name = probe_of(event)
        found = None
        for rule in self.rules.get(name, ()) if name is not None else ():
            if not rule.condition.holds_for(Facts(event, services)):
                continue
            window = self._windows.get(rule)
            if (window is None or window.add_event(event)) and found is None:
                found = rule
        return found

    def judge_event(self, event: Event, services: Collection[str]) -> Verdict | None:
        """Like :meth:`match_event`, but return the verdict; None: it is no fault."""
        rule = self.match_event(event, services)
        return self.describe_match(rule, event, services) if rule is not None else None

    @staticmethod
    def describe_match(rule: Rule, event: Event, services: Collection[str]) -> Verdict:
        """Return the verdict on an event that a rule has matched."""
        count, lead = rule.count, ""
        if count is not None:
            lead = f"{count.number} within {count.seconds} s, the last: "
        return make_verdict(rule.probe, event, services, lead)

    @property
    def horizon(self) -> int:
        """The longest time of a count, in s; 0: no rule counts."""
        return max((rule.count.seconds for rule in self._windows if rule.count), default=0)

    def forget_counts(self) -> None:
        """Count from now on."""
        for window in self._windows.values():
            window.clear_count()


def judge_by_defaults(event: Event, services: Collection[str]) -> Verdict | None:
    """Judge one event for itself by the default rules: those that count find nothing."""
    return RuleSet().judge_event(event, services)
