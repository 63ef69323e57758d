# SPDX-License-Identifier: GPL-2.0-or-later
"""Watch a run from outside: both hosts' pacemaker.log, vesperd's events, the page.

Each observation gets the time of the outer clock.  A callback gets it at once, so that the
timeline can be shown during the run.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from lab.evaluation.clock import Offset
from lab.evaluation.pacemaker_log import PATTERN, What, parse_log_line
from lab.evaluation.setting import Lab
from lab.host import ChannelError, Host

__all__ = ["Observation", "Observer"]

LOG = "/var/log/pacemaker/pacemaker.log"


@dataclass(frozen=True)
class Observation:
    """One observation, with its time."""

    at: float  #: seconds, on the outer clock, when it happened (not when we learned of it)
    host: str
    what: What | str  #: a step of Pacemaker's, or ``event``, or ``page``
    detail: Any = None  #: ``event``: vesperd's; ``page``: its text


class Observer:
    """Use as a context manager; what was seen so far is in :attr:`seen`."""

    def __init__(
        self,
        lab: Lab,
        clocks: dict[str, Offset],
        *,
        standby: Host,
        vesper: bool,
        tell: Callable[[Observation], None],
    ) -> None:
        """
        :param clocks: by host name.
        :param standby: where the page is fetched from.
        :param vesper: follow vesperd's events, too.
        :param tell: called for each observation, in threads of the observer.
        """
        self._lab = lab
        self._clocks = clocks
        self._standby = standby
        self._vesper = vesper
        self._tell = tell
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._stack = ExitStack()
        #: All observations, in the order of their arrival.
        self.seen: list[Observation] = []

    def __enter__(self) -> Observer:
        for host in self._lab.hosts:
            self._follow_command(
                host,
                f"exec tail -n 0 -F {LOG} | grep --line-buffered -E '{PATTERN}'",
                self._handle_log_line,
            )
            if self._vesper:
                self._follow_command(
                    host, "exec vesper events -f --json -n 100", self._handle_event_line
                )
        self._start_thread(self._poll_guest_page)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._stack.close()

    def _start_thread(self, body: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=body, args=arguments, daemon=True)
        thread.start()
        self._stack.callback(thread.join, 10)

    def _follow_command(self, host: Host, command: str, line: Callable[[Host, str], None]) -> None:
        end, pieces = host.follow_command(command)

        def read_lines() -> None:
            try:
                for text in _split_lines(pieces):
                    line(host, text)
            except (ChannelError, OSError):
                pass  # the run has ended, or the host; the run's result tells

        self._start_thread(read_lines)
        self._stack.callback(end)

    def _add_observation(self, observation: Observation) -> None:
        with self._lock:
            self.seen.append(observation)
            self._tell(observation)

    def _handle_log_line(self, host: Host, line: str) -> None:
        entry = parse_log_line(line, "vm1", time.gmtime().tm_year)
        if entry:
            at = self._clocks[host.name].convert_time(entry.time_ns)
            self._add_observation(Observation(at, entry.host, entry.what))

    def _handle_event_line(self, host: Host, line: str) -> None:
        try:
            event = json.loads(line)
        except ValueError:
            return
        event = event.get("event", event) if isinstance(event.get("event"), dict) else event
        if "received" in event:
            at = self._clocks[host.name].convert_time(round(event["received"] * 1e9))
            self._add_observation(Observation(at, host.name, "event", event))

    def _poll_guest_page(self) -> None:
        guest = self._lab.guest_through(through=self._standby)
        while not self._stop.wait(self._lab.page_every):
            page = guest.fetch_page()
            if page:
                self._add_observation(Observation(time.time(), self._standby.name, "page", page))


def _split_lines(pieces: Iterable[bytes]) -> Iterable[str]:
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            yield line.decode(errors="replace")
