# SPDX-License-Identifier: GPL-2.0-or-later
"""vesperd is killed again and again, at moments that nobody has chosen; faults come as they like.

In each round one VM's service is killed by a signal, and vesperd by another
one, before, during or after; sometimes once more while it starts.  What is
counted: faults that were reported never, twice or to another resource, how
long after both the fault and vesperd's return, and how long a guest took to
answer meanwhile.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.standin.registry import DomainDirectory
from tests.chaos.resource import FAILED, Report, Resource
from tests.unit.support.daemons import PROJECT, DaemonProcess
from vesper_monitor.client import DaemonError, DaemonUnavailableError

__all__ = ["Chaos", "Outcome", "chaos"]

#: s for anything to happen that should, on a busy machine.
PATIENT_S = 60.0
#: s between the fault and the kill, at most, and until vesperd is started again.
SPREAD_S, AWAY_S = 0.4, 2.5
#: Of the rounds: vesperd is killed once more while it starts.
TWICE_SHARE = 0.25
#: s in which a second report of the last round would have come.
AFTERWARDS_S = 3.0
#: Numbers of the processes that die; each is one fault.
FIRST_MARK = 1000


@dataclass
class Outcome:
    rounds: int = 0
    kills: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    strange: list[str] = field(default_factory=list)  #: reports of nobody's fault
    wrong: list[str] = field(default_factory=list)  #: actions that failed
    #: s from the later one of fault and vesperd's return to the report
    late: list[float] = field(default_factory=list)
    #: s that a guest took to answer
    answers: list[float] = field(default_factory=list)

    @property
    def bad(self) -> list[str]:
        return self.lost + self.doubled + self.strange + self.wrong

    def text(self) -> str:
        late, answers = sorted(self.late) or [0.0], sorted(self.answers) or [0.0]
        return (
            f"{self.rounds} rounds, vesperd killed {self.kills} times: {len(self.lost)} faults "
            f"lost, {len(self.doubled)} doubled, {len(self.strange)} healthy instances stopped, "
            f"{len(self.wrong)} actions failed\n"
            f"report after fault and return: median {late[len(late) // 2]:.2f} s, "
            f"p99 {late[len(late) * 99 // 100]:.2f} s, longest {late[-1]:.2f} s; more than 2 s: "
            f"{sum(s > 2.0 for s in late)}\n"
            f"longest that a guest took to answer: {answers[-1]:.2f} s"
        )


class Chaos:
    """One host with a few VMs; see :func:`chaos`."""

    def __init__(self, directory: Path, vms: int, seed: int) -> None:
        self.outcome = Outcome()
        self._random = random.Random(seed)
        self._daemon = DaemonProcess(directory, "activate_timeout = 3.0\nmax_failovers = 10000")
        bin = directory / "bin"
        bin.mkdir()
        (bin / "xl").symlink_to(PROJECT / "lab/standin/xl")
        environment = {
            "PATH": f"{bin}:/usr/bin:/bin",
            "VESPER_SOCKET": str(self._daemon.socket),
            "VESPER_STANDIN_DIR": os.environ["VESPER_STANDIN_DIR"],
        }
        self.resources = [
            Resource(f"vm{number}", directory, environment) for number in range(1, vms + 1)
        ]
        self._mark = FIRST_MARK

    def begin(self) -> None:
        self._daemon.start()
        for resource in self.resources:
            resource.start()

    def end(self) -> None:
        """Stop all VMs and vesperd."""
        try:
            for resource in self.resources:
                resource.end()
        finally:
            for resource in self.resources:
                resource.kill_guest()
            process = self._daemon.process
            if process is not None and process.poll() is None:
                self._daemon.stop()

    # ------------------------------------------------------------ one round

    def round(self) -> None:
        """Cause a fault and kill vesperd, in random order."""
        victim = self._random.choice(self.resources)
        self._wait(lambda: victim.runs and self._watched(victim.name), f"{victim.name} watched")
        self._mark += 1
        mark = self._mark
        fault_at: list[float] = []
        fault = threading.Timer(
            self._random.uniform(0, SPREAD_S),
            lambda: fault_at.append(self._kill_httpd(victim, mark)),
        )
        fault.start()
        time.sleep(self._random.uniform(0, SPREAD_S))
        back = self._kill_and_start()
        fault.join()
        self.outcome.rounds += 1
        what = f"round {self.outcome.rounds}: {victim.name}, process {mark}"
        end = time.monotonic() + PATIENT_S
        while not (found := self._reports(mark)):
            if time.monotonic() > end:
                self.outcome.lost.append(what)
                return
            self._answer_of_each()
            time.sleep(0.02)
        self.outcome.late.append(max(0.0, found[0].at - max(back, fault_at[0])))

    def count(self) -> Outcome:
        """Return what was reported twice, and what never happened, after the last round."""
        time.sleep(AFTERWARDS_S)
        for mark in range(FIRST_MARK + 1, self._mark + 1):
            reports = self._reports(mark)
            if len(reports) > 1:
                self.outcome.doubled.append(f"process {mark}: {reports}")
        for resource in self.resources:
            self.outcome.wrong += resource.wrong
            for report in resource.reports:
                known = FIRST_MARK < _mark_of(report) <= self._mark
                if report.code != FAILED or not known:
                    self.outcome.strange.append(str(report))
        return self.outcome

    def _reports(self, mark: int) -> list[Report]:
        return [
            report
            for resource in self.resources
            for report in list(resource.reports)
            if _mark_of(report) == mark
        ]

    # ------------------------------------------------------------ vesperd

    def _kill_and_start(self) -> float:
        """Kill vesperd and start it again.

        :returns: when it answered again.
        """
        self._daemon.stop(signal.SIGKILL)
        self.outcome.kills += 1
        time.sleep(self._random.uniform(0, AWAY_S))
        if self._random.random() < TWICE_SHARE:
            self._daemon.spawn()
            time.sleep(self._random.uniform(0, SPREAD_S))
            self._daemon.stop(signal.SIGKILL)
            self.outcome.kills += 1
        self._daemon.start()
        return time.monotonic()

    def _watched(self, vm: str) -> bool:
        try:
            found = self._daemon.call("status")["vms"]
        except (DaemonUnavailableError, DaemonError):
            return False
        record = DomainDirectory(vm).read_record()
        return any(
            entry["vm"] == vm
            and record is not None
            and entry["domid"] == record.domid
            and sum(probe["state"] == "collecting" for probe in entry["probes"]) == 2
            for entry in found
        )

    # ------------------------------------------------------------ guests

    def _kill_httpd(self, victim: Resource, mark: int) -> float:
        words = f"emit send_signal sig=11 comm=httpd fatal=1 pid={mark}"
        answer = _tell(victim.place, words)
        assert answer.startswith("ok"), answer
        return time.monotonic()

    def _answer_of_each(self) -> None:
        """Check that each guest answers, unless it is being stopped or started."""
        for resource in self.resources:
            start = time.monotonic()
            try:
                if _tell(resource.place, "life on") == "ok":
                    self.outcome.answers.append(time.monotonic() - start)
            except OSError:
                pass

    def _wait(self, condition: Callable[[], Any], what: str) -> None:
        end = time.monotonic() + PATIENT_S
        while not condition():
            assert time.monotonic() < end, f"{what}: not within {PATIENT_S:.0f} s"
            time.sleep(0.02)


def _tell(place: DomainDirectory, words: str) -> str:
    async def ask() -> str:
        reader, writer = await asyncio.open_unix_connection(place.control)
        writer.write(words.encode() + b"\n")
        answer = (await asyncio.wait_for(reader.readline(), PATIENT_S)).decode().strip()
        writer.close()
        return answer

    return asyncio.run(ask())


def _mark_of(report: Report) -> int:
    """0: none of ours."""
    match = re.match(r"httpd\[(\d+)\] killed by SIGSEGV", report.reason)
    return int(match[1]) if match else 0


@contextmanager
def chaos(directory: Path, *, vms: int = 3, seed: int = 1) -> Iterator[Chaos]:
    """A host in which everything runs."""
    os.environ["VESPER_STANDIN_DIR"] = str(directory / "domains")
    (directory / "domains").mkdir()
    found = Chaos(directory, vms, seed)
    try:
        found.begin()
        yield found
    finally:
        found.end()
