# SPDX-License-Identifier: GPL-2.0-or-later
"""Faults that Pacemaker knows and the journal does not, because its disk does not take them.

They are kept where nothing but memory is needed (/run).  If vesperd ends before the
journal has them, the next one finds such a fault again, and does not report it twice.
It finds a guest's record in the guest, and sees a hang or a pause of the domain anew.
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

#: Faults; each activation holds one at a time.
MAX_ENTRIES = 1000
#: Bytes of the file.
MAX_BYTES = 1 << 20


class ToldLedger:
    """
    :param path: of the file; None: there is none.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        #: resource, domain and record or rule (as text) → when Pacemaker was told
        #: (s, CLOCK_REALTIME)
        self._told: dict[str, float] = {}

    def restore_ledger(self) -> None:
        """Read what an earlier vesperd has noted."""
        if self._path is None:
            return
        try:
            with self._path.open("rb") as file:
                entries = json.loads(file.read(MAX_BYTES))
            self._told = {str(key): float(at) for key, at in entries.items()}
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
            _log.error("%s: faults may be reported twice: %s", self._path, error)

    def note_told(self, fault: Fault) -> None:
        """Note that Pacemaker was told of a fault."""
        if fault.told is None:
            return
        while len(self._told) >= MAX_ENTRIES:
            del self._told[next(iter(self._told))]
        self._told[_key_of_fault(fault)] = fault.told
        self._save_ledger()

    def forget_fault(self, fault: Fault) -> None:
        """Forget a fault: the journal has it, or it is over and leaves no record."""
        if self._told and self._told.pop(_key_of_fault(fault), None) is not None:
            self._save_ledger()

    def when_told(self, record: ActivationRecord, event: Event, rule: str) -> float | None:
        """Return when Pacemaker was told of a fault in that event; None: it was not.

        :param rule: ``Fault.rule``.
        """
        return self.when_told_of(record, key_of_event(event) if event.guest_ns else rule)

    def when_told_of(self, record: ActivationRecord, what: EventKey | str | None) -> float | None:
        """Return when Pacemaker was told of a fault; None: it was not.

        :param what: the guest's record in which it was found, or the rule of one that
            was found in none.
        """
        if not self._told or what is None:
            return None
        return self._told.get(_ledger_key(record.resource, record.uuid, record.domid, what))

    def _save_ledger(self) -> None:
        if self._path is None:
            return
        try:
            state_file.write_state(self._path, self._told)
        except OSError as error:
            _log.error("%s: a fault may be reported twice: %s", self._path, error)


def _key_of_fault(fault: Fault) -> str:
    what = fault.event_key or fault.rule
    return _ledger_key(fault.resource, fault.uuid, fault.domid, what)


def _ledger_key(resource: str, uuid: str, domid: int, what: EventKey | str) -> str:
    return repr((resource, uuid, domid, what))
