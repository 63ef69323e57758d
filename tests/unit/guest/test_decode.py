# SPDX-License-Identifier: GPL-2.0-or-later
"""Records of any content become events that can be shown and stored."""

from __future__ import annotations

import ctypes
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vesper_monitor.guest import abi
from vesper_monitor.guest.event import Event
from vesper_monitor.guest.printable import make_printable, signal_name
from vesper_monitor.guest.record_types import RECORDS
from vesper_monitor.guest.relay import decode
from vesper_monitor.guest.relay.relay import RawRecord


def raw(record: ctypes.Structure | bytes, lost: int = 0) -> RawRecord:
    head = abi.Record.from_buffer_copy(bytes(record))
    return RawRecord(head.seq, head.time_ns, head.event, lost, bytes(record))


def decoded(record: ctypes.Structure | bytes) -> Event:
    (event,) = decode.decode_records(
        [raw(record)], vm="vm1", domid=3, probe="p", cpu=0, received=1.5
    )
    return event


def test_a_signal_is_said_with_sender_and_receiver() -> None:
    event = decoded(
        abi.SendSignal(
            rec=abi.Record(len=144, event=1, cpu=0, seq=7, time_ns=99),
            sig=11, code=1, flags=abi.SIG_FATAL | abi.SIG_ADDR | abi.SIG_FROM_KERNEL,
            addr=0xDEAD, pid=97, tgid=97, comm=b"httpd", leader_comm=b"httpd",
            parent_pid=1, parent_comm=b"init",
        )
    )  # fmt: skip
    assert (event.event, event.seq, event.guest_ns) == ("send_signal", 7, 99)
    assert event.fields["signal"] == "SIGSEGV"
    assert event.fields["fatal"] and event.fields["from_kernel"]
    assert not event.fields["traced"]
    assert event.text == "SIGSEGV at 0xdead kills httpd[97], by the kernel"


def test_no_address_without_its_flag() -> None:
    event = decoded(abi.SendSignal(rec=abi.Record(event=1), sig=15, addr=5, sender_comm=b"sh"))
    assert event.fields["addr"] is None
    assert event.text == "SIGTERM sent to [0], by sh[0] uid 0"


def test_signals_left_out_are_counted() -> None:
    signal = abi.SendSignal(rec=abi.Record(event=1), sig=10, comm=b"worker", left_out=3)
    assert decoded(signal).text == "SIGUSR1 sent to [0], by [0] uid 0 (3 more before it)"
    # As an earlier probe wrote it.
    assert decoded(bytes(signal)[: vars(abi.SendSignal)["left_out"].offset]).fields["left_out"] == 0


def test_an_oom_kill_is_said_with_its_numbers() -> None:
    event = decoded(
        abi.OutOfMemory(
            rec=abi.Record(event=2), asker_pid=120, asker_comm=b"tail", constraint=3,
            pid=97, comm=b"httpd", anon_rss_kb=10, file_rss_kb=5, shmem_rss_kb=1, free_kb=200,
        )
    )  # fmt: skip
    assert event.fields["constraint"] == "cgroup"
    assert event.fields["rss_kb"] == 16
    assert event.text == (
        "out of memory in its cgroup: kills httpd[97] (16 kB) for tail[120], order 0, 200 kB free"
    )


@given(st.binary(min_size=24, max_size=300), st.sampled_from([None, *abi.EventType]))
def test_any_record_is_decoded(data: bytes, kind: int | None) -> None:
    if kind is not None:
        data = data[:4] + kind.to_bytes(2, "little") + data[6:]
    event = decoded(data)
    json.loads(json.dumps(event.to_json()))
    texts = [event.text, *(v for v in event.fields.values() if isinstance(v, str))]
    assert all(text.isprintable() for text in texts)
    assert 0 <= event.guest_ns < 2**63


def test_every_type_of_record_is_known() -> None:
    assert set(RECORDS) == set(abi.EventType)
    for number, record in RECORDS.items():
        assert record.event == abi.EventType(number).name.lower()
        assert ctypes.sizeof(record.struct) % 8 == 0, "vsp_record_write() would refuse it"
        flags = [name for name, *_ in record.struct._fields_ if name == "flags"]
        assert bool(record.flags) == bool(flags)
        fields = record.read_fields(b"")
        assert record.text(fields)
        assert not [name for name in fields if "reserved" in name or name == "rec"]


@given(st.binary(max_size=40))
def test_names_are_made_printable(raw: bytes) -> None:
    text = make_printable(raw)
    assert text.isprintable()
    text.encode()


@pytest.mark.parametrize(
    ("number", "name"),
    [(11, "SIGSEGV"), (9, "SIGKILL"), (32, "SIGRTMIN"), (34, "SIGRTMIN+2"), (64, "SIGRTMIN+32"),
     (0, "signal 0"), (-5, "signal -5"), (2**31 - 1, "signal 2147483647")],
)  # fmt: skip
def test_each_signal_has_its_name(number: int, name: str) -> None:
    assert signal_name(number) == name


def test_lost_records_are_an_event() -> None:
    record = raw(abi.SendSignal(rec=abi.Record(event=1, seq=6, time_ns=2**64 - 1)), lost=1)
    event, after = decode.decode_records(
        [record], vm="vm1", domid=3, probe="p", cpu=2, received=0.0
    )
    assert (event.event, event.seq, after.seq) == ("lost", 5, 6)
    assert event.fields == {"count": 1}
    assert event.text.startswith("1 record of p on CPU 2 lost")
    assert event.guest_ns < 2**63


def test_a_record_is_read_when_somebody_looks() -> None:
    event = decoded(abi.SendSignal(rec=abi.Record(event=1), sig=15, sender_comm=b"sh"))
    with pytest.raises(AttributeError):
        event.nothing  # type: ignore[attr-defined]  # noqa: B018
    assert event == event
    assert event.fields is event.fields
    assert event.text == "SIGTERM sent to [0], by sh[0] uid 0"
    assert event.to_json()["fields"] == event.fields
