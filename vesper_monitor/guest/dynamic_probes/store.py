# SPDX-License-Identifier: GPL-2.0-or-later
"""Stores the dynamic probes that operators have added, by VM: a file beside the journal.

A dynamic probe belongs to the VM of that name. It is loaded again at each start
of the VM on this host until it is removed. The definition stays on the host: the
guest does not decide what its records mean.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

from vesper_monitor.guest.dynamic_probes.point import DynamicProbe, DynamicProbeError
from vesper_monitor.guest.dynamic_probes.syntax import parse_definition
from vesper_monitor.guest.record_types import RECORDS
from vesper_monitor.util.state_file import DirectDisk, StateDisk

__all__ = ["RESERVED", "DynamicProbeStore"]

_log = logging.getLogger(__name__)

#: Names of VESPER's own events and modules.
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
    """The dynamic probes of all VMs of this host.

    :param path: of the file.
    :param disk: reads and writes the file.
    """

    def __init__(self, path: Path, disk: StateDisk | None = None) -> None:
        self._path = path
        self._disk = disk or DirectDisk()
        self._is_restored = False
        self._probes: dict[str, dict[str, DynamicProbe]] = {}

    async def restore_probes(self) -> None:
        """Read the dynamic probes that an earlier vesperd saved, however long that takes."""
        await self._read_probes()
        self._is_restored = True

    async def _read_probes(self) -> None:
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
                probe = parse_definition(text)
            except DynamicProbeError as error:
                _log.error("%s: probe '%s' of %s: %s", self._path, text, vm, error)
                continue
            self._probes.setdefault(vm, {})[probe.name] = probe

    def probes_of_vm(self, vm: str) -> Mapping[str, DynamicProbe]:
        """Return the dynamic probes by name: a live view, the same object each time."""
        return self._probes.setdefault(vm, {})

    def add_probe(self, vm: str, probe: DynamicProbe) -> None:
        """Decode records by it from now on. :meth:`save_probes` makes it permanent."""
        self._probes.setdefault(vm, {})[probe.name] = probe

    def remove_probe(self, vm: str, name: str) -> None:
        """Remove a dynamic probe, if there is one of that name."""
        self._probes.setdefault(vm, {}).pop(name, None)

    async def save_probes(self) -> None:
        """Save all dynamic probes. :raises OSError: the file is as it was."""
        if not self._is_restored:
            raise OSError(f"{self._path}: it was not read yet")
        texts = {vm: [probe.text for probe in self._probes[vm].values()] for vm in self._probes}
        kept = {vm: lines for vm, lines in texts.items() if lines}
        await self._disk.write_state(self._path, kept)
