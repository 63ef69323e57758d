# SPDX-License-Identifier: GPL-2.0-or-later
"""What is a hang and, above all, what is none.

A model of a guest, its hypervisor and an observer, in steps of 0.1 s. The
guest has the CPU, or not, as the segments say; a healthy one takes its timer
interrupt as soon as it has the CPU, which is what an interrupt is.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.guest.test_session import images as images
from tests.unit.guest.test_session import watch
from tests.unit.support.daemons import RESOURCE, DaemonProcess, Monitor
from tests.unit.support.standins import guest, until
from vesper_monitor.guest import abi
from vesper_monitor.guest.control.cchan import Cchan
from vesper_monitor.guest.control.images import ImageStore
from vesper_monitor.guest.health.hang_detector import (
    Depth,
    Hang,
    HangDetector,
    Heartbeat,
    LifeState,
    Silence,
)
from vesper_monitor.guest.session_state import SessionState
from vesper_monitor.hypervisor.domain_state import DomainState
from vesper_monitor.hypervisor.transport import CpuUse, TransportError, VcpuState, VcpuUse
from xen_transport import toolstack

STEP = 0.1
TIMEOUT = 5.0

#: What happens to the guest meanwhile: it runs; has nothing to do; wants a CPU
#: and gets none; is paused; the observer alone stands still; all of the host
#: stands still, and the hypervisor accounts that to whoever had the CPU.
RUN, IDLE, STARVE, PAUSE, BLIND, STALL = "run", "idle", "starve", "pause", "blind", "stall"


@dataclass
class Cpu:
    irqs: int = 0
    runs: int = 0
    ran: float = 0.0
    due: float = 0.0
    state: VcpuState = VcpuState.RUNNING


class Model:
    """
    :param ill: None; "irqs": a CPU takes no interrupts; "runs": no CPU runs
        normal threads; "stuck": a CPU sleeps for ever.
    :param latency: s for an answer of the hypervisor.
    """

    def __init__(
        self,
        cpus: int = 1,
        ill: str | None = None,
        latency: float = 0.0,
        timeout: float = TIMEOUT,
    ) -> None:
        self.cpus = [Cpu() for _ in range(cpus)]
        self.ill = ill
        self.latency = latency
        self.timeout = timeout
        self.now = 1000.0
        self.liveness = HangDetector()
        self.hangs: list[tuple[float, Hang]] = []
        self._poll_at = 0.0
        self._answer: tuple[float, CpuUse] | None = None

    def go(self, segments: list[tuple[str, float]]) -> Model:
        for kind, seconds in segments:
            for _ in range(max(1, round(seconds / STEP))):
                self.now += STEP
                for number, cpu in enumerate(self.cpus):
                    self._guest(kind, cpu, number)
                if kind not in (BLIND, STALL):
                    self._observe(kind)
        return self

    def _guest(self, kind: str, cpu: Cpu, number: int) -> None:
        ill = self.ill if number == 0 or self.ill == "runs" else None
        if kind == PAUSE:
            return
        if kind == STARVE:
            cpu.state = VcpuState.RUNNABLE
            return
        if ill == "stuck":
            cpu.state = VcpuState.BLOCKED
            return
        busy = kind in (RUN, STALL, BLIND) or ill is not None
        cpu.state = VcpuState.RUNNING if busy else VcpuState.BLOCKED
        cpu.ran += STEP if busy else 0.0
        if kind == STALL or ill == "irqs" or self.now < cpu.due:
            return
        cpu.due = self.now + 0.5
        cpu.irqs += 1
        cpu.runs += ill != "runs"

    def _observe(self, kind: str) -> None:
        if self.now < self._poll_at:
            return
        life = self.liveness
        if self._answer is not None and self.now >= self._answer[0]:
            life.note_cpu_use(self.now, self._answer[1], self.timeout)
            self._answer = None
        life.note_signs(
            self.now, [Heartbeat(n, cpu.irqs, cpu.runs) for n, cpu in enumerate(self.cpus)]
        )
        hang = life.find_hang(self.timeout)
        if hang is not None:
            self.hangs.append((self.now, hang))
        if self._answer is None and life.needs_cpu_use(self.now):
            state = DomainState.PAUSED if kind == PAUSE else DomainState.RUNNING
            # As xl prints it: tenths of a second.
            use = [
                VcpuUse(n, round(cpu.ran - 0.05, 1), cpu.state) for n, cpu in enumerate(self.cpus)
            ]
            self._answer = self.now + self.latency, CpuUse(state, tuple(use))
        self._poll_at = self.now + life.next_look(self.now, self.timeout)


kinds = st.sampled_from([RUN, IDLE, STARVE, PAUSE, BLIND, STALL])
segments = st.lists(st.tuples(kinds, st.floats(0.1, 40.0)), min_size=1, max_size=25)


@settings(max_examples=300, deadline=None)
@given(segments, st.integers(1, 3), st.floats(0.0, 4.0), st.sampled_from([2.0, 5.0, 20.0]))
def test_whatever_happens_to_a_healthy_guest_is_no_hang(
    what: list[tuple[str, float]], cpus: int, latency: float, timeout: float
) -> None:
    model = Model(cpus, latency=latency, timeout=timeout).go(what)
    assert model.hangs == []
    model.go([(RUN, 2.0)])
    assert model.liveness.state is LifeState.ALIVE


def test_an_answer_from_before_the_host_stood_still_does_not_count() -> None:
    """It comes late, and what is accounted in between nobody has had."""
    for tenths in range(10, 40):
        model = Model(latency=4.0)
        model.go([(RUN, 3.0), (STARVE, tenths / 10), (STALL, 3.5), (STARVE, 30.0)])
        assert model.hangs == []


def test_thousands_of_healthy_rounds_are_no_hang() -> None:
    """With other odds than hypothesis's: short and long, many of them."""
    chance = random.Random(1)
    for _ in range(2000):
        latency, timeout = chance.choice([0.0, 0.3, 1.0, 3.0]), chance.choice([2.0, 3.0, 5.0])
        model = Model(chance.randint(1, 3), latency=latency, timeout=timeout)
        for _ in range(chance.randint(1, 60)):
            seconds = chance.choice([0.1, 0.2, 0.5, 1, 2, 5, 8, 20]) * chance.random()
            model.go([(chance.choice([RUN, IDLE, STARVE, PAUSE, BLIND, STALL]), seconds)])
        assert model.hangs == []


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.1, 0.3), st.floats(1.0, 9.0)), min_size=5, max_size=20),
    st.booleans(),
)
def test_a_tenfold_overcommit_is_no_hang(slices: list[tuple[float, float]], paused: bool) -> None:
    """A bit of CPU now and then, for minutes; and pauses instead of waiting."""
    model = Model(2)
    for run, wait in slices:
        model.go([(RUN, run), (PAUSE if paused else STARVE, wait)])
    assert model.hangs == []


@pytest.mark.parametrize(
    ("ill", "depth"),
    [("irqs", Depth.INTERRUPTS), ("runs", Depth.SCHEDULER), ("stuck", Depth.INTERRUPTS)],
)
@pytest.mark.parametrize("cpus", [1, 2])
@pytest.mark.parametrize("latency", [0.0, 1.0])
def test_a_hang_is_found_in_time(ill: str, depth: Depth, cpus: int, latency: float) -> None:
    model = Model(cpus, latency=latency).go([(IDLE, 10.0), (RUN, 10.0)])
    began, model.ill = model.now, ill
    model.go([(RUN, 30.0)])
    ((found, hang),) = model.hangs  # once
    assert hang.depth is depth
    assert TIMEOUT - 1.5 <= found - began <= TIMEOUT + 2 * latency
    model.ill = None
    model.go([(RUN, 2.0)])
    assert model.liveness.state is LifeState.ALIVE


def told_after(timeout: float, ill: str, began: float, late: float, latency: float) -> float:
    """s from the beginning of a hang to the event.

    A guest that has the CPU to itself, and gives a sign at each half second;
    looks from 0 on, each ``late`` s after its time; the hypervisor answers
    after ``latency``, with what was so at any time until then.
    """
    life, now = HangDetector(), late
    answer: tuple[float, CpuUse] | None = None
    while now < began + 3 * timeout:
        if answer is not None and answer[0] <= now:
            life.note_cpu_use(*answer, timeout)
            answer = None
        before, after = int(min(now, began) / 0.5), int(now / 0.5)
        life.note_signs(now, [Heartbeat(0, after if ill == "runs" else before, before)])
        if life.find_hang(timeout) is not None:
            return now - began
        if answer is None and life.needs_cpu_use(now):
            at = now + latency * 0.5
            stuck = ill == "stuck" and at >= began
            state = VcpuState.BLOCKED if stuck else VcpuState.RUNNING
            ran = min(at, began) if ill == "stuck" else at
            use = CpuUse(DomainState.RUNNING, (VcpuUse(0, ran, state),))
            answer = now + latency, use
        now += life.next_look(now, timeout) + late
    raise AssertionError("no hang")


@settings(max_examples=500, deadline=None)
@given(
    st.floats(2.0, 60.0),
    st.sampled_from(["irqs", "runs", "stuck"]),
    st.floats(5.0, 10.0),
    st.floats(0.0, 0.02),
    st.floats(0.0, 0.05),
)
def test_a_hang_is_told_within_the_timeout(
    timeout: float, ill: str, began: float, late: float, latency: float
) -> None:
    """At whatever time between two signs and two looks it begins."""
    assert timeout - 1.8 <= told_after(timeout, ill, began, late, latency) <= timeout


@pytest.mark.parametrize("timeout", [2.0, 2.5, 3.0, 5.0, 10.0, 60.0])
def test_a_hang_is_found_at_every_phase(timeout: float) -> None:
    for ill in ("irqs", "runs", "stuck"):
        for phase in range(100):
            assert told_after(timeout, ill, 5.0 + phase / 100, 0.01, 0.05) <= timeout


@settings(max_examples=50, deadline=None)
@given(st.floats(0.2, 0.9))
def test_a_hang_with_a_part_of_the_cpu_is_found_later(share: float) -> None:
    model = Model().go([(RUN, 5.0)])
    model.ill = "irqs"
    for _ in range(60):
        model.go([(RUN, share), (STARVE, 1 - share)])
    assert len(model.hangs) == 1


def test_a_hang_of_a_paused_guest_waits() -> None:
    model = Model().go([(RUN, 5.0)])
    model.ill = "irqs"
    model.go([(RUN, 1.0), (PAUSE, 600.0)])
    assert model.hangs == []
    model.go([(RUN, 20.0)])
    assert len(model.hangs) == 1


def test_one_cpu_of_two_may_be_a_real_time_tasks() -> None:
    """Isolated and given away: its interrupts are taken, its normal threads never run."""
    model = Model(2)
    model._guest_of = model._guest  # type: ignore[attr-defined]

    def only_first(kind: str, cpu: Cpu, number: int) -> None:
        model.ill = "runs" if number == 0 else None
        model._guest_of(kind, cpu, number)  # type: ignore[attr-defined]

    model._guest = only_first  # type: ignore[method-assign]
    assert model.go([(RUN, 60.0)]).hangs == []
    assert model.liveness.state is LifeState.ALIVE  # nobody is asked all the time


def observed_for(
    life: HangDetector, seconds: float, now: float, state: VcpuState
) -> tuple[float, int]:
    """A CPU that shows no sign and does not run. :returns: the time, and hangs."""
    end, hangs = now + seconds, 0
    while now < end:
        life.note_signs(now, [Heartbeat(0, 7, 7)])
        hangs += life.find_hang(TIMEOUT) is not None
        if life.needs_cpu_use(now):
            life.note_cpu_use(now, CpuUse(DomainState.RUNNING, (VcpuUse(0, 3.0, state),)), TIMEOUT)
        now += min(life.next_look(now, TIMEOUT), end - now)
    return now, hangs


@pytest.mark.parametrize("stopped", [3.0, 7.0, 15.0, 30.0, 60.0])
def test_a_stopped_process_sleeps_before_and_after(stopped: float) -> None:
    """QEMU gets SIGSTOP, then SIGCONT, and its threads sleep on until they are woken.

    Two answers far apart agree that it sleeps, and are worth no more than two close together.
    """
    for phase in range(30):
        life, now = HangDetector(), 1000.0
        for count in range(8):
            life.note_signs(now + count, [Heartbeat(0, count, count)])
        now, hangs = observed_for(life, stopped + phase / 10, now + 7.5, VcpuState.RUNNABLE)
        now, more = observed_for(life, 2.0, now, VcpuState.BLOCKED)
        assert hangs + more == 0
        # Long asleep, seen twice: once early, once late.
        life.note_cpu_use(
            now, CpuUse(DomainState.RUNNING, (VcpuUse(0, 3.0, VcpuState.BLOCKED),)), TIMEOUT
        )
        for _ in range(8):
            now += 1.0
            life.note_signs(now, [Heartbeat(0, 7, 7)])
        life.note_cpu_use(
            now, CpuUse(DomainState.RUNNING, (VcpuUse(0, 3.0, VcpuState.BLOCKED),)), TIMEOUT
        )
        life.note_signs(now + 0.1, [Heartbeat(0, 7, 7)])
        assert life.find_hang(TIMEOUT) is None, stopped
        life.note_signs(now + 0.2, [Heartbeat(0, 8, 8)])
        assert life.find_hang(TIMEOUT) is None
        assert life.state is LifeState.ALIVE


def test_without_cpu_times_a_silence_is_no_hang() -> None:
    life = HangDetector()
    for second in range(100):
        life.note_signs(second * 0.5, [Heartbeat(0, 1, 1)])
        if life.needs_cpu_use(second * 0.5):
            life.note_cpu_use(second * 0.5, None, TIMEOUT)
        assert life.find_hang(TIMEOUT) is None
    assert life.state is LifeState.DOUBTED


def silent_for(life: HangDetector, seconds: int, now: float, use: CpuUse | None) -> float:
    """Each half a second a look; each question is answered so."""
    for _ in range(2 * seconds):
        now += 0.5
        life.note_signs(now, [Heartbeat(0, 7, 7)])
        assert life.find_hang(TIMEOUT) is None
        if life.needs_cpu_use(now):
            life.note_cpu_use(now, use, TIMEOUT)
    return now


@pytest.mark.parametrize(
    ("use", "said"),
    [
        (None, Silence.UNKNOWN),
        (CpuUse(DomainState.RUNNING, (VcpuUse(0, 3.0, VcpuState.RUNNABLE),)), Silence.IDLE),
        (CpuUse(DomainState.RUNNING, ()), Silence.IDLE),
        (CpuUse(DomainState.PAUSED, (VcpuUse(0, 3.0, VcpuState.RUNNABLE),)), None),
    ],
    ids=["nobody says", "no CPU", "nothing of its CPU", "paused"],
)
def test_a_silence_that_nobody_explains_is_said(use: CpuUse | None, said: Silence | None) -> None:
    """It is no hang for certain, and not well for certain: seen at a guest that sleeps."""
    life = HangDetector()
    life.note_signs(0.0, [Heartbeat(0, 6, 6)])
    now = silent_for(life, 20, 0.5, use)
    assert life.unexplained(TIMEOUT) is None, "a host may be busy for a while"
    now = silent_for(life, 10, now, use)
    assert life.unexplained(TIMEOUT) is said
    assert life.unexplained(60.0) is None, "a hang of that guest takes longer"
    life.note_signs(now + 0.5, [Heartbeat(0, 8, 8)])
    life.find_hang(TIMEOUT)
    assert life.unexplained(TIMEOUT) is None


def test_a_pause_is_no_part_of_a_silence_that_nobody_explains() -> None:
    life = HangDetector()
    life.note_signs(0.0, [Heartbeat(0, 6, 6)])
    starves = CpuUse(DomainState.RUNNING, (VcpuUse(0, 3.0, VcpuState.RUNNABLE),))
    now = silent_for(life, 15, 0.5, starves)
    now = silent_for(life, 60, now, CpuUse(DomainState.PAUSED, ()))
    now = silent_for(life, 20, now, starves)
    assert life.unexplained(TIMEOUT) is None
    # Nor is the time in which nobody looked.
    now = silent_for(life, 20, now + 3600.0, starves)
    assert life.unexplained(TIMEOUT) is None
    silent_for(life, 12, now, starves)
    assert life.unexplained(TIMEOUT) is Silence.IDLE


def test_a_silent_guest_with_little_cpu_is_no_hang() -> None:
    life, now = HangDetector(), 0.0
    life.note_signs(now, [Heartbeat(0, 6, 6), Heartbeat(1, 6, 6)])
    for count in range(100):
        now += 0.5
        life.note_signs(now, [Heartbeat(0, 7 + count, 7 + count), Heartbeat(1, 7, 7)])
        assert life.find_hang(TIMEOUT) is None
        if life.needs_cpu_use(now):
            ran = 3.0 + 0.02 * now
            vcpus = VcpuUse(0, now, VcpuState.RUNNING), VcpuUse(1, ran, VcpuState.RUNNABLE)
            life.note_cpu_use(now, CpuUse(DomainState.RUNNING, vcpus), TIMEOUT)
    assert life.unexplained(TIMEOUT) is Silence.BUSY
    assert (life.silent_since, life.is_all_silent) == (0.5, False)


signs = st.lists(
    st.builds(Heartbeat, st.integers(0, 3), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)),
    max_size=4,
)
uses = st.none() | st.builds(
    CpuUse,
    st.sampled_from(DomainState),
    st.lists(
        st.builds(VcpuUse, st.integers(0, 4), st.floats(-1e9, 1e9), st.sampled_from(VcpuState)),
        max_size=4,
    ).map(tuple),
)


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), signs, uses), max_size=30))
def test_nothing_makes_it_raise(rounds: list[tuple[float, list[Heartbeat], CpuUse | None]]) -> None:
    life = HangDetector()
    for now, seen, use in rounds:
        life.note_signs(now, seen)
        life.find_hang(TIMEOUT)
        life.needs_cpu_use(now)
        life.note_cpu_use(now, use, TIMEOUT)
        life.unexplained(TIMEOUT)


# -------------------------------------------------------------------- Xen

VCPU_LIST = """\
Name                                ID  VCPU   CPU State   Time(s) Affinity (Hard / Soft)
my web server                        7     0    1   r--     123.4  all / all
my web server                        7     1    0   -b-       5.0  0-3 / all
my web server                        7     2    3   ---       0.1  all / all
my web server                        7     3    -   --p       0.0  all / all
"""


def test_xl_vcpu_list_is_read() -> None:
    assert toolstack.parse_vcpu_list(VCPU_LIST, 7) == (
        VcpuUse(0, 123.4, VcpuState.RUNNING),
        VcpuUse(1, 5.0, VcpuState.BLOCKED),
        VcpuUse(2, 0.1, VcpuState.RUNNABLE),
        VcpuUse(3, 0.0, VcpuState.OFFLINE),
    )
    with pytest.raises(TransportError, match="nothing about domain 8"):
        toolstack.parse_vcpu_list(VCPU_LIST, 8)


@given(st.text())
def test_xl_may_print_anything(text: str) -> None:
    with pytest.raises(TransportError):
        toolstack.parse_vcpu_list(text, 7)


def test_the_age_of_the_last_sign_of_life_is_known() -> None:
    liveness = HangDetector()
    assert liveness.last_sign is None
    liveness.note_signs(1.0, [Heartbeat(0, 5, 5)])
    assert liveness.last_sign is None  # that counter may have stood for long
    liveness.note_signs(1.2, [Heartbeat(0, 6, 5)])
    assert liveness.last_sign == 1.0  # since then, at the earliest
    liveness.note_signs(1.4, [Heartbeat(0, 6, 9)])
    assert liveness.last_sign == 1.0
    # vesperd stood still: it may have been long ago.
    liveness.note_signs(99.0, [Heartbeat(0, 7, 9)])
    assert liveness.last_sign == 1.4


# -------------------------------------------------------- the whole daemon


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DaemonProcess]:
    (tmp_path / "domains").mkdir()
    monkeypatch.setenv("VESPER_STANDIN_DIR", str(tmp_path / "domains"))
    daemon = DaemonProcess(tmp_path, "hang_timeout = 60.0")
    daemon.start()
    yield daemon
    daemon.stop()


def test_a_hang_is_reported_to_the_monitor(daemon: DaemonProcess) -> None:
    with guest() as vm:

        def tell(*words: str) -> None:
            assert asyncio.run(vm.tell(*words)) == "ok"

        for bad in (1, -1, "5"):
            daemon.call("start", **RESOURCE, hang_timeout=bad)
            wrong = Monitor(daemon, hang_timeout=bad)
            assert wrong.result() == "degraded"
            assert "hang_timeout" in wrong.answer["reason"]
        daemon.call("start", **RESOURCE, hang_timeout=2)
        assert Monitor(daemon).result() == "fine"
        # No life, but paused; and starved.
        tell("cpu", "spin")
        tell("state", "paused")
        assert Monitor(daemon, timeout=6).result() == "fine"
        tell("cpu", "starve")
        tell("state", "running")
        tell("life", "off")
        assert Monitor(daemon, timeout=6).result() == "fine"
        # Another resource parameter holds at once.
        tell("life", "on")
        assert Monitor(daemon, timeout=2, hang_timeout=0).result() == "fine"
        tell("cpu", "spin")
        tell("life", "off")
        assert Monitor(daemon, timeout=6).result() == "fine"
        hung = Monitor(daemon, hang_timeout=2)
        assert hung.result() == "fault"
        reason = hung.answer["reason"]
        assert reason.startswith("kernel hangs: CPU 0 takes no interrupts for ")
        assert reason.endswith(" s (system)")
        tell("life", "on")
        assert Monitor(daemon, timeout=2).result() == "fault"  # until it is stopped or cleared

        def said() -> list[str]:
            return [e["event"] for e in daemon.events() if e["event"] != "domain"]

        end = time.monotonic() + 20
        while len(said()) < 2 and time.monotonic() < end:
            time.sleep(0.1)
        assert said() == ["hang", "alive"]


def test_a_hang_of_the_scheduler_outlives_a_restart_of_the_daemon(daemon: DaemonProcess) -> None:
    with guest() as vm:
        daemon.call("start", **RESOURCE, hang_timeout=2)
        assert Monitor(daemon).result() == "fine"
        assert daemon.stop() == 0
        # A kernel that hangs does not answer HELLO.
        for words in (("cpu", "spin"), ("life", "no-runs"), ("silent", "yes")):
            asyncio.run(vm.tell(*words))
        daemon.start()
        hung = Monitor(daemon)  # its hang_timeout is in the journal
        assert hung.result() == "fault"
        assert hung.answer["reason"].startswith("kernel hangs: no CPU runs normal threads for ")


def test_a_hang_from_before_the_session_is_found(
    images: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is found on the first link, though each HELLO is given up before; and its end is."""
    monkeypatch.setattr(Cchan._send_request, "__defaults__", (0.7,))
    monkeypatch.setattr("vesper_monitor.guest.health.hang_detector.MAX_GAP_S", 0.6)

    async def body() -> None:
        with guest() as vm:
            async with watch(images) as told:
                await until(told.all_collecting, "collecting")
            for words in (("cpu", "spin"), ("life", "off"), ("silent", "yes")):
                await vm.tell(*words)
            async with watch(images, hang_timeout_s=3.0, activate_timeout_s=0.0) as told:
                await until(lambda: told.events, "a hang")
                assert [event.event for event in told.events] == ["hang"]
                assert told.states == [SessionState.CONNECTING]
                assert "no answer from the guest" in str(told.session.degraded)
                await vm.tell("life", "on")
                await vm.tell("silent", "no")
                await until(told.all_collecting, "collecting")
                await until(lambda: len(told.events) == 2, "its end")
                assert told.events[1].event == "alive"

    asyncio.run(asyncio.wait_for(body(), 60))


def test_a_guest_that_sleeps_unannounced_is_degraded(
    images: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vesper_monitor.guest.health.hang_detector.UNEXPLAINED_S", 1.0)

    async def body() -> None:
        with guest() as vm:
            async with watch(images, hang_timeout_s=2.0) as told:
                await until(told.all_collecting, "collecting")
                await until(lambda: told.session.alive, "signs of life")
                await vm.tell("cpu", "starve")
                await vm.tell("life", "off")
                await until(lambda: told.session.degraded is not None, "degraded")
                said = str(told.session.degraded)
                assert said.startswith("vm1 shows no sign of life since 2")
                assert said.endswith(" and uses no CPU: it sleeps or hangs")
                await vm.tell("life", "on")
                await until(lambda: told.session.degraded is None, "well again")
                assert told.events == []

    asyncio.run(asyncio.wait_for(body(), 60))


def test_a_reset_before_the_first_answer_is_no_hang(
    images: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the old kernel has left is no hang of the new one."""
    monkeypatch.setattr(Cchan._send_request, "__defaults__", (0.7,))
    monkeypatch.setattr("vesper_monitor.guest.health.hang_detector.MAX_GAP_S", 0.6)

    async def body() -> None:
        with guest(cmdline="lab.silent=yes") as vm:
            async with watch(images, hang_timeout_s=2.0) as told:
                await until(lambda: told.session.state is SessionState.CONNECTING, "linked")
                await vm.tell("cpu", "spin")
                await vm.tell("life", "off")
                await until(lambda: told.session.heartbeat.is_silent, "no heartbeat")
                await vm.tell("reset", "quiet")
                told.session.note_reset()
                await asyncio.sleep(3.0)  # longer than a hang takes
                for words in (("silent", "no"), ("life", "on"), ("boot",)):
                    await vm.tell(*words)
                await until(told.all_collecting, "collecting")
                assert told.events == []

    asyncio.run(asyncio.wait_for(body(), 60))


def test_a_guest_that_lives_and_does_not_answer_gets_another_link(
    images: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Cchan._send_request, "__defaults__", (0.7,))

    async def body() -> None:
        with guest(cmdline="lab.silent=yes"):
            async with watch(images, hang_timeout_s=3.0) as told:
                await until(lambda: told.states.count(SessionState.CONNECTING) == 2, "another")
                assert told.events == []

    asyncio.run(asyncio.wait_for(body(), 60))


def test_an_older_core_names_its_signs_of_life_in_hello_alone(
    images: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vesper_monitor.guest.session_link.find_life", lambda _: (abi.Region(), 0))

    async def body() -> None:
        with guest():
            async with watch(images, hang_timeout_s=3.0) as told:
                await until(lambda: told.session.alive, "alive")

    asyncio.run(asyncio.wait_for(body(), 60))
