# SPDX-License-Identifier: GPL-2.0-or-later
"""Rules that the documents and ``vesper advise`` show, for somebody to paste."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest

from tests.unit.support.daemons import PROJECT
from vesper_monitor.guest.event import Event
from vesper_monitor.rules.rule_set import RuleSet

#: Rules that tell of processes begin with one of these.
OF_PROCESSES = ("send_signal:", "out_of_memory:", "process_exit:", "last_words:")


def advised() -> list[str]:
    page = (PROJECT / "docs/man/vesper-rules.7").read_text()
    examples = page.partition(".SH EXAMPLES")[2]
    shown = [line[4:-1] for line in examples.splitlines() if line.startswith('.B "')]
    shown += [line for line in page.splitlines() if "docker" in line or "killall5" in line]
    shown = [text.replace("\\(dq", '"').replace("\\-", "-") for text in shown]
    shown += re.findall(r"`fault_on='([^']*)'`", (PROJECT / "README.md").read_text())
    for agent in ("XenVM", "LibvirtVM"):
        meta_data = (PROJECT / f"vesper_monitor/ocf/{agent}.xml").read_text()
        shown += re.findall(r"^(out_of_memory: .*)\.$", meta_data, re.M)
        manual = (PROJECT / f"docs/man/ocf_vesper_{agent}.7").read_text()
        shown += re.findall(r'^\.BR "(out_of_memory: .*)" \.$', manual, re.M)
    symptoms = tomllib.loads((PROJECT / "vesper_monitor/knowledge/symptoms.toml").read_text())
    shown += [entry["rules"] for entry in symptoms["symptom"] if "rules" in entry]
    shown.remove("out_of_memory: any")  # the original's: what it means is said beside it
    return [text for text in shown if text.startswith(OF_PROCESSES)]


def ends_of(name: str) -> list[Event]:
    """What a user can bring about with processes of his own that have a service's name."""
    who = {
        "pid": 97, "login_uid": 1000, "cgroup": "/user.slice/docker-5f0c", "age_ms": 60_000,
        "elder_pid": None, "asked": False, "parent_comm": "bash",
    }  # fmt: skip
    killed = {"sig": 11, "signal": "SIGSEGV"}
    sent = {"fatal": True, "sender_comm": "systemd-oomd", "sender_uid": 1000, "sender_pid": 80}
    ends: list[tuple[str, dict[str, Any]]] = [
        ("send_signal", {**who, **killed, **sent, "tgid": 97, "leader_comm": name}),
        ("process_exit", {**who, **killed, "comm": name, "status": 0}),
    ]
    for limit in ("cgroup", "cpuset", "memory_policy"):
        ends.append(("out_of_memory", {**who, "comm": name, "constraint": limit}))
    return [Event("vm1", 1, probe, probe, 0, 0, 1, 0.0, fields, probe) for probe, fields in ends]


@pytest.mark.parametrize("rules", dict.fromkeys(advised()))
def test_no_rule_that_is_advised_lets_a_user_cause_a_failover(rules: str) -> None:
    for name in ("httpd", "systemd-journal", "Plex Media Serv"):
        ruleset = RuleSet(rules)
        assert [e.text for e in ends_of(name) * 3 if ruleset.judge_event(e, (name,))] == []


def test_the_ends_of_believed_processes_are_faults() -> None:
    """Else the test above would say nothing."""
    for event in ends_of("httpd"):
        event.fields.update(login_uid=0xFFFFFFFF, cgroup="/system.slice/httpd.service")
        assert RuleSet().judge_event(event, ("httpd",)) is not None, event.text


def test_rules_are_advised_in_each_place() -> None:
    assert len(set(advised())) >= 12
