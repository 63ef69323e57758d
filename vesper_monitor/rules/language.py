# SPDX-License-Identifier: GPL-2.0-or-later
"""The language of ``fault_on`` (vesper-rules(7)): from text to rules.

::

    rules     = rule { ";" rule } [ ";" ]
    rule      = PROBE ":" ( "none" | "default" | condition [ "," count ] | count )
    count     = NUMBER "in" NUMBER ( "s" | "m" | "h" )
    condition = "any" | FIELD | "not" condition | condition ( "and" | "or" ) condition
              | "(" condition ")" | value compare value | value [ "not" ] "in" list
    compare   = "==" | "!=" | "<" | "<=" | ">" | ">="
    list      = "[" literal { "," literal } "]" | value
    value     = FIELD | literal
    literal   = TEXT | [ "-" ] NUMBER | "true" | "false"

A condition is a Python expression: :mod:`ast` parses it, and only the nodes of the
grammar are accepted.  Nothing is ever executed.  Blanks, ends of lines and comments
(``#`` to the end of the line) mean nothing.

Length, number of rules and depth are bounded.  Each error is a :class:`RuleError` with
its place.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from vesper_monitor.rules.conditions import ANY, NONE, Condition
from vesper_monitor.rules.expression import (
    MAX_DEPTH,
    ExpressionError,
    read_expression,
    suggest_name,
)
from vesper_monitor.rules.fields import FIELDS
from vesper_monitor.util.errors import VesperError

__all__ = ["Count", "Parsed", "Rule", "RuleError", "parse_rules"]

#: Characters of a rule set.
MAX_LENGTH = 8192
#: Rules in it.
MAX_RULES = 100
#: Events that a count may ask for.
MAX_COUNT = 1000
#: s within which they may be.
MAX_WINDOW_S = 86_400

_UNITS = {"s": 1, "m": 60, "h": 3600}
_PIECE = re.compile(
    r"""(?P<gap>[\ \t\r\n]+|\#[^\n]*)
    |(?P<text>"[^"\\\n]*"|'[^'\\\n]*')
    |(?P<end>;)|(?P<colon>:)|(?P<open>[(\[])|(?P<close>[)\]])
    |(?P<other>[A-Za-z0-9_.]+|,|-|[<>=!]=|<|>)""",
    re.VERBOSE,
)
_PROBE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_COUNT = re.compile(r"(?:^|,)\s*([0-9]{1,9})\s+in\s+([0-9]{1,9})\s*([smh])\s*$")


class RuleError(VesperError, ValueError):
    """A text is no rule set, or there is a doubt about it.

    :param text: the whole text.
    :param place: index of the first wrong character.
    """

    def __init__(self, text: str, place: int, message: str) -> None:
        before = text[:place]
        self.line = before.count("\n") + 1
        self.column = place - (before.rfind("\n") + 1) + 1
        self.message = message
        self._source = text.split("\n")[self.line - 1]
        super().__init__(f"line {self.line}, column {self.column}: {message}")

    def show_place(self) -> str:
        """Return a piece of the line, and below it a caret at the place."""
        start = max(0, self.column - 41)
        piece = self._source[start : start + 78]
        shown = "".join(c if c.isprintable() else " " for c in piece)
        return f"  {shown}\n  {' ' * (self.column - 1 - start)}^"


@dataclass(frozen=True)
class Count:
    """A number of events within a number of seconds."""

    number: int
    seconds: int

    def describe_count(self) -> str:
        """Return the count in words."""
        return f"{self.number} events within {self.seconds} s"


@dataclass(frozen=True)
class Rule:
    """A rule: which events of a probe are faults.

    :ivar text: as it was written, on one line.
    :ivar default: whether it stands for the probe's default rules.
    """

    probe: str
    condition: Condition
    count: Count | None
    text: str
    default: bool = False

    def describe_rule(self) -> str:
        """Return the rule in words."""
        if self.condition == NONE:
            return "no event is a fault"
        which = "" if self.condition == ANY else self.condition.describe_condition()
        if self.count is not None:
            count = self.count.describe_count()
            return f"a fault if {count} match: {which}" if which else f"{count} are a fault"
        return f"a fault if {which}" if which else "each event is a fault"


@dataclass(frozen=True)
class Parsed:
    """A rule set.

    :ivar doubts: perhaps mistakes, but no errors: rules of probes that are not built in.
    """

    rules: tuple[Rule, ...]
    doubts: tuple[RuleError, ...]


def parse_rules(text: str) -> Parsed:
    """Read a rule set.

    :raises RuleError: the text is none. No text raises anything else.
    """
    if len(text) > MAX_LENGTH:
        raise RuleError(text, MAX_LENGTH, f"longer than {MAX_LENGTH} characters")
    rules: list[Rule] = []
    doubts: list[RuleError] = []
    for part in _split_rules(text):
        if len(rules) == MAX_RULES:
            raise RuleError(text, part.start, f"more than {MAX_RULES} rules")
        if part.probe not in FIELDS:
            doubt = (
                f"{part.probe} is not a built-in probe{suggest_name(part.probe, FIELDS)}; it is "
                f"taken for one of your own (built in: {', '.join(FIELDS)})"
            )
            doubts.append(RuleError(text, part.start, doubt))
        rules.append(part.read_rule())
    return Parsed(tuple(rules), tuple(doubts))


def _split_rules(text: str) -> list[_Part]:
    """Split a text into its rules, without gaps and comments."""
    parts: list[_Part] = []
    plain = list(text)
    start, colon, depth, at = 0, -1, 0, 0

    def finish(end: int) -> None:
        whole = "".join(plain[start:end])
        if not whole.strip():
            return
        first = start + len(whole) - len(whole.lstrip())
        if colon < 0:
            raise RuleError(text, first, "the colon is missing; a rule is PROBE: CONDITION")
        name = "".join(plain[first:colon]).rstrip()
        if not _PROBE.fullmatch(name):
            raise RuleError(text, first, "before the colon, the name of one probe is expected")
        parts.append(_Part(text, name, first, colon + 1, "".join(plain[colon + 1 : end])))

    while at < len(text):
        piece = _PIECE.match(text, at)
        if piece is None:
            raise RuleError(text, at, _describe_stray(text[at]))
        if piece["gap"]:
            plain[at : piece.end()] = " " * len(piece[0])
        elif piece["text"] and not piece[0].isprintable():
            raise RuleError(text, at, "the text has a character that no field's value has")
        elif piece["end"]:
            finish(at)
            start, colon, depth = at + 1, -1, 0
        elif piece["colon"]:
            if colon >= 0:
                raise RuleError(text, at, "a second colon; is a ';' missing before this rule?")
            colon = at
        elif piece["open"] or piece["close"]:
            depth += 1 if piece["open"] else -1
            if depth > MAX_DEPTH:
                raise RuleError(text, at, f"nested deeper than {MAX_DEPTH}")
        at = piece.end()
    finish(len(text))
    return parts


def _describe_stray(character: str) -> str:
    if character in "\"'":
        return "the text does not end on this line (it may have no \\ in it)"
    hint = {"=": "; to compare write ==", "!": "; write not or !=", "&": "; write and",
            "|": "; write or"}.get(character, "")  # fmt: skip
    return f"{character!r} is not expected here{hint}"


@dataclass(frozen=True)
class _Part:
    """The part of a text that is one rule.

    :ivar start: where the rule begins.
    :ivar begin: where its body does.
    """

    text: str
    probe: str
    start: int
    begin: int
    body: str

    def read_rule(self) -> Rule:
        """:raises RuleError:"""
        source = f"{self.probe}: {' '.join(self.body.split())}"
        word = self.body.strip()
        if word in ("none", "default"):
            if word == "default" and self.probe not in FIELDS:
                indent = len(self.body) - len(self.body.lstrip())
                raise self._error_at(indent, f"{self.probe} is not built in and has no default")
            return Rule(self.probe, NONE, None, source, default=word == "default")
        count = None
        body = self.body
        if found := _COUNT.search(body):
            count = self._read_count(found)
            body = body[: found.start()]
            if not body.strip() and found[0].startswith(","):
                raise self._error_at(found.start(), "the condition before the comma is missing")
        elif not word:
            raise self._error_at(len(body), "the rule says nothing; write a condition, any or none")
        condition = self._read_condition(body) if body.strip() else ANY
        return Rule(self.probe, condition, count, source)

    def _read_count(self, found: re.Match[str]) -> Count:
        number, seconds = int(found[1]), int(found[2]) * _UNITS[found[3]]
        if not 2 <= number <= MAX_COUNT:
            raise self._error_at(found.start(1), f"a count must be from 2 to {MAX_COUNT}")
        if not 1 <= seconds <= MAX_WINDOW_S:
            raise self._error_at(
                found.start(2), f"the time of a count must be from 1s to {MAX_WINDOW_S // 3600}h"
            )
        return Count(number, seconds)

    def _read_condition(self, body: str) -> Condition:
        indent = len(body) - len(body.lstrip())
        try:
            return read_expression(body.strip(), self.probe)
        except ExpressionError as error:
            raise self._error_at(indent + error.column, error.message) from None

    def _error_at(self, place: int, message: str) -> RuleError:
        """:param place: in the body."""
        return RuleError(self.text, self.begin + place, message)
