# SPDX-License-Identifier: GPL-2.0-or-later
"""Python's view of ``probe_modules/include/vesper_abi.h``.

That header is the specification; ``abi_layout.py`` is made of it.
``tests/unit/guest/test_abi.py`` compares the two field by field and fails for anything
that one of them has and the other has not.

A structure is read from a *copy* (``Hello.from_buffer_copy(data)``), never in
place: the guest may change its memory at any time. The few numbers that must
be read from live memory go through :func:`load_u32` and :func:`load_u64`.
"""

from __future__ import annotations

import ctypes
import struct

from vesper_monitor.guest.abi_layout import *  # noqa: F403
from vesper_monitor.guest.abi_layout import PAGE_SIZE

# ---------------------------------------------------------------- live memory

_U32 = struct.Struct("@I")
_U64 = struct.Struct("@Q")


def load_u64(view: memoryview, offset: int) -> int:
    """One naturally aligned 64-bit load from memory that the guest writes.

    In native format struct reads an item by a memcpy of fixed size, which is
    one load (CPython, Modules/_struct.c, nu_ulonglong()); in '<Q' it would
    assemble it byte by byte and could return half of an old and half of a new
    value.

    :param view: of format 'B', its start aligned to 8 bytes (mappings are).
    :param offset: multiple of 8.
    """
    return _U64.unpack_from(view, offset)[0]  # type: ignore[no-any-return]


def load_u32(view: memoryview, offset: int) -> int:
    """One naturally aligned 32-bit load; see :func:`load_u64`."""
    return _U32.unpack_from(view, offset)[0]  # type: ignore[no-any-return]


def store_u32(view: memoryview, offset: int, value: int) -> None:
    """One naturally aligned 32-bit store, wrapping as a ``__u32`` does.

    By a memoryview, whose memcpy is of fixed size, too: struct writes zeros first.
    """
    with view[offset : offset + 4].cast("I") as word:
        word[0] = value & 0xFFFFFFFF


def store_u64(view: memoryview, offset: int, value: int) -> None:
    """One naturally aligned 64-bit store."""
    with view[offset : offset + 8].cast("Q") as word:
        word[0] = value


def field_offset(structure: type[ctypes.Structure], field: str) -> int:
    """Where a field lies in a structure, in bytes."""
    return int(getattr(structure, field).offset)


def pages_for(size: int) -> int:
    """Number of pages that hold ``size`` bytes."""
    return -(-size // PAGE_SIZE)
