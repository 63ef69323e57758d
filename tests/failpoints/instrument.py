# SPDX-License-Identifier: GPL-2.0-or-later
"""Points at which a process is killed: every await, callback, rename and commit of what it does.

All of it is put into the running process from outside: the project knows
nothing of it.  A file says what is to be done (:class:`Points`): note each
point that is passed, or end the process at one of them.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Coroutine, Generator
from typing import Any

__all__ = ["Points", "watch_awaits", "watch_commits", "watch_files"]

#: Of one place: what recurs is the same again.
MAX_PASSES = 2
#: What is done to files and other processes; of opened files, those that are written.
EVENTS = frozenset(
    {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate",
     "os.kill", "socket.connect", "subprocess.Popen", "os.posix_spawn"}
)  # fmt: skip
#: Modules whose callbacks are points.
_OURS = ("vesper_monitor.", "lab.standin.")
_PACKAGE = f"{os.sep}vesper_monitor{os.sep}"


class Points:
    """
    :param control: a file of JSON, looked at each time; none: nothing is done. ``log``: a
        file that gets a line for each point. ``kill``: the point at which to end.
    """

    def __init__(self, control: str, *, with_parent: bool = False) -> None:
        self._control = control
        self._with_parent = with_parent
        self._version = 0
        self._order: dict[str, str] = {}
        self._passes: Counter[str] = Counter()
        self._busy = False

    def passes(self, name: str) -> None:
        """The process is at a point."""
        if self._busy:
            return
        self._busy = True
        try:
            self._pass(name)
        finally:
            self._busy = False

    def _pass(self, name: str) -> None:
        try:
            version = os.stat(self._control).st_mtime_ns
        except FileNotFoundError:
            return
        if version != self._version:
            with open(self._control) as file:
                self._order = json.load(file)
            self._version = version
            self._passes.clear()
        self._passes[name] += 1
        if self._passes[name] > MAX_PASSES:
            return
        point = f"{name} ({self._passes[name]})"
        if log := self._order.get("log"):
            with open(log, "a") as file:
                file.write(point + "\n")
        elif point == self._order.get("kill"):
            if self._with_parent:
                os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)


# ---------------------------------------------------------------- awaits


class _Traced(Coroutine[Any, Any, Any]):
    """A coroutine, with a point before each of its steps, and after."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], points: Points) -> None:
        self._coroutine = coroutine
        self._points = points

    def send(self, value: Any) -> Any:
        return self._step(lambda: self._coroutine.send(value))

    def throw(self, *error: Any) -> Any:
        return self._step(lambda: self._coroutine.throw(*error))

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield from self._coroutine.__await__())

    def _step(self, step: Callable[[], Any]) -> Any:
        if place := _place(self._coroutine):
            self._points.passes(f"goes on at {place}")
        try:
            return step()
        finally:
            if place := _place(self._coroutine):
                self._points.passes(f"awaits at {place}")


def _place(coroutine: Any) -> str:
    """The innermost place in vesperd's own code; empty: there is none."""
    found = ""
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None)
        if frame is not None and _PACKAGE in frame.f_code.co_filename:
            file = frame.f_code.co_filename.rpartition(_PACKAGE)[2]
            found = f"{file}:{frame.f_lineno} {frame.f_code.co_name}"
        coroutine = getattr(coroutine, "cr_await", None)
    return found


def watch_awaits(points: Points) -> None:
    """Make each await of this process's loops a point, and each callback of vesperd's."""

    class Policy(asyncio.DefaultEventLoopPolicy):
        def new_event_loop(self) -> asyncio.AbstractEventLoop:
            loop = super().new_event_loop()
            loop.set_task_factory(
                lambda loop, coroutine, **more: asyncio.Task(
                    _Traced(coroutine, points) if asyncio.iscoroutine(coroutine) else coroutine,
                    loop=loop, **more,
                )
            )
            return loop

    asyncio.set_event_loop_policy(Policy())
    run = asyncio.Handle._run

    def traced(handle: asyncio.Handle) -> None:
        callback = getattr(handle, "_callback", None)
        if callback is not None and str(getattr(callback, "__module__", "")).startswith(_OURS):
            points.passes(f"calls {callback.__module__}.{callback.__qualname__}")
        run(handle)

    asyncio.Handle._run = traced  # type: ignore[method-assign, assignment]


# ---------------------------------------------------------------- files, commits


def watch_files(points: Points) -> None:
    """Make everything that is done to a file, and each process that is started, a point."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in EVENTS:
            return
        what = arguments[0] if arguments else ""
        if event == "open":
            flags = arguments[2]
            if not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) or what == os.devnull:
                return
        if event in ("os.kill", "socket.connect"):
            what = ""
        points.passes(f"{event} {os.path.basename(os.fsdecode(what)) if _is_path(what) else ''}")

    sys.addaudithook(hook)


def _is_path(value: object) -> bool:
    return isinstance(value, (str, bytes, os.PathLike))


def watch_commits(points: Points) -> None:
    """Make each commit of the journal two points: before it, and before anybody hears of it."""
    from vesper_monitor.journal import journal

    leave = journal._Transaction.__exit__

    def traced(self: Any, kind: Any, *rest: Any) -> None:
        points.passes("before a commit")
        leave(self, kind, *rest)
        points.passes("after a commit")

    journal._Transaction.__exit__ = traced  # type: ignore[method-assign]
