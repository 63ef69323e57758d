# SPDX-License-Identifier: GPL-2.0-or-later
"""Parses the definition of a dynamic probe, in the syntax of the kernel's probe events.

::

    [p[:NAME]] [MODULE:]FUNCTION[+OFFSET] [VALUE ...] [if TEST [&& TEST ...]] [max N/s]
    r[MAXACTIVE][:NAME] [MODULE:]FUNCTION [VALUE ...] ...
    t[:NAME] TRACEPOINT [VALUE ...] ...

Values and types are those of Documentation/trace/kprobetrace.rst (Linux 6.12),
and ``t`` is that of fprobetrace.rst. vesper-dynamic-probes(7) lists what is supported.
``if`` and ``max`` are extensions. What is not supported is an error with its
position. What is accepted means the same as in the kernel.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from vesper_monitor.guest import abi
from vesper_monitor.guest.dynamic_probes.fetch import parse_value
from vesper_monitor.guest.dynamic_probes.point import (
    DynamicProbe,
    DynamicProbeError,
    Kind,
    Test,
    Value,
    ValueKind,
)
from vesper_monitor.guest.dynamic_probes.program import definition_id, text_size

__all__ = ["DEFAULT_MAX_PER_S", "MAX_DEFINITION_CHARS", "parse_definition"]

#: Records per second, where the definition does not limit them.
DEFAULT_MAX_PER_S = 100
#: Longest definition.
MAX_DEFINITION_CHARS = 1000
#: Tests of one dynamic probe (POINT_MAX_TESTS of probe_point.h).
MAX_TESTS = 8
#: Calls that a return probe can follow at the same time (POINT_MAX_ACTIVE of probe_point.h).
MAX_ACTIVE = 4096

_WORD = re.compile(r"\S+")
_HEAD = re.compile(r"([prtfe])(\d*)(?::(.*))?")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SYMBOL = re.compile(r"(?:[A-Za-z_][\w-]*:)?[A-Za-z_][\w.]*")
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]+|\d+")
_TOKEN = re.compile(
    r"""\s*(?:(?P<name>[A-Za-z_]\w*)|(?P<number>-?(?:0[xX][0-9a-fA-F]+|\d+))"""
    r"""|"(?P<text>[^"\\]*)"|(?P<operator>&&|\|\||==|!=|<=|>=|<|>|&|/)|(?P<other>\S))"""
)
_OPERATORS = ("==", "!=", "<", "<=", ">", ">=", "&")


@dataclass(frozen=True)
class _Word:
    text: str
    at: int


def parse_definition(text: str) -> DynamicProbe:
    """Parse a definition. :raises DynamicProbeError: it is invalid."""
    if len(text) > MAX_DEFINITION_CHARS:
        raise DynamicProbeError(
            f"more than {MAX_DEFINITION_CHARS} characters", MAX_DEFINITION_CHARS
        )
    if not (text.isascii() and text.isprintable()):
        bad = next(i for i, c in enumerate(text) if not (c.isascii() and c.isprintable()))
        raise DynamicProbeError(f"character {text[bad]!r}: only printable ASCII is read here", bad)
    words = [_Word(match[0], match.start()) for match in _WORD.finditer(text)]
    if not words:
        raise DynamicProbeError("a function or a tracepoint is missing", 0)
    kind, max_active, name, rest = _parse_head(words)
    if not rest:
        raise DynamicProbeError("a function or a tracepoint is missing", len(text))
    where, *rest = rest
    kind, symbol, offset = _parse_place(where, kind)
    values: list[Value] = []
    for word in rest:
        if word.text in ("if", "max"):
            break
        if len(values) == abi.POINT_ARGS:
            raise DynamicProbeError(f"more than {abi.POINT_ARGS} values", word.at)
        value = parse_value(word.text, word.at, len(values) + 1, kind, offset)
        if value.name in (other.name for other in values):
            raise DynamicProbeError(f"a second value called {value.name}", word.at)
        values.append(value)
    end = rest[len(values)].at if len(rest) > len(values) else len(text)
    tests, max_per_s = _Tail(text, end, values).parse_tail()
    if name is None:
        name = f"{kind.value}_{re.sub(r'[^0-9A-Za-z_]', '_', symbol)}"
        name += f"_{offset}" if offset else ""
    if len(name) >= abi.NAME_LEN:
        raise DynamicProbeError(f"the name {name} has more than {abi.NAME_LEN - 1} characters", 0)
    probe = DynamicProbe(
        name, kind, symbol, offset, max_active, tuple(values), tests, max_per_s, text.strip()
    )
    return replace(probe, id=definition_id(probe))


def _parse_head(words: list[_Word]) -> tuple[Kind, int, str | None, list[_Word]]:
    """Parse ``p``, ``r16:NAME``, ..: return kind, max_active, name, and the words after it."""
    first = words[0]
    if first.text.startswith("-:"):
        raise DynamicProbeError("a probe is removed by: vesper probe unload VM NAME", first.at)
    match = _HEAD.fullmatch(first.text)
    if match is None:
        return Kind.FUNCTION, 0, None, words
    letter, number, name = match.groups()
    if letter in "fe":
        raise DynamicProbeError(
            f"probes of kind '{letter}' are not supported: p, r and t are", first.at
        )
    if number and letter != "r":
        raise DynamicProbeError("only a return probe takes a number here", first.at + 1)
    if number and not 0 < int(number) <= MAX_ACTIVE:
        raise DynamicProbeError(
            f"a number of calls between 1 and {MAX_ACTIVE} is wanted", first.at + 1
        )
    if name is not None:
        at = first.at + match.start(3)
        if "/" in name:
            raise DynamicProbeError("groups are not supported: give the name alone", at)
        if not _NAME.fullmatch(name):
            raise DynamicProbeError(f"'{name}' is not a name: use letters, digits and _", at)
    return Kind(letter), int(number or 0), name, words[1:]


def _parse_place(word: _Word, kind: Kind) -> tuple[Kind, str, int]:
    """Parse a function or tracepoint and its offset; ``%return`` makes it a return probe."""
    text = word.text
    if kind is Kind.TRACEPOINT:
        if ":" in text:
            raise DynamicProbeError("a tracepoint is named without its group here", word.at)
        if not _NAME.fullmatch(text):
            raise DynamicProbeError(f"'{text}' is not the name of a tracepoint", word.at)
        return kind, text, 0
    if text[0].isdigit():
        raise DynamicProbeError("addresses differ at each boot: name a function", word.at)
    if text.endswith("%return"):
        kind, text = Kind.RETURN, text.removesuffix("%return")
    symbol, plus, offset = text.partition("+")
    if not _SYMBOL.fullmatch(symbol):
        raise DynamicProbeError(f"'{symbol}' is not the name of a function", word.at)
    if not plus:
        return kind, symbol, 0
    at = word.at + len(symbol) + 1
    if not _NUMBER.fullmatch(offset) or int(offset, 0 if offset[:2] in ("0x", "0X") else 10) >> 31:
        raise DynamicProbeError(f"'{offset}' is not an offset", at)
    if kind is Kind.RETURN:
        raise DynamicProbeError("a return probe is on a function as a whole: no offset", at)
    return kind, symbol, _parse_integer(offset)


def _parse_integer(text: str) -> int:
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text)
    return sign * int(digits, 16 if digits[:2] in ("0x", "0X") else 10)


class _Tail:
    """Parses ``if a == 5 && b != "x" max 10/s``."""

    def __init__(self, text: str, start: int, values: list[Value]) -> None:
        self._text = text
        self._at = start
        self._values = values
        self._size = text_size([value.kind is ValueKind.TEXT for value in values])

    def parse_tail(self) -> tuple[tuple[Test, ...], int]:
        tests: list[Test] = []
        max_per_s = DEFAULT_MAX_PER_S
        kind, word, at = self._next_token()
        if word == "if":
            while True:
                tests.append(self._parse_test())
                kind, word, at = self._next_token()
                if word == "||":
                    raise DynamicProbeError("only && joins tests here: add a second probe", at)
                if word != "&&":
                    break
                if len(tests) == MAX_TESTS:
                    raise DynamicProbeError(f"more than {MAX_TESTS} tests", at)
        if word == "max":
            max_per_s = self._parse_rate()
            kind, word, at = self._next_token()
        if kind:
            raise DynamicProbeError(f"'{word}' is not expected here", at)
        return tuple(tests), max_per_s

    def _next_token(self) -> tuple[str, str, int]:
        """Return kind, text and begin of the next token; ("", "", end) at the end."""
        match = _TOKEN.match(self._text, self._at)
        if match is None:
            return "", "", len(self._text)
        self._at = match.end()
        kind = match.lastgroup or ""
        return kind, match[kind], match.start(kind)

    def _parse_test(self) -> Test:
        kind, name, at = self._next_token()
        names = [value.name for value in self._values]
        if kind != "name" or name not in names:
            known = ", ".join(names) or "there are none"
            raise DynamicProbeError(
                f"the name of a value is wanted here ({known}), not '{name}'", at
            )
        index = names.index(name)
        kind, operator, at = self._next_token()
        if operator not in _OPERATORS:
            raise DynamicProbeError(
                f"one of {' '.join(_OPERATORS)} is wanted here, not '{operator}'", at
            )
        is_text = self._values[index].kind is ValueKind.TEXT
        if is_text and operator not in ("==", "!="):
            raise DynamicProbeError(f"{name} is a text, which == and != compare", at)
        kind, word, at = self._next_token()
        if is_text:
            if kind != "text":
                raise DynamicProbeError(f'{name} is a text: a "text" is wanted here', at)
            if len(word) >= self._size:
                raise DynamicProbeError(
                    f"more than {self._size - 1} characters, which {name} has", at
                )
            return Test(index, operator, word.encode())
        if kind != "number":
            raise DynamicProbeError(f"a number is wanted here, not '{word}'", at)
        signed = self._values[index].kind is ValueKind.SIGNED
        number = _parse_integer(word)
        low, high = (-(1 << 63), (1 << 63) - 1) if signed else (0, (1 << 64) - 1)
        if not low <= number <= high:
            raise DynamicProbeError(f"{name} cannot be {word}: it lies in {low} .. {high}", at)
        return Test(index, operator, number)

    def _parse_rate(self) -> int:
        kind, number, at = self._next_token()
        if kind != "number" or not 0 < _parse_integer(number) <= 1_000_000:
            raise DynamicProbeError("records in a second are wanted here, such as 10/s", at)
        for expected in ("/", "s"):
            _kind, word, at = self._next_token()
            if word != expected:
                raise DynamicProbeError("records in a second are wanted here, such as 10/s", at)
        return _parse_integer(number)
