# SPDX-License-Identifier: GPL-2.0-or-later
"""What Pacemaker knows and the journal does not, over the end of a vesperd."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any, cast

import pytest

from tests.unit.faults.test_carried_fault import FAULT, death, never, well_watched
from vesper_monitor.faults.activations import Activations
from vesper_monitor.faults.carried_fault import pack_fault, unpack_fault
from vesper_monitor.hypervisor.transport import Domain
from vesper_monitor.journal import told_ledger
from vesper_monitor.journal.records import Fault
from vesper_monitor.journal.told_ledger import ToldLedger
from vesper_monitor.journal.writer import JournalWriter

DOMAIN = Domain("vm1", 2, "u")


class HungRecorder:
    """It writes nothing until it is told to."""

    def __init__(self) -> None:
        self.written: list[Any] = []

    def put_batch(self, _vm: str, _batch: Any, _then: Any = None, written: Any = None) -> None:
        if written is not None:
            self.written.append(written)


def vesperd(path: Path) -> tuple[Activations, HungRecorder]:
    ledger = ToldLedger(path)
    ledger.restore_ledger()
    recorder = HungRecorder()
    instances = Activations(
        cast(JournalWriter, recorder), well_watched, grace=0.0, max_failovers=9, tell=never,
        ledger=ledger, numbered=False,
    )  # fmt: skip
    instances.start_instance("r", DOMAIN, [], ["httpd"])
    return instances, recorder


def test_a_fault_that_was_told_and_not_written_is_told_once(tmp_path: Path) -> None:
    path = tmp_path / "told.json"

    async def scene() -> None:
        first, recorder = vesperd(path)
        faults = first.judge_events(DOMAIN, [death(1)])
        assert [fault.told for fault in faults] == [None]
        instance = first.get_instance("r")
        assert instance is not None
        first._note_told(instance, faults[0])
        told = instance.fault
        assert told is not None and told.told is not None
        # Another vesperd finds the record again: it is the same fault.
        second, _ = vesperd(path)
        assert [f.told for f in second.judge_events(DOMAIN, [death(1)])] == [told.told]
        third, _ = vesperd(path)
        assert [f.told for f in third.judge_events(DOMAIN, [death(2)])] == [None]
        # The first one's journal has the fault, and then that it was told.
        first.note_written(faults)
        assert path.read_text() != "{}"
        for written in recorder.written:
            written()
        assert path.read_text() == "{}"
        for instances in (first, second, third):
            await instances.close()

    asyncio.run(scene())


def test_a_fault_that_came_with_its_vm_is_told_once(tmp_path: Path) -> None:
    """Its agent gives it to each vesperd."""
    fault = dataclasses.replace(FAULT, uuid=DOMAIN.uuid, event=death(1).to_json(), told=None)
    packed = pack_fault(fault, None, "n1")
    path = tmp_path / "told.json"

    async def scene() -> None:
        taken = []
        for _ in range(2):
            instances, _ = vesperd(path)
            instance = instances.get_instance("r")
            assert instance is not None
            taken.append(instances.take_carried_fault(instance, unpack_fault(packed)))
            if instance.fault is not None:
                instances._note_told(instance, instance.fault)
            await instances.close()
        assert taken == ["", "Pacemaker knows it"]

    asyncio.run(scene())


@pytest.mark.parametrize("content", ["", "[1]", '{"x": "y"}', "[" * 100_000, "\xff"])
def test_a_damaged_file_is_no_trouble(tmp_path: Path, content: str) -> None:
    path = tmp_path / "told.json"
    path.write_text(content, encoding="latin-1")
    ledger = ToldLedger(path)
    ledger.restore_ledger()
    assert ledger._told == {}


def test_the_ledger_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(told_ledger, "MAX_ENTRIES", 3)
    ledger = ToldLedger(tmp_path / "told.json")
    for number in range(5):
        event = {**death(number + 1).to_json()}
        fault = Fault(number, "r", "vm1", "u", 2, "i", "service", "send_signal", "", event, 1.0)
        ledger.note_told(dataclasses.replace(fault, told=2.0))
    assert len(ledger._told) == 3
