# SPDX-License-Identifier: GPL-2.0-or-later
"""A fault goes with its VM from agent to agent, with scripted toolstacks and a scripted cluster."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from tests.unit.ocf.support.host import Host, Result
from vesper_monitor.ocf.carried_fault import pack_fault, unpack_fault

SUCCESS, ERROR, DEGRADED = 0, 1, 190

#: A guest has a say in its texts.
FAULT = {
    "uuid": "u", "boot_id": 2**64 - 1, "node": "node1", "fault": 26, "scope": "service",
    "rule": "fatal and main", "seen": 1796.25, "told": False, "event": {"text": "\u202e\n\x1b[2J"},
    "reason": "a\"'b$(reboot)`c`;&|\\ \n Größe[98] killed by SIGSEGV",
}  # fmt: skip

#: Pacemaker's attrd, whose attributes are files NODE.NAME.
CLUSTER = """
name= node= value= do=
while [ $# -gt 0 ]; do
    case $1 in
    --name) name=$2; shift ;;
    --node) node=$2; shift ;;
    --private) private=yes ;;
    --update) do=update value=$2; shift ;;
    --delete | --query) do=${1#--} ;;
    *) echo "unknown: $1" >&2; exit 64 ;;
    esac
    shift
done
[ "$private" ] || { echo "the CIB would have it" >&2; exit 1; }
file=$0.d/$node.$name
mkdir -p "$0.d"
echo "$do $file" >>"$0.calls"
case $do in
update) printf %s "$value" >"$file" ;;
delete) rm -f "$file" ;;
query)
    [ -e "$file" ] || { echo "Could not query value of $name: does not exist" >&2; exit 6; }
    echo "name=\\"$name\\" host=\\"$node\\" value=\\"$(cat "$file")\\""
    ;;
esac
"""


@pytest.fixture
def source(host: Host) -> Host:
    """vm1 runs here and vesperd has a fault of it."""
    return prepare(host)


def prepare(host: Host) -> Host:
    host.have(vm1="running")
    (host.fake / "live.xml").write_text(host.config_text)
    host.script("attrd_updater", CLUSTER)
    host.vesperd.listen()
    host.vesperd.answers["hand_over"] = lambda _: {"carried": FAULT}
    return host


def attributes(host: Host) -> list[Path]:
    return sorted((host.bin / "attrd_updater.d").glob("*.vesper-carried-r1"))


def sent(host: Host) -> dict[str, Any]:
    """What the one attribute says."""
    (attribute,) = attributes(host)
    return unpack_fault(attribute.read_text())


def migrate_to(host: Host, timeout: float = 30) -> Result:
    return host.call("migrate_to", timeout=timeout, OCF_RESKEY_CRM_meta_migrate_target="node2")


def migrate_from(host: Host, **extra: str) -> Result:
    """At the target, which here is the same host by another name."""
    host.have(vm1="running")
    return host.call(
        "migrate_from", OCF_RESKEY_CRM_meta_on_node="node2", OCF_RESKEY_add_device="false", **extra
    )


def test_a_fault_goes_along_with_its_vm(source: Host) -> None:
    assert migrate_to(source).code == SUCCESS
    (asked,) = source.vesperd.asked("hand_over")
    assert (asked["resource"], asked["vm"]) == ("r1", "vm1")
    (attribute,) = attributes(source)
    assert attribute.name == "node2.vesper-carried-r1", "it outlives the source"
    assert re.fullmatch("[A-Za-z0-9_=-]+", attribute.read_text())
    assert migrate_from(source).code == SUCCESS
    (start,) = source.vesperd.asked("start")
    assert start["carried"] == FAULT
    assert attributes(source) == []
    # Once is enough.
    source.vesperd.answers["wait"] = lambda _: {"result": "fine"}
    assert source.call("monitor", interval=1).code == SUCCESS
    assert "carried" not in source.vesperd.asked("wait")[0]


def test_no_fault_removes_what_an_earlier_migration_has_left(source: Host) -> None:
    assert migrate_to(source).code == SUCCESS
    source.vesperd.answers["hand_over"] = lambda _: {"carried": None}
    source.have(vm1="running")
    assert migrate_to(source).code == SUCCESS
    assert sent(source)["fault"] is None
    assert migrate_from(source).code == SUCCESS
    assert "carried" not in source.vesperd.asked("start")[0]


def test_a_migration_that_failed_asks_for_none(source: Host) -> None:
    source.be("refuse")
    assert migrate_to(source).code == ERROR
    assert source.vesperd.asked("hand_over") == []
    assert attributes(source) == [], "another vm1 of node2's would be taken for this one"


def test_the_domain_is_named_before_it_leaves(source: Host) -> None:
    """The source may die before it has said anything more."""
    source.wrap(
        f'case "$*" in *migrate*) ls {source.bin}/attrd_updater.d >{source.folder}/before;; esac\n'
        'exec "${0%/*}/real" "$@"'
    )
    assert migrate_to(source).code == SUCCESS
    assert (source.folder / "before").read_text() == "node2.vesper-carried-r1\n"
    assert sent(source)["vm"] == "vm1"


def test_what_was_sent_is_found_although_the_targets_file_names_another(source: Host) -> None:
    """What was sent is found, watched and said; nothing else is started."""
    assert migrate_to(source).code == SUCCESS
    source.config.write_text(source.config_text.replace("vm1", "new"))
    assert migrate_from(source).code == SUCCESS
    (start,) = source.vesperd.asked("start")
    assert (start["vm"], start["carried"]) == ("vm1", FAULT)
    assert attributes(source) == []
    source.vesperd.answers["wait"] = lambda _: {"result": "fine"}
    result = source.call("monitor", interval=1)
    assert (result.code, (result.reason or "")[:41]) == (
        DEGRADED, "vm1 runs, but the configuration names new"
    )  # fmt: skip


def test_a_fault_of_another_domain_is_not_taken(source: Host) -> None:
    """vm1 was announced to this node, never came, and was started here as another one."""
    assert migrate_to(source).code == SUCCESS
    source.config.write_text(source.config_text.replace("vm1", "new"))
    source.have(new="running")
    assert source.call("start", OCF_RESKEY_CRM_meta_on_node="node2").code == SUCCESS
    assert "carried" not in source.vesperd.asked("start")[0]


@pytest.mark.parametrize(
    ("tool", "said"),
    [
        ("echo no cluster >&2; exit 102", "exit status 102: no cluster"),
        (None, "attrd_updater cannot be run on this node"),
    ],
    ids=["fails", "missing"],
)
def test_a_fault_that_cannot_be_sent_makes_no_migration_fail(
    source: Host, tool: str | None, said: str
) -> None:
    """The domain was announced, then the cluster's tools fail."""
    if tool is None:
        (source.bin / "attrd_updater").unlink()
    else:
        source.script("attrd_updater", once_well(source) + tool)
    without_cluster(source, said)


def test_a_cluster_that_hangs_after_the_announcement_makes_no_migration_fail(xen: Host) -> None:
    prepare(xen).script("attrd_updater", once_well(xen) + "exec sleep 1000")
    without_cluster(xen, "did not finish within 5 s")


@pytest.mark.parametrize(
    ("tool", "said"),
    [("echo no cluster >&2; exit 102", "exit status 102: no cluster"),
     ("exec sleep 1000", "did not finish within 5 s")],
    ids=["fails", "hangs"],
)  # fmt: skip
def test_a_domain_that_cannot_be_announced_is_not_migrated(xen: Host, tool: str, said: str) -> None:
    """The target's file may name another domain: it would not find what arrives."""
    prepare(xen).script("attrd_updater", tool)
    result = migrate_to(xen)
    assert result.code == ERROR
    assert "vm1 was not migrated to node2: the cluster cannot announce it" in (result.reason or "")
    assert said in result.stderr
    assert xen.calls("migrate") == []
    assert xen.running() == ["vm1"]


def once_well(host: Host) -> str:
    """The begin of a script whose first update succeeds, and its queries."""
    first = host.folder / "announced"
    return (
        'case "$*" in *--query*) echo "does not exist" >&2; exit 6;; esac\n'
        f"[ -e {first} ] || {{ : >{first}; exit 0; }}\n"
    )


def without_cluster(host: Host, said: str) -> None:
    result = migrate_to(host)
    assert result.code == SUCCESS
    assert "node2 did not get the fault of the VM" in result.stderr
    assert said in result.stderr
    assert migrate_from(host).code == SUCCESS
    assert host.vesperd.asked("start")


def test_a_restart_of_vesperd_at_the_source_fails_no_migration(source: Host) -> None:
    source.vesperd.close()
    start = time.monotonic()
    process = source.begin("migrate_to", timeout=30, OCF_RESKEY_CRM_meta_migrate_target="node2")
    while not source.calls("migrate"):
        assert time.monotonic() < start + 20
        time.sleep(0.02)
    source.vesperd.listen()
    assert source.end(process, start, 30).code == SUCCESS
    assert sent(source)["fault"] == FAULT


def test_a_dead_or_older_vesperd_at_the_source_fails_no_migration(source: Host) -> None:
    source.vesperd.answers["hand_over"] = lambda _: {
        "ok": False, "code": "bad-request", "error": "unknown op 'hand_over'"
    }  # fmt: skip
    result = migrate_to(source)
    assert result.code == SUCCESS
    assert "unknown whether it had a fault when it left: unknown op" in result.stderr
    source.vesperd.close()
    source.have(vm1="running")
    result = migrate_to(source)
    assert result.code == SUCCESS
    assert "vesperd is not running" in result.stderr
    assert sent(source)["fault"] is None


def test_a_vesperd_at_the_target_that_starts_later_takes_the_fault(source: Host) -> None:
    assert migrate_to(source).code == SUCCESS
    source.vesperd.close()
    assert migrate_from(source).code == SUCCESS
    assert attributes(source) == [], "it is kept on the node"
    assert source.call("monitor", interval=1).code == DEGRADED
    source.vesperd.listen()
    source.vesperd.answers["wait"] = lambda _: {"result": "fault", "reason": "x"}
    for _ in range(2):
        assert source.call("monitor", interval=1).code == ERROR
    first, second = source.vesperd.asked("wait")
    assert first["carried"] == FAULT
    assert "carried" not in second


def test_a_fault_that_vesperd_at_the_target_did_not_take_is_given_again(source: Host) -> None:
    assert migrate_to(source).code == SUCCESS
    source.vesperd.answers["start"] = lambda _: None
    assert migrate_from(source).code == SUCCESS
    source.vesperd.answers["wait"] = lambda _: {"result": "fault", "reason": "x"}
    assert source.call("monitor", interval=1).code == ERROR
    assert source.vesperd.asked("wait")[0]["carried"] == FAULT


@pytest.mark.parametrize("action", ["start", "stop"])
def test_what_begins_or_ends_otherwise_does_not_inherit_it(source: Host, action: str) -> None:
    assert migrate_to(source).code == SUCCESS
    source.vesperd.close()
    assert migrate_from(source).code == SUCCESS
    source.vesperd.listen()
    if action == "start":
        source.domains()
    assert source.call(action).code == SUCCESS
    source.call("start")
    assert all("carried" not in start for start in source.vesperd.asked("start"))


def test_a_start_that_finds_it_running_takes_it(source: Host) -> None:
    """Pacemaker's transition was aborted between migrate_to and migrate_from."""
    assert migrate_to(source).code == SUCCESS
    source.have(vm1="running")
    assert source.call("start", OCF_RESKEY_CRM_meta_on_node="node2").code == SUCCESS
    assert source.vesperd.asked("start")[0]["carried"] == FAULT
    assert attributes(source) == []


def test_one_that_vesperd_has_never_taken_goes_on(source: Host) -> None:
    assert migrate_to(source).code == SUCCESS
    source.vesperd.close()
    assert migrate_from(source).code == SUCCESS
    source.vesperd.listen()
    source.vesperd.answers["hand_over"] = lambda _: {"carried": None}
    assert migrate_to(source).code == SUCCESS
    assert sent(source)["fault"] == FAULT


@pytest.mark.parametrize(
    "value",
    [
        "",
        "(null)",
        "$(reboot)",
        "eyJ",
        "bnVsbA==",
        "A" * 7000,
        pack_fault({"vm": "vm1", "fault": 3}),
        pack_fault({"vm": 4, "fault": FAULT}),
        pack_fault(FAULT),
    ],
    ids=lambda v: v[:10],
)
def test_an_attribute_that_is_no_fault_is_ignored(source: Host, value: str) -> None:
    folder = source.bin / "attrd_updater.d"
    folder.mkdir()
    (folder / "node2.vesper-carried-r1").write_text(value)
    assert migrate_from(source).code == SUCCESS
    (start,) = source.vesperd.asked("start")
    assert "carried" not in start
    assert attributes(source) == [] or value in ("", "(null)")


def test_a_packed_fault_is_what_it_was() -> None:
    fault: dict[str, Any] = json.loads(json.dumps(FAULT))
    assert unpack_fault(pack_fault(fault)) == fault
