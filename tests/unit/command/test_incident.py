# SPDX-License-Identifier: GPL-2.0-or-later
"""The story of an incident, of vesperd's journal and the cluster's history."""

from __future__ import annotations

import argparse
import json
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vesper_monitor.client import Client
from vesper_monitor.command import history
from vesper_monitor.command.history import HistoryError, Operation, parse_operations
from vesper_monitor.command.incident import (
    _format_since_fault,
    build_story,
    explain_incident,
    find_operations_of_fault,
    find_unexplained_failure,
)

STATUS = """
<status>
 <node_state uname="node1"><lrm id="1"><lrm_resources><lrm_resource id="vm1">
  <lrm_rsc_op id="vm1_last_failure_0" operation="monitor" interval="1000" rc-code="1"
    op-status="4" last-rc-change="1000" exec-time="0" exit-reason="httpd[97] killed"/>
  <lrm_rsc_op id="vm1_monitor_1000" operation="monitor" interval="1000" rc-code="1"
    op-status="4" last-rc-change="1000" exec-time="0" exit-reason="httpd[97] killed"/>
  <lrm_rsc_op id="vm1_last_0" operation="stop" interval="0" rc-code="0"
    op-status="0" last-rc-change="1001" exec-time="1500"/>
 </lrm_resource><lrm_resource id="other">
  <lrm_rsc_op id="other_last_0" operation="stop" interval="0" rc-code="0"
    op-status="0" last-rc-change="1001" exec-time="1500"/>
 </lrm_resource></lrm_resources></lrm></node_state>
 <node_state uname="node2"><lrm id="2"><lrm_resources><lrm_resource id="vm1">
  <lrm_rsc_op id="vm1_last_0" operation="start" interval="0" rc-code="0"
    op-status="0" last-rc-change="1003" exec-time="6000"/>
  <lrm_rsc_op id="vm1_monitor_1000" operation="monitor" interval="1000" rc-code="190"
    op-status="0" last-rc-change="1009" exec-time="10"/>
  <lrm_rsc_op id="vm1_monitor_9" operation="monitor" interval="9" rc-code="193"
    op-status="-1" last-rc-change="1010" exec-time="0"/>
  <lrm_rsc_op id="odd" operation="monitor" interval="x" rc-code="?"/>
 </lrm_resource></lrm_resources></lrm></node_state>
</status>
"""
FAULT = {"id": 7, "reason": "httpd[97] killed", "seen": 1000.4, "told": 1000.41,
         "ended": 1001.2, "ended_by": "stop"}  # fmt: skip


def test_a_story_lists_its_steps_in_order_of_time() -> None:
    event = {"received": 1000.39, "text": "SIGSEGV kills httpd[97]"}
    steps = build_story(FAULT, [event], parse_operations(STATUS, "vm1"))
    assert [(step.where, step.text) for step in steps] == [
        ("guest", "SIGSEGV kills httpd[97]"),
        ("vesperd", "fault 7: httpd[97] killed"),
        ("vesperd", "reported to Pacemaker"),
        ("node1", "monitor: error (httpd[97] killed)"),  # known to the second
        ("vesperd", "fault ended by stop"),
        ("node1", "stop: ok, took 1.5 s"),  # from 1001 on
        ("node2", "start: ok, took 6.0 s"),
        ("node2", "monitor: ok, degraded"),
    ]


def test_a_start_in_the_second_of_the_stop_comes_after_it() -> None:
    """Found by a failover that was quicker than the cluster's clock."""
    for begun in ("1001", "1002"):
        quick = STATUS.replace("1003", begun).replace("6000", "400")
        names = [operation.name for operation in parse_operations(quick, "vm1")]
        assert names == ["monitor", "stop", "start", "monitor"]


def test_what_was_before_the_fault_is_another_story() -> None:
    later = {**FAULT, "seen": 2000.0, "told": None, "ended": None}
    assert [step.where for step in build_story(later, [], parse_operations(STATUS, "vm1"))] == [
        "vesperd"
    ]


def operation(name: str, at: float, node: str = "node1", **more: Any) -> Operation:
    fields = {"rc": 0, "seconds": 0.0, "reason": "", "recurring": name == "monitor", **more}
    return Operation(at=at, node=node, name=name, **fields)


def test_the_cause_is_before_its_monitor_when_a_full_second_is_crossed() -> None:
    fault: dict[str, Any] = {**FAULT, "seen": 999.998, "told": 1000.002, "ended": 1000.1}
    event = {"received": 999.997, "text": "SIGSEGV kills httpd[97]"}
    failed = operation("monitor", 999.0, rc=1)
    stop = operation("stop", 1001.0, seconds=1.0)
    steps = build_story(fault, [event], [failed, stop])
    assert [step.text.split(":")[0] for step in steps] == [
        "SIGSEGV kills httpd[97]", "fault 7", "reported to Pacemaker", "monitor",
        "fault ended by stop", "stop",
    ]  # fmt: skip
    assert [_format_since_fault(step, fault["seen"]) for step in steps if step.whole] == [
        "+0 s",
        "+1 s",
    ]


def test_a_monitor_comes_after_the_start_of_its_second() -> None:
    text = STATUS.replace("1003", "1002").replace("6000", "900")
    text = text.replace('last-rc-change="1009"', 'last-rc-change="1002"')
    assert [o.name for o in parse_operations(text, "vm1")] == [
        "monitor",
        "stop",
        "start",
        "monitor",
    ]


#: Three minutes after the fault QEMU was killed; the first failover's operations
#: are overwritten by those of the second.
SECOND = [
    operation("monitor", 1180.0, rc=7, reason="vm1 does not run any more"),
    operation("stop", 1181.0, seconds=0.3),
    operation("start", 1184.0, "node2", seconds=2.0),
    operation("monitor", 1184.0, "node2"),
]


def test_a_later_failure_is_another_incident() -> None:
    failure = find_unexplained_failure(FAULT, SECOND)
    assert failure == SECOND[0]
    assert find_operations_of_fault(FAULT, SECOND) == []
    assert all(not step.whole for step in build_story(FAULT, [], SECOND))
    # With its own fault on record (a death) it is that one's.
    death = {**FAULT, "id": 8, "seen": 1180.4, "told": 1180.5, "ended": 1180.9,
             "ended_by": "end of the domain"}  # fmt: skip
    assert find_unexplained_failure(death, SECOND) is None
    assert find_operations_of_fault(death, SECOND) == SECOND
    # And without any it is a failure all the same.
    assert find_unexplained_failure(None, SECOND) == SECOND[0]


def test_what_was_done_by_hand_later_is_no_part_of_a_story() -> None:
    failover = parse_operations(STATUS, "vm1")
    moved = [operation("stop", 1500.0, "node2", seconds=1.0), operation("start", 1503.0, "node3")]
    assert find_operations_of_fault(FAULT, [*failover, *moved]) == failover
    assert find_unexplained_failure(FAULT, [*failover, *moved]) is None


def test_starts_that_failed_are_a_part_of_it() -> None:
    failed = operation("start", 1002.8, "node2", rc=1, seconds=0.5)
    again = operation("stop", 1003.0, "node2")
    operations = parse_operations(STATUS, "vm1")
    with_them = [*operations[:2], failed, again, *operations[2:]]
    assert find_operations_of_fault(FAULT, with_them) == with_them
    # Of a probe that finds nothing, and of a failed migration, it is not said to have failed.
    others = [
        operation("monitor", 2000.0, "node3", rc=7, recurring=False),
        operation("migrate_to", 2000.0, "node2", rc=1),
    ]
    assert find_unexplained_failure(FAULT, [*with_them, *others]) is None


def test_a_fault_that_was_cleared_ends_there() -> None:
    cleared = {**FAULT, "ended": 1030.0, "ended_by": "operator"}
    failed = operation("monitor", 1000.0, rc=1)
    operations = [failed, operation("stop", 1500.0, seconds=1.0)]
    assert find_operations_of_fault(cleared, operations) == [failed]


def test_a_status_that_is_not_xml_is_an_error() -> None:
    with pytest.raises(HistoryError, match="not XML"):
        parse_operations("Signon to CIB failed", "vm1")


WORDS = st.text(alphabet="abcdefgh0123456789-.", max_size=12)


KEYS = ("operation", "interval", "rc-code", "op-status", "last-rc-change", "exec-time")


@given(st.dictionaries(st.sampled_from(KEYS), WORDS))
def test_no_entry_makes_it_raise(attributes: dict[str, str]) -> None:
    entry = " ".join(f'{key}="{value}"' for key, value in attributes.items())
    history = f"<lrm_resource id='v'><lrm_rsc_op {entry}/></lrm_resource>"
    assert len(parse_operations(f"<a><node_state>{history}</node_state></a>", "v")) <= 1


def test_the_first_word_is_the_class(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(history, "read_operations", lambda _: [])
    fault = {**FAULT, "class": "memory", "resource": "r1", "vm": "vm1"}

    class Vesperd:
        def call_vesperd(self, op: str, **_: Any) -> dict[str, Any]:
            return {"faults": [fault]} if op == "faults" else {"fault": fault, "events": []}

    options = argparse.Namespace(vm="vm1", id=None, json=False)
    explain_incident(cast(Client, Vesperd()), options)
    assert capsys.readouterr().out.startswith("memory fault of r1 (vm1): httpd[97] killed\n")
    explain_incident(cast(Client, Vesperd()), argparse.Namespace(vm="vm1", id=None, json=True))
    assert json.loads(capsys.readouterr().out)["fault"]["class"] == "memory"
