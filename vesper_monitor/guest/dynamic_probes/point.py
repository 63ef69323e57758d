# SPDX-License-Identifier: GPL-2.0-or-later
"""A dynamic probe: where it is, which values it records, and when."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from vesper_monitor.util.errors import VesperError

__all__ = [
    "COMMON_FIELDS",
    "DynamicProbe",
    "DynamicProbeError",
    "Kind",
    "Test",
    "Value",
    "ValueKind",
]

#: Fields of each event besides its values. The kernel's trace events use this prefix, too.
COMMON_FIELDS = ("common_pid", "common_tgid", "common_comm", "left_out", "missed")


class DynamicProbeError(VesperError, ValueError):
    """A definition is invalid; the text says at which column.

    :ivar position: of the wrong character, from 0.
    """

    def __init__(self, text: str, position: int) -> None:
        super().__init__(f"column {position + 1}: {text}")
        self.position = position


class Kind(enum.Enum):
    """Where a dynamic probe is. The values are the letters of the kernel's probe events."""

    FUNCTION = "p"  #: at an instruction, usually the first of a function
    RETURN = "r"  #: at the return of a function
    TRACEPOINT = "t"


class ValueKind(enum.Enum):
    """How a value is shown."""

    UNSIGNED = "u"
    SIGNED = "s"
    HEX = "x"
    CHAR = "char"
    TEXT = "string"


@dataclass(frozen=True)
class Value:
    """One value of a hit.

    :ivar ops: operations that read it, for ``probe_modules/probe_point/program.c``.
    """

    name: str
    kind: ValueKind
    ops: str


@dataclass(frozen=True)
class Test:
    """A condition on a value: the value's number, an operator, and the operand."""

    __test__ = False  # for pytest

    value: int
    operator: str
    operand: int | bytes


@dataclass(frozen=True)
class DynamicProbe:
    """The definition of a dynamic probe.

    :ivar symbol: function or tracepoint; ``MODULE:FUNCTION`` in a module.
    :ivar offset: bytes from the function's beginning.
    :ivar max_active: calls that a return probe follows at the same time; 0: the
        kernel's choice.
    :ivar max_per_s: records per second.
    :ivar text: the definition as it was written.
    :ivar id: distinguishes its records from those of another definition of that name.
    """

    name: str
    kind: Kind
    symbol: str
    offset: int
    max_active: int
    values: tuple[Value, ...]
    tests: tuple[Test, ...]
    max_per_s: int
    text: str
    id: int = 0

    @property
    def place(self) -> str:
        """The place, for people."""
        offset = f"+{self.offset:#x}" if self.offset else ""
        before = {Kind.RETURN: "return of ", Kind.TRACEPOINT: "tracepoint "}.get(self.kind, "")
        return f"{before}{self.symbol}{offset}"
