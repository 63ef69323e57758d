# SPDX-License-Identifier: GPL-2.0-or-later
"""migrate_to and migrate_from, with a scripted xl."""

from __future__ import annotations

import json
import time

import pytest

from tests.unit.ocf.support.host import Host, Result

SUCCESS, ERROR, ARGS = 0, 1, 2

#: virt_caps of Debian's Xen 4.17, and of one built with shadow paging.
DEBIAN = "virt_caps              : pv hvm hvm_directio hap gnttab-v1 gnttab-v2\n"
SHADOW = "virt_caps              : pv hvm hap shadow gnttab-v1\n"
OLD = "virt_caps              : hvm hvm_directio\n"


@pytest.fixture
def host(xen: Host) -> Host:
    return xen


@pytest.fixture
def source(host: Host) -> Host:
    """vm1 runs here, a PVH guest."""
    host.domains("vm1 -b----", "vm2 -b----")
    guest(host, "pvh", DEBIAN)
    host.vesperd.listen()
    return host


def guest(host: Host, kind: str, info: str, **b_info: object) -> None:
    config = {"c_info": {"type": kind, "name": "vm1"}, "b_info": b_info}
    (host.fake / "long").write_text(json.dumps([{"domid": 7, "config": config}], indent=4))
    (host.fake / "info").write_text(f"host                   : a\n{info}")


def migrate(host: Host, target: str = "node2", **extra: str) -> Result:
    return host.call("migrate_to", OCF_RESKEY_CRM_meta_migrate_target=target, **extra)


def sent(host: Host) -> list[str]:
    return [call for call in host.calls() if call.startswith("migrate")]


def test_a_domain_is_sent_to_the_target_by_its_name(source: Host) -> None:
    result = migrate(source)
    assert (result.code, result.reason) == (SUCCESS, None)
    assert sent(source) == ["migrate vm1 node2"]
    assert source.listed() == ["vm2 -b----"]


def test_a_domain_is_sent_to_the_address_of_a_node_attribute(source: Host) -> None:
    source.script("crm_attribute", f'echo "$*" >{source.folder}/asked; echo 10.1.1.2')
    assert migrate(source, OCF_RESKEY_node_ip_attribute="migration-ip").code == SUCCESS
    assert sent(source) == ["migrate vm1 10.1.1.2"]
    asked = (source.folder / "asked").read_text().split()
    assert asked == [
        "--type", "nodes", "--node", "node2", "--name", "migration-ip", "--query", "--quiet",
    ]  # fmt: skip


@pytest.mark.parametrize("answer", ["echo '(null)'", "echo", "echo no such attribute >&2; exit 6"])
def test_without_the_attribute_the_name_is_used(source: Host, answer: str) -> None:
    source.script("crm_attribute", answer)
    result = migrate(source, OCF_RESKEY_node_ip_attribute="migration-ip")
    assert result.code == SUCCESS
    assert sent(source) == ["migrate vm1 node2"]
    assert "has no node attribute migration-ip" in result.stderr


def test_what_is_no_address_is_not_given_to_xl(source: Host) -> None:
    source.script("crm_attribute", "echo -s evil")
    assert migrate(source, OCF_RESKEY_node_ip_attribute="a").code == ERROR
    assert sent(source) == []


@pytest.mark.parametrize("flags", ["--p---", "---sc-", "---s--"])
def test_what_does_not_run_is_not_sent(source: Host, flags: str) -> None:
    source.domains(f"vm1 {flags}")
    result = migrate(source)
    assert result.code == ERROR
    assert "cannot be migrated to node2: it is " in (result.reason or "")
    assert sent(source) == []


def test_a_pv_guest_on_a_xen_without_shadow_paging_is_told_apart(source: Host) -> None:
    guest(source, "pv", DEBIAN)
    result = migrate(source)
    assert result.code == ERROR
    assert result.reason == (
        "vm1 cannot be migrated live: a PV guest needs shadow paging, which this Xen lacks; "
        "use type=pvh or set allow-migrate=false"
    )
    assert sent(source) == []
    assert "vm1" in source.running()


@pytest.mark.parametrize(("kind", "info"), [("pv", SHADOW), ("pv", OLD), ("hvm", DEBIAN)])
def test_other_guests_are_left_to_xl(source: Host, kind: str, info: str) -> None:
    guest(source, kind, info)
    assert migrate(source).code == SUCCESS


def test_nomigrate_is_heeded(source: Host) -> None:
    guest(source, "hvm", DEBIAN, disable_migrate="True")
    result = migrate(source)
    assert result.code == ERROR
    assert "nomigrate=1" in (result.reason or "")
    assert sent(source) == []


def test_a_configuration_that_is_not_understood_is_left_to_xl(source: Host) -> None:
    (source.fake / "long").write_text("libxl: warning: what a day\n[{}]")
    assert migrate(source).code == SUCCESS


def test_a_failure_has_xls_own_words(source: Host) -> None:
    source.be("refuse")
    result = migrate(source)
    assert result.code == ERROR
    assert "Domain creation failed" in result.stderr
    assert "vm1" in source.running()


def test_a_migration_that_takes_too_long_fails(source: Host) -> None:
    (source.bin / "xl").rename(source.bin / "xl.real")
    source.script("xl", '[ "$1" = migrate ] && exec sleep 1000; exec xl.real "$@"')
    result = host_call(source)
    assert result.code == ERROR
    assert result.reason == (
        "vm1 was not migrated to node2: not done within the operation's timeout; "
        "give migrate_to more time; see: ssh node2 xl list"
    )


def host_call(host: Host) -> Result:
    return host.call("migrate_to", timeout=6, OCF_RESKEY_CRM_meta_migrate_target="node2")


# -- the target -------------------------------------------------------------------------


def test_from_waits_for_the_domain(host: Host) -> None:
    host.vesperd.listen()
    host.domains("vm1--incoming --p---")
    start = time.monotonic()
    process = host.begin("migrate_from", timeout=30)
    time.sleep(1.5)
    assert process.poll() is None
    host.domains("vm1 -b----")
    result = host.end(process, start, 30)
    assert (result.code, result.reason) == (SUCCESS, None)
    (told,) = host.vesperd.asked("start")
    assert (told["resource"], told["vm"]) == ("r1", "vm1")
    # The next monitor is the first, which Pacemaker waits for.
    host.vesperd.answers["wait"] = lambda _: {"result": "fine"}
    host.call("monitor", interval=1)
    assert host.vesperd.asked("wait")[0]["first"] is True


def test_from_does_not_wait_for_what_will_not_come(host: Host) -> None:
    result = host.call("migrate_from", timeout=60)
    assert result.code == ERROR
    assert result.seconds < 40
    assert "did not arrive on node node1" in (result.reason or "")


def test_from_says_what_it_saw(host: Host) -> None:
    host.domains("vm1--incoming --p---")
    result = host.call("migrate_from", timeout=6)
    assert result.code == ERROR
    assert "vm1--incoming is paused" in result.stderr


# -- what a migration that went wrong leaves ----------------------------------------------


@pytest.mark.parametrize("name", ["vm1--incoming", "vm1--migratedaway", "migrating-vm1"])
def test_remains_of_a_migration_are_removed(host: Host, name: str) -> None:
    host.domains(f"{name} --p---", "vm10 -b----")
    assert host.call("monitor").code == 7
    assert host.call("stop").code == SUCCESS
    assert host.listed() == ["vm10 -b----"]
    assert f"destroy {name}" in host.calls()
    assert not [call for call in host.calls() if call.startswith("shutdown")]
    host.domains(f"{name} --p---")
    assert host.call("start").code == SUCCESS
    assert host.listed() == ["vm1 -b----"]


# -- where a refusal is seen ---------------------------------------------------------------


def test_why_it_was_refused_is_a_node_attribute(source: Host) -> None:
    """Of a migration Pacemaker keeps no exit reason."""
    source.script("attrd_updater", f'echo "$*" >>{source.folder}/told')
    guest(source, "pv", DEBIAN)
    migrate(source)
    guest(source, "pvh", DEBIAN)
    migrate(source)
    source.domains("vm1 -b----")
    migrate(source)  # nothing more to say
    told = (source.folder / "told").read_text().splitlines()
    refused, done = (line for line in told if "vesper-migration" in line)
    assert refused.startswith("--name vesper-migration-vm1 --update vm1 cannot be migrated live")
    assert done == "--name vesper-migration-vm1 --delete"


def test_the_node_attribute_is_ascii(source: Host) -> None:
    """attrd_updater refuses all else; a toolstack's words may be in the host's language."""
    source.script("attrd_updater", f'printf "%s\\n" "$@" >>{source.folder}/told')
    source.domains("vm1 -b----")
    answer = migrate(source, "nöde2", OCF_RESKEY_name="vmß")
    assert answer.code != SUCCESS
    told = (source.folder / "told").read_text()
    assert told.isascii()
    assert "vesper-migration-vm\\xdf" in told
