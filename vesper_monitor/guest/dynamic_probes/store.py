# SPDX-License-Identifier: GPL-2.0-or-later
"""The points that operators have added, by VM: a file beside the journal.

A point belongs to a VM by its name, and is loaded again in each life of it on
this host until it is removed.  Its definition never leaves the host: what a
guest's records mean is not the guest's to say.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

from vesper_monitor.guest.dynamic_probes.point import DynamicProbe, DynamicProbeError
from vesper_monitor.guest.dynamic_probes.syntax import parse_definition
from vesper_monitor.guest.relay.record_types import RECORDS
from vesper_monitor.util.state_file import DirectDisk, StateDisk

__all__ = ["RESERVED", "DynamicProbeStore"]

_log = logging.getLogger(__name__)

#: Names that events and modules of VESPER's own have.
RESERVED = frozenset(kind.event for kind in RECORDS.values()) | {
    "hang",
    "last_words",
    "lost",
    "unknown",
    "vesper",
    "vesper_ivshmem",
    "vesper_xen",
}


class DynamicProbeStore:
    """
    :param path: of the file.
    :param disk: where that is.
    """

    def __init__(self, path: Path, disk: StateDisk | None = None) -> None:
        self._path = path
        self._disk = disk or DirectDisk()
        self._is_restored = False
        self._points: dict[str, dict[str, DynamicProbe]] = {}

    async def restore_points(self) -> None:
        """Go on with those of an earlier daemon, when the disk says which."""
        await self._read_points()
        self._is_restored = True

    async def _read_points(self) -> None:
        try:
            entries = json.loads(await self._disk.read_state(self._path))
            found = [(str(vm), str(text)) for vm, texts in entries.items() for text in texts]
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
            _log.error("%s: added probes are forgotten: %s", self._path, error)
            return
        for vm, text in found:
            try:
                point = parse_definition(text)
            except DynamicProbeError as error:
                _log.error("%s: probe '%s' of %s: %s", self._path, text, vm, error)
                continue
            self._points.setdefault(vm, {})[point.name] = point

    def points_of_vm(self, vm: str) -> Mapping[str, DynamicProbe]:
        """By name; the same object each time, so that what is added later is seen."""
        return self._points.setdefault(vm, {})

    def add_point(self, vm: str, point: DynamicProbe) -> None:
        """From now on records are read by it; :meth:`save_points` keeps it."""
        self._points.setdefault(vm, {})[point.name] = point

    def remove_point(self, vm: str, name: str) -> None:
        """There is none of that name: nothing happens."""
        self._points.setdefault(vm, {}).pop(name, None)

    async def save_points(self) -> None:
        """:raises OSError: what was saved before is still there."""
        if not self._is_restored:
            raise OSError(f"{self._path}: the disk has not said yet what is in it")
        texts = {vm: [point.text for point in self._points[vm].values()] for vm in self._points}
        kept = {vm: lines for vm, lines in texts.items() if lines}
        await self._disk.write_state(self._path, kept)
