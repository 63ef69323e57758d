# SPDX-License-Identifier: GPL-2.0-or-later
"""Decides whether a guest's kernel hangs: the state machine (docs/liveness.md).

Pure: no loop, no clock, no hypervisor; times are seconds of any monotonic clock.
The input is:

- the guest's *heartbeat* (signs of life), read from shared memory again and again;
- where there is none, the guest's CPU time, as the *hypervisor* reports it.

A guest without heartbeat is not dead for that reason alone: it may be paused,
saved, or get no CPU. So only its own time counts: seconds that a virtual CPU has
run without a sign, or has slept without waking. Without clear evidence it is no
hang.

A hang that has the CPU to itself is found *within* the timeout. It is seen later
than it begins. So all is measured by the *limit*: the timeout less the delay::

    last sign  H, it hangs      no sign for STEP      then evidence every STEP       limit
    ───┼───────┼───┼──────────────────┼──────────────┼──────────────┼──────────────┼───┼──►
               first look             DOUBTED: a question, an answer ..                HUNG

::

    ALIVE ──no sign for STEP of the limit──► DOUBTED ──no sign for the limit, evidence──► HUNG
      ▲                                         │                                          │
      └────────────── a sign ───────────────────┴──────────────────────────────────────────┘
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from vesper_monitor.hypervisor.domain_state import DomainState
from vesper_monitor.hypervisor.transport import CpuUse, VcpuState, VcpuUse

__all__ = ["MIN_TIMEOUT_S", "Depth", "Hang", "HangDetector", "Heartbeat", "LifeState", "Silence"]

#: s: the shortest useful timeout, with two signs a second.
MIN_TIMEOUT_S = 2.0
#: s between two looks; after a longer gap vesperd itself did not run, and the gap
#: counts for nothing.
MAX_GAP_S = 2.0
#: s between two looks at the signs.
LOOK_INTERVAL_S = 1.0
#: s between two looks, where the timeout is short.
SHORT_LOOK_INTERVAL_S = 0.5
#: s between two looks at a guest that is in doubt.
DOUBT_LOOK_INTERVAL_S = 0.1
#: s: a timeout below is short.
SHORT_TIMEOUT_S = 4.0
#: s that the hypervisor's answers and vesperd take.
ANSWER_DELAY_S = 0.15
#: Share of the limit after which the hypervisor is asked, and asked again. One
#: answer is evidence for at most as much time.
STEP_SHARE = 0.2
#: s between two questions about a guest that gets no CPU.
MAX_PAUSE_S = 10.0
#: Share of the limit that a CPU must have run, or slept in one go, without a sign:
#: three answers agree.
OWN_CPU_SHARE = 0.5

#: s that a guest which should run is silent for an unknown reason, until that is reported.
UNEXPLAINED_S = 20.0
#: The same in times of the hang timeout; the longer one counts.
UNEXPLAINED_TIMEOUTS = 2.0


class LifeState(enum.Enum):
    ALIVE = "alive"
    DOUBTED = "doubted"  #: the hypervisor is asked
    HUNG = "hung"


class Depth(enum.Enum):
    """What a hanging guest no longer does."""

    INTERRUPTS = "interrupts"  #: a CPU takes none
    SCHEDULER = "scheduler"  #: no CPU runs a thread of the normal class


class Silence(enum.Enum):
    """Why a guest may be silent that is neither paused nor clearly hung."""

    IDLE = "uses no CPU: it sleeps or hangs"
    BUSY = "gets little CPU: it hangs, or its host is too busy"
    UNKNOWN = "the hypervisor does not say what it does"


class Heartbeat(NamedTuple):
    """The counters that one CPU of the guest moves."""

    cpu: int
    irqs: int
    runs: int


@dataclass(frozen=True)
class Hang:
    """A hang for which the evidence is clear."""

    depth: Depth
    cpu: int  #: of the scheduler: the first one
    silent: float  #: s without a sign, as observed
    ran: float  #: s of CPU time that it got meanwhile, since it was doubted
    stuck: float  #: s that it slept meanwhile without waking


@dataclass(slots=True)
class _Track:
    """One CPU's counter of one depth."""

    count: int
    moved: bool = False  #: ever, as observed
    moved_at: float = 0.0  #: or seen for the first time
    silent: float = 0.0
    ran: float = 0.0
    stuck: float = 0.0
    base: VcpuUse | None = None  #: as the hypervisor said last, while silent
    base_at: float = 0.0


@dataclass(slots=True)
class _Cpu:
    irqs: _Track
    runs: _Track

    @property
    def tracks(self) -> tuple[_Track, _Track]:
        return self.irqs, self.runs


@dataclass
class HangDetector:
    """Detects the hang of one guest.

    Call :meth:`note_signs` often, then :meth:`find_hang`. Where :meth:`needs_cpu_use`
    says so, ask the hypervisor and pass its answer to :meth:`note_cpu_use`.
    """

    state: LifeState = LifeState.ALIVE
    _cpus: dict[int, _Cpu] = field(default_factory=dict)
    #: a CPU has taken an interrupt then, or later
    last_sign: float | None = None
    _last: float | None = None
    _asked: float = 0.0
    _ask_at: float = 0.0  #: not before
    _pause: float = 0.0
    _is_near: bool = True  #: of the last answer: a hang may be found soon
    _gaps: int = 0  #: times that the observer did not run
    _gaps_asked: int = 0  #: of these, when the hypervisor was asked
    _unexplained_at: float | None = None  #: since then no answer has said why it is silent
    _is_known: bool = False  #: the hypervisor has answered last

    def note_signs(self, now: float, signs: Iterable[Heartbeat]) -> None:
        """Take the heartbeats of the online CPUs."""
        gap = 0.0 if self._last is None else now - self._last
        observed = gap if 0.0 <= gap <= MAX_GAP_S else 0.0
        before, self._last = self._last, now
        self._gaps += not observed
        if not observed:
            self._unexplained_at = None
        cpus: dict[int, _Cpu] = {}
        for number, irqs, runs in signs:
            cpu = self._cpus.get(number)
            if cpu is None:
                cpu = _Cpu(_Track(irqs, moved_at=now), _Track(runs, moved_at=now))
            else:
                if irqs != cpu.irqs.count:
                    self.last_sign = before
                _follow_counter(cpu.irqs, irqs, observed, now)
                _follow_counter(cpu.runs, runs, observed, now)
            if not observed:
                # The host itself may have stood still: begin to count again.
                for track in cpu.tracks:
                    track.base = None
            cpus[number] = cpu
        self._cpus = cpus

    @property
    def last_interrupt(self) -> float:
        """When any CPU was seen to take an interrupt, or was first seen."""
        return max((cpu.irqs.moved_at for cpu in self._cpus.values()), default=0.0)

    def shows_life(self, now: float) -> bool:
        """Whether each CPU has taken an interrupt in the last moment."""
        return (
            self._last is not None
            and 0.0 <= now - self._last <= MAX_GAP_S
            and bool(self._cpus)
            and all(c.irqs.moved and c.irqs.silent < MAX_GAP_S for c in self._cpus.values())
        )

    @property
    def is_silent(self) -> bool:
        """Whether there was no sign for longer than a live kernel can be without."""
        cpus = self._cpus.values()
        return any(cpu.irqs.silent >= MAX_GAP_S for cpu in cpus) or (
            bool(cpus) and all(cpu.runs.silent >= MAX_GAP_S for cpu in cpus)
        )

    def unexplained(self, timeout: float) -> Silence | None:
        """Return, after :meth:`find_hang`, what a long silence may be; None: there is none."""
        if self.state is not LifeState.DOUBTED or self._unexplained_at is None:
            return None
        assert self._last is not None
        limit = max(UNEXPLAINED_S, UNEXPLAINED_TIMEOUTS * timeout)
        if self._last - self._unexplained_at < limit:
            return None
        if not self._is_known:
            return Silence.UNKNOWN
        tracks = [track for cpu in self._cpus.values() for track in cpu.tracks]
        return Silence.BUSY if any(track.ran for track in tracks) else Silence.IDLE

    @property
    def silent_since(self) -> float:
        """When the first silent CPU showed its last sign, or was first seen."""
        cpus = self._cpus.values()
        silent = [cpu.irqs.moved_at for cpu in cpus if cpu.irqs.silent >= MAX_GAP_S]
        return min(silent or [cpu.runs.moved_at for cpu in cpus], default=0.0)

    @property
    def is_all_silent(self) -> bool:
        """Whether no CPU takes an interrupt."""
        return all(cpu.irqs.silent >= MAX_GAP_S for cpu in self._cpus.values())

    def needs_cpu_use(self, now: float) -> bool:
        """Return, after :meth:`find_hang`, whether to ask the hypervisor now."""
        if self.state is LifeState.ALIVE or now < self._ask_at:
            return False
        self._asked = now
        self._gaps_asked = self._gaps
        return True

    def next_look(self, now: float, timeout: float) -> float:
        """Return how many s to wait until the next :meth:`note_signs`."""
        if self.state is not LifeState.DOUBTED or not self._is_near:
            return _look_interval(timeout)
        until = self._ask_at - now
        return until if 0.0 < until < DOUBT_LOOK_INTERVAL_S else DOUBT_LOOK_INTERVAL_S

    def note_cpu_use(self, now: float, use: CpuUse | None, timeout: float) -> None:
        """Take the hypervisor's answer; None: it could not say."""
        if self.state is LifeState.ALIVE:
            return  # there was a sign meanwhile
        self._is_known = use is not None
        if use is not None and use.state is not DomainState.RUNNING:
            self._unexplained_at = None
        elif self._unexplained_at is None:
            self._unexplained_at = now
        step = _silence_limit(timeout) * STEP_SHARE
        counted = False
        # An answer from before vesperd stood still is older than it looks.
        fresh = self._gaps == self._gaps_asked
        running = fresh and use is not None and use.state is DomainState.RUNNING
        vcpus = {vcpu.cpu: vcpu for vcpu in use.vcpus} if use is not None and running else {}
        for number, cpu in self._cpus.items():
            vcpu = vcpus.get(number)
            for track in cpu.tracks:
                if track.silent < step or vcpu is None or vcpu.state is VcpuState.OFFLINE:
                    track.base = None
                    continue
                counted |= track.base is None or _account_cpu_time(track, vcpu, now, step)
                track.base, track.base_at = vcpu, now
        # A guest that is paused for hours, or starved, is not asked about all the time.
        if self.state is LifeState.HUNG:
            self._pause = MAX_PAUSE_S
        else:
            self._pause = step if counted else min(max(self._pause * 2, step), MAX_PAUSE_S)
        self._is_near = counted
        # The time of the answer is part of the step, unless it takes long.
        self._ask_at = max(self._asked + self._pause, now + self._pause / 2)

    def find_hang(self, timeout: float) -> Hang | None:
        """Return a hang, after :meth:`note_signs`, once, when it becomes certain."""
        if not self._is_doubtful(timeout):
            if self.state is not LifeState.ALIVE:
                self._reset_suspicion()
            return None
        hang = self._judge_tracks(timeout)
        if hang is not None:
            new = self.state is not LifeState.HUNG
            self.state = LifeState.HUNG
            return hang if new else None
        if self.state is LifeState.ALIVE:
            self.state = LifeState.DOUBTED
        return None

    def _reset_suspicion(self) -> None:
        self.state = LifeState.ALIVE
        self._pause = self._ask_at = 0.0
        self._is_near = True
        self._unexplained_at = None
        for cpu in self._cpus.values():
            for track in cpu.tracks:
                track.base = None

    def _is_doubtful(self, timeout: float) -> bool:
        """Return whether there was no sign for long enough to ask the hypervisor."""
        step = _silence_limit(timeout) * STEP_SHARE
        cpus = self._cpus.values()
        return any(cpu.irqs.silent >= step for cpu in cpus) or (
            bool(cpus) and all(cpu.runs.silent >= step for cpu in cpus)
        )

    def _judge_tracks(self, timeout: float) -> Hang | None:
        for number, cpu in self._cpus.items():
            if _is_dead(cpu.irqs, timeout):
                return _make_hang(Depth.INTERRUPTS, number, cpu.irqs)
        # One CPU may be given to a real-time task on purpose; not all of them.
        if self._cpus and all(_is_starved(cpu.runs, timeout) for cpu in self._cpus.values()):
            number = min(self._cpus)
            return _make_hang(Depth.SCHEDULER, number, self._cpus[number].runs)
        return None


def _follow_counter(track: _Track, count: int, observed: float, now: float) -> None:
    if count == track.count:
        track.silent += observed
        return
    track.count, track.moved, track.moved_at = count, True, now
    track.silent = track.ran = track.stuck = 0.0
    track.base = None


def _account_cpu_time(track: _Track, vcpu: VcpuUse, now: float, most: float) -> bool:
    """Account for what the CPU did since the last answer. :returns: whether it is evidence.

    :param most: s that one answer counts at most: several must agree.
    """
    assert track.base is not None
    span = now - track.base_at
    ran = vcpu.ran - track.base.ran
    if ran < 0.0 or span <= 0.0:
        return False
    if ran > 0.0:
        track.ran += min(ran, span, most)
        return True
    if vcpu.state is VcpuState.BLOCKED is track.base.state:
        # Most likely it was not runnable in between: it would have had to run to sleep
        # again. But a process that is stopped and let go on sleeps before and after.
        track.stuck += min(span, most)
        return True
    track.stuck = 0.0  # the host did not let it run: so its sleep says nothing, either
    return False


def _look_interval(timeout: float) -> float:
    """Return the s between two looks at a guest that is well."""
    return LOOK_INTERVAL_S if timeout >= SHORT_TIMEOUT_S else SHORT_LOOK_INTERVAL_S


def _silence_limit(timeout: float) -> float:
    """Return after how many observed s without a sign a guest hangs.

    The look that sees the last sign may be late by one interval, and the look that
    finds the hang by DOUBT_LOOK_INTERVAL_S.
    """
    return timeout - _look_interval(timeout) - DOUBT_LOOK_INTERVAL_S - ANSWER_DELAY_S


def _is_starved(track: _Track, timeout: float) -> bool:
    limit = _silence_limit(timeout)
    return track.silent >= limit and track.ran >= limit * OWN_CPU_SHARE


def _is_dead(track: _Track, timeout: float) -> bool:
    limit = _silence_limit(timeout)
    asleep = track.silent >= limit and track.stuck >= limit * OWN_CPU_SHARE
    return asleep or _is_starved(track, timeout)


def _make_hang(depth: Depth, cpu: int, track: _Track) -> Hang:
    return Hang(depth, cpu, track.silent, track.ran, track.stuck)
