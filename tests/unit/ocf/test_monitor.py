# SPDX-License-Identifier: GPL-2.0-or-later
"""The recurring monitor against a scripted vesperd."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.ocf.support.host import PROJECT, Host
from tests.unit.ocf.support.virtual_host import VirtualXenHost
from vesper_monitor.ocf.agent import DEVICE_MISSING
from vesper_monitor.ocf.fast_common import MAX_REASON_BYTES, shorten_reason, waiting_time
from vesper_monitor.ocf.monitor import RECONNECT_LIMIT_S

SUCCESS, ERROR, NOT_RUNNING, DEGRADED = 0, 1, 7, 190
NO_VESPERD = "vesperd is not running; start it with: systemctl start vesperd"


@pytest.fixture
def watched(host: Host) -> Host:
    """vm1 runs, vesperd listens."""
    host.have(vm1="running")
    host.vesperd.listen()
    return host


def answer(host: Host, **fields: Any) -> None:
    host.vesperd.answers["wait"] = lambda _: fields


def test_what_it_asks(watched: Host) -> None:
    answer(watched, result="fine")
    result = watched.call(
        "monitor",
        interval=1,
        timeout=20,
        OCF_RESKEY_services="httpd",
        OCF_RESKEY_fault_on="send_signal: fatl",  # wrong, and vesperd's affair
    )
    assert result.code == SUCCESS
    assert result.reason is None
    (asked,) = watched.vesperd.asked("wait")
    assert asked["resource"] == "r1"
    assert asked["vm"] == "vm1"
    assert asked["probes"] == ["send_signal", "out_of_memory"]
    assert asked["services"] == ["httpd"]
    assert asked["fault_on"] == "send_signal: fatl"
    assert asked["interval"] == 1
    assert asked["node"] == "node1"
    assert 10 < asked["timeout"] <= waiting_time(20)
    # With vesperd there, the toolstack is left alone.
    assert watched.calls() == []


@pytest.mark.parametrize("limit", ["pause_timeout", "hang_timeout", "boot_timeout"])
def test_how_long_a_pause_a_hang_or_a_boot_may_last_is_vesperds_unless_said(
    watched: Host, limit: str
) -> None:
    answer(watched, result="fine")
    watched.call("monitor", interval=1)
    watched.call("monitor", interval=1, **{f"OCF_RESKEY_{limit}": "90"})
    watched.call("reload-agent", **{f"OCF_RESKEY_{limit}": "0"})
    asked = [*watched.vesperd.asked("wait"), *watched.vesperd.asked("change")]
    assert [request.get(limit) for request in asked] == [None, 90, 0]


def test_a_fault_is_a_failure_with_its_reason(watched: Host) -> None:
    reason = "httpd[97] killed by SIGSEGV at 0x0 sent by sh[80] uid 0 (service)"
    answer(watched, result="fault", reason=reason, fault={})
    result = watched.call("monitor", interval=1)
    assert (result.code, result.reason) == (ERROR, reason)


def test_a_fault_comes_through_while_it_waits(watched: Host) -> None:
    fault = threading.Event()

    def wait(_: dict[str, Any]) -> dict[str, Any]:
        fault.wait(15)
        return {"result": "fault", "reason": "now"}

    watched.vesperd.answers["wait"] = wait
    start = time.monotonic()
    process = watched.begin("monitor", interval=1, timeout=30)
    while not watched.vesperd.asked("wait"):
        assert time.monotonic() - start < 10
        time.sleep(0.01)
    assert process.poll() is None
    fault.set()
    result = watched.end(process, start)
    assert (result.code, result.reason) == (ERROR, "now")


def test_a_reason_cannot_carry_control_characters(watched: Host) -> None:
    answer(watched, result="fault", reason="a\nocf-exit-reason:b\x1b[2J")
    assert watched.call("monitor", interval=1).reason == "a ocf-exit-reason:b [2J"


def test_a_long_reason_keeps_its_begin_and_its_end(watched: Host) -> None:
    reason = "vm1: no image " + "x" * 200 + "; build it with: vesper probe build"
    answer(watched, result="degraded", reason=reason)
    result = watched.call("monitor", interval=1)
    shown = result.reason or ""
    assert len(shown) <= MAX_REASON_BYTES
    assert shown.startswith("vm1: no image ")
    assert shown.endswith("; build it with: vesper probe build")
    assert reason in result.stderr.splitlines()


@given(st.text())
def test_a_reason_fits_into_what_pacemaker_keeps(text: str) -> None:
    shown = shorten_reason(text)
    assert len(shown.encode()) <= MAX_REASON_BYTES
    if len(text.encode()) <= MAX_REASON_BYTES:
        assert shown == text


def test_degraded(watched: Host) -> None:
    answer(watched, result="degraded", reason="no image of probe x; build it with ...")
    result = watched.call("monitor", interval=1)
    assert (result.code, result.reason) == (DEGRADED, "no image of probe x; build it with ...")


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        ("vm1: its QEMU (process 1) has no VESPER device: x; add one", "vm1 is not watched: old"),
        ("httpd ended and is not back after 60 s", "httpd ended and is not back after 60 s"),
        ("vm1 is not watched: transport kvm: down", "vm1 is not watched: transport kvm: down"),
    ],
)
def test_a_note_of_the_start_hides_no_newer_reason(watched: Host, reason: str, shown: str) -> None:
    """The note says why a domain lacks its device; vesperd knows anything else better."""
    (watched.folder / "rsctmp").mkdir(exist_ok=True)
    (watched.folder / "rsctmp/vesper-r1.note").write_text("old")
    answer(watched, result="degraded", reason=reason)
    assert watched.call("monitor", interval=1).reason == shown


def test_a_missing_device_is_recognised_in_the_transports_own_words() -> None:
    source = (PROJECT / "kvm_transport/link.py").read_text()
    assert DEVICE_MISSING in source


def test_an_error_of_vesperd_is_degraded(watched: Host) -> None:
    answer(watched, ok=False, code="internal", error="journal: disk full")
    result = watched.call("monitor", interval=1)
    assert result.code == DEGRADED
    assert "disk full" in (result.reason or "")


def test_an_answer_of_another_version_is_degraded(watched: Host) -> None:
    answer(watched, result="perhaps")
    result = watched.call("monitor", interval=1)
    assert result.code == DEGRADED
    assert "same version" in (result.reason or "")


def test_crashed_is_a_failure(watched: Host) -> None:
    answer(watched, result="dead", state="crashed", reason="vm1 has crashed")
    result = watched.call("monitor", interval=1)
    assert (result.code, result.reason) == (ERROR, "vm1 has crashed")


def test_gone_is_not_running(watched: Host) -> None:
    watched.domains()
    answer(watched, result="dead", state="gone", reason="vm1 was destroyed")
    result = watched.call("monitor", interval=1)
    assert (result.code, result.reason) == (NOT_RUNNING, "vm1 was destroyed")


def test_gone_after_a_fault_that_was_told_is_no_second_failure(watched: Host) -> None:
    watched.domains()
    fault = {"reason": "kernel panic: Oh no (system)"}
    answer(watched, result="dead", state="gone", reason="vm1 was destroyed", fault=fault)
    result = watched.call("monitor", interval=1)
    assert (result.code, result.reason) == (ERROR, "kernel panic: Oh no (system)")


def test_a_domain_that_is_there_again_has_rebooted(xen: Host) -> None:
    xen.vesperd.listen()
    answer(xen, result="dead", state="gone", reason="vm1 was destroyed")
    start = time.monotonic()
    process = xen.begin("monitor", interval=1)
    time.sleep(1.5)
    xen.have(vm1="running")
    assert xen.end(process, start).code == SUCCESS
    assert xen.vesperd.asked("start")


@pytest.mark.parametrize("cause", ["asked", "failure"])
def test_what_does_not_come_back_by_itself_is_not_waited_for(xen: Host, cause: str) -> None:
    xen.vesperd.listen()
    answer(xen, result="dead", state="gone", reason="vm1 was destroyed", cause=cause)
    result = xen.call("monitor", interval=1)
    assert (result.code, result.reason) == (NOT_RUNNING, "vm1 was destroyed")
    assert len(xen.calls()) == 1


@pytest.mark.parametrize("state", ["gone", "crashed"])
@pytest.mark.parametrize(
    ("action", "panicked", "code"),
    [
        ("restart", False, SUCCESS),
        ("restart", True, ERROR),
        ("restart, noted late", True, ERROR),
        ("destroy", False, ERROR),
        ("preserve", False, ERROR),
    ],
)
def test_xl_restarts_what_has_crashed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    action: str,
    panicked: bool,
    state: str,
    code: int,
) -> None:
    """on_crash=restart: the domain is back under another number in a moment."""
    host = VirtualXenHost(tmp_path, monkeypatch)
    host.write_config("vm1")
    host.remember("r1", "vm1")
    log = tmp_path / "var/log/xen/xl-vm1.log"
    log.parent.mkdir(parents=True)
    number, back = host.ident("vm1"), host.clock.now + 2
    noted_late = action == "restart, noted late"
    if not noted_late:
        log.write_text(
            f"Domain {number} has shut down, reason code 3 0x3\n"
            f"Action for shutdown reason code 3 is {action}\n"
        )
    told: list[dict[str, Any]] = []

    def vesperd(asked: dict[str, Any]) -> dict[str, Any]:
        told.append(asked)
        dead: dict[str, Any] = {"result": "dead", "reason": "vm1 has crashed", "state": state}
        dead |= {} if noted_late else {"cause": "failure"}
        dead |= {"panicked": True} if panicked else {}
        return dead if asked["op"] == "wait" else {"age": None}

    host.vesperd = vesperd
    run = host._run

    def look(command: list[str]) -> tuple[int, str]:
        if action.startswith("restart") and host.clock.now > back:
            host.running = {"vm1"}
            monkeypatch.setattr(host, "ident", lambda _: "99")
        return run(command)

    monkeypatch.setattr(host, "_run", look)
    expected = NOT_RUNNING if not action.startswith("restart") and state == "gone" else code
    assert host.call("monitor", interval=10)[0] == expected
    starts = [asked for asked in told if asked["op"] == "start"]
    assert [asked["domain"] for asked in starts] == (["99"] if code == SUCCESS else [])


@pytest.mark.parametrize("on_crash", ["restart", "coredump-restart", "destroy"])
def test_libvirt_restarts_what_has_crashed(kvm: Host, on_crash: str) -> None:
    """It shows as crashed until libvirt has reset it."""
    restarts = on_crash != "destroy"
    text = kvm.config_text.replace("</domain>", f"<on_crash>{on_crash}</on_crash></domain>")
    kvm.config.write_text(text)
    (kvm.fake / "live.xml").write_text(text)
    kvm.have(vm1="crashed")
    kvm.vesperd.listen()
    answer(kvm, result="dead", state="crashed", reason="vm1 has crashed", cause="failure")
    start = time.monotonic()
    process = kvm.begin("monitor", interval=1)
    if restarts:
        while not kvm.calls("domstats"):
            assert time.monotonic() < start + 20
            time.sleep(0.02)
        kvm.have(vm1="running")
    assert kvm.end(process, start).code == (SUCCESS if restarts else ERROR)
    assert bool(kvm.vesperd.asked("start")) is restarts


def test_a_wanted_power_off_stops_the_resource(xen: Host) -> None:
    xen.vesperd.listen()
    xen.script("crm_resource", f'echo "$*" >{xen.folder}/asked')
    off = "vm1 has shut down: power-off"
    answer(xen, result="dead", state="gone", reason=off, cause="asked")
    result = xen.call("monitor", interval=1, OCF_RESKEY_poweroff_wanted="true")
    assert result.code == SUCCESS
    asked = (xen.folder / "asked").read_text()
    assert asked.split()[:2] == ["--resource", "r1"]
    assert "target-role --parameter-value Stopped" in asked
    # Nobody takes it: then it is a failure.
    xen.script("crm_resource", "echo no cluster; exit 1")
    result = xen.call("monitor", interval=1, OCF_RESKEY_poweroff_wanted="true")
    assert result.code == NOT_RUNNING
    assert "no cluster" in (result.reason or "")
    # Not the guest's own wish.
    answer(xen, result="dead", state="gone", reason="it crashed", cause="failure")
    assert xen.call("monitor", interval=1, OCF_RESKEY_poweroff_wanted="true").code == NOT_RUNNING


def test_a_domain_of_libvirt_that_is_gone_does_not_reboot(kvm: Host) -> None:
    kvm.vesperd.listen()
    answer(kvm, result="dead", state="gone", reason="vm1 was destroyed")
    result = kvm.call("monitor", interval=1)
    assert (result.code, result.reason) == (NOT_RUNNING, "vm1 was destroyed")
    assert len(kvm.calls()) == 1


def test_a_domain_that_only_xl_sees_is_degraded(watched: Host) -> None:
    answer(watched, result="dead", state="gone", reason="vm1 is not there")
    watched.vesperd.answers["start"] = lambda _: {
        "ok": False,
        "code": "no-such-vm",
        "error": "no domain vm1",
    }
    result = watched.call("monitor", interval=1)
    assert result.code == DEGRADED
    assert "no domain vm1" in (result.reason or "")


def test_gone_is_not_believed_while_xl_hangs(watched: Host) -> None:
    watched.be("hang")
    answer(watched, result="dead", state="gone", reason="vm1 was destroyed")
    result = watched.call("monitor", interval=1, timeout=8)
    assert result.code == DEGRADED
    assert "vm1 was destroyed" in (result.reason or "")


# -- without vesperd ----------------------------------------------------------------


def test_without_vesperd_it_is_degraded(host: Host) -> None:
    host.have(vm1="running")
    result = host.call("monitor", interval=10, timeout=30)
    assert result.code == DEGRADED
    assert NO_VESPERD in result.stderr
    assert RECONNECT_LIMIT_S <= result.seconds < 30
    # Looked at in the beginning and in the end.
    assert len(host.calls()) >= 2


@pytest.mark.parametrize(("state", "code"), [("", NOT_RUNNING), ("crashed", ERROR)])
def test_without_vesperd_a_death_is_still_seen(host: Host, state: str, code: int) -> None:
    host.have(**{"vm1": state} if state else {})
    assert host.call("monitor", interval=10, timeout=30).code == code


def test_without_vesperd_and_with_a_hanging_xl_nothing_is_claimed(host: Host) -> None:
    host.be("hang")
    result = host.call("monitor", interval=10, timeout=10)
    assert result.code == DEGRADED
    assert "cannot tell whether" in (result.reason or "")


def test_the_first_monitor_does_not_wait_for_vesperd(host: Host) -> None:
    assert host.call("start").code == 0
    first = host.call("monitor", interval=10, timeout=30)
    assert first.code == DEGRADED
    assert first.seconds < RECONNECT_LIMIT_S / 2


def test_a_monitor_after_one_that_was_killed_is_a_first_one(watched: Host) -> None:
    """Pacemaker has cancelled the operation; it waits for the first one of the next."""
    watched.vesperd.answers["wait"] = lambda ask: {"result": "fine"} if ask.get("first") else 30.0
    for _ in range(2):  # one that reads all of the agent, and a quick one
        waits = len(watched.vesperd.asked("wait"))
        monitor = watched.begin("monitor", interval=1, timeout=40)
        while len(watched.vesperd.asked("wait")) == waits:
            time.sleep(0.05)
        monitor.kill()
        monitor.communicate()
        assert watched.call("monitor", interval=1, timeout=40).seconds < 15
    firsts = [asked.get("first") for asked in watched.vesperd.asked("wait")]
    assert firsts == [None, True, None, True]


def test_a_plain_monitor_beside_one_that_waits(watched: Host) -> None:
    """What it has noted is not forgotten by the end of the other."""
    answered = threading.Event()

    def wait(asked: dict[str, Any]) -> dict[str, Any]:
        if not asked.get("first"):
            answered.wait(20)
        return {"result": "fine"}

    watched.vesperd.answers["wait"] = wait
    waiting, begun = watched.begin("monitor", interval=1), time.monotonic()
    while not watched.vesperd.asked("wait"):
        time.sleep(0.05)
    assert watched.call("monitor").code == SUCCESS
    answered.set()
    assert watched.end(waiting, begun).code == SUCCESS
    assert watched.call("monitor", interval=1).code == SUCCESS
    assert [asked.get("first") for asked in watched.vesperd.asked("wait")] == [None, True]


def test_the_first_monitor_says_so(host: Host) -> None:
    host.vesperd.listen()
    answer(host, result="fine")
    assert host.call("start").code == 0
    host.call("monitor", interval=1)
    host.call("monitor", interval=1)
    assert [asked.get("first") for asked in host.vesperd.asked("wait")] == [True, None]


def test_the_monitor_after_a_probe_says_so(watched: Host) -> None:
    """A refresh: Pacemaker probes, starts the monitor anew, and waits for it."""
    answer(watched, result="fine")
    watched.call("monitor", interval=10, timeout=30)
    assert watched.call("monitor").code == SUCCESS
    watched.call("monitor", interval=10, timeout=30)
    assert [asked.get("first") for asked in watched.vesperd.asked("wait")] == [None, True]


def test_a_restart_of_vesperd_shows_nowhere(watched: Host) -> None:
    vesperd = watched.vesperd
    gone = threading.Event()

    def wait(_: dict[str, Any]) -> dict[str, Any] | None:
        if not gone.is_set():
            gone.set()
            return None  # closes the connection in the middle of the wait
        return {"result": "fine"}

    vesperd.answers["wait"] = wait
    start = time.monotonic()
    process = watched.begin("monitor", interval=1, timeout=30)
    assert gone.wait(10)
    vesperd.close()
    time.sleep(1)
    vesperd.listen()
    result = watched.end(process, start)
    assert (result.code, result.reason) == (SUCCESS, None)
    assert len(vesperd.asked("wait")) == 2


def test_a_fault_told_after_the_restart(watched: Host) -> None:
    answers = iter([None, {"result": "fault", "reason": "from the journal"}])
    watched.vesperd.answers["wait"] = lambda _: next(answers)
    result = watched.call("monitor", interval=1, timeout=30)
    assert (result.code, result.reason) == (ERROR, "from the journal")


def test_a_hanging_vesperd_is_degraded_in_time(watched: Host) -> None:
    watched.vesperd.answers["wait"] = lambda _: 60.0
    result = watched.call("monitor", interval=1, timeout=8)
    assert result.code == DEGRADED
    assert "did not answer" in (result.reason or "")


def test_a_death_behind_a_hanging_vesperd_is_seen(watched: Host) -> None:
    watched.domains()
    watched.vesperd.answers["wait"] = lambda _: 60.0
    assert watched.call("monitor", interval=1, timeout=8).code == NOT_RUNNING


@pytest.mark.parametrize("timeout", [0.0, 1.0, 5.0, 10.0, 20.0, 30.0, 60.0, 600.0])
def test_the_wait_leaves_time_to_look_at_the_domain(timeout: float) -> None:
    assert 0 <= waiting_time(timeout) <= max(0.0, timeout - 2)
    assert waiting_time(timeout) >= timeout * 0.8 - 2
