# SPDX-License-Identifier: GPL-2.0-or-later
"""Mapping a guest's pages through ``/dev/xen/gntdev`` (include/uapi/xen/gntdev.h)."""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from collections.abc import Sequence

__all__ = ["GrantDevice", "GrantMapping"]

DEVICE_PATH = "/dev/xen/gntdev"
PAGE_SIZE = 4096


def _ioctl_number(number: int, size: int) -> int:
    """_IOC(_IOC_NONE, 'G', number, size)"""
    return (size << 16) | (ord("G") << 8) | number


# struct ioctl_gntdev_map_grant_ref: count, pad, index; then count × (domid, ref).
# The request's size is that of the struct with one reference.
_IOCTL_MAP_GRANT_REF = _ioctl_number(0, 24)
_MAP_ARGS = struct.Struct("=IIQ")
_GRANT_REF = struct.Struct("=II")
# struct ioctl_gntdev_unmap_grant_ref: index, count, pad
_IOCTL_UNMAP_GRANT_REF = _ioctl_number(1, 16)
_UNMAP_ARGS = struct.Struct("=QII")


class GrantMapping:
    """Pages of one guest, mapped side by side."""

    def __init__(self, fd: int, domid: int, refs: Sequence[int], *, writable: bool) -> None:
        self._fd = fd
        self._pages = len(refs)
        request = bytearray(_MAP_ARGS.pack(len(refs), 0, 0))
        for ref in refs:
            request += _GRANT_REF.pack(domid, ref)
        fcntl.ioctl(fd, _IOCTL_MAP_GRANT_REF, request)
        self._index: int = _MAP_ARGS.unpack_from(request)[2]
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        try:
            self._map = mmap.mmap(
                fd, len(refs) * PAGE_SIZE, mmap.MAP_SHARED, protection, offset=self._index
            )
        except OSError:
            self._forget_mapping()
            raise
        self._view = memoryview(self._map)
        self.is_open = True

    @property
    def view(self) -> memoryview:
        return self._view

    def close(self) -> None:
        """Unmap. May be called twice."""
        if self.is_open:
            self._view.release()
            self._map.close()
            self._forget_mapping()
            self.is_open = False

    def _forget_mapping(self) -> None:
        fcntl.ioctl(self._fd, _IOCTL_UNMAP_GRANT_REF, _UNMAP_ARGS.pack(self._index, self._pages, 0))


class GrantDevice:
    """An open grant device: what it has mapped goes when it is closed."""

    def __init__(self) -> None:
        """:raises OSError:"""
        self._fd = os.open(DEVICE_PATH, os.O_RDWR | os.O_CLOEXEC)

    def map_grant_refs(self, domid: int, refs: Sequence[int], *, writable: bool) -> GrantMapping:
        """
        :raises OSError: EINVAL: one of them is not granted to this domain, or
            not for writing.
        """
        return GrantMapping(self._fd, domid, refs, writable=writable)

    def close(self) -> None:
        """Every mapping has been closed before. May be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
