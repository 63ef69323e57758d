# SPDX-License-Identifier: GPL-2.0-or-later
"""The story of an incident, of vesperd's journal and the cluster's history."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vesper_monitor.command.history import HistoryError, parse
from vesper_monitor.command.why import story

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


def test_a_story_in_order() -> None:
    event = {"received": 1000.39, "text": "SIGSEGV kills httpd[97]"}
    steps = story(FAULT, [event], parse(STATUS, "vm1"))
    assert [(step.where, step.text) for step in steps] == [
        ("guest", "SIGSEGV kills httpd[97]"),
        ("vesperd", "fault 7: httpd[97] killed"),
        ("vesperd", "told Pacemaker"),
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
        names = [operation.name for operation in parse(quick, "vm1")]
        assert names == ["monitor", "stop", "start", "monitor"]


def test_what_was_before_the_fault_is_another_story() -> None:
    later = {**FAULT, "seen": 2000.0, "told": None, "ended": None}
    assert [step.where for step in story(later, [], parse(STATUS, "vm1"))] == ["vesperd"]


def test_not_xml() -> None:
    with pytest.raises(HistoryError, match="not XML"):
        parse("Signon to CIB failed", "vm1")


WORDS = st.text(alphabet="abcdefgh0123456789-.", max_size=12)


KEYS = ("operation", "interval", "rc-code", "op-status", "last-rc-change", "exec-time")


@given(st.dictionaries(st.sampled_from(KEYS), WORDS))
def test_no_entry_makes_it_raise(attributes: dict[str, str]) -> None:
    entry = " ".join(f'{key}="{value}"' for key, value in attributes.items())
    history = f"<lrm_resource id='v'><lrm_rsc_op {entry}/></lrm_resource>"
    assert len(parse(f"<a><node_state>{history}</node_state></a>", "v")) <= 1
