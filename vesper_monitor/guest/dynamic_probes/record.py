# SPDX-License-Identifier: GPL-2.0-or-later
"""Decodes a record of the module ``probe_point`` by the definition of its dynamic probe."""

from __future__ import annotations

import ctypes
from typing import Any

from vesper_monitor.guest import abi
from vesper_monitor.guest.dynamic_probes.point import DynamicProbe, ValueKind
from vesper_monitor.guest.dynamic_probes.program import text_size
from vesper_monitor.guest.printable import make_printable

__all__ = ["read_record"]


def read_record(probe: DynamicProbe, data: bytes) -> tuple[dict[str, Any], str] | None:
    """Return fields and sentence, whatever the bytes are; None: of another definition.

    A value that could not be read is None. The sentence shows it as ``(fault)``,
    as the kernel does.
    """
    struct = abi.ProbePoint
    record = struct.from_buffer_copy(data.ljust(ctypes.sizeof(struct), b"\0"))
    if record.id != probe.id or record.n_args != len(probe.values):
        return None
    size = text_size([value.kind is ValueKind.TEXT for value in probe.values])
    texts = bytes(data[abi.field_offset(struct, "text") :]).ljust(abi.POINT_TEXT, b"\0")
    fields: dict[str, Any] = {}
    shown = []
    place = 0
    for i, value in enumerate(probe.values):
        got: int | str | None
        if value.kind is ValueKind.TEXT:
            got = make_printable(texts[place : place + size])
            place += size
        elif value.kind is ValueKind.SIGNED:
            got = ctypes.c_int64(record.value[i]).value
        elif value.kind is ValueKind.CHAR:
            got = make_printable(bytes([record.value[i] & 0xFF]))
        else:
            got = record.value[i]
        if record.unread & 1 << i:
            got = None
        fields[value.name] = got
        shown.append(f" {value.name}={_show_value(got, value.kind)}")
    comm = make_printable(record.comm)
    fields |= {
        "common_pid": record.pid,
        "common_tgid": record.tgid,
        "common_comm": comm,
        "left_out": record.left_out,
        "missed": record.missed,
    }
    more = f" ({record.left_out} more before it)" if record.left_out else ""
    text = f"{probe.name}: {comm}[{record.pid}] at {probe.place}:{''.join(shown)}{more}"
    return fields, text if shown else text.replace(f"{probe.place}:", probe.place)


def _show_value(got: int | str | None, kind: ValueKind) -> str:
    if got is None:
        return "(fault)"
    if isinstance(got, str):
        return f'"{got}"'
    return f"{got:#x}" if kind is ValueKind.HEX else str(got)
