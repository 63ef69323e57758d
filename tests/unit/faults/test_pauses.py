# SPDX-License-Identifier: GPL-2.0-or-later
"""Pauses of watching: kept, ended by themselves, shown to the cluster."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest

from tests.unit.faults.test_activation import fault, make, watch_changes
from tests.unit.pacemaker.test_node_attributes import Cluster, settle
from tests.unit.support.standins import until
from vesper_monitor.faults import pauses as pauses_module
from vesper_monitor.faults.activation import ResourceActivation, Result, Waiter
from vesper_monitor.faults.pauses import Pauses
from vesper_monitor.hypervisor.transport import DomainReport, DomainState
from vesper_monitor.pacemaker.node_attributes import NodeAttributes


def pauses(path: Path, cluster: Cluster, ended: list[str], boot_id: str = "b1") -> Pauses:
    return Pauses(path / "pauses.json", boot_id, ended.append, NodeAttributes(cluster.set))


async def begin_and_end(path: Path) -> None:
    cluster, ended = Cluster(), list[str]()
    kept = pauses(path, cluster, ended)
    await kept.restore_pauses()
    pause = await kept.begin_pause("vm1", 600, "backup")
    assert kept.get_pause("vm1") == pause
    assert pause.text.startswith("watching is paused until 2")
    assert pause.text.endswith("(backup)")
    await settle()
    assert cluster.attributes == {"vesper-pause-vm1": pause.text}
    assert kept.end_pause("vm1", "by the operator")
    assert not kept.end_pause("vm1", "by the operator")
    assert (kept.get_pause("vm1"), ended) == (None, ["vm1"])
    await settle()
    assert cluster.attributes == {}
    kept.close()


def test_a_pause_begins_and_ends(tmp_path: Path) -> None:
    asyncio.run(begin_and_end(tmp_path))


async def ends_by_itself(path: Path) -> None:
    cluster, ended = Cluster(), list[str]()
    kept = pauses(path, cluster, ended)
    await kept.restore_pauses()
    await kept.begin_pause("vm1", 0.1, "")
    await kept.begin_pause("vm2", 600, "")
    await settle(lambda: ended)
    assert [pause.vm for pause in kept.list_all()] == ["vm2"]
    assert list(cluster.attributes) == ["vesper-pause-vm2"]
    kept.close()


def test_a_pause_ends_by_itself(tmp_path: Path) -> None:
    asyncio.run(ends_by_itself(tmp_path))


async def outlives(path: Path) -> None:
    first = pauses(path, Cluster(), [])
    await first.restore_pauses()
    pause = await first.begin_pause("vm1", 600, "backup")
    await first.begin_pause("vm2", 0.05, "")
    first.close()
    await asyncio.sleep(0.1)
    cluster, ended = Cluster(), list[str]()
    second = pauses(path, cluster, ended)
    await second.restore_pauses()
    assert second.list_all() == [pause]
    assert ended == ["vm2"]
    await settle()
    assert list(cluster.attributes) == ["vesper-pause-vm1"]
    second.close()
    other_boot = pauses(path, Cluster(), [], "b2")
    await other_boot.restore_pauses()
    assert other_boot.list_all() == []


def test_a_pause_outlives_vesperd_and_no_boot_of_the_host(tmp_path: Path) -> None:
    asyncio.run(outlives(tmp_path))


def test_a_clock_that_is_set_changes_no_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        ended = list[str]()
        kept = pauses(tmp_path, Cluster(), ended)
        await kept.restore_pauses()
        await kept.begin_pause("vm1", 0.2, "")
        await kept.begin_pause("vm2", 3600, "")
        kept.close()
        now = time.time
        with monkeypatch.context() as patched:
            for step in (-3600.0, 7200.0):
                patched.setattr(time, "time", lambda step=step: now() + step)
                again = pauses(tmp_path, Cluster(), ended)
                await again.restore_pauses()
                assert again.get_pause("vm2") is not None
                await until(lambda: "vm1" in ended, "its end")
                again.close()

    asyncio.run(run())


def test_a_pause_of_an_older_version_is_taken_over(tmp_path: Path) -> None:
    async def run() -> None:
        entry = {"vm": "vm1", "since": 1, "until": time.time() + 60, "reason": "", "boot_id": "b1"}
        (tmp_path / "pauses.json").write_text(json.dumps([entry]))
        kept = pauses(tmp_path, Cluster(), [])
        await kept.restore_pauses()
        assert kept.get_pause("vm1") is not None
        kept.close()

    asyncio.run(run())


GARBAGE = ["[" * 100_000, "", "{}", "[1]", '[{"vm": "vm1"}]', '[{"vm": 1, "until": []}]']


@pytest.mark.parametrize("content", GARBAGE)
def test_a_file_that_is_garbage_is_forgotten(tmp_path: Path, content: str) -> None:
    async def restore() -> list[object]:
        (tmp_path / "pauses.json").write_text(content)
        kept = pauses(tmp_path, Cluster(), [])
        await kept.restore_pauses()
        return list(kept.list_all())

    assert asyncio.run(restore()) == []


def test_a_pause_that_cannot_be_kept_is_not_begun(tmp_path: Path) -> None:
    async def begin() -> None:
        (tmp_path / "file").mkdir()
        kept = pauses(tmp_path / "file/below", Cluster(), [])
        await kept.restore_pauses()
        (tmp_path / "file").rmdir()
        (tmp_path / "file").touch()
        with pytest.raises(OSError, match="Not a directory"):
            await kept.begin_pause("vm1", 600, "")
        assert kept.list_all() == []

    asyncio.run(begin())


def test_the_end_of_a_pause_is_kept_when_the_disk_takes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would come back with the next vesperd, and nothing be reported."""
    monkeypatch.setattr(pauses_module, "RETRY_FIRST_S", 0.01)

    async def run() -> None:
        cluster = Cluster()
        kept = pauses(tmp_path, cluster, [])
        await kept.restore_pauses()
        await kept.begin_pause("vm1", 600, "")
        (tmp_path / "pauses.json.new").mkdir()  # nothing can be written
        kept.end_pause("vm1", "by the operator")
        await kept.wait_until_saved(0.05)
        assert "vm1" in (tmp_path / "pauses.json").read_text()
        (tmp_path / "pauses.json.new").rmdir()
        await kept.wait_until_saved(20.0)
        assert (tmp_path / "pauses.json").read_text() == "[]"
        await kept.begin_pause("vm1", 600, "")
        kept.end_pause("vm1", "by the operator")
        await kept.wait_until_saved(20.0)
        assert (tmp_path / "pauses.json").read_text() == "[]"
        kept.close()

    asyncio.run(run())


def test_a_pause_that_is_not_read_yet_can_be_ended(tmp_path: Path) -> None:
    """The disk has not said what is in the file."""

    async def run() -> None:
        before, kept = pauses(tmp_path, Cluster(), []), pauses(tmp_path, Cluster(), [])
        await before.restore_pauses()
        for vm in ("vm1", "vm2"):
            await before.begin_pause(vm, 600, "")
        before.close()
        assert not kept.end_pause("vm1", "by the operator")
        await kept.restore_pauses()
        assert [pause.vm for pause in kept.list_all()] == ["vm2"]
        await kept.wait_until_saved(20.0)
        assert "vm1" not in (tmp_path / "pauses.json").read_text()
        kept.close()

    asyncio.run(run())


# -- the instance ---------------------------------------------------------------------


def paused_instance() -> tuple[ResourceActivation, Waiter]:
    instance = make()
    instance.monitor_begins(Waiter(), 0.0, 1.0, True)
    waiter = Waiter()
    instance.monitor_begins(waiter, 1.0, 1.0, False)
    instance.set_paused(True)
    return instance, waiter


def test_a_fault_of_before_the_pause_is_told_after_it() -> None:
    instance, waiter = paused_instance()
    instance.fault_found(fault())
    instance.fault_is_recorded(1)
    assert waiter.answer is None
    assert instance.answer_at_timeout().result is Result.FINE
    assert instance.seconds_until_alarm(100.0, 1.0) is None
    instance.set_paused(False)
    assert waiter.answer is not None
    assert waiter.answer.result is Result.FAULT


def test_degraded_is_not_told_in_a_pause() -> None:
    instance, waiter = paused_instance()
    watch_changes(instance, "no modules", 2.0)
    assert waiter.answer is None
    assert instance.answer_at_timeout().result is Result.FINE
    late = Waiter()
    instance.monitor_begins(late, 30.0, 1.0, False)
    assert late.answer is None
    instance.set_paused(False)
    assert instance.answer_at_timeout().result is Result.DEGRADED


def test_the_end_of_the_domain_is_told_in_a_pause() -> None:
    instance, waiter = paused_instance()
    instance.domain_ended(DomainReport(DomainState.GONE), "gone")
    assert waiter.answer is not None
    assert waiter.answer.result is Result.DEAD
