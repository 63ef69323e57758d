# SPDX-License-Identifier: GPL-2.0-or-later
"""Python's view of ``probe_modules/include/vesper_abi.h``.

That header is the specification; ``abi_layout.py`` is made of it.
``tests/test_abi.py`` compares the two field by field and fails for anything
that one of them has and the other has not.

A structure is read from a *copy* (``Hello.from_buffer_copy(data)``), never in
place: the guest may change its memory at any time. The few numbers that must
be read from live memory go through :func:`load_u32` and :func:`load_u64`.
"""

from __future__ import annotations

import ctypes

from vesper_monitor.guest.abi_layout import *  # noqa: F403
from vesper_monitor.guest.abi_layout import PAGE_SIZE

# ---------------------------------------------------------------- live memory


def load_u64(view: memoryview, offset: int) -> int:
    """One naturally aligned 64-bit load from memory that the guest writes.

    A native-format memoryview reads an item by a fixed-size memcpy, which is
    one load; struct.unpack('<Q') would assemble it byte by byte and could
    return half of an old and half of a new value.

    :param view: of format 'B', its start aligned to 8 bytes (mappings are).
    :param offset: multiple of 8.
    """
    with view[offset : offset + 8].cast("Q") as word:
        return int(word[0])


def load_u32(view: memoryview, offset: int) -> int:
    """One naturally aligned 32-bit load; see :func:`load_u64`."""
    with view[offset : offset + 4].cast("I") as word:
        return int(word[0])


def store_u32(view: memoryview, offset: int, value: int) -> None:
    """One naturally aligned 32-bit store, wrapping as a ``__u32`` does."""
    with view[offset : offset + 4].cast("I") as word:
        word[0] = value & 0xFFFFFFFF


def store_u64(view: memoryview, offset: int, value: int) -> None:
    """One naturally aligned 64-bit store."""
    with view[offset : offset + 8].cast("Q") as word:
        word[0] = value


def offset(struct: type[ctypes.Structure], field: str) -> int:
    """Where a field lies in a structure, in bytes."""
    return int(getattr(struct, field).offset)


def pages_for(size: int) -> int:
    """Number of pages that hold ``size`` bytes."""
    return -(-size // PAGE_SIZE)
