# SPDX-License-Identifier: GPL-2.0-or-later
"""Python's view of ``probe_modules/include/vesper_abi.h``.

That header is the specification; ``abi_layout.py`` is generated from it.
``tests/unit/guest/test_abi.py`` compares the two field by field, and fails for
anything that only one of them has.

A structure is read from a *copy* (``Hello.from_buffer_copy(data)``), never in
place: the guest may change its memory at any time. :func:`load_u32` and
:func:`load_u64` read the few numbers that must come from live memory.
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
    """Load 64 bits, naturally aligned, at once from memory that the guest writes.

    In native format, struct reads an item by a memcpy of fixed size, which is one
    load (CPython, Modules/_struct.c, nu_ulonglong()). In '<Q' it would assemble
    the value byte by byte, and could mix an old and a new one.

    :param view: of format 'B', its start aligned to 8 bytes (mappings are).
    :param offset: multiple of 8.
    """
    return _U64.unpack_from(view, offset)[0]  # type: ignore[no-any-return]


def load_u32(view: memoryview, offset: int) -> int:
    """Load 32 bits, naturally aligned, at once; see :func:`load_u64`."""
    return _U32.unpack_from(view, offset)[0]  # type: ignore[no-any-return]


def store_u32(view: memoryview, offset: int, value: int) -> None:
    """Store 32 bits, naturally aligned, at once; the value wraps as a ``__u32`` does.

    A memoryview also uses a memcpy of fixed size; struct would write zeros first.
    """
    with view[offset : offset + 4].cast("I") as word:
        word[0] = value & 0xFFFFFFFF


def store_u64(view: memoryview, offset: int, value: int) -> None:
    """Store 64 bits, naturally aligned, at once."""
    with view[offset : offset + 8].cast("Q") as word:
        word[0] = value


def field_offset(structure: type[ctypes.Structure], field: str) -> int:
    """Return the offset of a field in a structure, in bytes."""
    return int(getattr(structure, field).offset)


def pages_for(size: int) -> int:
    """Return the number of pages that hold ``size`` bytes."""
    return -(-size // PAGE_SIZE)
