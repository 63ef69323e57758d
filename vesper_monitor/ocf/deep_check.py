# SPDX-License-Identifier: GPL-2.0-or-later
"""A monitor of level 10 or 20 beside one that waits.

Pacemaker runs one operation of a resource at a time (pacemaker-execd, 2.1), so
a second recurring monitor hardly runs beside one that waits for minutes.  It
therefore notes here its level and interval; the waiting monitor has
its check done meanwhile, by a process of its own, so that nothing delays a
fault.  When its turn comes, the second monitor answers at once with what was
found last.

The note is the resource's file ``vesper-RESOURCE.deep``: level, interval (s),
when the operation ran last and when somebody looked last (s, CLOCK_BOOTTIME),
the look's exit code, and its reason.
"""

from __future__ import annotations

import os
import sys
import time

from vesper_monitor.ocf.fast_common import AGAIN, DEEP
from vesper_monitor.ocf.invocation import OcfCode, OcfExit, log_line
from vesper_monitor.ocf.toolstack import ToolstackError, spawn_command
from vesper_monitor.util.boot_clock import seconds_since_boot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vesper_monitor.ocf.agent import Agent
    from vesper_monitor.ocf.toolstack import Background

__all__ = ["DeepCheck", "DeepNote", "forget_deep_check", "run_deep_monitor"]

#: Set for the process that looks on behalf of a waiting monitor.
ON_BEHALF = "VESPER_DEEP_CHECK"
#: In place of an exit code: the operation did its check itself, and does so again.
OWN_LOOK = -1
#: Seconds between two looks at whether that process has ended.
POLL_S = 0.25
#: Seconds that are left of the waiting monitor when such a check begins.
RESERVE_S = 15.0
#: Seconds that one check may take.
CHECK_LIMIT_S = 30.0
#: Of an operation that has not run for so many of its own intervals, and of
#: the waiting monitor's timeout, nothing is known any more: it was removed.
FORGOTTEN_AFTER = 3


class DeepNote:
    """The note of the second monitor."""

    def __init__(self, level: int, interval: float, ran_at: float) -> None:
        self.level = level
        self.interval = interval
        self.ran_at = ran_at
        self.looked_at = float("-inf")
        self.code = 0
        self.reason = ""

    @classmethod
    def load_note(cls, agent: Agent) -> DeepNote | None:
        """Return the note; None: there is none that is understood."""
        numbers, _, reason = agent.call.remembered_text(DEEP).partition("\n")
        try:
            level, interval, ran_at, looked_at, code = numbers.split()
            note = cls(int(level), float(interval), float(ran_at))
            note.looked_at, note.code, note.reason = float(looked_at), int(code), reason
        except ValueError:
            return None
        return note

    def save_note(self, agent: Agent) -> None:
        numbers = (self.level, self.interval, self.ran_at, self.looked_at, self.code)
        agent.call.remember_text(DEEP, f"{' '.join(map(str, numbers))}\n{self.reason}")


def forget_deep_check(agent: Agent) -> None:
    """Forget the second monitor: the resource starts or stops."""
    agent.call.remember_text(DEEP, "")


def run_deep_monitor(agent: Agent) -> None:
    """Do a recurring monitor of level 10 or more.

    :raises OcfExit: something is wrong.
    """
    from vesper_monitor.ocf.check import check_guest

    call, now = agent.call, seconds_since_boot()
    on_behalf = bool(call.environ.get(ON_BEHALF))
    note = DeepNote.load_note(agent)
    if not on_behalf:
        # What the last monitor has left for a quick one knows nothing of this look.
        call.remember_text(AGAIN, "")
        found, note = note, DeepNote(call.check_level, call.interval, now)
        if found is not None and (found.level, found.interval) == (note.level, note.interval):
            note.looked_at, note.code, note.reason = found.looked_at, found.code, found.reason
            if found.code != OWN_LOOK and now - found.looked_at <= found.interval + POLL_S:
                note.save_note(agent)
                if found.code:
                    raise OcfExit(OcfCode(found.code), found.reason)
                return
    ended: OcfExit | None = None
    try:
        check_guest(agent)
    except OcfExit as end:
        ended = end
    if note is not None:
        note.looked_at = now
        # A failure is reported once, by the monitor that found it.
        degraded = ended is not None and ended.code is OcfCode.OCF_DEGRADED
        note.code, note.reason = (OcfCode.OCF_DEGRADED, str(ended)) if degraded else (0, "")
        if not on_behalf:
            note.code = OWN_LOOK
        note.save_note(agent)
    if ended is not None:
        raise ended


class DeepCheck:
    """The second monitor's check, done while the first one waits. Close it."""

    def __init__(self, agent: Agent, note: DeepNote) -> None:
        self._agent = agent
        self._note = note
        self._due = time.monotonic() + note.looked_at + note.interval - seconds_since_boot()
        self._job: Background | None = None
        self._end = 0.0

    @classmethod
    def find_due_check(cls, agent: Agent) -> DeepCheck | None:
        """Return the check to do; None: there is no such operation."""
        note = DeepNote.load_note(agent)
        if note is None:
            return None
        age, lasting = (
            seconds_since_boot() - note.ran_at,
            FORGOTTEN_AFTER * (note.interval + agent.call.timeout),
        )
        return cls(agent, note) if age <= lasting else None

    def next_turn(self) -> float:
        """Return when :meth:`take_turn` has something to do (CLOCK_MONOTONIC)."""
        return self._due if self._job is None else time.monotonic() + POLL_S

    def take_turn(self) -> None:
        """Begin a check that is due, and take the result of one that ended.

        :raises OcfExit: it found a failure.
        """
        now = time.monotonic()
        if self._job is None:
            if now >= self._due:
                self._begin_round(now)
            return
        code = self._job.wait_for_exit(0)
        if code is None and now < self._end:
            return
        said = self._job.read_output()
        self.close()
        if code in (OcfCode.OCF_ERR_GENERIC, OcfCode.OCF_NOT_RUNNING):
            reasons = [line.partition(":")[2] for line in said.splitlines() if _is_reason(line)]
            raise OcfExit(
                OcfCode(code), reasons[-1] if reasons else "the second monitor's check failed"
            )

    def close(self) -> None:
        if self._job is not None:
            self._job.close()
            self._job = None

    def _begin_round(self, now: float) -> None:
        call = self._agent.call
        self._due = now + self._note.interval
        limit = min(CHECK_LIMIT_S, call.seconds_left() - RESERVE_S)
        if limit <= 0:
            return  # the next monitor's
        self._end = now + limit
        more = {
            ON_BEHALF: "1",
            "OCF_CHECK_LEVEL": str(self._note.level),
            "OCF_RESKEY_CRM_meta_timeout": str(int(limit * 1000)),
            "OCF_RESKEY_CRM_meta_interval": str(int(self._note.interval * 1000)),
        }
        environ = {**call.environ, **more}
        environ.pop("OCF_RESKEY_OCF_CHECK_LEVEL", None)
        try:
            self._job = spawn_command([os.path.realpath(sys.argv[0]), "monitor"], environ=environ)
        except ToolstackError as error:
            log_line(f"the second monitor's check is not done: {error}")


def _is_reason(line: str) -> bool:
    return line.startswith("ocf-exit-reason:")
