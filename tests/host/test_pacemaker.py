# SPDX-License-Identifier: GPL-2.0-or-later
"""The asynchronous failure: asked before, checked after, never for what is unknown.

The commands are scripted here; tests/cluster has the real ones.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from vesper_monitor.faults import pacemaker
from vesper_monitor.faults.pacemaker import PacemakerError, ResourceState, parse_crm_mon

STATUS = """<pacemaker-result api-version="2.25" request="crm_mon --output-as=xml">
 <nodes><node name="node1" type="{kind}"/><node name="node2" type="member"/></nodes>
 <resources>
  <resource id="vm1" active="true" orphaned="false" managed="{managed}"
    resource_agent="{agent}">
   <node name="{node}" id="1" cached="true"/></resource>
  <group id="g"><resource id="vm2" active="true" orphaned="true" managed="true">
   <node name="node1" id="1" cached="true"/></resource></group>
 </resources>
 <node_history>
  <node name="node1"><resource_history id="vm1" fail-count="{count}"/></node>
  <node name="node2"><resource_history id="vm1" fail-count="7"/></node>
 </node_history>
</pacemaker-result>"""


def status(
    count: object = 0,
    node: str = "node1",
    managed: str = "true",
    agent: str = "ocf:vesper:XenVM",
    kind: str = "member",
) -> str:
    return STATUS.format(count=count, node=node, managed=managed, agent=agent, kind=kind)


def degraded(text: str, node: str = "node1", code: int = 190) -> str:
    """With a monitor that said so on record."""
    failure = f'<failure op_key="vm1_monitor_1000" node="{node}" exitcode="{code}"/>'
    return text.replace("</pacemaker-result>", f"<failures>{failure}</failures></pacemaker-result>")


def test_state_of_a_resource() -> None:
    assert parse_crm_mon(status(2), "vm1", "node1") == ResourceState(
        True, True, 2, "ocf:vesper:XenVM"
    )
    assert parse_crm_mon(status(2), "vm1", "node2") == ResourceState(False, False, 7)
    assert parse_crm_mon(status("INFINITY"), "vm1:0", "node1").fail_count == 1_000_000
    assert not parse_crm_mon(status(), "vm2", "node1").active  # an orphan
    assert not parse_crm_mon(status(), "other", "node1").active
    assert parse_crm_mon(degraded(status()), "vm1", "node1").degraded
    assert not parse_crm_mon(degraded(status(), node="node2"), "vm1", "node1").degraded
    assert not parse_crm_mon(degraded(status(), code=1), "vm1", "node1").degraded
    assert not parse_crm_mon(degraded(status()), "vm", "node1").degraded
    with pytest.raises(PacemakerError):
        parse_crm_mon("crm_mon: Error: cluster is not available", "vm1", "node1")


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Scripts for crm_mon (prints the file ``status``) and crm_resource (logs its call)."""
    for name, script in (
        ("crm_mon", f"cat {tmp_path}/status"),
        ("crm_node", "echo node1"),
        ("crm_resource", f'echo "$*" >> {tmp_path}/calls; cp {tmp_path}/after {tmp_path}/status'),
    ):
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(pacemaker, "TRIES", 2)
    monkeypatch.setattr(pacemaker, "MAX_PAUSE", 0.05)
    monkeypatch.setattr(pacemaker, "VERIFY_TIMEOUT", 0.3)
    monkeypatch.setattr(pacemaker, "VERIFY_PAUSE", 0.05)
    (tmp_path / "status").write_text(status())
    (tmp_path / "after").write_text(status(1))
    return tmp_path


def fail(wanted: bool = True, node: str | None = "node1") -> bool:
    return asyncio.run(pacemaker.fail("vm1", node, lambda: wanted))


def calls(commands: Path) -> list[str]:
    path = commands / "calls"
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize("node", ["node1", None])
def test_told_and_verified(commands: Path, node: str | None) -> None:
    assert fail(node=node)
    assert calls(commands) == ["--fail --resource vm1 --node node1"]


def test_a_failure_that_does_not_show_is_tried_again_within_bounds(commands: Path) -> None:
    (commands / "after").write_text(status(0))
    assert not fail()
    assert len(calls(commands)) == 2


@pytest.mark.parametrize(
    "before",
    [status(node="node2"), status(managed="false"), "no cluster", status().replace("vm1", "vm9")],
)
def test_never_where_it_does_not_belong(commands: Path, before: str) -> None:
    (commands / "status").write_text(before)
    assert not fail()
    assert calls(commands) == []


def test_not_where_the_agent_is_another_by_now(
    commands: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (commands / "status").write_text(status(agent="ocf:heartbeat:Xen"))
    assert not fail()
    assert calls(commands) == []
    (message,) = caplog.messages
    assert "ocf:heartbeat:Xen" in message


def test_not_on_a_remote_node_where_it_would_be_refused_in_silence(
    commands: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (commands / "status").write_text(status(kind="remote"))
    assert not fail()
    assert calls(commands) == []
    (message,) = caplog.messages
    assert "Pacemaker Remote" in message


def test_not_when_it_is_not_wanted_any_more(commands: Path) -> None:
    assert not fail(wanted=False)
    assert calls(commands) == []


def test_without_pacemaker_it_ends(commands: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert not fail()


@pytest.mark.parametrize("node", ["node1", None])
def test_a_monitor_that_is_not_run_any_more(
    commands: Path, node: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    (commands / "status").write_text(degraded(status()))
    assert asyncio.run(pacemaker.monitor_again([("vm2", node), ("vm1", node)])) == ["vm1"]
    assert calls(commands) == ["--cleanup --resource vm1 --node node1"]
    (message,) = caplog.messages
    assert message.startswith("vm1: Pacemaker did not run its monitor any more")


@pytest.mark.parametrize(
    "now",
    [
        status(),  # there is another reason
        degraded(status(1)),  # the count would go, too
        degraded(status(managed="false")),
        degraded(status(node="node2")),
        degraded(status(agent="ocf:heartbeat:Xen")),
    ],
)
def test_nothing_is_cleaned_up_but_for_that(commands: Path, now: str) -> None:
    (commands / "status").write_text(now)
    assert not asyncio.run(pacemaker.monitor_again([("vm1", "node1")]))
    assert calls(commands) == []
