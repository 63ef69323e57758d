# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory of the host, and utilization of the resource."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.ocf.support.host import Host, Result

SUCCESS = 0
MANAGE = {"OCF_RESKEY_allow_mem_management": "1"}


@pytest.fixture
def host(xen: Host) -> Host:
    return xen


@pytest.fixture
def full(host: Host) -> Host:
    """A host of 8 GiB with two domains, and a crashed one that does not count."""
    host.domains("web -b----", "db --p---", "old ---sc-")
    sizes(host, web=2048, db=1024, old=512)
    memory(host, 8192, 6000)
    return host


def sizes(host: Host, **of: int) -> None:
    (host.fake / "sizes").write_text("".join(f"{name} {mib} 2\n" for name, mib in of.items()))


def memory(host: Host, total: int, free: int) -> None:
    (host.fake / "info").write_text(f"total_memory           : {total}\nfree_memory : {free}\n")


def called(host: Host, word: str) -> list[str]:
    return [call for call in host.calls() if call.startswith(word)]


def test_all_get_equal_parts_with_a_new_one(full: Host) -> None:
    before = full.config.read_text()
    assert full.call("start", **MANAGE).code == SUCCESS
    # (8192 - 512) / 3, in MiB: without the letter xl would take it for KiB.
    assert called(full, "mem-set") == ["mem-set web 2560m", "mem-set db 2560m"]
    assert called(full, "create") == [f'create {full.config} name="vm1" memory=2560']
    assert full.config.read_text() == before


def test_room_is_made_before_the_domain_is_created(full: Host) -> None:
    full.call("start", **MANAGE)
    words = [call.split()[0] for call in full.calls()]
    assert words.index("mem-set") < words.index("create")


def test_the_host_keeps_its_reserved_memory(full: Host) -> None:
    full.call("start", OCF_RESKEY_reserved_Dom0_memory="2192", **MANAGE)
    assert called(full, "mem-set") == ["mem-set web 2000m", "mem-set db 2000m"]


@pytest.mark.parametrize(
    "text",
    [
        "memory = 256\nmaxmem = 1024  # no more\n",
        "maxmem = 0x400",
        "memory = 256; maxmem = '1024'\n",
        "maxmem = 8\nmaxmem = 1024\n",
    ],
)
def test_maxmem_of_the_configuration_is_a_bound(full: Host, text: str) -> None:
    full.config.write_text(f'name = "vm1"\n{text}')
    full.call("start", **MANAGE)
    assert called(full, "create")[0].endswith(" memory=1024")


def test_after_a_stop_the_others_get_more(full: Host) -> None:
    full.domains("vm1 -b----", "web -b----")
    sizes(full, vm1=3840, web=3840)
    assert full.call("stop", **MANAGE).code == SUCCESS
    assert called(full, "mem-set") == ["mem-set web 7680m"]


def test_after_a_migration_the_others_get_more(full: Host) -> None:
    full.domains("vm1 -b----", "web -b----")
    sizes(full, vm1=1024, web=7680)
    assert full.call("migrate_from", **MANAGE).code == SUCCESS
    assert called(full, "mem-set") == ["mem-set vm1 3840m", "mem-set web 3840m"]


def test_a_domain_that_keeps_its_memory_stops_nothing(full: Host) -> None:
    (full.fake / "stiff").write_text("web\n")
    result = full.call("start", **MANAGE)
    assert result.code == SUCCESS
    assert "web: keeps its 2048 MiB: " in result.stderr
    assert "mem-set db 2560m" in full.calls()


@pytest.mark.parametrize("info", ["", "total_memory : much\n"])
def test_an_xl_that_says_nothing_stops_nothing(full: Host, info: str) -> None:
    (full.fake / "info").write_text(info)
    result = full.call("start", **MANAGE)
    assert result.code == SUCCESS
    assert "memory is not divided" in result.stderr
    assert called(full, "create") == [f'create {full.config} name="vm1"']
    assert full.call("stop", **MANAGE).code == SUCCESS


def test_too_little_for_all_stops_nothing(full: Host) -> None:
    assert full.call("start", OCF_RESKEY_reserved_Dom0_memory="9000", **MANAGE).code == SUCCESS
    assert called(full, "mem-set") == []


def test_unset_it_costs_nothing(full: Host) -> None:
    full.call("start")
    assert called(full, "mem-set") + called(full, "info") == []
    assert full.call("stop").code == SUCCESS
    assert called(full, "mem-set") + called(full, "info") == []


# -- utilization ----------------------------------------------------------------------------


@pytest.fixture
def told(host: Host) -> Path:
    """What crm_resource was told."""
    path = host.folder / "told"
    host.script("crm_resource", f'echo "$*" >>{path}')
    path.touch()
    sizes(host, vm1=768)
    host.vesperd.listen()
    host.vesperd.answers["wait"] = lambda _: {"result": "fine"}
    return path


BOTH = {
    "OCF_RESKEY_autoset_utilization_cpu": "true",
    "OCF_RESKEY_autoset_utilization_hv_memory": "true",
}
CPU = "--resource r1 --utilization --set-parameter cpu --parameter-value"
MEMORY = "--resource r1 --utilization --set-parameter hv_memory --parameter-value"


def monitor(host: Host) -> Result:
    return host.call("monitor", interval=10, **BOTH)


def test_utilization_is_told_when_it_is_new(host: Host, told: Path) -> None:
    assert host.call("start", **BOTH).code == SUCCESS
    assert told.read_text().splitlines() == [f"{CPU} 2", f"{MEMORY} 768"]
    told.write_text("")
    assert monitor(host).code == SUCCESS
    assert told.read_text() == ""
    sizes(host, vm1=1024)
    assert monitor(host).code == SUCCESS
    assert told.read_text().splitlines() == [f"{MEMORY} 1024"]
    # A start tells it all again: somebody may have changed it meanwhile.
    told.write_text("")
    host.domains()
    assert host.call("start", **BOTH).code == SUCCESS
    assert len(told.read_text().splitlines()) == 2


def test_a_cluster_that_does_not_take_it_stops_nothing(host: Host, told: Path) -> None:
    host.script("crm_resource", "echo not connected >&2; exit 102")
    result = host.call("start", **BOTH)
    assert result.code == SUCCESS
    assert "utilization is not updated" in result.stderr
    host.script("crm_resource", f'echo "$*" >>{told}')
    assert monitor(host).code == SUCCESS
    assert len(told.read_text().splitlines()) == 2


def test_only_what_is_wanted_is_told(host: Host, told: Path) -> None:
    host.call("start", OCF_RESKEY_autoset_utilization_cpu="yes")
    assert told.read_text().splitlines() == [f"{CPU} 2"]
    told.write_text("")
    host.domains()
    host.call("start")
    assert told.read_text() == ""
