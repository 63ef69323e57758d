# SPDX-License-Identifier: GPL-2.0-or-later
"""Conditions over the fields of an event, and how they read in words.

No event makes :meth:`~Condition.holds` raise: what is absent, or is of
another kind, equals nothing, is in nothing, and is neither less nor greater
than anything.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from vesper_monitor.faults.fields import DERIVED, NEGATED, Facts, Kind, Value

__all__ = ["ANY", "NONE", "And", "Compare", "Condition", "Field", "Flag", "Not", "OneOf",
           "Operand", "Or", "Within"]  # fmt: skip


class Condition(Protocol):
    """What a rule asks of an event."""

    def holds(self, facts: Facts) -> bool: ...

    def words(self) -> str: ...


@dataclass(frozen=True)
class Field:
    """A field's value, in place of one that is written down."""

    name: str


Operand = Field | Value


@dataclass(frozen=True)
class Flag:
    """A field that is true or false."""

    name: str

    def holds(self, facts: Facts) -> bool:
        return facts.get(self.name) is True

    def words(self) -> str:
        return DERIVED.get(self.name, f"it is marked {self.name}")


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

    def holds(self, facts: Facts) -> bool:
        left, right = _value(self.left, facts), _value(self.right, facts)
        alike = left is not None and Kind.of(left) is Kind.of(right)
        if self.operator in _ORDER:
            if not isinstance(left, (int, float)) or not isinstance(right, (int, float)):
                return False
            return alike and _ORDER[self.operator][0](left, right)
        return (alike and left == right) is (self.operator == "==")

    def words(self) -> str:
        if self.operator in _ORDER:
            verb = _ORDER[self.operator][1]
        else:
            verb = "is" if self.operator == "==" else "is not"
        return f"{_shown(self.left)} {verb} {_shown(self.right)}"


@dataclass(frozen=True)
class OneOf:
    """``in`` a list of values."""

    left: Operand
    values: tuple[Value, ...]

    def holds(self, facts: Facts) -> bool:
        left = _value(self.left, facts)
        return left is not None and any(
            Kind.of(left) is Kind.of(value) and left == value for value in self.values
        )

    def words(self) -> str:
        return f"{_shown(self.left)} is one of {_listed(self.values)}"


@dataclass(frozen=True)
class Within:
    """``in`` a text."""

    part: Operand
    whole: Operand

    def holds(self, facts: Facts) -> bool:
        part, whole = _value(self.part, facts), _value(self.whole, facts)
        return isinstance(part, str) and isinstance(whole, str) and part in whole

    def words(self) -> str:
        return f"{_shown(self.whole)} contains {_shown(self.part)}"


@dataclass(frozen=True)
class Not:
    term: Condition

    def holds(self, facts: Facts) -> bool:
        return not self.term.holds(facts)

    def words(self) -> str:
        if isinstance(self.term, Flag) and self.term.name in NEGATED:
            return NEGATED[self.term.name]
        if isinstance(self.term, OneOf):
            return f"{_shown(self.term.left)} is none of {_listed(self.term.values)}"
        return f"it is not so that {_grouped(self.term)}"


@dataclass(frozen=True)
class And:
    """``and``; without terms everything holds."""

    terms: tuple[Condition, ...]

    def holds(self, facts: Facts) -> bool:
        return all(term.holds(facts) for term in self.terms)

    def words(self) -> str:
        return " and ".join(map(_grouped, self.terms))


@dataclass(frozen=True)
class Or:
    """``or``; without terms nothing holds."""

    terms: tuple[Condition, ...]

    def holds(self, facts: Facts) -> bool:
        return any(term.holds(facts) for term in self.terms)

    def words(self) -> str:
        return " or ".join(map(_grouped, self.terms))


#: Every event; no event.
ANY, NONE = And(()), Or(())


def _grouped(term: Condition) -> str:
    return f"({term.words()})" if isinstance(term, (And, Or)) else term.words()


def _listed(values: tuple[Value, ...]) -> str:
    return ", ".join(map(_shown, values))


def _value(operand: Operand, facts: Facts) -> Value | None:
    return facts.get(operand.name) if isinstance(operand, Field) else operand


def _shown(operand: Operand) -> str:
    if isinstance(operand, Field):
        return operand.name
    if isinstance(operand, bool):
        return str(operand).lower()
    return f'"{operand}"' if isinstance(operand, str) else str(operand)
