# SPDX-License-Identifier: GPL-2.0-or-later
"""Pauses of watching: an operator wants nothing reported about a VM for a while.

Events and faults are still recorded.  A pause ends by itself.  Its end is kept in a file
beside the journal, so it outlives this process: as a time of day for people, and by a
clock that cannot be set.  A pause ends with the host's boot, and does not follow the VM
to another host.  The cluster shows it as a node attribute (``crm_mon -A``).
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from vesper_monitor.pacemaker.node_attributes import NodeAttributes
from vesper_monitor.util.boot_clock import seconds_since_boot
from vesper_monitor.util.state_file import DirectDisk, StateDisk

__all__ = ["MAX_PAUSE_S", "Pause", "Pauses", "pause_attribute_name"]

_log = logging.getLogger(__name__)

#: s; for a longer time there is Pacemaker's maintenance mode.
MAX_PAUSE_S = 7 * 86_400.0
#: s between two looks at the clock, which goes on while the host sleeps.
LOOK_PAUSE_S = 30.0
#: s between two tries to write the file, doubled from the first to the last.
RETRY_FIRST_S = 1.0
RETRY_LAST_S = 60.0


@dataclass(frozen=True)
class Pause:
    """One pause."""

    vm: str
    since: float  #: s, CLOCK_REALTIME
    until: float  #: s, CLOCK_REALTIME
    reason: str
    boot_id: str  #: of the host
    deadline: float  #: s, CLOCK_BOOTTIME: ``until`` is for people, and may be set wrong

    @property
    def text(self) -> str:
        """For people."""
        end = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.until))
        return f"watching is paused until {end}" + (f" ({self.reason})" if self.reason else "")

    def to_json(self) -> dict[str, object]:
        return {
            "since": self.since,
            "until": self.until,
            "reason": self.reason,
            "text": self.text,
        }


def pause_attribute_name(vm: str) -> str:
    """Return the name of the node attribute of a VM's pause."""
    return f"vesper-pause-{vm}"


class Pauses:
    """
    :param path: of the file.
    :param boot_id: of the host (random(4)).
    :param on_end: called with the VM when its pause is over.
    :param disk: where the file is.
    """

    def __init__(
        self,
        path: Path,
        boot_id: str,
        on_end: Callable[[str], None],
        attributes: NodeAttributes,
        disk: StateDisk | None = None,
    ) -> None:
        self._path = path
        self._boot_id = boot_id
        self._on_end = on_end
        self._attributes = attributes
        self._pauses: dict[str, Pause] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._disk = disk or DirectDisk()
        self._is_restored = False
        #: VMs whose pause was ended before the file was read
        self._ended_early: set[str] = set()
        self._writing = asyncio.Lock()
        self._saver: asyncio.Task[None] | None = None
        self._is_unsaved = False  # the file is not as it should be

    async def restore_pauses(self) -> None:
        """Go on with those of an earlier daemon, when the disk says which."""
        for pause in await self._read():
            if pause.vm in self._ended_early:
                self._save_soon()
            elif pause.boot_id == self._boot_id:
                self._pauses[pause.vm] = pause
        for pause in list(self._pauses.values()):
            self._check_end(pause.vm)
            self._show_pause(pause.vm)
        self._is_restored = True

    def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        if self._saver is not None:
            self._saver.cancel()  # what it has asked for is done all the same

    def get_pause(self, vm: str) -> Pause | None:
        return self._pauses.get(vm)

    def list_all(self) -> list[Pause]:
        return list(self._pauses.values())

    async def begin_pause(self, vm: str, seconds: float, reason: str) -> Pause:
        """Begin a pause, or change the present one.

        :raises OSError: it cannot be kept, and is not begun.
        """
        if not self._is_restored:
            raise OSError(f"{self._path}: it was not read yet")
        now = time.time()
        pause = Pause(vm, now, now + seconds, reason, self._boot_id, seconds_since_boot() + seconds)
        try:
            await self._write({**self._pauses, vm: pause})
        except OSError:
            self._save_soon()  # it may be written all the same
            raise
        self._pauses[vm] = pause
        _log.warning("%s: %s", vm, pause.text)
        self._check_end(vm)
        self._show_pause(vm)
        return pause

    def end_pause(self, vm: str, by: str) -> bool:
        """End a pause. :returns: whether there was one."""
        if not self._is_restored:
            self._ended_early.add(vm)
        if self._pauses.pop(vm, None) is None:
            return False
        timer = self._timers.pop(vm, None)
        if timer is not None:
            timer.cancel()
        self._save_soon()
        _log.warning("%s: watching goes on (%s)", vm, by)
        self._show_pause(vm)
        self._on_end(vm)
        return True

    def _check_end(self, vm: str) -> None:
        """End it if its time is up, or look again."""
        timer = self._timers.pop(vm, None)
        if timer is not None:
            timer.cancel()
        pause = self._pauses.get(vm)
        if pause is None:
            return
        left = pause.deadline - seconds_since_boot()
        if left <= 0:
            self.end_pause(vm, "the time is up")
            return
        loop = asyncio.get_running_loop()
        self._timers[vm] = loop.call_later(min(left, LOOK_PAUSE_S), self._check_end, vm)

    def _show_pause(self, vm: str) -> None:
        """Set or delete the node attribute of a VM's pause."""
        pause = self._pauses.get(vm)
        self._attributes.set_attribute(
            pause_attribute_name(vm), pause.text if pause is not None else None
        )

    async def wait_until_saved(self, limit_s: float) -> None:
        """Return when the ends of pauses are kept, or that much later."""
        if self._saver is not None:
            await asyncio.wait({self._saver}, timeout=limit_s)

    def _save_soon(self) -> None:
        """Write the present pauses in the background."""
        self._is_unsaved = True
        if self._saver is None:
            self._saver = asyncio.get_running_loop().create_task(self._save_pauses())

    async def _save_pauses(self) -> None:
        """Write the pauses, and try again until that is done: else an ended one would return."""
        await asyncio.sleep(0)  # several changes at once are one
        wait_s = RETRY_FIRST_S
        while self._is_unsaved:
            self._is_unsaved = False
            try:
                await self._write(self._pauses)
            except OSError as error:
                _log.error("%s: the end of a pause is not kept yet: %s", self._path, error)
                self._is_unsaved = True
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, RETRY_LAST_S)
        self._saver = None

    async def _write(self, pauses: Mapping[str, Pause]) -> None:
        """Write the pauses. :raises OSError:"""
        async with self._writing:
            await self._disk.write_state(self._path, [asdict(p) for p in pauses.values()])

    async def _read(self) -> list[Pause]:
        try:
            entries = json.loads(await self._disk.read_state(self._path))
            return [
                Pause(
                    vm=str(entry["vm"]),
                    since=float(entry["since"]),
                    until=float(entry["until"]),
                    reason=str(entry["reason"]),
                    boot_id=str(entry["boot_id"]),
                    # An older vesperd has noted none.
                    deadline=float(
                        entry.get("deadline", seconds_since_boot() + entry["until"] - time.time())
                    ),
                )
                for entry in entries
            ]
        except FileNotFoundError:
            return []
        except (
            OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError,
        ) as error:  # fmt: skip
            # Rather watch than stay silent for an unknown time.
            _log.error("%s: pauses are forgotten: %s", self._path, error)
            return []
