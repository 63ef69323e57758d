# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads and changes a kernel module's description of itself in its ELF file.

Layout: ELF-64 (System V gABI, chapter 4); ``.modinfo`` is a row of
``key=value`` strings, each ended by NUL (include/linux/moduleparam.h);
``.gnu.linkonce.this_module`` is its struct module (include/linux/module.h).
"""

from __future__ import annotations

import struct

from vesper_monitor.util.errors import VesperError

__all__ = ["ModinfoError", "read_modinfo", "rename_module"]

_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_SHDR = struct.Struct("<IIQQQQIIQQ")
_MAX_SECTIONS = 4096
_MAX_MODINFO_BYTES = 64 * 1024
#: Where struct module has the name, and for how many bytes (MODULE_NAME_LEN),
#: on 64 bit: behind its state and a list head, as in Linux 5.10 to 6.12.
_NAME_OFFSET = 24
_NAME_BYTES = 56


class ModinfoError(VesperError, ValueError):
    """Not a 64-bit little-endian ELF file with a ``.modinfo`` section."""


def read_modinfo(data: bytes) -> dict[str, str]:
    """Return the first value of each key (``alias`` and others may occur often).

    :raises ModinfoError:
    """
    start, size = _find_section(data, b".modinfo")
    return _parse_section(data[start : start + size])


def rename_module(data: bytes, name: str) -> bytes:
    """Return the module under another name.

    The kernel takes the name from struct module, and from ``.modinfo`` for its
    messages before that. In ``.modinfo`` the old name stays, under the key
    ``base``. A signature becomes invalid.

    :raises ModinfoError: not a module, or its name is at an unexpected place.
    """
    old = read_modinfo(data).get("name", "").encode()
    new = name.encode()
    if not new or len(new) >= _NAME_BYTES:
        raise ModinfoError(f"'{name}' is not the name of a module")
    start, size = _find_section(data, b".gnu.linkonce.this_module")
    at, end = start + _NAME_OFFSET, start + _NAME_OFFSET + _NAME_BYTES
    if not old or start + size < end or data[at:end].rstrip(b"\0") != old:
        raise ModinfoError("the module's name is at another place than in Linux 5.10 to 6.12")
    changed = bytearray(data)
    changed[at:end] = new.ljust(_NAME_BYTES, b"\0")
    start, size = _find_section(data, b".modinfo")
    said = data.index(b"name=" + old + b"\0", start, start + size)
    changed[said : said + 5] = b"base="
    return bytes(changed)


def _find_section(data: bytes, name: bytes) -> tuple[int, int]:
    """Return where a section begins, and its size in bytes."""
    if len(data) < _EHDR.size or data[:6] != b"\x7fELF\x02\x01":
        raise ModinfoError("not a 64-bit little-endian ELF file")
    header = _EHDR.unpack_from(data)
    offset, entry_size, count, names_index = header[6], header[11], header[12], header[13]
    if entry_size != _SHDR.size or not 0 < count <= _MAX_SECTIONS or names_index >= count:
        raise ModinfoError("ELF file with a broken section table")
    names_start, names_size = _section_bounds(data, offset, names_index)
    names = data[names_start : names_start + names_size]
    for i in range(count):
        name_at = _section_header(data, offset, i)[0]
        if names[name_at : name_at + len(name) + 1] == name + b"\0":
            return _section_bounds(data, offset, i)
    raise ModinfoError(f"ELF file without {name.decode()}: not a kernel module")


def _section_header(data: bytes, table: int, index: int) -> tuple[int, ...]:
    start = table + index * _SHDR.size
    if start + _SHDR.size > len(data):
        raise ModinfoError("ELF file cut off in its section table")
    return _SHDR.unpack_from(data, start)


def _section_bounds(data: bytes, table: int, index: int) -> tuple[int, int]:
    header = _section_header(data, table, index)
    start, size = header[4], header[5]
    if start + size > len(data):
        raise ModinfoError("ELF file cut off")
    return start, size


def _parse_section(section: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    for item in section[:_MAX_MODINFO_BYTES].split(b"\0"):
        key, separator, value = item.partition(b"=")
        if separator:
            found.setdefault(key.decode("latin-1"), value.decode("utf-8", "replace"))
    return found
