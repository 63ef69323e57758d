# SPDX-License-Identifier: GPL-2.0-or-later
"""xl.cfg(5), read as Xen's own library does (libxlutil, Xen 4.17).

A file is a sequence of ``KEY = VALUE`` and ``KEY += VALUE``, which newlines and
``;`` separate.  A value is a string in single or double quotes, a number, or a
list in brackets, which may go over several lines.  ``#`` begins a comment.
libxlutil keeps a number as the text that it is.  So does this module.

What libxlutil refuses is refused here.  Of its oddities these are kept: keys
have no capitals; a carriage return outside of quotes is an error; a comment
needs a newline at its end; a single character at the end of the file that is
no token is overlooked; an octal escape stands for nothing, and a hexadecimal
one is always an error.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    #: Text of a string or a number, or a list.
    Value = bytes | list["Value"]

__all__ = ["read_name", "read_number", "read_values"]

_TOKEN = re.compile(
    rb"""(?P<blank>[ \t]+)
    |(?P<key>[a-z][._0-9a-z]*)
    |(?P<number>[0-9][0-9a-fx]*)
    |(?P<string>'(?:[^'\\\n]|\\[^\n])*'|"(?:[^"\\\n]|\\[^\n])*")
    |(?P<newline>(?:\#[^\n]*)?\n)
    |(?P<mark>\+=|[][,;=])""",
    re.VERBOSE,
)
#: What strtol(3) takes for a number that ends with the text, base 0.
_NUMBER = re.compile(rb"[ \t\n\v\f\r]*([+-]?)(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)")
#: What libxlutil skips of the three bytes behind the first digit of an octal escape.
_OCTAL_REST = re.compile(rb"[ \t\v\f\r]*[+-]?[0-9]+")
_ESCAPES = dict(zip(b"\"'\\abfnrtv", b"\"'\\\a\b\f\n\r\t\v", strict=True))

LONG_MIN = -(1 << 63)
LONG_MAX = (1 << 63) - 1


def read_name(data: bytes) -> str:
    """Return the domain's name.

    Blanks at its ends are left out, as ``xl list`` does not show them.

    :param data: the whole file.
    :raises ValueError: xl would not take the file, or finds no name in it, or
        ``xl list`` could not show that name in one line.
    """
    # xl puts the settings of its command line behind the file, on lines of their own.
    value = read_values(data + b"\n").get("name")
    if not isinstance(value, bytes):
        raise ValueError("it has no name")
    try:
        name = value.decode().strip()
    except UnicodeDecodeError:
        raise ValueError("the name in it is not UTF-8") from None
    if name.splitlines() != [name]:
        raise ValueError("the name in it is empty, or has several lines")
    return name


def read_number(data: bytes, key: str) -> int | None:
    """Return a setting's number; None if there is none, or nothing that xl takes for one.

    :raises ValueError: xl would not take the file.
    """
    value, added = _read_settings(data + b"\n").get(key, (None, False))
    if added or not isinstance(value, bytes) or not (found := _NUMBER.fullmatch(value)):
        return None
    sign, digits = found.groups()
    base = 16 if digits[:2].lower() == b"0x" else 8 if digits[:1] == b"0" else 10
    number = int(digits, base) * (-1 if sign == b"-" else 1)
    return number if LONG_MIN <= number <= LONG_MAX else None


def read_values(data: bytes) -> dict[str, Value]:
    """Return all settings by their keys.

    :param data: the whole file.
    :raises ValueError: libxlutil would not take it; the text says in which line and why.
    """
    return {key: value for key, (value, _) in _read_settings(data).items()}


def _read_settings(data: bytes) -> dict[str, tuple[Value, bool]]:
    """Return the value of each key, and whether it was last set by ``+=``."""
    parser = _Parser(data)
    settings: dict[str, tuple[Value, bool]] = {}
    while (kind := parser.next_token()) != "end":
        if kind in ("newline", ";"):
            continue
        if kind != "key":
            raise parser.build_error()
        key = parser.text.decode()
        operator = parser.next_token()
        if operator not in ("=", "+="):
            raise parser.build_error()
        value = parser.parse_value()
        if operator == "+=" and key in settings:
            value = _add_value(settings[key][0], value, parser)
        settings[key] = (value, operator == "+=")
        if parser.next_token() not in ("newline", ";", "end"):
            raise parser.build_error()
    return settings


def _add_value(old: Value, new: Value, parser: _Parser) -> Value:
    if isinstance(old, bytes) and isinstance(new, bytes):
        return old + new
    if isinstance(old, list) and isinstance(new, list):
        return old + new
    raise parser.build_error("a list and a string cannot be added")


class _Parser:
    """Reads tokens and values; not recursive, as lists may lie deep in one another."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._begin = self._position = 0  #: of the last token, and behind it
        self._tokens = self._split_tokens()
        self.text = b""  #: of the last token

    def next_token(self) -> str:
        """Return the kind of the next token: a group of the pattern, a mark itself, or ``end``."""
        return next(self._tokens, "end")

    def parse_value(self) -> Value:
        """Read a string, a number, or a list."""
        lists: list[list[Value]] = []
        value: Value
        while True:
            kind = self._next_in_list() if lists else self.next_token()
            if kind == "[":
                lists.append([])
                continue
            if kind == "string":
                value = self._unquote_token(self.text)
            elif kind == "number":
                value = self.text
            elif kind == "]" and lists:  # nothing in it, or nothing behind the last comma
                value = lists.pop()
            else:
                raise self.build_error()
            while lists:
                lists[-1].append(value)
                kind = self._next_in_list()
                if kind == ",":
                    break
                if kind != "]":
                    raise self.build_error()
                value = lists.pop()
            else:
                return value

    def build_error(self, what: str = "") -> ValueError:
        line = self._data.count(b"\n", 0, self._begin) + 1
        near = self.text.decode(errors="replace").strip()[:40]
        return ValueError(f"line {line}: {what or 'not understood'}, near {near!r}")

    def _split_tokens(self) -> Iterator[str]:
        while self._position < len(self._data):
            self._begin = self._position
            match = _TOKEN.match(self._data, self._begin)
            if match is None:
                if self._begin == len(self._data) - 1:
                    return
                self.text = self._data[self._begin :].partition(b"\n")[0]
                raise self.build_error()
            self._position = match.end()
            if match.lastgroup != "blank":
                self.text = match[0]
                yield self.text.decode() if match.lastgroup == "mark" else match.lastgroup or ""
        self.text = b""

    def _next_in_list(self) -> str:
        while (kind := self.next_token()) == "newline":
            pass
        return kind

    def _unquote_token(self, quoted: bytes) -> bytes:
        if b"\0" in quoted:
            raise self.build_error("a NUL in a string")
        body = quoted[1:-1]
        if b"\\" not in body:
            return body
        result = bytearray()
        position = 0
        while (end := body.find(b"\\", position)) >= 0:
            result += body[position:end]
            escaped = body[end + 1]
            position = end + 2
            if escaped in _ESCAPES:
                result.append(_ESCAPES[escaped])
            elif escaped in b"01234567":
                rest = _OCTAL_REST.match(body[position : position + 3])
                if rest is None or rest.end() < 2:
                    raise self.build_error("an escape that xl does not know")
                position += rest.end()
            else:
                raise self.build_error("an escape that xl does not know")
        return bytes(result + body[position:])
