# SPDX-License-Identifier: GPL-2.0-or-later
"""From the bytes of a relay record to an event with names and a sentence.

What is in the records of each probe: :mod:`vesper_monitor.guest.records`.

Whatever the bytes are, :func:`decode` returns an event and raises nothing:
text of the guest's is made printable, numbers without a name stay numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vesper_monitor.guest import abi
from vesper_monitor.guest.names import printable, signal_name
from vesper_monitor.guest.points import record as points
from vesper_monitor.guest.records import RECORDS

if TYPE_CHECKING:
    from vesper_monitor.guest.last_words import LastWords
    from vesper_monitor.guest.points.point import Point

__all__ = ["LOST", "UNKNOWN", "Event", "decode", "lost", "printable", "signal_name"]

#: ``Event.event`` where records were overwritten before they could be read.
LOST = "lost"
#: ``Event.event`` of a record of a type that this version does not know.
UNKNOWN = "unknown"

#: SQLite's and JSON readers' integers end here; a hostile guest's need not.
_MAX_TIME = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Event:
    """One record of a probe, decoded. docs/api.md tells what the keys mean."""

    vm: str
    domid: int
    probe: str
    #: of a RecordType ("send_signal" ..), the name of a point, "last_words", "hang", "lost" or
    #: "unknown"
    event: str
    cpu: int
    seq: int  #: per probe and CPU; of "lost": the first that is missing
    guest_ns: int  #: guest's CLOCK_MONOTONIC; of "lost": of the next record
    received: float  #: s, host's CLOCK_REALTIME
    fields: dict[str, Any]
    text: str
    id: int | None = None  #: the journal's, once it is there
    #: of "last_words": stack and log, for the journal alone
    words: LastWords | None = None

    def to_json(self) -> dict[str, Any]:
        """As it goes over the socket and into the journal."""
        return {
            "id": self.id,
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


def decode(
    data: bytes,
    *,
    vm: str,
    domid: int,
    probe: str,
    cpu: int,
    received: float,
    defined: Mapping[str, Point] | None = None,
) -> Event:
    """
    :param data: one record, from its ``struct vsp_record`` on; the reader has
        checked that it is at least that long.
    :param cpu: of the buffer it was found in (the record's own is the guest's
        word).
    :param defined: the VM's points, by name.
    """
    record = abi.Record.from_buffer_copy(data)
    kind = RECORDS.get(record.event)
    point = (defined or {}).get(probe) if record.event == abi.EventType.PROBE_POINT else None
    known = points.read(point, data) if point is not None else None
    if known is not None:
        event = probe
        fields: dict[str, Any] = known[0]
        text = known[1]
    elif kind is None:
        event = UNKNOWN
        fields = {"type": record.event, "length": len(data)}
        text = f"record of unknown type {record.event} from probe {probe}"
    else:
        event = kind.event
        fields, text = kind.read(data)
    return Event(
        vm=vm,
        domid=domid,
        probe=probe,
        event=event,
        cpu=cpu,
        seq=record.seq,
        guest_ns=min(record.time_ns, _MAX_TIME),
        received=received,
        fields=fields,
        text=text,
    )


def lost(
    count: int,
    *,
    vm: str,
    domid: int,
    probe: str,
    cpu: int,
    seq: int,
    guest_ns: int,
    received: float,
) -> Event:
    """The event that stands for ``count`` records nobody could read."""
    return Event(
        vm=vm,
        domid=domid,
        probe=probe,
        event=LOST,
        cpu=cpu,
        seq=seq,
        guest_ns=min(guest_ns, _MAX_TIME),
        received=received,
        fields={"count": count},
        text=f"{count} record{'s' if count != 1 else ''} of {probe} on CPU {cpu} lost: "
        "overwritten before they were read",
    )
