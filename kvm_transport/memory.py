# SPDX-License-Identifier: GPL-2.0-or-later
"""The memory that a guest shares with the host, and the regions in it."""

from __future__ import annotations

import fcntl
import mmap
import os

from vesper_monitor.guest import abi
from vesper_monitor.hypervisor.transport import TransportError

__all__ = ["RegionMapping", "SharedMemory"]


class RegionMapping:
    """See :class:`vesper_monitor.hypervisor.transport.Mapping`."""

    def __init__(self, view: memoryview, regions: set[RegionMapping]) -> None:
        """:param regions: all that are not closed."""
        self._view = view
        self._regions = regions
        regions.add(self)

    @property
    def view(self) -> memoryview:
        return self._view

    def close(self) -> None:
        self._view.release()
        self._regions.discard(self)


class SharedMemory:
    """The memory of one ivshmem device, mapped as a whole."""

    def __init__(self, descriptor: int) -> None:
        """
        :param descriptor: of the memory; may be closed afterwards.
        :raises TransportError: it is not what the holder makes.
        """
        try:
            size = os.fstat(descriptor).st_size
            # QEMU has it, too: memory cut short under us would be a SIGBUS.
            if not fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
                raise TransportError("the shared memory is not sealed against shrinking")
            self._map = mmap.mmap(descriptor, size)
        except (OSError, ValueError) as error:
            raise TransportError(f"cannot map the shared memory: {error}") from None
        if size < 2 * abi.PAGE_SIZE:
            self._map.close()
            raise TransportError(f"the shared memory has {size} bytes only")
        self.size = size
        self._regions: set[RegionMapping] = set()
        self.head = RegionMapping(memoryview(self._map)[: abi.PAGE_SIZE], self._regions)

    def map_region(self, offset: int, pages: int, *, writable: bool) -> RegionMapping:
        """
        :param offset: the guest's word.
        :raises TransportError: it is not in there.
        """
        end = offset + pages * abi.PAGE_SIZE
        if offset % abi.PAGE_SIZE or not abi.PAGE_SIZE <= offset < end <= self.size:
            raise TransportError(f"impossible region: {pages} pages at {offset:#x}")
        view = memoryview(self._map)[offset:end]
        return RegionMapping(view if writable else view.toreadonly(), self._regions)

    def close(self) -> None:
        """Unmap. Views on it must have been released. May be called twice.

        :raises BufferError: one has not been; the memory stays mapped.
        """
        for region in list(self._regions):
            region.close()
        self._map.close()
