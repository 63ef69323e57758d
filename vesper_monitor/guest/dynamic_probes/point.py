# SPDX-License-Identifier: GPL-2.0-or-later
"""What a point is."""

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

#: Fields of each event, beside the values; the kernel's trace events begin theirs so, too.
COMMON_FIELDS = ("common_pid", "common_tgid", "common_comm", "left_out", "missed")


class DynamicProbeError(VesperError, ValueError):
    """A definition that cannot be; the text says where.

    :ivar position: of the offending character, from 0.
    """

    def __init__(self, text: str, position: int) -> None:
        super().__init__(f"column {position + 1}: {text}")
        self.position = position


class Kind(enum.Enum):
    """Where it is; values are the letters of the kernel's probe events."""

    FUNCTION = "p"  #: at an instruction, as a rule a function's first
    RETURN = "r"  #: where a function has returned
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

    :ivar ops: how it is got, for ``probe_modules/probe_point/program.c``.
    """

    name: str
    kind: ValueKind
    ops: str


@dataclass(frozen=True)
class Test:
    """A condition: the number of a value, an operator, what it is compared with."""

    __test__ = False  # for pytest

    value: int
    operator: str
    operand: int | bytes


@dataclass(frozen=True)
class DynamicProbe:
    """A definition.

    :ivar symbol: function or tracepoint; ``MODULE:FUNCTION`` in a module.
    :ivar offset: bytes from the function's beginning.
    :ivar max_active: calls of a return probe that are followed at once; 0: the
        kernel's choice.
    :ivar max_per_s: records in a second.
    :ivar text: as it was written.
    :ivar id: tells its records from those of another definition of that name.
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
        """For people."""
        offset = f"+{self.offset:#x}" if self.offset else ""
        before = {Kind.RETURN: "return of ", Kind.TRACEPOINT: "tracepoint "}.get(self.kind, "")
        return f"{before}{self.symbol}{offset}"
