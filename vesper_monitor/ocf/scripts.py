# SPDX-License-Identifier: GPL-2.0-or-later
"""monitor_scripts: the administrator's own checks, all of which must succeed.

The stock agent runs them one after the other, once per monitor.  Here a
monitor stays for long, so a *round* of them is run when it begins and again
every ``monitor_scripts_interval`` seconds while it waits for vesperd.  They
run side by side, each with the same time limit; the first that fails ends the
monitor, with the last line of its output.

A round is begun only if it can be ended in time, except for the first, whose
scripts then get what time there is.  The next monitor begins with a round, so
nothing stays unchecked for longer than the interval and the gap between two
monitors.
"""

from __future__ import annotations

import os
import select
import signal
import time

from vesper_monitor.ocf.invocation import OcfCode, OcfExit, log_line
from vesper_monitor.ocf.toolstack import ToolstackError, spawn_command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from vesper_monitor.ocf.agent import Agent
    from vesper_monitor.ocf.toolstack import Background

__all__ = ["Scripts", "wait_for_success"]

#: Seconds before the end of the action at which all scripts have ended.
MARGIN_S = 1.5
#: Seconds between two rounds of a start.
RETRY_PAUSE_S = 1.0
#: Seconds between two looks where the kernel has no pidfd_open() (before 5.3).
LOOK_PAUSE_S = 0.1


class Scripts:
    """The scripts of one action. Close it: what still runs is killed."""

    def __init__(self, agent: Agent) -> None:
        settings = agent.settings
        self._commands = settings.scripts
        self._limit = settings.script_timeout
        self._interval = settings.script_interval
        self._deadline = agent.call.deadline - MARGIN_S
        self._jobs: dict[str, Background] = {}
        self._end = 0.0  # of the round
        self._due: float | None = None  # when the next round begins; None: now

    def run_until_readable(self, descriptor: int | None, until: float) -> str | None:
        """Run rounds until a descriptor is readable, or the time is up.

        :param until: by the monotonic clock.
        :returns: the failure, as soon as a script failed; None: all is well.
        """
        while True:
            now = time.monotonic()
            if not self._jobs and (self._due is None or now >= self._due):
                self._begin_round(now)
            if (wrong := self._check_running_script()) is not None:
                return wrong
            now = time.monotonic()
            if now >= until:
                return None
            if self._sleep_until_event(descriptor, min(until, self._next_due_time()) - now):
                return None

    def finish_round(self) -> str | None:
        """Wait for the end of the round under way. :returns: as :meth:`run_until_readable`."""
        while self._jobs:
            if (wrong := self._check_running_script()) is not None:
                return wrong
            if self._jobs:
                self._sleep_until_event(None, self._end - time.monotonic())
        return None

    def run_one_round(self) -> str | None:
        """One round, now. :returns: as :meth:`run_until_readable`."""
        self._begin_round(time.monotonic())
        return self.finish_round()

    def close(self) -> None:
        for job in self._jobs.values():
            _kill_children(job.pid)
            job.close()
        self._jobs.clear()

    def _begin_round(self, now: float) -> None:
        first = self._due is None
        end = now + self._limit
        if end > self._deadline:
            if not first:
                self._due = float("inf")  # the next monitor's
                return
            end = max(self._deadline, now + 0.5)
        self._end = end
        self._due = now + self._interval
        for command in self._commands:
            try:
                self._jobs[command] = spawn_command(
                    [command], "monitor_scripts must be on every node"
                )
            except ToolstackError as error:
                # Not known is not failed: it was there when the VM was started.
                raise OcfExit(OcfCode.OCF_DEGRADED, f"monitor script {error}") from error

    def _check_running_script(self) -> str | None:
        late = time.monotonic() >= self._end
        for command, job in list(self._jobs.items()):
            code = job.wait_for_exit(0)
            if code is None and not late:
                continue
            said = [line.strip() for line in job.read_output().splitlines() if line.strip()]
            if code != 0:
                how = (
                    f"did not finish within {self._limit:g} s"
                    if code is None
                    else _describe_status(code)
                )
                return f"monitor script {command} {how}" + (f": {said[-1]}" if said else "")
            job.close()
            del self._jobs[command]
        return None

    def _next_due_time(self) -> float:
        """Return when there is something to do, if no script ends before."""
        if self._jobs:
            return self._end
        return self._due if self._due is not None else 0.0

    def _sleep_until_event(self, descriptor: int | None, seconds: float) -> bool:
        """Sleep until a script ends, or ``descriptor`` is readable.

        :returns: whether it is.
        """
        poll = select.poll()
        if descriptor is not None:
            poll.register(descriptor, select.POLLIN)
        watched = []
        try:
            for job in self._jobs.values():
                try:
                    watched.append(os.pidfd_open(job.pid))
                except OSError:  # it has just ended, or there is no such call
                    seconds = min(seconds, LOOK_PAUSE_S)
                    continue
                poll.register(watched[-1], select.POLLIN)
            ready = poll.poll(max(0.0, min(seconds, 3600.0)) * 1000)
            return any(number == descriptor for number, _ in ready)
        finally:
            for number in watched:
                os.close(number)


def wait_for_success(agent: Agent) -> None:
    """Wait until all scripts succeed: then the VM is started, as with the stock agent.

    :raises OcfExit: they do not succeed within the operation's timeout.
    """
    while True:
        scripts = Scripts(agent)
        try:
            wrong = scripts.run_one_round()
        except OcfExit as error:
            raise OcfExit(OcfCode.OCF_ERR_INSTALLED, error.reason) from error
        finally:
            scripts.close()
        if wrong is None:
            return
        if agent.call.seconds_left() < MARGIN_S + RETRY_PAUSE_S + 1.0:
            raise OcfExit(OcfCode.OCF_ERR_GENERIC, f"{agent.vm} runs, but {wrong}")
        log_line(f"{agent.vm}: {wrong}; trying again")
        time.sleep(RETRY_PAUSE_S)


def _describe_status(code: int) -> str:
    return f"exit status {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"


def _kill_children(pid: int) -> None:
    """Kill what a script started and left behind.

    It must not have a process group of its own: Pacemaker ends a monitor by
    killing its group, and the scripts must end with it.
    """
    for child in _list_children(pid):
        _kill_children(child)
        try:
            os.kill(child, signal.SIGKILL)
        except OSError:
            pass


def _list_children(pid: int) -> Iterator[int]:
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            yield from map(int, file.read().split())
    except (OSError, ValueError):
        return
