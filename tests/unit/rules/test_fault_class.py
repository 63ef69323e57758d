# SPDX-License-Identifier: GPL-2.0-or-later
"""Which class a fault has."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvm_transport import libvirt_states
from vesper_monitor.faults.carried_fault import pack_fault
from vesper_monitor.faults.domain_events import make_notice_event, make_report_event
from vesper_monitor.guest.event import Event
from vesper_monitor.hypervisor.transport import Domain, DomainReport, DomainState, Notice
from vesper_monitor.journal.records import Fault
from vesper_monitor.knowledge import probes
from vesper_monitor.rules.fault_class import FaultClass, classify_event, classify_fault
from vesper_monitor.rules.fields import FIELDS
from vesper_monitor.rules.rule_set import RuleSet, default_rules

DOMAIN = Domain("vm1", 1, "u")

CLASSES = {
    "send_signal": "service", "out_of_memory": "memory", "process_exit": "service",
    "hung_task": "kernel", "block_error": "storage", "fs_error": "storage",
    "net_link": "network", "memory_failure": "memory", "lockup": "kernel", "die": "kernel",
    "probe_point": "kernel", "last_words": "kernel", "hang": "kernel", "domain": "host",
}  # fmt: skip


def event(kind: str, **fields: Any) -> Event:
    probe = {"last_words": "vesper", "domain": "hypervisor"}.get(kind, kind)
    return Event("vm1", 1, probe, kind, 0, 0, 0, 0.0, fields, "text")


def class_of(found: Event) -> str:
    return classify_event(found.event, found.probe, found.fields).value


def fault(rule: str, found: dict[str, Any]) -> Fault:
    return Fault(1, "r", "vm1", "u", 1, "i", "system", rule, "why", found, 1.0)


def test_each_probe_has_a_class() -> None:
    assert set(CLASSES) == set(FIELDS)
    assert {name: class_of(event(name)) for name in FIELDS} == CLASSES
    for name in probes.PROBES:
        sections = dict(probes.list_sections(name))
        assert sections["Fault class"][0].split(";")[0] == CLASSES[name]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (event("send_signal", sig=7, code=4, from_kernel=True), "memory"),
        (event("send_signal", sig=7, code=4, from_kernel=False), "service"),
        (event("send_signal", sig=7, code=2, from_kernel=True), "service"),
        (event("process_exit", sig=9, oom=True), "memory"),
        (event("process_exit", sig=9, oom=False), "service"),
        (event("slow_write", latency=3), "kernel"),
        (make_notice_event(DOMAIN, Notice("boot", "it takes too long", failure=True)), "kernel"),
        (make_notice_event(DOMAIN, Notice("reboot", "the guest reboots")), "operator"),
        (make_notice_event(DOMAIN, libvirt_states.make_memory_notice(1, 2)), "memory"),
        (make_notice_event(DOMAIN, libvirt_states.make_io_error_notice("vda", 1)), "storage"),
        (make_notice_event(DOMAIN, libvirt_states.make_watchdog_notice(1)), "kernel"),
    ],
)
def test_an_event_that_says_more_than_its_probe(found: Event, expected: str) -> None:
    assert class_of(found) == expected


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (libvirt_states.make_report("paused", "ioerror"), "storage"),
        (libvirt_states.make_report("paused", "watchdog"), "kernel"),
        (libvirt_states.make_report("paused", "user"), "operator"),
        (libvirt_states.make_report("paused", "post-copy failed"), "host"),
        (libvirt_states.make_report("paused", "panicked"), "kernel"),
        (libvirt_states.make_end_report(1), "operator"),
        (libvirt_states.make_end_report(5), "host"),
        (libvirt_states.make_end_report(5, "watchdog"), "kernel"),
        (libvirt_states.make_end_report(None), "host"),
        (DomainReport(DomainState.CRASHED), "kernel"),
        (DomainReport(DomainState.GONE), "host"),
    ],
)
def test_the_state_of_a_domain(report: DomainReport, expected: str) -> None:
    found = make_report_event(DOMAIN, report)
    assert class_of(found) == expected
    assert fault("domain_ended", found.to_json()).fault_class.value == expected


def test_a_fault_has_the_class_of_its_event_in_json() -> None:
    found = fault("out_of_memory", event("out_of_memory", pid=97).to_json())
    assert found.fault_class is FaultClass.MEMORY
    assert found.to_json()["class"] == "memory"


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("send_signal", "service"), ("out_of_memory", "memory"), ("fs_error", "storage"),
        ("net_link", "network"), ("kernel_panic", "kernel"), ("hang", "kernel"),
        ("paused", "host"), ("domain_ended", "host"), ("io_error", "storage"), ("mine", "kernel"),
    ],
)  # fmt: skip
def test_a_fault_whose_event_was_cut_has_the_class_of_its_rule(rule: str, expected: str) -> None:
    assert classify_fault(rule, {}).value == expected


def test_a_fault_that_is_too_long_to_go_along_keeps_its_class() -> None:
    long = event("out_of_memory", comm="x" * 4000).to_json()
    packed = pack_fault(fault("out_of_memory", long), None, "node1")
    assert packed["event"]["fields"] == {}
    assert classify_fault("out_of_memory", packed["event"]) is FaultClass.MEMORY


def is_fault(rules: str, found: Event) -> bool:
    return RuleSet(rules).match_event(found, ()) is not None


def test_rules_may_ask_for_the_class() -> None:
    stopped = make_report_event(DOMAIN, libvirt_states.make_report("paused", "ioerror"))
    quit = make_report_event(DOMAIN, libvirt_states.make_end_report(5))
    for text in ('class == "storage"', "class == 'storage'", 'class_ == "storage"',
                 'failure and class in ["storage", "memory"]'):  # fmt: skip
        assert is_fault(f"domain: {text}", stopped)
        assert not is_fault(f"domain: {text}", quit)
    # A text with that word is a text.
    assert is_fault('last_words: "class" in message', event("last_words", message="a class"))
    (rule,) = RuleSet('domain: failure and class != "operator"').rules["domain"]
    assert rule.describe_rule().endswith('and class is not "operator"')


def test_a_value_of_a_dynamic_probe_with_that_name_comes_first() -> None:
    assert is_fault("mine: class == 3", event("mine", **{"class": 3}))
    assert is_fault('mine: class == "kernel"', event("mine"))


def test_no_default_rule_asks_for_it() -> None:
    assert not any("class" in rule.text for rules in default_rules().values() for rule in rules)


@given(
    kind=st.sampled_from([*FIELDS, "lost", "?"]),
    probe=st.sampled_from(["hypervisor", "vesper", "x"]),
    fields=st.dictionaries(
        st.sampled_from(["sig", "code", "oom", "kind", "cause", "why", "state", "from_kernel"]),
        st.one_of(st.none(), st.booleans(), st.integers(), st.text(), st.lists(st.integers())),
    ),
    rule=st.text(),
)
def test_nothing_makes_it_raise(
    kind: str, probe: str, fields: dict[str, Any], rule: str
) -> None:
    assert isinstance(classify_event(kind, probe, fields), FaultClass)
    for whole in ({}, {"event": kind, "probe": probe, "fields": fields}, {"fields": 3}):
        assert isinstance(classify_fault(rule, whole), FaultClass)
