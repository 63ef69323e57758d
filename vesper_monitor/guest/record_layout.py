# SPDX-License-Identifier: GPL-2.0-or-later
"""How to read one type of record: its structure, its flags, and its sentence."""

from __future__ import annotations

import ctypes
import enum
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from struct import Struct
from typing import Any

from vesper_monitor.guest import abi
from vesper_monitor.guest.printable import make_printable

__all__ = ["Fields", "RecordType", "name_values"]

Fields = dict[str, Any]

#: Formats of number fields; all others are bytes.
_FORMATS: Mapping[Any, str] = {
    ctypes.c_uint16: "H",
    ctypes.c_uint32: "I",
    ctypes.c_int32: "i",
    ctypes.c_int64: "q",
    ctypes.c_uint64: "Q",
}


def _change_nothing(_fields: Fields) -> None:
    pass


def _flatten_fields(struct: type[ctypes.Structure]) -> Iterator[tuple[str, Any]]:
    """Yield names and types of the fields, also of those of an embedded ``struct vsp_who``."""
    for name, kind, *_bits in struct._fields_:
        if kind is abi.Who:
            yield from _flatten_fields(kind)
        else:
            yield name, kind


@dataclass(frozen=True)
class RecordType:
    """How to read one type of record.

    :ivar event: name of the event.
    :ivar struct: of :mod:`vesper_monitor.guest.abi`.
    :ivar text: makes the sentence from the finished fields.
    :ivar flags: bit of the field ``flags`` → name of the boolean field.
    :ivar values: name of a field → converts its number.
    :ivar finish: adds and removes fields.
    """

    event: str
    struct: type[ctypes.Structure]
    text: Callable[[Fields], str]
    flags: Mapping[int, str] = field(default_factory=dict)
    values: Mapping[str, Callable[[Any], object]] = field(default_factory=dict)
    finish: Callable[[Fields], None] = _change_nothing

    @cached_property
    def _layout(self) -> tuple[Struct, list[tuple[str, Callable[[Any], object] | None]]]:
        """How to unpack the record; and name and converter of each field."""
        layout = "<"
        fields: list[tuple[str, Callable[[Any], object] | None]] = []
        for name, kind in _flatten_fields(self.struct):
            if kind is abi.Record or name.startswith("reserved"):
                layout += f"{ctypes.sizeof(kind)}x"
                continue
            layout += _FORMATS.get(kind) or f"{ctypes.sizeof(kind)}s"
            is_name = getattr(kind, "_type_", None) is ctypes.c_char
            fields.append((name, make_printable if is_name else self.values.get(name)))
        return Struct(layout), fields

    def read_fields(self, data: bytes) -> Fields:
        """Return the fields of a record, whatever its bytes are."""
        layout, names = self._layout
        # A shorter record (an older probe's) reads as if zeros followed.
        values = layout.unpack_from(data.ljust(layout.size, b"\0"))
        fields: Fields = {}
        for (name, shown), value in zip(names, values, strict=True):
            if name == "flags":
                for bit, flag in self.flags.items():
                    fields[flag] = bool(value & bit)
            else:
                fields[name] = value if shown is None else shown(value)
        self.finish(fields)
        return fields


def name_values(values: type[enum.IntEnum], what: str) -> Callable[[int], str]:
    """Return a converter to names; an unknown number becomes ``what`` and the number."""

    def name(number: int) -> str:
        try:
            return values(number).name.lower()
        except ValueError:
            return f"{what} {number}"

    return name
