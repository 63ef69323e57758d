# SPDX-License-Identifier: GPL-2.0-or-later
"""Crash logs: what a guest's kernel logged on an oops or a panic (``struct vsp_words``).

The pages belong to the guest, alive or dead. Each slot is copied, bounded, then
parsed. A guest that never stops writing is read every few seconds only. Nothing
the guest may have written raises an error here.
"""

from __future__ import annotations

import ctypes
import re
import time
from collections.abc import Callable, Mapping

from vesper_monitor.guest import abi
from vesper_monitor.guest.event import CORE_PROBE, LAST_WORDS, MAX_GUEST_NS, CrashLog, Event
from vesper_monitor.guest.printable import make_printable
from vesper_monitor.guest.region import map_region
from vesper_monitor.hypervisor.transport import Domain, Link

__all__ = ["CrashLogReader", "make_event"]

#: s between two readings of one kind of crash log from one guest.
READ_INTERVAL_S = 5.0
#: s after which a slot that is still being written is read as it is.
UNFINISHED_LIMIT_S = 1.0
#: Characters kept of the end of the log, after unprintable ones are escaped.
MAX_LOG_CHARS = 64_000
#: Characters of a message: it goes into Pacemaker's exit reason.
MAX_MESSAGE_CHARS = 200

_SLOTS = abi.field_offset(abi.Words, "slot")
_SLOT_SIZE = ctypes.sizeof(abi.WordsSlot)
_KINDS = (abi.WordsKind.OOPS, abi.WordsKind.PANIC)
#: Offset of the first word of each kind's slot: its sequence counter.
_SEQ = {kind: _SLOTS + kind * _SLOT_SIZE for kind in abi.WordsKind}


class CrashLogReader:
    """Reads the mapped crash log region of one link.

    :ivar seen: number of oopses and panics read so far, by kind.
    """

    def __init__(
        self,
        link: Link,
        region: abi.Region,
        seen: Mapping[abi.WordsKind, int | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        :param region: as in the guest's HELLO.
        :param seen: as read earlier, by kind; None: what is there counts as read.
        :raises TransportError: :raises ValueError: as :func:`map_region`.
        """
        self._mapping = map_region(
            link, region, ctypes.sizeof(abi.Words), abi.Words,
            magic=abi.WORDS_MAGIC, version=abi.WORDS_VERSION, what="last words",
        )  # fmt: skip
        self._clock = clock
        self.seen = {
            kind: self._read_number(kind) if seen.get(kind) is None else seen[kind] or 0
            for kind in abi.WordsKind
        }
        self._read_at: dict[abi.WordsKind, float] = {}
        self._odd_since: dict[abi.WordsKind, float] = {}

    def read_new(
        self, *, final: bool = False
    ) -> list[tuple[abi.WordsKind, int, abi.WordsSlot, bool]]:
        """Return the new crash logs: kind, number, copy, whether it is complete.

        :param final: the guest is dead: take also what is incomplete.
        """
        found = []
        for kind in _KINDS:  # called at each notification: cheap if there is none
            number = self._read_number(kind)
            if number in (0, self.seen[kind]) or not (final or self._is_ready(kind)):
                continue
            slot, complete = self._copy_slot(kind)
            if not (complete or final or self._is_stuck(kind)):
                continue
            self.seen[kind] = number
            self._read_at[kind] = self._clock()
            self._odd_since.pop(kind, None)
            found.append((kind, number, slot, complete))
        return found

    def close(self) -> None:
        """Unmap. Idempotent."""
        self._mapping.close()

    def _read_sequence(self, kind: abi.WordsKind) -> int:
        return abi.load_u32(self._mapping.view, _SEQ[kind])

    def _read_number(self, kind: abi.WordsKind) -> int:
        return (abi.load_u32(self._mapping.view, _SEQ[kind]) + 1) // 2

    def _is_ready(self, kind: abi.WordsKind) -> bool:
        last = self._read_at.get(kind)
        return last is None or self._clock() - last >= READ_INTERVAL_S

    def _is_stuck(self, kind: abi.WordsKind) -> bool:
        now = self._clock()
        return now - self._odd_since.setdefault(kind, now) >= UNFINISHED_LIMIT_S

    def _copy_slot(self, kind: abi.WordsKind) -> tuple[abi.WordsSlot, bool]:
        start = _SLOTS + kind * _SLOT_SIZE
        before = self._read_sequence(kind)
        slot = abi.WordsSlot.from_buffer_copy(self._mapping.view[start : start + _SLOT_SIZE])
        return slot, before % 2 == 0 and self._read_sequence(kind) == before


def make_event(
    kind: abi.WordsKind,
    number: int,
    slot: abi.WordsSlot,
    complete: bool,
    *,
    domain: Domain,
    received: float,
) -> Event:
    """Return the event of a crash log; the journal also gets its stack and log."""
    name = kind.name.lower()
    log = _clean_lines(slot.log[: min(slot.log_len, abi.WORDS_LOG_LEN)])[-MAX_LOG_CHARS:]
    message = _make_message(kind, make_printable(slot.message.strip()), log)
    comm = make_printable(slot.comm)
    return Event(
        vm=domain.name,
        domid=domain.domid,
        probe=CORE_PROBE,
        event=LAST_WORDS,
        cpu=min(slot.cpu, 0xFFFF),
        seq=number,
        guest_ns=min(slot.time_ns, MAX_GUEST_NS),
        received=received,
        fields={
            "kind": name,
            "message": message,
            "pid": slot.pid,
            "comm": comm,
            "complete": complete,
        },
        text=f"kernel {name}: {message}, in {comm}[{slot.pid}] on CPU {slot.cpu}",
        crash_log=CrashLog(name, message, _clean_lines(slot.stack), log, complete),
    )


def _clean_lines(raw: bytes) -> str:
    text = raw.split(b"\0", 1)[0]
    return "\n".join(make_printable(line) for line in text.splitlines())


_TIME = re.compile(r"^(?:\[[^\]]{1,40}\] ?)*")
#: The line that begins an oops in Linux 5.10 to 6.12: "Oops: 0002 [#1] ...",
#: "general protection fault, ...: 0000 [#1] ...".
_OOPS = re.compile(r"\[#\d+\]")
_HEADLINE = re.compile(r"^(BUG: |kernel BUG at |Unable to handle )")
_PLACE = re.compile(r"^RIP: [0-9a-f]{4}:(\S+)")
_PANIC = "Kernel panic - not syncing: "
#: Lines between an oops's headline and its number, or its number and RIP.
_OOPS_LINES = 12


def _make_message(kind: abi.WordsKind, said: str, log: str) -> str:
    lines = [_TIME.sub("", line) for line in log.split("\n")]
    if kind is abi.WordsKind.PANIC:
        if not said:
            panics = [line for line in lines if line.startswith(_PANIC)]
            said = panics[-1].removeprefix(_PANIC) if panics else "no message"
        if said.startswith("Fatal exception") and (oops := _find_oops_line(lines)):
            said = f"{said}: {oops}"
    else:
        said = _find_oops_line(lines) or said or "no message"
    return said[:MAX_MESSAGE_CHARS]


def _find_oops_line(lines: list[str]) -> str:
    """Return in one line what the last oops in a log was, and where; '' if there is none."""
    at = next((i for i in reversed(range(len(lines))) if _OOPS.search(lines[i])), None)
    if at is None:
        return ""
    what = _OOPS.split(lines[at])[0].strip()
    for line in reversed(lines[max(0, at - _OOPS_LINES) : at]):
        if _OOPS.search(line):
            break  # an earlier one's
        if _HEADLINE.match(line):
            what = line
            break
    for line in lines[at : at + _OOPS_LINES]:
        if place := _PLACE.match(line):
            return f"{what} at {place[1]}"
    return what
