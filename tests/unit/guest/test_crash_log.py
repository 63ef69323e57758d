# SPDX-License-Identifier: GPL-2.0-or-later
"""Last words on the host: whatever the guest wrote, from its memory to the operator."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.guest.test_session import BOTH, run, watch
from tests.unit.guest.test_session import images as images
from tests.unit.journal.test_journal import event, fault
from tests.unit.support.daemons import RESOURCE, DaemonProcess, Monitor
from tests.unit.support.standins import GuestProcess, guest, until
from vesper_monitor.guest import abi
from vesper_monitor.guest.control.images import ImageStore
from vesper_monitor.guest.event import CrashLog
from vesper_monitor.guest.health.crash_log import (
    MAX_LOG_BYTES,
    MAX_MESSAGE_CHARS,
    READ_INTERVAL_S,
    UNFINISHED_LIMIT_S,
    CrashLogReader,
    make_event,
)
from vesper_monitor.hypervisor.transport import Domain
from vesper_monitor.journal import schema
from vesper_monitor.journal.batch import Batch
from vesper_monitor.journal.journal import Journal
from vesper_monitor.rules.rule_set import Scope, judge_by_defaults

VM = Domain("vm1", 1, "u")
OOPS, PANIC = abi.WordsKind.OOPS, abi.WordsKind.PANIC


class Memory:
    """A link whose one region is a bytearray."""

    def __init__(self, content: bytes = b"") -> None:
        head = bytes(abi.Words(magic=abi.WORDS_MAGIC, version=abi.WORDS_VERSION))
        self.data = bytearray(content or head)
        self.domain = VM

    def map_region(self, handle: int, pages: int, *, writable: bool = False) -> Any:
        memory = self

        class Mapping:
            view = memoryview(memory.data)

            def close(self) -> None:
                pass

        return Mapping()

    def write(self, kind: abi.WordsKind, seq: int, **fields: Any) -> None:
        start = abi.field_offset(abi.Words, "slot") + kind * ctypes.sizeof(abi.WordsSlot)
        slot = bytes(abi.WordsSlot(seq=seq, **fields))
        self.data[start : start + len(slot)] = slot


REGION = abi.Region(handle=1, pages=16)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def reader(memory: Memory, clock: Clock, seen: int | None = 0) -> CrashLogReader:
    return CrashLogReader(memory, REGION, dict.fromkeys(abi.WordsKind, seen), clock)  # type: ignore[arg-type]


def test_each_is_read_once_and_not_too_often() -> None:
    memory, clock = Memory(), Clock()
    words = reader(memory, clock)
    assert words.read_new() == []
    memory.write(OOPS, 2)
    assert [(kind, number) for kind, number, *_ in words.read_new()] == [(OOPS, 1)]
    assert words.read_new() == []
    memory.write(OOPS, 8)
    memory.write(PANIC, 2)
    assert [kind for kind, *_ in words.read_new()] == [PANIC]  # an oops flood hides no panic
    clock.now += READ_INTERVAL_S
    assert [(kind, number) for kind, number, *_ in words.read_new()] == [(OOPS, 4)]


def test_a_crash_log_that_is_never_finished_is_read_as_it_is() -> None:
    memory, clock = Memory(), Clock()
    words = reader(memory, clock)
    memory.write(PANIC, 1, message=b"half")
    assert words.read_new() == []
    ((kind, number, slot, complete),) = words.read_new(final=True)
    assert (kind, number, slot.message, complete) == (PANIC, 1, b"half", False)
    memory.write(OOPS, 1)
    assert words.read_new() == []
    clock.now += UNFINISHED_LIMIT_S
    assert len(words.read_new()) == 1


def test_a_crash_log_from_before_is_not_reported() -> None:
    memory = Memory()
    memory.write(OOPS, 6)
    assert reader(memory, Clock(), None).read_new() == []
    assert len(reader(memory, Clock(), 2).read_new()) == 1


@pytest.mark.parametrize("content", [bytes(1 << 16), b"\xff" * (1 << 16)])
def test_another_version_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="version"):
        reader(Memory(content), Clock())
    with pytest.raises(ValueError, match="pages"):
        CrashLogReader(Memory(), abi.Region(handle=1, pages=1), {})  # type: ignore[arg-type]


@given(st.binary(max_size=600), st.binary(max_size=300), st.integers(0, 2**32 - 1), st.booleans())
def test_no_words_make_anything_raise(
    log: bytes, message: bytes, length: int, panic: bool
) -> None:
    slot = abi.WordsSlot(
        seq=length, log_len=length, time_ns=2**64 - 1, cpu=length, pid=-1, comm=b"\xff" * 16,
        message=message[:256], stack=log * 3, log=log * 40,
    )  # fmt: skip
    kind = PANIC if panic else OOPS
    said = make_event(kind, 2**31, slot, True, domain=VM, received=1.0)
    words = said.words
    assert words is not None
    assert len(said.fields["message"]) <= MAX_MESSAGE_CHARS
    assert len(words.log) <= MAX_LOG_BYTES
    assert all(line.isprintable() for line in (words.log + words.stack).split("\n"))
    assert said.text.isprintable()
    json.dumps(said.to_json())
    verdict = judge_by_defaults(said, [])
    assert verdict is not None
    assert verdict.scope is Scope.SYSTEM


OOPS_61 = """\
[   10.1] vsp: something else
[   11.000001] BUG: kernel NULL pointer dereference, address: 0000000000000008
[   11.000002] #PF: supervisor write access in kernel mode
[   11.000003] PGD 0 P4D 0
[   11.000004] Oops: 0002 [#1] PREEMPT SMP NOPTI
[   11.000005] CPU: 1 PID: 77 Comm: sh Tainted: G           OE
[   11.000006] RIP: 0010:some_function+0x12/0x40 [some_module]
"""
GPF = """\
[   11.0][  T12] general protection fault, probably for non-canonical address 0xdead: 0000 [#2] SMP
[   11.1][  T12] RIP: 0010:f+0x1/0x2
"""
BUG = "kernel BUG at mm/slub.c:379!\ninvalid opcode: 0000 [#1] PREEMPT SMP\n"


@pytest.mark.parametrize(
    ("kind", "said", "log", "message"),
    [
        (
            OOPS, b"", OOPS_61,
            "BUG: kernel NULL pointer dereference, address: 0000000000000008 "
            "at some_function+0x12/0x40",
        ),
        (
            OOPS, b"", OOPS_61 + GPF,
            "general protection fault, probably for non-canonical address 0xdead: 0000 "
            "at f+0x1/0x2",
        ),
        (OOPS, b"", BUG, "kernel BUG at mm/slub.c:379!"),
        (OOPS, b"", "nothing of use", "no message"),
        (PANIC, b"sysrq triggered crash\n", OOPS_61, "sysrq triggered crash"),
        (PANIC, b"Fatal exception", BUG, "Fatal exception: kernel BUG at mm/slub.c:379!"),
        (PANIC, b"", "[ 1.0] Kernel panic - not syncing: why", "why"),
    ],
)  # fmt: skip
def test_the_message_is_found_in_the_log(
    kind: abi.WordsKind, said: bytes, log: str, message: str
) -> None:
    slot = abi.WordsSlot(message=said, log=log.encode(), log_len=len(log))
    told = make_event(kind, 1, slot, True, domain=VM, received=1.0)
    assert told.fields["message"] == message
    verdict = judge_by_defaults(told, [])
    assert verdict is not None
    assert verdict.reason == f"kernel {kind.name.lower()}: {message} (system)"


# ---------------------------------------------------------------- sessions


def test_restart_tells_what_was_missed_and_nothing_twice(images: ImageStore) -> None:
    async def body() -> None:
        with guest() as vm:
            async with watch(images) as told:
                await until(told.all_collecting, "probes collecting")
                await vm.tell("words", "oops", "first")
                await until(lambda: told.events, "the first")
                saved = told.session.positions
            await vm.tell("words", "oops", "second")
            async with watch(images, resume_from=saved) as again:
                await until(lambda: again.events, "the second")
                (second,) = again.events
                assert (second.seq, second.words and second.words.kind) == (2, "oops")
                await vm.tell("words", "panic", "the end")
                await until(lambda: len(again.events) == 2, "the panic")

    run(body)


def test_a_lost_journal_makes_no_old_oops_new(images: ImageStore) -> None:
    """Nor an old record of any of the channels."""

    async def body() -> None:
        with guest() as vm:
            async with watch(images) as told:
                await until(told.all_collecting, "probes collecting")
                await vm.tell("words", "oops", "first")
                for probe in BOTH:
                    await vm.tell("emit", probe)
                await until(lambda: len(told.events) == 3, "three events")
            async with watch(images) as again:
                await until(again.all_collecting, "probes collecting")
                assert len(again.session.positions) == 4  # as vesperd does at each change
                await vm.tell("emit", "send_signal")
                await until(lambda: again.events, "a new event")
                assert [e.probe for e in again.events] == ["send_signal"]

    run(body)


# ----------------------------------------------------------------- journal


def words(log: str = "log") -> CrashLog:
    return CrashLog("panic", "message", "stack", log, True)


def test_journal_keeps_them_by_vm(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    journal.write_batch(Batch([replace(event(1, "quiet"), words=words())]))
    for number in range(2, 100):
        journal.write_batch(Batch([replace(event(number, "loud"), words=words(str(number)))]))
    assert journal.last_words("quiet", 1, 0.0) == [(1.5, words())]
    assert journal.last_words("quiet", 1, 2.0) == journal.last_words("quiet", 2, 0.0) == []
    kept = [found.log for _, found in journal.last_words("loud", 1, 0.0)]
    assert kept == [str(n) for n in range(80, 100)]
    journal.close()


def test_journal_of_an_earlier_version_is_brought_up(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with sqlite3.connect(path) as db:
        db.executescript(f"{schema.STEPS[0]}PRAGMA user_version=1;")
        db.execute(
            "INSERT INTO faults VALUES (7,'r','vm1','u',1,'r/u/1/1','service','send_signal','why',"
            "'{\"id\": 1}',1.0,NULL,NULL,NULL)"
        )
    db.close()
    for _ in range(2):
        journal = Journal(path)
        assert journal.read_fault(7) == fault(7)
        journal.write_batch(Batch([replace(event(1), words=words())]))
        assert journal.last_words("vm1", 1, 0.0) == [(1.5, words())]
        journal.close()
    assert not path.with_name("journal.unusable1").exists()


# --------------------------------------------------------- the whole daemon


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DaemonProcess]:
    (tmp_path / "domains").mkdir()
    monkeypatch.setenv("VESPER_STANDIN_DIR", str(tmp_path / "domains"))
    assert os.environ["VESPER_STANDIN_DIR"]
    daemon = DaemonProcess(tmp_path)
    daemon.start()
    yield daemon
    daemon.stop()


def _tell(vm: GuestProcess, *command: str) -> None:
    asyncio.run(vm.tell(*command))


def test_a_panic_is_shown_to_the_operator(daemon: DaemonProcess) -> None:
    with guest() as vm:
        daemon.call("start", **RESOURCE)
        assert Monitor(daemon).result() == "fine"
        assert Monitor(daemon, timeout=2).result() == "fine"  # and by now it is active
        _tell(vm, "words", "panic", "sysrq triggered crash")
        told = Monitor(daemon)
        assert told.result() == "fault"
        assert told.answer["reason"] == "kernel panic: sysrq triggered crash (system)"
        text = daemon.vesper("faults", "1").stdout
        assert "fault 1: kernel panic: sysrq triggered crash (system)\n" in text
        assert "  panic+0x1/0x2\n" in text
        assert "  [    1.000000] Kernel says: sysrq triggered crash\n" in text
        found = json.loads(daemon.vesper("faults", "show", "1", "--json").stdout)
        assert found["fault"]["rule"] == "kernel_panic"
        assert found["last_words"][0]["kind"] == "panic"
        missing = daemon.vesper("faults", "99")
        assert (missing.returncode, missing.stderr) == (1, "vesper: there is no fault 99\n")


def test_the_death_after_a_panic_names_the_panic(daemon: DaemonProcess) -> None:
    """The notification may be lost, or come late."""
    with guest() as vm:
        daemon.call("start", **RESOURCE)
        assert Monitor(daemon).result() == "fine"
        assert Monitor(daemon, timeout=2).result() == "fine"
        _tell(vm, "quiet", "words", "panic", "no more")
        _tell(vm, "state", "crashed")
        told = Monitor(daemon)
        assert told.result() == "dead"
        assert told.answer["reason"] == (
            "vm1 (domain 1) has crashed: kernel panic: no more (system)"
        )
