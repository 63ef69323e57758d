# SPDX-License-Identifier: GPL-2.0-or-later
"""Decode the bytes of a relay record to an event with names and a sentence.

:mod:`vesper_monitor.guest.record_types` describes the records of each probe.

Any bytes give an event, and nothing is raised: the guest's text is made
printable, and numbers without a name stay numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vesper_monitor.guest import abi
from vesper_monitor.guest.dynamic_probes.point import DynamicProbe
from vesper_monitor.guest.dynamic_probes.record import read_record
from vesper_monitor.guest.event import LOST, MAX_GUEST_NS, UNKNOWN, Event
from vesper_monitor.guest.record_layout import RecordType
from vesper_monitor.guest.record_types import RECORDS
from vesper_monitor.guest.relay.relay import RawRecord

__all__ = ["decode_records"]

_KINDS = {kind.event: kind for kind in RECORDS.values()}
assert len(_KINDS) == len(RECORDS)


class _RecordEvent(Event):
    """An event that makes its fields and text from the record at the first use.

    A guest may write far more records than anybody looks at.
    """

    __slots__ = ("_data", "_kind")

    def __init__(
        self,
        vm: str,
        domid: int,
        probe: str,
        kind: RecordType,
        cpu: int,
        record: RawRecord,
        received: float,
    ) -> None:
        # Without Event.__init__(): fields and text stay unset.
        self.vm = vm
        self.domid = domid
        self.probe = probe
        self.event = kind.event
        self.cpu = cpu
        self.seq = record.seq
        self.guest_ns = min(record.time_ns, MAX_GUEST_NS)
        self.received = received
        self.id = None
        self.crash_log = None
        self.is_reread = False
        self._data = record.data
        self._kind = kind

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the record's bytes; fields and text are made again from them."""
        rest = (self.cpu, self.seq, self.guest_ns, self.received, self.id)
        return _restore_event, (self.vm, self.domid, self.probe, self.event, self._data, *rest)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute that is unset."""
        if name == "fields":
            self.fields = self._kind.read_fields(self._data)
            return self.fields
        if name == "text":
            self.text = self._kind.text(self.fields)
            return self.text
        raise AttributeError(name)


def _restore_event(
    vm: str,
    domid: int,
    probe: str,
    event: str,
    data: bytes,
    cpu: int,
    seq: int,
    guest_ns: int,
    received: float,
    number: int | None,
) -> _RecordEvent:
    """Return an event as it was before it was pickled."""
    record = RawRecord(seq, guest_ns, 0, 0, data)
    made = _RecordEvent(vm, domid, probe, _KINDS[event], cpu, record, received)
    made.id = number
    return made


def decode_records(
    records: Iterable[RawRecord],
    *,
    vm: str,
    domid: int,
    probe: str,
    cpu: int,
    received: float,
    defined: Mapping[str, DynamicProbe] | None = None,
) -> list[Event]:
    """Decode the records of one buffer.

    :param records: as :class:`RelayReader` has checked them.
    :param cpu: of the buffer; the CPU that a record names is not trusted.
    :param defined: the VM's dynamic probes, by name.
    :returns: an event for each record, and one for each gap before a record.
    """
    events: list[Event] = []
    point = defined.get(probe) if defined else None
    for record in records:
        if record.lost:
            events.append(_make_lost_event(record, vm, domid, probe, cpu, received))
        kind = RECORDS.get(record.event)
        known = None
        if point is not None and record.event == abi.EventType.PROBE_POINT:
            known = read_record(point, record.data)
        if known is not None:
            events.append(_make_event(record, vm, domid, probe, cpu, received, probe, *known))
        elif kind is None:
            fields = {"type": record.event, "length": len(record.data)}
            text = f"record of unknown type {record.event} from probe {probe}"
            events.append(
                _make_event(record, vm, domid, probe, cpu, received, UNKNOWN, fields, text)
            )
        else:
            events.append(_RecordEvent(vm, domid, probe, kind, cpu, record, received))
    return events


def _make_lost_event(
    record: RawRecord, vm: str, domid: int, probe: str, cpu: int, received: float
) -> Event:
    """Return the event that stands for the lost records before this one."""
    count = record.lost
    text = (
        f"{count} record{'s' if count != 1 else ''} of {probe} on CPU {cpu} lost: "
        "overwritten before they were read"
    )
    event = _make_event(record, vm, domid, probe, cpu, received, LOST, {"count": count}, text)
    event.seq -= count
    return event


def _make_event(
    record: RawRecord,
    vm: str,
    domid: int,
    probe: str,
    cpu: int,
    received: float,
    event: str,
    fields: dict[str, Any],
    text: str,
) -> Event:
    return Event(
        vm=vm,
        domid=domid,
        probe=probe,
        event=event,
        cpu=cpu,
        seq=record.seq,
        guest_ns=min(record.time_ns, MAX_GUEST_NS),
        received=received,
        fields=fields,
        text=text,
    )
