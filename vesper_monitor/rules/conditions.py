# SPDX-License-Identifier: GPL-2.0-or-later
"""Conditions over the fields of an event, and how they read in words.

No event makes :meth:`~Condition.holds_for` raise.  A field that is absent, or has a value
of another kind, equals nothing, is in no list or text, and is neither less nor greater
than anything.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from vesper_monitor.rules.fields import DERIVED, NEGATED, TRUTHS, Facts, Kind, Value

__all__ = ["ANY", "NONE", "And", "Compare", "Condition", "Field", "Flag", "Not", "OneOf",
           "Operand", "Or", "Within"]  # fmt: skip


class Condition(Protocol):
    """A condition that a rule has for an event."""

    def holds_for(self, facts: Facts) -> bool:
        """Tell whether an event meets it."""

    def describe_condition(self) -> str:
        """Return it in words, to follow *if*."""


@dataclass(frozen=True)
class Field:
    """The value of an event's field, as an operand."""

    name: str


Operand = Field | Value


@dataclass(frozen=True)
class Flag:
    """A field that is true or false, as a condition."""

    name: str

    def holds_for(self, facts: Facts) -> bool:
        return facts.get_value(self.name) is True

    def describe_condition(self) -> str:
        return DERIVED[self.name] if self.name in TRUTHS else f"{self.name} is true"


_ORDER: Mapping[str, tuple[Callable[[float, float], bool], str]] = {
    "<": (operator.lt, "is less than"),
    "<=": (operator.le, "is at most"),
    ">": (operator.gt, "is more than"),
    ">=": (operator.ge, "is at least"),
}


@dataclass(frozen=True)
class Compare:
    """``==``, ``!=``, ``<``, ``<=``, ``>`` or ``>=``."""

    left: Operand
    operator: str
    right: Operand

    def holds_for(self, facts: Facts) -> bool:
        left, right = _operand_value(self.left, facts), _operand_value(self.right, facts)
        alike = left is not None and Kind.kind_of(left) is Kind.kind_of(right)
        if self.operator in _ORDER:
            if not isinstance(left, (int, float)) or not isinstance(right, (int, float)):
                return False
            return alike and _ORDER[self.operator][0](left, right)
        return (alike and left == right) is (self.operator == "==")

    def describe_condition(self) -> str:
        if self.operator in _ORDER:
            verb = _ORDER[self.operator][1]
        else:
            verb = "is" if self.operator == "==" else "is not"
        return f"{_show_operand(self.left)} {verb} {_show_operand(self.right)}"


@dataclass(frozen=True)
class OneOf:
    """``in`` a list of values."""

    left: Operand
    values: tuple[Value, ...]

    def holds_for(self, facts: Facts) -> bool:
        left = _operand_value(self.left, facts)
        return left is not None and any(
            Kind.kind_of(left) is Kind.kind_of(value) and left == value for value in self.values
        )

    def describe_condition(self) -> str:
        return f"{_show_operand(self.left)} is one of {_list_values(self.values)}"


@dataclass(frozen=True)
class Within:
    """``in`` a text."""

    part: Operand
    whole: Operand

    def holds_for(self, facts: Facts) -> bool:
        part, whole = _operand_value(self.part, facts), _operand_value(self.whole, facts)
        return isinstance(part, str) and isinstance(whole, str) and part in whole

    def describe_condition(self) -> str:
        return f"{_show_operand(self.whole)} contains {_show_operand(self.part)}"


@dataclass(frozen=True)
class Not:
    """``not``."""

    term: Condition

    def holds_for(self, facts: Facts) -> bool:
        return not self.term.holds_for(facts)

    def describe_condition(self) -> str:
        if isinstance(self.term, Flag) and self.term.name in NEGATED:
            return NEGATED[self.term.name]
        if isinstance(self.term, OneOf):
            return f"{_show_operand(self.term.left)} is none of {_list_values(self.term.values)}"
        if isinstance(self.term, Flag) and self.term.name not in TRUTHS:
            return f"{self.term.name} is not true"
        return f"not ({self.term.describe_condition()})"


@dataclass(frozen=True)
class And:
    """``and``; without terms it holds for each event."""

    terms: tuple[Condition, ...]

    def holds_for(self, facts: Facts) -> bool:
        return all(term.holds_for(facts) for term in self.terms)

    def describe_condition(self) -> str:
        return " and ".join(map(_in_brackets, self.terms))


@dataclass(frozen=True)
class Or:
    """``or``; without terms it holds for no event."""

    terms: tuple[Condition, ...]

    def holds_for(self, facts: Facts) -> bool:
        return any(term.holds_for(facts) for term in self.terms)

    def describe_condition(self) -> str:
        return " or ".join(map(_in_brackets, self.terms))


#: Every event; no event.
ANY = And(())
NONE = Or(())


def _in_brackets(term: Condition) -> str:
    return (
        f"({term.describe_condition()})"
        if isinstance(term, (And, Or))
        else term.describe_condition()
    )


def _list_values(values: tuple[Value, ...]) -> str:
    return ", ".join(map(_show_operand, values))


def _operand_value(operand: Operand, facts: Facts) -> Value | None:
    return facts.get_value(operand.name) if isinstance(operand, Field) else operand


def _show_operand(operand: Operand) -> str:
    if isinstance(operand, Field):
        return operand.name
    if isinstance(operand, bool):
        return str(operand).lower()
    return f'"{operand}"' if isinstance(operand, str) else str(operand)
