# SPDX-License-Identifier: GPL-2.0-or-later
"""Parses one value of a definition: ``path=+8(%si):string``.

The names of registers, and where each value is available, are those of the kernel
on x86-64 (arch/x86/kernel/ptrace.c, kernel/trace/trace_probe.c).
"""

from __future__ import annotations

import re

from vesper_monitor.guest.dynamic_probes.point import (
    COMMON_FIELDS,
    DynamicProbeError,
    Kind,
    Value,
    ValueKind,
)

__all__ = ["parse_value"]

_WORDS = "r15 r14 r13 r12 bp bx r11 r10 r9 r8 ax cx dx si di orig_ax ip cs flags sp ss"
#: Offset of each register in struct pt_regs of x86-64, in bytes.
_REGISTERS = {name: 8 * i for i, name in enumerate(_WORDS.split())}
#: Arguments of a function, in the order of the ABI.
_ARGUMENTS = ("di", "si", "dx", "cx", "r8", "r9")
#: POINT_TRACEPOINT_ARGS of probe_point.h
_TRACEPOINT_ARGUMENTS = 5
#: POINT_MAX_OPS of probe_point.h
_MAX_OPS = 12

_NAME = re.compile(r"([A-Za-z_]\w*)=")
_WORD = re.compile(r"[A-Za-z_]\w*")
_OFFSET = re.compile(r"([+-])(u?)(0[xX][0-9a-fA-F]+|\d+)\(")
_NUMERIC = re.compile(r"([usx])(8|16|32|64)")
_BITFIELD = re.compile(r"b(\d{1,3})@(\d{1,3})/(8|16|32|64)")
#: Operation that reads so many bits.
_READ = {8: "b", 16: "h", 32: "w", 64: "q"}


def parse_value(text: str, at: int, number: int, kind: Kind, offset: int) -> Value:
    """Parse one value.

    :param at: where it begins in the definition.
    :param number: of the value, from 1: its name if it has none.
    :param kind: of the dynamic probe.
    :param offset: of the dynamic probe in its function.
    :raises DynamicProbeError:
    """
    name, start = f"arg{number}", 0
    match = _NAME.match(text)
    if match is not None:
        name, start = match[1], match.end()
        if name in COMMON_FIELDS:
            raise DynamicProbeError(f"{name} is a field of each event already", at)
    return _Fetch(text, start, at, kind, offset).read_value(name)


class _Fetch:
    """Parses one value from left to right."""

    def __init__(self, text: str, start: int, at: int, kind: Kind, offset: int) -> None:
        self._text = text
        self._here = start
        self._at = at
        self._kind = kind
        self._offset = offset
        #: offsets of the dereferences, the innermost first
        self._derefs: list[int] = []
        self._user = False  # the outermost is of the process's memory
        self._comm = False

    def read_value(self, name: str) -> Value:
        start = self._here
        base = self._read_fetch(outermost=True)
        if self._here < len(self._text) and self._text[self._here] != ":":
            raise self._error_at(f"'{self._text[self._here :]}' is not expected here")
        self._here += 1
        type_at, word = self._here, self._text[self._here :]
        if type_at == len(self._text):
            raise self._error_at("a type is missing after the ':'")
        kind, ops = self._apply_type(base, word or ("string" if self._comm else "x64"), type_at)
        if len(re.findall(r"[a-z<>/]", ops)) > _MAX_OPS:
            raise self._error_at("too many dereferences", start)
        return Value(name, kind, ops)

    def _error_at(self, text: str, here: int | None = None) -> DynamicProbeError:
        return DynamicProbeError(text, self._at + (self._here if here is None else here))

    def _read_fetch(self, *, outermost: bool = False) -> str:
        """Return the first operation; dereferences are collected."""
        rest = self._text[self._here :]
        if not rest:
            raise self._error_at("a value is missing: %REGISTER, $argN, +OFFSET(VALUE) ..")
        first = rest[0]
        if first == "%":
            return self._read_register()
        if first == "$":
            return self._read_variable()
        if first in "+-":
            return self._read_dereference(outermost)
        if first == "@":
            raise self._error_at(
                "@: the host knows no addresses of the guest's kernel: not supported"
            )
        if first == "\\":
            raise self._error_at("\\: constants are not supported")
        if "->" in rest or _WORD.match(rest):
            raise self._error_at("names of C variables and fields are not supported: "
                              "use $argN, %REGISTER and +OFFSET(..)")  # fmt: skip
        raise self._error_at(f"'{rest}' is not a value: %REGISTER, $argN, +OFFSET(VALUE) ..")

    def _read_register(self) -> str:
        start = self._here
        self._here += 1
        word = self._read_word()
        if self._kind is Kind.TRACEPOINT:
            raise self._error_at("a tracepoint has arguments ($argN), no registers", start)
        if word not in _REGISTERS:
            raise self._error_at(f"no register %{word}: there are {' '.join(_REGISTERS)}", start)
        return f"r{_REGISTERS[word]}"

    def _read_variable(self) -> str:
        start = self._here
        self._here += 1
        word = self._read_word()
        if word == "comm":
            if self._derefs:
                raise self._error_at("$comm is a text, no address", start)
            self._comm = True
            return "c0"
        if word == "retval":
            if self._kind is not Kind.RETURN:
                raise self._error_at("$retval: only a return probe has it", start)
            return f"r{_REGISTERS['ax']}"
        match = re.fullmatch(r"arg(\d{1,3})", word)
        if match is not None:
            return self._read_argument(int(match[1]), start)
        match = re.fullmatch(r"stack(\d{0,3})", word)
        if match is not None:
            if self._kind is Kind.TRACEPOINT:
                raise self._error_at("a tracepoint has arguments ($argN), no stack", start)
            if match[1]:
                self._derefs.append(8 * int(match[1]))
            return f"r{_REGISTERS['sp']}"
        raise self._error_at(
            f"no variable ${word}: there are $argN, $retval, $stack, $stackN, $comm", start
        )

    def _read_argument(self, number: int, start: int) -> str:
        if self._kind is Kind.TRACEPOINT:
            if not 0 < number <= _TRACEPOINT_ARGUMENTS:
                raise self._error_at(
                    f"a tracepoint has $arg1 to $arg{_TRACEPOINT_ARGUMENTS} here", start
                )
            return f"a{number - 1}"
        if self._kind is Kind.RETURN:
            raise self._error_at(
                "$argN: when a function returns, its arguments are lost", start
            )
        if self._offset:
            raise self._error_at("$argN: only at the beginning of a function", start)
        if not 0 < number <= len(_ARGUMENTS):
            raise self._error_at(f"$arg1 to $arg{len(_ARGUMENTS)} are in registers; "
                              "others: $stackN", start)  # fmt: skip
        return f"r{_REGISTERS[_ARGUMENTS[number - 1]]}"

    def _read_dereference(self, outermost: bool) -> str:
        match = _OFFSET.match(self._text, self._here)
        if match is None:
            raise self._error_at("a dereference is +OFFSET(VALUE) or -OFFSET(VALUE)")
        sign, user, digits = match.groups()
        offset = int(digits, 16 if digits[:2] in ("0x", "0X") else 10)
        if offset >> 31:
            raise self._error_at(f"offset {digits} is too large")
        if user and not outermost:
            raise self._error_at("+u: pointers in the process's memory are not followed")
        self._user = bool(user)
        self._here = match.end()
        if self._text[self._here : self._here + 1] == "$" and self._text.startswith(
            "$comm", self._here
        ):
            raise self._error_at("$comm is a text, no address")
        base = self._read_fetch()
        if self._text[self._here : self._here + 1] != ")":
            raise self._error_at("a ')' is missing")
        self._here += 1
        self._derefs.append(-offset if sign == "-" else offset)
        return base

    def _read_word(self) -> str:
        match = _WORD.match(self._text, self._here)
        if match is None:
            raise self._error_at("a name is missing")
        self._here = match.end()
        return match[0]

    def _apply_type(self, base: str, word: str, at: int) -> tuple[ValueKind, str]:
        """Return how the value is shown, and all operations."""
        if self._comm:
            if word != "string":
                raise self._error_at("$comm is a string", at)
            return ValueKind.TEXT, base
        if "[" in word:
            raise self._error_at("arrays are not supported: give each element", at)
        if word in ("string", "ustring"):
            return ValueKind.TEXT, base + self._text_ops(word, at)
        if self._user:
            raise self._error_at("+u: only texts are read from the process's memory", at)
        if word in ("symbol", "symstr"):
            return ValueKind.TEXT, f"{base}{self._make_reads(64)}y0"
        match = _BITFIELD.fullmatch(word)
        if match is not None:
            width, place, container = (int(part) for part in match.groups())
            if not 0 < width <= container - place:
                raise self._error_at(f"{width} bits at {place} do not lie in {container}", at)
            shifts = f"<{64 - width - place}>{64 - width}"
            return ValueKind.UNSIGNED, base + self._make_reads(container) + shifts
        match = _NUMERIC.fullmatch("u8" if word == "char" else word)
        if match is None:
            raise self._error_at(
                f"no type {word}: there are u8 to u64, s8 to s64, x8 to x64, char, string, "
                "ustring, symbol, bWIDTH@OFFSET/SIZE",
                at,
            )
        kind = ValueKind.CHAR if word == "char" else ValueKind(match[1])
        bits = int(match[2])
        ops = base + self._make_reads(bits)
        if kind is ValueKind.SIGNED:
            # Also for 64 bits: it shows the module that the value has a sign.
            return kind, f"{ops}<{64 - bits}/{64 - bits}"
        if bits < 64 and not self._derefs:
            return kind, f"{ops}<{64 - bits}>{64 - bits}"
        return kind, ops

    def _make_reads(self, bits: int) -> str:
        """Return the operations of all dereferences; the last reads so many bits."""
        if not self._derefs:
            return ""
        *pointers, last = self._derefs
        return "".join(f"q{offset}" for offset in pointers) + f"{_READ[bits]}{last}"

    def _text_ops(self, word: str, at: int) -> str:
        if not self._derefs:
            raise self._error_at(f"a {word} lies in memory: +0(..):{word}", at)
        *pointers, last = self._derefs
        code = "u" if word == "ustring" or self._user else "z"
        return "".join(f"q{offset}" for offset in pointers) + f"{code}{last}"
