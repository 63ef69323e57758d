# SPDX-License-Identifier: GPL-2.0-or-later
"""One host whose vesperd is killed at a point, and a cluster that does what it does then.

A round is the life of a fault: a process of the guest dies, the monitor that
waits is told, the resource is stopped and started again.  Wherever vesperd was
killed meanwhile, the fault is reported once, and is in the journal once.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from tests.unit.support.daemons import MONITOR, RESOURCE, DaemonProcess
from tests.unit.support.standins import GuestProcess
from vesper_monitor.client import Client, DaemonError, DaemonUnavailableError

__all__ = ["Host", "Order"]

#: s for anything to happen that should, on a busy machine.
PATIENT_S = 60.0
#: s of the monitor that must not be told of a fault of the life before.
AFTERWARDS_S = 0.3


class Order:
    """What is to be done at points; see :class:`tests.failpoints.instrument.Points`."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "failpoints.json"
        self._log = directory / "failpoints.log"

    @contextmanager
    def noting(self) -> Iterator[list[str]]:
        """Note the points that are passed; the list is filled at the end."""
        found: list[str] = []
        self._log.write_text("")
        with self._given({"log": str(self._log)}):
            yield found
        found += dict.fromkeys(self._log.read_text().splitlines())

    @contextmanager
    def killing(self, point: str) -> Iterator[None]:
        with self._given({"kill": point}):
            yield

    @contextmanager
    def _given(self, order: dict[str, str]) -> Iterator[None]:
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(order))
        new.rename(self.path)
        try:
            yield
        finally:
            self.forget()

    def forget(self) -> None:
        """It is carried out; the next process is not to do it again."""
        self.path.unlink(missing_ok=True)


class _Daemon(DaemonProcess):
    def __init__(self, directory: Path, order: Order) -> None:
        super().__init__(directory, "activate_timeout = 0.5\nmonitor_grace = 600.0\n"
                                    "max_failovers = 100000")  # fmt: skip
        self._order = order

    def spawn(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.failpoints.vesperd", str(self._order.path),
                 "-c", str(self._config)],
                env=self._environment, stderr=log,
            )  # fmt: skip


class Host:
    """
    :ivar wrong: what must not be.
    :ivar kills: how often vesperd was killed.
    """

    def __init__(self, directory: Path) -> None:
        (directory / "domains").mkdir()
        self.order = Order(directory)
        self.daemon = _Daemon(directory, self.order)
        self.wrong: list[str] = []
        self.kills = 0
        self._mark = 1000
        self._guest: GuestProcess | None = None

    def begin(self) -> None:
        self.daemon.start()
        self._start()

    def end(self) -> None:
        if self._guest is not None:
            self._guest.kill()
        if self.daemon.process is not None and self.daemon.process.poll() is None:
            self.daemon.stop()

    def round(self, what: str, *, locked: bool = False) -> None:
        """A fault, and all that follows.

        :param locked: the journal cannot be written before the monitor was told.
        """
        self._mark += 1
        with self._locked() if locked else nullcontext():
            self._report(what)
        self._ask("stop", resource="r1", vm="vm1")
        assert self._guest is not None
        self._guest.kill()
        self._start(what)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """As by a backup."""
        with closing(sqlite3.connect(self.daemon.journal, isolation_level=None)) as backup:
            backup.execute("BEGIN IMMEDIATE")
            yield

    def _report(self, what: str) -> None:
        """A fault, of which the monitor that waits is told."""
        assert self._guest is not None
        words = f"emit send_signal sig=11 comm=httpd fatal=1 pid={self._mark}"
        assert asyncio.run(self._guest.tell(words)).startswith("ok")
        answer = self._ask("wait", **{**MONITOR, "first": False, "timeout": PATIENT_S})
        if answer["result"] != "fault" or self._mark_of(answer["fault"]) != self._mark:
            self.wrong.append(f"{what}: the monitor was told {answer}")

    def check(self, what: str, *, locked: bool = False) -> None:
        """The fault of the last round is in the journal once.

        :param locked: or not at all: vesperd and the guest have ended before the journal
            could be written.
        """
        faults = [f for f in self._ask("faults")["faults"] if self._mark_of(f) == self._mark]
        ended = [fault["ended"] is not None for fault in faults]
        if ended != [True] and (ended or not locked):
            self.wrong.append(f"{what}: in the journal: {faults}")
        with Client(str(self.daemon.socket), timeout=PATIENT_S) as client:
            events = [answer["event"] for answer in client.stream_answers("events", limit=20)]
        marks = [event["fields"].get("pid") for event in events]
        if marks.count(self._mark) != 1 and (self._mark in marks or not locked):
            self.wrong.append(f"{what}: events of the journal: {marks}")

    def _start(self, what: str = "") -> None:
        self._guest = GuestProcess("vm1")
        self._ask("start", **RESOURCE)
        end = time.monotonic() + PATIENT_S
        while not self._is_watched():
            assert time.monotonic() < end, self.daemon.log.read_text()
            time.sleep(0.01)
        for first, timeout in ((True, 0.0), (False, AFTERWARDS_S)):
            answer = self._ask("wait", **{**MONITOR, "first": first, "timeout": timeout})
            if answer["result"] != "fine":
                self.wrong.append(f"{what}: after it, a healthy VM: {answer}")

    def _is_watched(self) -> bool:
        vms = self._ask("status")["vms"]
        return [p["state"] for vm in vms for p in vm["probes"]].count("collecting") == 2

    def _mark_of(self, fault: dict[str, Any]) -> int:
        return int(fault["event"]["fields"].get("pid", 0))

    def _ask(self, op: str, **fields: Any) -> dict[str, Any]:
        """Until there is an answer, as the agent; vesperd is started again, as by systemd."""
        end = time.monotonic() + PATIENT_S
        while True:
            try:
                with Client(str(self.daemon.socket), timeout=2 * PATIENT_S) as client:
                    return client.call_vesperd(op, **fields)
            except (DaemonUnavailableError, DaemonError) as error:
                assert time.monotonic() < end, f"{op}: {error}: {self.daemon.log.read_text()}"
            process = self.daemon.process
            if process is not None and process.poll() is not None:
                self.kills += 1
                self.order.forget()
                self.daemon.start()
            time.sleep(0.01)
