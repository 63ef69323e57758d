# SPDX-License-Identifier: GPL-2.0-or-later
"""The memory that a guest shares with the host, and its regions."""

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
        """:param regions: the open regions of the same memory; this one is added."""
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
        :param descriptor: of the memory; the caller may close it afterwards.
        :raises TransportError: the ivshmem server did not make this memory.
        """
        try:
            size = os.fstat(descriptor).st_size
            # QEMU has it, too: if it shrank the memory, an access would be a SIGBUS.
            if not fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
                raise TransportError("the shared memory is not sealed against shrinking")
            self._map = mmap.mmap(descriptor, size)
        except (OSError, ValueError) as error:
            raise TransportError(f"cannot map the shared memory: {error}") from None
        if size < 2 * abi.PAGE_SIZE:
            self._map.close()
            raise TransportError(f"the shared memory has only {size} bytes")
        self.size = size
        self._regions: set[RegionMapping] = set()
        self.head = RegionMapping(memoryview(self._map)[: abi.PAGE_SIZE], self._regions)

    def map_region(self, offset: int, pages: int, *, writable: bool) -> RegionMapping:
        """Return a view of some pages.

        :param offset: in bytes, from the guest: not to be trusted.
        :raises TransportError: the pages are not within the memory.
        """
        end = offset + pages * abi.PAGE_SIZE
        if offset % abi.PAGE_SIZE or not abi.PAGE_SIZE <= offset < end <= self.size:
            raise TransportError(f"impossible region: {pages} pages at {offset:#x}")
        view = memoryview(self._map)[offset:end]
        return RegionMapping(view if writable else view.toreadonly(), self._regions)

    def close(self) -> None:
        """Unmap the memory. All views of regions must be released before. Idempotent.

        :raises BufferError: a view is in use; the memory stays mapped.
        """
        for region in list(self._regions):
            region.close()
        self._map.close()
