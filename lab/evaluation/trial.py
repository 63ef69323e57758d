# SPDX-License-Identifier: GPL-2.0-or-later
"""One run: bring a fault about in the guest, and see what becomes of it."""

from __future__ import annotations

import html
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

from lxml import etree

from lab.evaluation.clock import Offset
from lab.evaluation.injection import inject_fault, read_host_clock
from lab.evaluation.machine import OtherLoad
from lab.evaluation.observer import Observation, Observer
from lab.evaluation.pacemaker_log import TICK_S, What
from lab.evaluation.phase import POLL_INTERVAL_S, Phase
from lab.evaluation.run import FAULTS, STEPS, WATCHES, Run
from lab.evaluation.setting import Lab
from lab.host import LabError
from vesper_monitor.hypervisor.transport import ENDED

__all__ = ["exit_reason", "perform_trial"]

#: A fault that nobody has noticed by then (s) is not detected.
DETECTION_LIMIT_S = 60.0
#: From the failure to the page from the other host, at most (s).
RECOVERY_LIMIT_S = 120.0

_STEPS = {
    What.RECORDED: "recorded_s",
    What.STOP: "stop_s",
    What.STOPPED: "stopped_s",
    What.STARTED: "started_elsewhere_s",
}

#: Shown, but no step of the report.
_STEP_TEXTS: dict[What | str, str] = {
    What.FAILED: "monitor has failed",
    What.STUCK: "stop has failed",
    What.START: "start called",
}

#: By which event vesperd sees what kills no process.
_SEEN_BY = {
    "panic": ("last_words", "domain"),
    "panic-kept": ("last_words", "domain"),
    "poweroff": ("domain",),
    "destroy": ("domain",),
    "hang": ("hang",),
}
_ENDED = tuple(state.value for state in ENDED)


def _closer_offset(before: Offset, after: Offset) -> Offset:
    """The closer bound of the two; if they contradict each other, what holds for both."""
    gap = abs(before.ns - after.ns)
    if gap <= before.error_ns + after.error_ns:
        return min(before, after, key=lambda offset: offset.error_ns)
    return Offset((before.ns + after.ns) // 2, gap // 2 + max(before.error_ns, after.error_ns))


class _Timeline:
    """Turns observations into the steps of a run, and shows each."""

    def __init__(self, kind: str, home: str, show: Callable[[str], None]) -> None:
        self.stuck: float | None = None  #: the stop has failed
        self.times: dict[str, float] = {}  #: by field of Run, outer clock
        self.changed = threading.Condition()
        self._kind = kind
        self._home = home
        self._show = show
        self._old_page: str | None = None
        self._began = float("inf")
        self._fault: tuple[float, int] | None = None
        self._waiting: list[Observation] = []

    def page_before(self, page: str) -> None:
        self._old_page = page

    def note_fault_time(self, at: float, pid: int) -> None:
        """It has happened; what has come in meanwhile is shown now."""
        with self.changed:
            self._fault = (at, pid)
            for observation in sorted(self._waiting, key=lambda o: o.at):
                self._take_observation(observation)
            self.changed.notify_all()

    def note_observation(self, observation: Observation) -> None:
        with self.changed:
            if self._fault is None:
                self._waiting.append(observation)
            else:
                self._take_observation(observation)
                self.changed.notify_all()

    def _take_observation(self, observation: Observation) -> None:
        assert self._fault
        since = observation.at - self._fault[0]
        if observation.what in _STEP_TEXTS and since > -1:
            if observation.what is What.STUCK:
                self.stuck = observation.at
            self._show(f"{since:+8.3f} s  {_STEP_TEXTS[observation.what]:24}on {observation.host}")
        step, said = self._find_meaning(observation, self._fault[1])
        if step and step not in self.times and observation.at > self._fault[0] - 1:
            self.times[step] = observation.at
            self._show(f"{since:+8.3f} s  {STEPS[step]:24}{said}")

    def _find_meaning(self, observation: Observation, pid: int) -> tuple[str | None, str]:
        what, host = observation.what, observation.host
        if what == "event":
            event = observation.detail
            fields = event.get("fields", {})
            if (
                pid in (fields.get("pid"), fields.get("tgid"))
                if pid
                else event.get("event") in _SEEN_BY[self._kind]
                and fields.get("state", "gone") in _ENDED
            ):
                return "seen_s", f"{host}: {event.get('text', '')}"
        elif what == "page":
            if observation.detail != self._old_page:
                return "service_back_s", f"fetched from {host}"
        elif (what, host == self._home) in ((What.STARTED, True), (What.STOPPED, False)):
            return None, ""
        elif isinstance(what, What):
            return _STEPS.get(what), f"on {host}"
        return None, ""

    def wait_for_step(self, step: str, deadline: float) -> bool:
        with self.changed:
            self.changed.wait_for(
                lambda: step in self.times or self.stuck is not None,
                max(0.0, deadline - time.monotonic()),
            )
            return step in self.times


#: The degraded results of Pacemaker: listed among the failures, and none.
_DEGRADED = ("190", "191")


def exit_reason(xml: bytes, node: str | None = None) -> str:
    """Return the exit reason of vm1's failure in ``crm_mon --output-as=xml``.

    :param node: where it has failed; default: the first that is listed.
    """
    for failure in etree.fromstring(xml).iterfind(".//failures/failure"):
        if not failure.get("op_key", "").startswith("vm1_monitor"):
            continue
        if failure.get("exitcode") in _DEGRADED or node not in (None, failure.get("node")):
            continue
        # crm_mon escapes twice: &amp;apos;
        return html.unescape(str(failure.get("exitreason", "")))
    return ""


def perform_trial(
    lab: Lab,
    fault: str,
    watch: str,
    show: Callable[[str], None],
    phase: Phase | None = None,
    time_factor: float = 1.0,
) -> Run:
    """Do one run; vm1 must be running, watched, and its page be there.

    :param show: takes the lines of the timeline, as it happens.
    :param phase: says when; default: at once.
    :param time_factor: how many times longer than usual each step may take.
    """
    home = lab.running_on()
    if home is None:
        raise LabError("vm1 runs on no host")
    (standby,) = (host for host in lab.hosts if host is not home)
    page = lab.guest_through(through=home).fetch_page(timeout=5)
    if page is None:
        raise LabError("vm1's page does not come")
    timeline = _Timeline(fault, home.name, show)
    timeline.page_before(page)

    clocks = {host.name: read_host_clock(host) for host in lab.hosts}
    with Observer(
        lab, clocks, standby=standby, vesper=watch == "vesper", tell=timeline.note_observation
    ):
        time.sleep(2)  # what follows the logs must have started
        others = OtherLoad()
        with ExitStack() as until_the_fault:
            if phase:
                if fault.startswith("oom"):
                    until_the_fault.enter_context(lab.guest_through(through=home).fill_memory())
                phase.wait_for_moment(home, fault)
            ordered = time.time()
            injected = inject_fault(lab, home, fault, clocks)
        at = injected.at
        if phase:
            phase.note_injection_lead(fault, at - ordered)
        stamp = time.strftime("%H:%M:%S", time.gmtime(at))
        show(f"{stamp}    +0.000 s  {FAULTS[fault]} on {home.name}, watched by {WATCHES[watch]}")
        timeline.note_fault_time(at, injected.pid)

        run = Run(fault, watch, at)
        if phase:
            run.since_poll_s = phase.measure_since_poll_s(at)
            show(
                f"            {run.since_poll_s:.1f} s after the stock agent's last look, "
                f"of {POLL_INTERVAL_S:.0f} s from look to look"
            )
        detect = DETECTION_LIMIT_S * time_factor
        recovered = time.monotonic() + detect + RECOVERY_LIMIT_S * time_factor
        if timeline.wait_for_step("recorded_s", time.monotonic() + detect):
            timeline.wait_for_step("service_back_s", recovered)
            timeline.wait_for_step("started_elsewhere_s", recovered)
            run.others_cpu_share = others.measure_share()
            xml = standby.run_command("crm_mon -1 --output-as=xml", timeout=60, check=True).output
            run.exit_reason = exit_reason(xml.encode(), home.name)
            show(f"            exit reason: {run.exit_reason or '(none)'}")
        else:
            run.others_cpu_share = others.measure_share()
            show(f"            not detected within {detect:.0f} s")
        if not run.is_reliable:
            show(f"            UNRELIABLE: others used {run.others_cpu_share:.0%} of the CPUs")
    after = {
        host.name: _closer_offset(clocks[host.name], read_host_clock(host)) for host in lab.hosts
    }
    for step, seconds in timeline.times.items():
        setattr(run, step, seconds - at)
    if run.recorded_s is None:
        run.service_back_s = None
    if timeline.stuck is not None:
        run.stuck_s = timeline.stuck - at
    worst = max(o.error_ns + abs(o.ns - clocks[name].ns) for name, o in after.items())
    run.clock_error_s = injected.error_s + worst / 1e9 + TICK_S
    return run
