# SPDX-License-Identifier: GPL-2.0-or-later
"""An event of one VM, as rules, journal and followers get it.

Most events are records of probes (:mod:`vesper_monitor.guest.relay.decode`).
Others come from the guest core (crash logs), from the heartbeat watch (hangs),
and from the hypervisor (the state of the domain).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["CORE_PROBE", "LAST_WORDS", "LOST", "MAX_GUEST_NS", "UNKNOWN", "CrashLog", "Event"]

#: ``Event.event`` where records were overwritten before they could be read.
LOST = "lost"
#: ``Event.event`` of a record of a type that this version does not know.
UNKNOWN = "unknown"
#: ``Event.event`` of a crash log.
LAST_WORDS = "last_words"
#: ``Event.probe`` of what the guest core itself shows: crash logs and heartbeats.
CORE_PROBE = "vesper"
#: Largest ``Event.guest_ns``: integers of SQLite and of JSON readers end here.
MAX_GUEST_NS = (1 << 63) - 1


@dataclass(frozen=True)
class CrashLog:
    """What the guest's kernel logged of one oops or panic, made printable."""

    kind: str  #: "oops" or "panic"
    message: str  #: one line: of the panic, or of the log where it reports the oops
    stack: str  #: lines, innermost first
    log: str  #: lines, the end of the kernel's log
    complete: bool  #: the kernel had the time to write all of it


@dataclass(slots=True)
class Event:
    """One event. docs/api.md explains the keys.

    The event pipeline sets ``id``; all else stays as the maker has set it.
    """

    vm: str
    domid: int
    probe: str
    #: of a RecordType ("send_signal" ..), the name of a dynamic probe, "last_words", "hang",
    #: "alive", "domain", "lost" or "unknown"
    event: str
    cpu: int
    seq: int  #: per probe and CPU; of "lost": the first that is missing
    guest_ns: int  #: guest's CLOCK_MONOTONIC; of "lost": of the next record
    received: float  #: s, host's CLOCK_REALTIME
    fields: dict[str, Any]
    text: str
    id: int | None = None  #: the journal's; negative until the journal can be read
    #: of "last_words": stack and log, for the journal alone
    crash_log: CrashLog | None = None
    #: it was read and judged before, and is read again for the journal alone
    is_reread: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the event as the socket and the journal show it."""
        return {
            "id": self.id if self.id is None or self.id > 0 else None,
            "vm": self.vm,
            "domid": self.domid,
            "probe": self.probe,
            "event": self.event,
            "cpu": self.cpu,
            "seq": self.seq,
            "guest_ns": self.guest_ns,
            "received": self.received,
            "fields": self.fields,
            "text": self.text,
        }
