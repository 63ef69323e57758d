# SPDX-License-Identifier: GPL-2.0-or-later
"""Maps a region that the guest core shares, if its header is valid."""

from __future__ import annotations

import ctypes

from vesper_monitor.guest import abi
from vesper_monitor.hypervisor.transport import Link, Mapping

__all__ = ["map_region"]


def map_region(
    link: Link,
    region: abi.Region,
    size: int,
    head: type[ctypes.Structure],
    *,
    magic: int,
    version: int,
    what: str,
) -> Mapping:
    """Map a region and check its header.

    :param region: as in the guest's HELLO.
    :param size: bytes to map.
    :param head: the header's structure, with fields ``magic`` and ``version``.
    :param what: the contents, for messages.
    :raises TransportError: it could not be mapped.
    :raises ValueError: its header is invalid; the text says why.
    """
    vm, pages = link.domain.name, abi.pages_for(size)
    if region.pages < pages:
        raise ValueError(f"{vm}: {region.pages} pages for {what}, not {pages}")
    mapping = link.map_region(region.handle, pages)
    found = head.from_buffer_copy(mapping.view)
    if found.magic != magic or found.version != version:
        mapping.close()
        raise ValueError(f"{vm}: {what} of version {found.version} cannot be read")
    return mapping
