# SPDX-License-Identifier: GPL-2.0-or-later
"""Faults that Pacemaker knows and the journal does not, since its disk does not take them.

They are kept where nothing but memory is needed (/run).  A vesperd that ends before
the journal has them finds their records in the guest again, and reports none twice.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from vesper_monitor.guest.event import Event
from vesper_monitor.journal.records import ActivationRecord, EventKey, Fault, key_of_event
from vesper_monitor.util import state_file

__all__ = ["ToldLedger"]

_log = logging.getLogger(__name__)

#: Faults; each instance holds one at a time.
MAX_ENTRIES = 1000
#: Bytes of the file.
MAX_BYTES = 1 << 20


class ToldLedger:
    """
    :param path: of the file; None: nothing is kept.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        #: resource and record (as text) to when Pacemaker was told, s, CLOCK_REALTIME
        self._told: dict[str, float] = {}

    def restore_ledger(self) -> None:
        """Take up what an earlier daemon has noted."""
        if self._path is None:
            return
        try:
            with self._path.open("rb") as file:
                entries = json.loads(file.read(MAX_BYTES))
            self._told = {str(key): float(at) for key, at in entries.items()}
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
            _log.error("%s: what Pacemaker knows is not known: %s", self._path, error)

    def note_told(self, fault: Fault) -> None:
        """Pacemaker was told of a fault."""
        record = fault.event_key
        if record is None or fault.told is None:
            return
        while len(self._told) >= MAX_ENTRIES:
            del self._told[next(iter(self._told))]
        self._told[_ledger_key(fault.resource, fault.uuid, fault.domid, record)] = fault.told
        self._save_ledger()

    def forget_fault(self, fault: Fault) -> None:
        """The journal has it."""
        record = fault.event_key
        if self._told and record is not None:
            key = _ledger_key(fault.resource, fault.uuid, fault.domid, record)
            if self._told.pop(key, None) is not None:
                self._save_ledger()

    def when_told(self, record: ActivationRecord, event: Event) -> float | None:
        """Return when Pacemaker was told of a fault in that event; None: it was not."""
        return self.when_told_of(record, key_of_event(event)) if event.guest_ns else None

    def when_told_of(self, record: ActivationRecord, key: EventKey | None) -> float | None:
        """Likewise, of a fault in that record of a guest."""
        if not self._told or key is None:
            return None
        return self._told.get(_ledger_key(record.resource, record.uuid, record.domid, key))

    def _save_ledger(self) -> None:
        if self._path is None:
            return
        try:
            state_file.write_state(self._path, self._told)
        except OSError as error:
            _log.error("%s: a fault may be reported twice: %s", self._path, error)


def _ledger_key(resource: str, uuid: str, domid: int, record: object) -> str:
    return repr((resource, uuid, domid, record))
