# SPDX-License-Identifier: GPL-2.0-or-later
"""The asynchronous failure: asked before, checked after, never for what is unknown.

The commands are scripted here; tests/cluster has the real ones.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from vesper_monitor.pacemaker import commands
from vesper_monitor.pacemaker.commands import (
    DegradedRecord,
    PacemakerError,
    ResourceState,
    parse_crm_mon,
    parse_status,
)

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


HISTORY = """<status>
 <node_state uname="node1"><lrm><lrm_resources>
  <lrm_resource id="vm1" class="ocf" provider="{provider}" type="XenVM">
   <lrm_rsc_op id="vm1_last_0" operation="start" interval="0" rc-code="0" last-rc-change="1"/>
   <lrm_rsc_op id="vm1_last_failure_0" operation="{operation}" interval="1000" rc-code="{code}"
     last-rc-change="100"/>
   <lrm_rsc_op id="vm1_monitor_1000" operation="monitor" interval="1000" rc-code="0"
     last-rc-change="{since}"/>
   <lrm_rsc_op id="vm1_monitor_9" operation="monitor" interval="9" rc-code="0"
     last-rc-change="200"/>
  </lrm_resource>
 </lrm_resources></lrm></node_state>
 <node_state uname="node2"><lrm/></node_state>
</status>"""


def history(
    code: int = 190, since: object = 99, provider: str = "vesper", operation: str = "monitor"
) -> str:
    return HISTORY.format(code=code, since=since, provider=provider, operation=operation)


def test_the_state_of_a_resource_is_read() -> None:
    assert parse_crm_mon(status(2), "vm1", "node1") == ResourceState(
        True, True, 2, "ocf:vesper:XenVM"
    )
    assert parse_crm_mon(status(2), "vm1", "node2") == ResourceState(False, False, 7)
    assert parse_crm_mon(status("INFINITY"), "vm1:0", "node1").fail_count == 1_000_000
    assert not parse_crm_mon(status(), "vm2", "node1").active  # an orphan
    assert not parse_crm_mon(status(), "other", "node1").active
    with pytest.raises(PacemakerError):
        parse_crm_mon("crm_mon: Error: cluster is not available", "vm1", "node1")


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
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
    monkeypatch.setattr(commands, "MAX_TRIES", 2)
    monkeypatch.setattr(commands, "MAX_PAUSE_S", 0.05)
    monkeypatch.setattr(commands, "VERIFY_TIMEOUT_S", 0.3)
    monkeypatch.setattr(commands, "VERIFY_PAUSE_S", 0.05)
    (tmp_path / "status").write_text(status())
    (tmp_path / "after").write_text(status(1))
    return tmp_path


def fail(wanted: bool = True, node: str | None = "node1") -> bool:
    return asyncio.run(commands.report_failure("vm1", node, lambda: wanted))


def calls(scripted: Path) -> list[str]:
    path = scripted / "calls"
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize("node", ["node1", None])
def test_a_failure_is_recorded_and_verified(scripted: Path, node: str | None) -> None:
    assert fail(node=node)
    assert calls(scripted) == ["--fail --resource vm1 --node node1"]


def test_a_failure_that_does_not_show_is_tried_again_within_bounds(scripted: Path) -> None:
    (scripted / "after").write_text(status(0))
    assert not fail()
    assert len(calls(scripted)) == 2


@pytest.mark.parametrize(
    "before",
    [status(node="node2"), status(managed="false"), "no cluster", status().replace("vm1", "vm9")],
)
def test_never_where_it_does_not_belong(scripted: Path, before: str) -> None:
    (scripted / "status").write_text(before)
    assert not fail()
    assert calls(scripted) == []


def test_not_where_the_agent_is_another_by_now(
    scripted: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (scripted / "status").write_text(status(agent="ocf:heartbeat:Xen"))
    assert not fail()
    assert calls(scripted) == []
    (message,) = caplog.messages
    assert "ocf:heartbeat:Xen" in message


def test_not_on_a_remote_node_where_it_would_be_refused_in_silence(
    scripted: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (scripted / "status").write_text(status(kind="remote"))
    assert not fail()
    assert calls(scripted) == []
    (message,) = caplog.messages
    assert "Pacemaker Remote" in message


def test_not_when_it_is_not_wanted_any_more(scripted: Path) -> None:
    assert not fail(wanted=False)
    assert calls(scripted) == []


def test_without_pacemaker_a_report_ends(scripted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert not fail()


def test_records_of_degraded_monitors() -> None:
    (record,) = parse_status(history())
    assert record == DegradedRecord("vm1", "node1", "100", over=False)
    assert record.belongs_to("vm1", "node1")
    assert record.belongs_to("vm1:0", "node1")
    assert not record.belongs_to("vm1", "node2")
    assert not record.belongs_to("vm", "node1")
    # A monitor of another interval says nothing of this one.
    assert [parse_status(history(since=s))[0].over for s in (99, 100, 101)] == [False, True, True]


@pytest.mark.parametrize(
    "text",
    [
        history(code=1),
        history(code=0),
        history(provider="heartbeat"),
        history(operation="start"),
        history().replace("node1", "no'de"),
    ],
)
def test_no_other_record_is_taken_for_one(text: str) -> None:
    assert parse_status(text) == []


def test_a_text_that_is_no_status_is_an_error() -> None:
    with pytest.raises(PacemakerError, match="not XML"):
        parse_status("Signon to CIB failed")


def test_one_record_is_removed_and_only_while_it_is_the_same(scripted: Path) -> None:
    script = scripted / "cibadmin"
    script.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >> {scripted}/calls\n')
    script.chmod(0o755)
    asyncio.run(commands.remove_record(DegradedRecord("vm1", "node1", "100", over=True)))
    assert calls(scripted) == [
        "--delete",
        "--xpath",
        "/cib/status/node_state[@uname='node1']/lrm/lrm_resources/lrm_resource[@id='vm1']"
        "/lrm_rsc_op[@id='vm1_last_failure_0'][@rc-code='190'][@last-rc-change='100']",
    ]


def test_node_attributes_are_ascii(scripted: Path) -> None:
    """attrd_updater runs in the C locale, whatever LANG says: exit 64 for anything else."""
    script = scripted / "attrd_updater"
    script.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >> {scripted}/calls\n')
    script.chmod(0o755)
    asyncio.run(commands.set_attribute("vesper-pause-wäb", "Größe ändern \u65e5"))
    asyncio.run(commands.set_attribute("vesper-pause-wäb", None))
    assert calls(scripted) == [
        "--name", "vesper-pause-w\\xe4b", "--update", "Gr\\xf6\\xdfe \\xe4ndern \\u65e5",
        "--delete", "--name", "vesper-pause-w\\xe4b",
    ]  # fmt: skip
