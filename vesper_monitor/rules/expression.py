# SPDX-License-Identifier: GPL-2.0-or-later
"""A condition of the language of ``fault_on``, read from a Python expression.

:mod:`ast` parses it, and only the nodes of the grammar in language.py are accepted.
Nothing is ever executed.
"""

from __future__ import annotations

import ast
import difflib
import keyword
import re
import warnings
from collections.abc import Collection

from vesper_monitor.rules.conditions import (
    ANY,
    And,
    Compare,
    Condition,
    Field,
    Flag,
    Not,
    OneOf,
    Operand,
    Or,
    Within,
)
from vesper_monitor.rules.fields import FIELDS, Kind
from vesper_monitor.util.errors import VesperError

__all__ = ["MAX_DEPTH", "ExpressionError", "read_expression", "suggest_name"]

#: How deep a condition may nest.
MAX_DEPTH = 20

#: Fields that are known of a probe that is not built in.
_OWN = {"main": Kind.TRUTH, "service": Kind.TEXT, "cpu": Kind.NUMBER}
#: A keyword of Python's that is the name of a field, and what Python reads in its place: no
#: name of the language has such a letter.
_CLASS = re.compile(r"""("[^"]*"|'[^']*')|\bclass\b""")
_CLASS_FOR_PYTHON = "çlass"
#: The keywords that the language has.
_WORDS = ("and", "or", "not", "in")
_OPERATORS = {
    ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=",
}  # fmt: skip


class ExpressionError(VesperError, ValueError):
    """An expression is no condition.

    :param column: of the first wrong character, from 0.
    """

    def __init__(self, column: int, message: str) -> None:
        super().__init__(message)
        self.column = column
        self.message = message


def read_expression(source: str, probe: str) -> Condition:
    """Read a condition.

    :param source: one line that has only characters of the language.
    :param probe: the condition may name its fields; any, if it is not built in.
    :raises ExpressionError:
    """
    source = _CLASS.sub(lambda found: found[1] or _CLASS_FOR_PYTHON, source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's, about a text that is no program
            tree = ast.parse(source, "fault_on", "eval")
    except SyntaxError as error:
        # Python's count from 1; 0 is the end.
        place = min(error.offset - 1, len(source)) if error.offset else len(source)
        raise ExpressionError(place, _describe_syntax_error(error, source, place)) from None
    except (ValueError, MemoryError, RecursionError):
        raise ExpressionError(0, "this condition is too complicated") from None
    return _Reader(source, probe).read_condition(tree.body, 0)


def suggest_name(name: str, known: Collection[str]) -> str:
    """Return a hint to a known name like this one; empty: there is none."""
    close = difflib.get_close_matches(name, known, 1)
    return f" (did you mean {close[0]}?)" if close else ""


def _describe_syntax_error(error: SyntaxError, source: str, place: int) -> str:
    message = error.msg or ""
    if "never closed" in message or "unmatched" in message or "does not match" in message:
        return message
    word = re.match(r"\w*", source[place:])
    if word and keyword.iskeyword(word[0]) and word[0] not in _WORDS:
        return f"{word[0]} is a Python keyword; write a field of that name as {word[0]}_"
    if place >= len(source):
        return "the condition is not complete"
    if re.match(r"\d+\s+in\b", source[place:]) or re.search(r"\bin\s+\d\w*\s*$", source):
        return 'write a count as "3 in 60s" (s, m or h), after the condition and a comma'
    return "not understood; is an 'and', an 'or', a comma or a ';' missing?"


class _Reader:
    """Makes a condition from Python's tree."""

    def __init__(self, source: str, probe: str) -> None:
        self._probe = probe
        self._bytes = source.encode()
        self._fields = FIELDS.get(probe)

    def read_condition(self, node: ast.expr, depth: int) -> Condition:
        if depth > MAX_DEPTH:
            raise self._error_at(node, f"nested deeper than {MAX_DEPTH}")
        if isinstance(node, ast.BoolOp):
            terms = tuple(self.read_condition(value, depth + 1) for value in node.values)
            return And(terms) if isinstance(node.op, ast.And) else Or(terms)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return Not(self.read_condition(node.operand, depth + 1))
        if isinstance(node, ast.Compare):
            return self._read_comparison(node)
        if isinstance(node, ast.Name):
            if node.id == "any":
                return ANY
            if node.id in ("true", "false"):
                raise self._error_at(
                    node, "true and false are no conditions; write any, or the rule none"
                )
            operand = self._read_operand(node)
            assert isinstance(operand, Field)
            kind = self._kind_of_operand(operand)
            if kind not in (Kind.TRUTH, Kind.ANY):
                raise self._error_at(
                    node, f"{operand.name} is {kind.value}; compare it with a value"
                )
            return Flag(operand.name)
        raise self._error_at(node, "a condition is expected: a field, or a comparison")

    def _read_comparison(self, node: ast.Compare) -> Condition:
        if len(node.ops) > 1:
            raise self._error_at(node.comparators[1], "compare two values at a time; join with and")
        left, right = self._read_operand(node.left), node.comparators[0]
        if isinstance(node.ops[0], (ast.In, ast.NotIn)):
            found = self._read_containment(node.left, left, right)
            return found if isinstance(node.ops[0], ast.In) else Not(found)
        operator = _OPERATORS.get(type(node.ops[0]))
        if operator is None:
            raise self._error_at(node, "'is' is not a comparison; write ==")
        other = self._read_operand(right)
        self._need_field(node, left, other)
        kinds = self._kind_of_operand(left), self._kind_of_operand(other)
        self._need_alike(right, left, kinds[0], kinds[1])
        if operator not in ("==", "!="):
            for kind, side in zip(kinds, (node.left, right), strict=True):
                if kind not in (Kind.NUMBER, Kind.ANY):
                    raise self._error_at(side, f"{operator} compares numbers; this is {kind.value}")
        return Compare(left, operator, other)

    def _read_containment(self, node: ast.expr, left: Operand, right: ast.expr) -> Condition:
        kind = self._kind_of_operand(left)
        if isinstance(right, (ast.List, ast.Tuple)):
            if not isinstance(left, Field):
                raise self._error_at(node, "before 'in' and a list, a field is expected")
            if not right.elts:
                raise self._error_at(right, "the list is empty")
            values = []
            for item in right.elts:
                value = self._read_operand(item)
                if isinstance(value, Field):
                    raise self._unknown_name_error(item, value.name, "a list may have values only")
                self._need_alike(item, left, kind, Kind.kind_of(value))
                values.append(value)
            return OneOf(left, tuple(values))
        if isinstance(right, ast.Constant) and Kind.kind_of(right.value) is Kind.NUMBER:
            raise self._error_at(right, 'write a list: [1, 2]; a count has a unit: "3 in 60s"')
        whole = self._read_operand(right)
        self._need_field(node, left, whole)
        for found, side in ((kind, node), (self._kind_of_operand(whole), right)):
            if found not in (Kind.TEXT, Kind.ANY):
                raise self._error_at(
                    side, f"'in' looks for a text in a text, but this is {found.value}"
                )
        return Within(left, whole)

    def _read_operand(self, node: ast.expr) -> Operand:
        if isinstance(node, ast.Name):
            if node.id in ("true", "false"):
                return node.id == "true"
            plain = node.id.removesuffix("_")
            if node.id == _CLASS_FOR_PYTHON:
                name = "class"
            else:
                name = plain if keyword.iskeyword(plain) else node.id
            if name == "any" or (self._fields is not None and name not in self._fields):
                raise self._unknown_name_error(node, name)
            return Field(name)
        negative = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)
        literal = node.operand if isinstance(node, ast.UnaryOp) and negative else node
        if isinstance(literal, ast.Constant) and isinstance(literal.value, (str, int, float)):
            value = literal.value
            if not negative:
                return value
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                return -value
        raise self._error_at(node, "a field, a text, a number, true or false is expected here")

    def _kind_of_operand(self, operand: Operand) -> Kind:
        if not isinstance(operand, Field):
            return Kind.kind_of(operand)
        if self._fields is None:
            return _OWN.get(operand.name, Kind.ANY)
        return self._fields[operand.name]

    def _need_field(self, node: ast.expr, left: Operand, right: Operand) -> None:
        if not isinstance(left, Field) and not isinstance(right, Field):
            raise self._error_at(node, "this compares two values; one side must be a field")

    def _need_alike(self, node: ast.expr, left: Operand, one: Kind, other: Kind) -> None:
        if one is not other and Kind.ANY not in (one, other):
            name = left.name if isinstance(left, Field) else "the left side"
            raise self._error_at(node, f"{name} is {one.value}, but this is {other.value}")

    def _unknown_name_error(self, node: ast.expr, name: str, why: str = "") -> ExpressionError:
        known = sorted(self._fields or ())
        close = suggest_name(name, known)
        quotes = f'write a text in quotes: "{name}"'
        if why:
            return self._error_at(node, f"{why}; {quotes}")
        hint = close or f"; {quotes}; it has: {', '.join(known)}"
        return self._error_at(node, f"{self._probe} has no field {name}{hint}")

    def _error_at(self, node: ast.expr, message: str) -> ExpressionError:
        column = len(self._bytes[: node.col_offset].decode(errors="ignore"))
        return ExpressionError(column, message)
