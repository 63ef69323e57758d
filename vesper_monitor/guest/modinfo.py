# SPDX-License-Identifier: GPL-2.0-or-later
"""What a kernel module says of itself: the ``.modinfo`` section of its ELF file.

Layout: ELF-64 (System V gABI, chapter 4); ``.modinfo`` is a row of
``key=value`` strings, each ended by NUL (include/linux/moduleparam.h).
"""

from __future__ import annotations

import struct

__all__ = ["ModinfoError", "modinfo"]

_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_SHDR = struct.Struct("<IIQQQQIIQQ")
_MAX_SECTIONS = 4096
_MAX_MODINFO = 64 * 1024


class ModinfoError(ValueError):
    """Not a 64-bit little-endian ELF file with a ``.modinfo`` section."""


def modinfo(data: bytes) -> dict[str, str]:
    """
    :returns: first value of each key (``alias`` and others may occur often).
    :raises ModinfoError:
    """
    if len(data) < _EHDR.size or data[:6] != b"\x7fELF\x02\x01":
        raise ModinfoError("not a 64-bit little-endian ELF file")
    header = _EHDR.unpack_from(data)
    offset, entry_size, count, names_index = header[6], header[11], header[12], header[13]
    if entry_size != _SHDR.size or not 0 < count <= _MAX_SECTIONS or names_index >= count:
        raise ModinfoError("ELF file with a broken section table")
    names = _section(data, offset, names_index)
    for i in range(count):
        name_at = _header(data, offset, i)[0]
        if names[name_at : name_at + 9] == b".modinfo\0":
            return _parse(_section(data, offset, i))
    raise ModinfoError("ELF file without .modinfo: not a kernel module")


def _header(data: bytes, table: int, index: int) -> tuple[int, ...]:
    start = table + index * _SHDR.size
    if start + _SHDR.size > len(data):
        raise ModinfoError("ELF file cut off in its section table")
    return _SHDR.unpack_from(data, start)


def _section(data: bytes, table: int, index: int) -> bytes:
    header = _header(data, table, index)
    start, size = header[4], header[5]
    if start + size > len(data):
        raise ModinfoError("ELF file cut off")
    return data[start : start + size]


def _parse(section: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    for item in section[:_MAX_MODINFO].split(b"\0"):
        key, separator, value = item.partition(b"=")
        if separator:
            found.setdefault(key.decode("latin-1"), value.decode("utf-8", "replace"))
    return found
