# SPDX-License-Identifier: GPL-2.0-or-later
"""vesperd as a process, with stand-in guests: what an agent and an operator get from it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.support.daemons import PROJECT, RESOURCE, DaemonProcess, Monitor, serve
from tests.unit.support.guests import SEGV, Guest, collecting, wait_for, waiting
from vesper_monitor.client import Client, DaemonError


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DaemonProcess]:
    monkeypatch.setenv("VESPER_STANDIN_DIR", str(tmp_path / "domains"))
    yield from serve(DaemonProcess(tmp_path, "activate_timeout = 0.5"))


@pytest.fixture
def start_guest(daemon: DaemonProcess) -> Iterator[Callable[..., Guest]]:
    guests: list[Guest] = []

    def start(cmdline: str = "", name: str = "vm1") -> Guest:
        guests.append(Guest(name, cmdline))
        return guests[-1]

    yield start
    for guest in guests:
        guest.kill()


@pytest.fixture
def guest(start_guest: Callable[..., Guest], daemon: DaemonProcess) -> Guest:
    """A guest whose resource is watched and has had its first monitor."""
    guest = start_guest()
    daemon.call("start", **RESOURCE)
    wait_for(lambda: collecting(daemon) == 2, "both probes")
    assert Monitor(daemon).result() == "fine"
    return guest


def test_a_fault_reaches_the_waiting_monitor_and_every_one_after(
    daemon: DaemonProcess, guest: Guest
) -> None:
    monitor = Monitor(daemon)
    wait_for(lambda: waiting(daemon), "the monitor")
    guest.say(*SEGV)
    assert monitor.result() == "fault"
    assert monitor.answer["reason"].startswith("httpd[97] killed by SIGSEGV")
    assert Monitor(daemon).result() == "fault"
    faults = daemon.call("faults")["faults"]
    assert [(f["resource"], f["scope"], f["ended"]) for f in faults] == [("r1", "service", None)]
    assert faults[0]["told"] is not None
    daemon.call("stop", resource="r1", vm="vm1")
    assert daemon.call("faults")["faults"][0]["ended_by"] == "stop"


@pytest.mark.parametrize("restarted", [False, True], ids=["", "vesperd restarted"])
def test_a_stop_that_was_not_carried_through_ends_no_fault(
    daemon: DaemonProcess, guest: Guest, start_guest: Callable[..., Guest], restarted: bool
) -> None:
    """Its process was killed, with the cluster's executor: the faulty domain runs on."""
    guest.say(*SEGV)
    assert Monitor(daemon).result() == "fault"
    daemon.call("stop", resource="r1", vm="vm1")
    daemon.call("faults")  # the journal has it
    if restarted:
        daemon.call("faults")  # answered once the stop is in the journal
        daemon.stop(signal.SIGKILL)
        daemon.start()
    monitor = Monitor(daemon)
    assert monitor.result() == "fault"
    assert monitor.answer["reason"].startswith("httpd[97] killed by SIGSEGV")
    assert [(f["id"], f["ended"]) for f in daemon.call("faults")["faults"]] == [(1, None)]
    stop = daemon.call("stop", resource="r1", vm="vm1")
    assert stop["fault"]["id"] == 1
    daemon.call("faults")
    # Now it is.
    guest.kill()
    if restarted:
        daemon.call("faults")
        daemon.stop(signal.SIGKILL)
        daemon.start()
    start_guest()
    daemon.call("start", **RESOURCE)
    assert Monitor(daemon).result() == "fine"
    assert Monitor(daemon, timeout=0.3).result() == "fine"
    assert [f["ended_by"] for f in daemon.call("faults")["faults"]] == ["stop"]


def test_a_fault_after_a_stop_that_was_not_carried_through(
    daemon: DaemonProcess, guest: Guest
) -> None:
    """Before the cluster has found that the domain runs on."""
    daemon.call("stop", resource="r1", vm="vm1")
    guest.say(*SEGV)
    wait_for(lambda: bool(daemon.events()), "the event")
    assert daemon.call("faults")["faults"] == []
    Monitor(daemon).result()  # the first does not wait
    assert Monitor(daemon).result() == "fault"


def test_many_events_of_one_cause_are_one_fault(daemon: DaemonProcess, guest: Guest) -> None:
    guest.say("emit", "out_of_memory", "comm=httpd")
    guest.say("emit", "send_signal", "sig=9", "comm=httpd", "fatal=1", "from_kernel=1")
    assert Monitor(daemon).result() == "fault"
    wait_for(lambda: len(daemon.events()) == 2, "both events")
    assert len(daemon.call("faults")["faults"]) == 1


def test_a_dying_worker_is_an_event_only(daemon: DaemonProcess, guest: Guest) -> None:
    guest.say(*SEGV, "parent_comm=httpd")
    wait_for(lambda: len(daemon.events()) == 1, "the event")
    assert daemon.call("faults")["faults"] == []
    assert Monitor(daemon, timeout=0.3).result() == "fine"


def test_the_death_of_what_a_user_has_started_is_an_event_only(
    daemon: DaemonProcess, guest: Guest
) -> None:
    guest.say(*SEGV, "login_uid=1000", "cgroup=/user.slice/user-1000.slice")
    wait_for(lambda: len(daemon.events()) == 1, "the event")
    (event,) = daemon.events()
    assert (event["fields"]["login_uid"], event["fields"]["elder_pid"]) == (1000, None)
    assert daemon.call("faults")["faults"] == []
    assert Monitor(daemon, timeout=0.3).result() == "fine"


def test_a_fault_between_two_monitors_is_held(daemon: DaemonProcess, guest: Guest) -> None:
    guest.say(*SEGV)
    wait_for(lambda: bool(daemon.call("faults")["faults"]), "the fault")
    assert daemon.call("faults")["faults"][0]["told"] is None
    assert Monitor(daemon).result() == "fault"


def test_the_operator_clears_a_fault(daemon: DaemonProcess, guest: Guest) -> None:
    guest.say(*SEGV)
    assert Monitor(daemon).result() == "fault"
    assert daemon.call("clear", resource="r1")["cleared"] == 1
    assert daemon.call("clear", resource="r1")["cleared"] == 0
    assert Monitor(daemon, timeout=0.3).result() == "fine"
    guest.say(*SEGV)
    assert Monitor(daemon).result() == "fault"  # another one


def test_death_of_the_domain_is_told_at_once(daemon: DaemonProcess, guest: Guest) -> None:
    monitor = Monitor(daemon, timeout=50)
    wait_for(lambda: waiting(daemon), "the monitor")
    guest.kill()
    assert monitor.result() == "dead"
    assert monitor.answer["state"] == "gone"
    assert Monitor(daemon).result() == "dead"


def test_a_crashed_domain_is_told_at_once(daemon: DaemonProcess, guest: Guest) -> None:
    monitor = Monitor(daemon, timeout=50)
    wait_for(lambda: waiting(daemon), "the monitor")
    guest.say("state", "crashed")
    assert monitor.result() == "dead"
    assert monitor.answer["state"] == "crashed"


def test_a_guest_without_modules_is_degraded_until_it_loads_them(
    daemon: DaemonProcess, start_guest: Callable[..., Guest]
) -> None:
    guest = start_guest("lab.vesper=no")
    daemon.call("start", **RESOURCE)
    assert Monitor(daemon).result() in ("fine", "degraded")  # the first one
    monitor = Monitor(daemon)
    assert monitor.result() == "degraded"
    assert "vm1" in monitor.answer["reason"]
    monitor = Monitor(daemon, timeout=40)
    guest.say("load-modules")
    wait_for(lambda: collecting(daemon) == 2, "both probes")
    guest.say(*SEGV)
    assert monitor.result() in ("fine", "fault")
    assert Monitor(daemon).result() == "fault"


def test_a_kernel_without_image_is_degraded_and_says_what_to_do(
    daemon: DaemonProcess, start_guest: Callable[..., Guest]
) -> None:
    start_guest("lab.release=5.5.5")
    daemon.call("start", **RESOURCE)
    Monitor(daemon).result()
    monitor = Monitor(daemon)
    assert monitor.result() == "degraded"
    assert "vesper probe build 5.5.5" in monitor.answer["reason"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_restart_neither_loses_nor_doubles_an_event(
    daemon: DaemonProcess, guest: Guest, number: int
) -> None:
    count = 0

    def emit(times: int) -> None:
        nonlocal count
        for _ in range(times):
            count += 1
            guest.say("emit", "send_signal", "sig=15", f"code={count}", "comm=cron")

    # The stand-in's buffer has room for these 24, however late vesperd reads.
    for _ in range(5):
        emit(8)
        daemon.stop(number)  # wherever it is
        emit(8)
        daemon.start()
        emit(8)
        wait_for(lambda: len(daemon.events(limit=1000)) >= count, "all events")
    codes = [event["fields"]["code"] for event in daemon.events(limit=1000)]
    assert codes == list(range(1, count + 1))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_fault_outlives_the_daemon(daemon: DaemonProcess, guest: Guest, number: int) -> None:
    guest.say(*SEGV)
    assert Monitor(daemon).result() == "fault"
    daemon.stop(number)
    daemon.start()
    assert Monitor(daemon).result() == "fault"
    assert len(daemon.call("faults")["faults"]) == 1


def test_a_fault_while_no_daemon_runs_is_found(daemon: DaemonProcess, guest: Guest) -> None:
    daemon.stop()
    guest.say(*SEGV)
    daemon.start()
    assert Monitor(daemon).result() == "fault"


def test_a_domain_that_died_while_no_daemon_ran_is_reported(
    daemon: DaemonProcess, guest: Guest
) -> None:
    daemon.stop()
    guest.kill()
    daemon.start()
    assert Monitor(daemon).result() == "dead"


def test_what_is_expected_is_watched_when_it_comes(
    daemon: DaemonProcess, start_guest: Callable[..., Guest]
) -> None:
    """And judged when its resource begins: once, though vesperd has seen it before."""
    start_guest(name="vm2")
    daemon.call("expect", resource="r1", vm="vm1", probes=["send_signal", "out_of_memory"])
    guest = start_guest()
    wait_for(lambda: collecting(daemon) == 2, "both probes")
    assert [vm["vm"] for vm in daemon.call("status")["vms"]] == ["vm1"]
    guest.say("emit", "send_signal", "sig=11", "fatal=1")
    wait_for(lambda: bool(daemon.events()), "the event")
    assert daemon.call("faults")["faults"] == []
    daemon.call("start", **RESOURCE)
    Monitor(daemon).result()  # the first does not wait
    assert Monitor(daemon).result() == "fault"
    # Another instance of the same life: that is over.
    daemon.call("start", **RESOURCE)
    assert Monitor(daemon).result() == "fine"
    assert len(daemon.call("faults")["faults"]) == 1


def test_a_resource_unknown_to_the_daemon_is_taken_up(
    daemon: DaemonProcess, start_guest: Callable[..., Guest]
) -> None:
    assert Monitor(daemon).result() == "dead"  # nothing runs
    start_guest()
    assert Monitor(daemon).result() == "fine"
    assert daemon.call("status")["vms"][0]["resource"] == "r1"


def test_an_agent_that_is_killed_leaves_no_waiter(daemon: DaemonProcess, guest: Guest) -> None:
    script = (
        "import sys, json; from vesper_monitor.client import Client\n"
        "Client(sys.argv[1], timeout=60).call_vesperd('wait', **json.loads(sys.argv[2]))"
    )
    fields = '{"resource": "r1", "vm": "vm1", "interval": 1, "timeout": 60}'
    with subprocess.Popen([sys.executable, "-c", script, str(daemon.socket), fields]) as agent:
        wait_for(lambda: waiting(daemon), "the monitor")
        agent.kill()
    wait_for(lambda: not waiting(daemon), "the end of it")
    guest.say(*SEGV)
    wait_for(lambda: bool(daemon.call("faults")["faults"]), "the fault")
    assert daemon.call("faults")["faults"][0]["told"] is None


def test_activate_load_unload_and_deactivate_work_by_hand(
    daemon: DaemonProcess, start_guest: Callable[..., Guest]
) -> None:
    with pytest.raises(DaemonError) as error:
        daemon.call("activate", vm="vm1")
    assert error.value.code == "no-such-vm"
    start_guest()
    daemon.call("activate", vm="vm1", probes=["send_signal"])
    wait_for(lambda: collecting(daemon) == 1, "the probe")
    daemon.call("load", vm="vm1", probe="out_of_memory")
    assert collecting(daemon) == 2
    with pytest.raises(DaemonError) as error:
        daemon.call("load", vm="vm1", probe="no_such")
    assert error.value.code == "no-image"
    daemon.call("unload", vm="vm1", probe="out_of_memory")
    assert collecting(daemon) == 1
    daemon.stop()
    daemon.start()
    wait_for(lambda: collecting(daemon) == 1, "the probe, after a restart")
    daemon.call("deactivate", vm="vm1")
    assert daemon.call("status")["vms"] == []


def test_a_deactivated_vm_is_degraded_and_its_death_still_seen(
    daemon: DaemonProcess, guest: Guest
) -> None:
    daemon.call("deactivate", vm="vm1")
    monitor = Monitor(daemon)
    assert monitor.result() == "degraded"
    assert "vesper activate vm1" in monitor.answer["reason"]
    monitor = Monitor(daemon, timeout=50)
    wait_for(lambda: waiting(daemon), "the monitor")
    guest.kill()
    assert monitor.result() == "dead"


def test_follower_gets_history_and_then_what_happens(daemon: DaemonProcess, guest: Guest) -> None:
    for code in range(5):
        guest.say("emit", "send_signal", "comm=cron", f"code={code}")
    wait_for(lambda: len(daemon.events()) == 5, "the events")
    first = daemon.events(limit=3)
    assert [event["fields"]["code"] for event in first] == [2, 3, 4]
    with Client(str(daemon.socket)) as client:
        stream = client.stream_answers("events", follow=True, since=first[0]["id"])
        seen = [next(stream)["event"]["fields"]["code"] for _ in range(2)]
        guest.say("emit", "send_signal", "comm=cron", "code=5")
        seen.append(next(stream)["event"]["fields"]["code"])
    assert seen == [3, 4, 5]
    assert daemon.events(vm="other") == []


def test_requests_that_make_no_sense_are_answered(daemon: DaemonProcess) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(daemon.socket))
        file = sock.makefile("rwb")
        for line in (
            b"", b"x", b"[]", b"{}", b'{"op": 1}', b'{"op": "wait"}', b'{"op": "start", "vm": 5}',
            b'{"op": "faults", "limit": -1}', b'{"op": "events", "follow": "yes"}',
            b'{"op": "clear"}', b"[" * 60000,
            b'{"op": "wait", "resource": "r", "vm": "v", "interval": NaN, "timeout": 1}',
        ):  # fmt: skip
            file.write(line + b"\n")
            file.flush()
            assert b'"code": "bad-request"' in file.readline(), line
        file.write(b"x" * 70000 + b"\n")
        file.flush()
        assert b"65536 bytes" in file.readline()
    assert daemon.call("hello")["ok"]


def test_a_second_daemon_does_not_take_the_socket(daemon: DaemonProcess) -> None:
    first = daemon.process
    assert first is not None
    with pytest.raises(AssertionError, match="another vesperd is listening"):
        daemon.start()
    assert daemon.process is not None
    assert daemon.process.returncode == 1
    daemon.process = first
    assert daemon.call("hello")["pid"] == first.pid


def test_stays_up_without_a_transport(daemon: DaemonProcess, tmp_path: Path) -> None:
    daemon.stop()
    (tmp_path / "path" / "standin-0.dist-info" / "entry_points.txt").write_text("")
    daemon.start(usable=False)
    assert daemon.call("hello")["transports"] == {"standin": "not installed"}
    with pytest.raises(DaemonError) as error:
        daemon.call("start", **RESOURCE)
    assert error.value.code == "no-transport"


# -- what the agent's other actions ask ---------------------------------------------


def test_changed_wishes_take_effect_at_once(daemon: DaemonProcess, guest: Guest) -> None:
    before = daemon.call("change", **RESOURCE)["instance"]
    wishes = {**RESOURCE, "probes": ["send_signal"], "services": ["nginx"]}
    assert daemon.call("change", **wishes)["instance"] == before
    wait_for(lambda: collecting(daemon) == 1, "one probe")
    guest.say("emit", "send_signal", "sig=11", "comm=nginx", "fatal=1")
    assert Monitor(daemon, **wishes).result() == "fault"
    with pytest.raises(DaemonError, match="no VM named vm2"):
        daemon.call("change", **{**RESOURCE, "resource": "r2", "vm": "vm2"})


def test_rules_are_changed_and_outlive_the_daemon_with_their_counts(
    daemon: DaemonProcess, guest: Guest
) -> None:
    wishes = {**RESOURCE, "fault_on": "send_signal: sig == 10; out_of_memory: main, 3 in 1h"}
    daemon.call("change", **wishes)
    assert daemon.call("status")["vms"][0]["fault_on"] == wishes["fault_on"]
    guest.say("emit", "send_signal", "sig=11", "comm=httpd", "fatal=1")
    for pid in ("pid=1", "pid=2"):
        guest.say("emit", "out_of_memory", "comm=httpd", pid)
        guest.say("emit", "out_of_memory", "comm=cron", pid)
    assert Monitor(daemon, timeout=2, fault_on=wishes["fault_on"]).result() == "fine"
    assert len(daemon.events(vm="vm1")) == 5
    # A wrong text changes nothing, whoever brings it.
    wrong = Monitor(daemon, fault_on="send_signal: fatl")
    assert wrong.result() == "degraded"
    assert "parameter fault_on: line 1, column 14: send_signal has no" in wrong.answer["reason"]
    daemon.call("change", **{**wishes, "fault_on": "send_signal: fatl"})
    assert daemon.call("status")["vms"][0]["fault_on"] == wishes["fault_on"]
    daemon.stop()
    daemon.start()
    assert daemon.call("status")["vms"][0]["fault_on"] == wishes["fault_on"]
    wait_for(lambda: collecting(daemon) == 2, "the probes again")
    guest.say("emit", "out_of_memory", "comm=httpd", "pid=3")  # the third
    counted = Monitor(daemon)  # of an agent that says nothing of rules
    assert counted.result() == "fault"
    assert counted.answer["reason"].startswith("3 within 3600 s, the last: out of memory: httpd[3]")
    daemon.call("clear", resource="r1")
    # Without the parameter the default rules hold again.
    daemon.call("change", **{**wishes, "fault_on": ""})
    guest.say("emit", "send_signal", "sig=11", "comm=httpd", "fatal=1")
    assert Monitor(daemon, fault_on="").result() == "fault"


@pytest.mark.parametrize(
    "wrong",
    [
        {"fault_on": "send_signal: fatl"},
        {"services": ["httpd"] * 65},
        {"probes": [""]},
        {"hang_timeout": 1},
        {"pause_timeout": 1e9},
        {"doubt": "parameter services: a b is odd"},
        {"doubt": f"parameter services: a b is odd {'x' * 5000}"},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_mistake_in_what_is_watched_ends_nothing(
    daemon: DaemonProcess, guest: Guest, wrong: dict[str, Any]
) -> None:
    daemon.call("change", **{**RESOURCE, **wrong})
    told = Monitor(daemon, **wrong)
    assert told.result() == "degraded"
    assert next(iter(wrong)) in told.answer["reason"] or "a b is odd" in told.answer["reason"]
    (row,) = daemon.call("status")["vms"]
    assert row["degraded"] == told.answer["reason"]
    assert row["services"] == list(RESOURCE["services"])
    # The next one waits, and is told of a fault all the same.
    waiting = Monitor(daemon, **wrong)
    wait_for(lambda: daemon.call("status")["vms"][0]["waiting"], "a monitor waits")
    guest.say("emit", "send_signal", "sig=11", "comm=httpd", "fatal=1")
    assert waiting.result() == "fault"
    daemon.call("clear", resource="r1")
    assert Monitor(daemon, timeout=0.5).result() == "fine"
    assert daemon.call("status")["vms"][0]["degraded"] is None


def test_a_new_life_begins_whatever_is_wrong(daemon: DaemonProcess, guest: Guest) -> None:
    """What is wrong is as if it had not been said."""
    wrong = {"fault_on": "hang: [", "services": 7, "hang_timeout": "soon"}
    daemon.call("start", **{**RESOURCE, **wrong})
    (row,) = daemon.call("status")["vms"]
    assert (row["services"], row["fault_on"]) == ([], "")
    assert "fault_on" in row["degraded"] or "services" in row["degraded"]


def test_a_stop_hears_what_it_is_for(
    daemon: DaemonProcess, guest: Guest, start_guest: Callable[..., Guest]
) -> None:
    stop = {"resource": "r1", "vm": "vm1"}
    guest.say("emit", "send_signal", "sig=11", "comm=httpd", "fatal=1")
    assert Monitor(daemon).result() == "fault"
    assert daemon.call("state", vm="vm1")["fault"]["rule"] == "send_signal"
    for _ in range(2):  # the second: the first stop was killed
        answer = daemon.call("stop", **stop)
        assert answer["fault"]["reason"].startswith("httpd[97] killed by SIGSEGV")
        assert answer["system_gone"] is False
    assert daemon.call("state", vm="vm1")["fault"] is None
    guest.kill()
    start_guest()
    daemon.call("start", **RESOURCE)
    answer = daemon.call("stop", **stop)
    assert (answer["fault"], answer["system_gone"]) == (None, False)


@pytest.mark.parametrize(("pid", "gone"), [(1, True), (812, False)])
def test_after_init_is_killed_there_is_no_shutdown(
    daemon: DaemonProcess, guest: Guest, pid: int, gone: bool
) -> None:
    guest.say("emit", "out_of_memory", "comm=victim", f"pid={pid}")
    assert Monitor(daemon).result() == "fault"
    answer = daemon.call("stop", resource="r1", vm="vm1")
    assert answer["fault"]["scope"] == "system"
    assert answer["system_gone"] is gone


def test_in_a_pause_everything_is_recorded_and_nothing_reported(
    daemon: DaemonProcess, guest: Guest
) -> None:
    pause = daemon.call("pause", vm="vm1", **{"for": 600}, reason="backup")["paused"]
    assert "(backup)" in pause["text"]
    monitor = Monitor(daemon, timeout=3)
    for _ in range(20):
        guest.say("emit", "send_signal", "sig=11", "comm=httpd", "fatal=1")
    assert monitor.result() == "fine"
    assert len(daemon.events(vm="vm1")) >= 20
    # One of each kind, ended: a guest cannot fill the journal of faults.
    (fault,) = daemon.call("faults")["faults"]
    assert (fault["told"], fault["ended_by"]) == (None, "pause of watching")
    assert daemon.call("state", vm="vm1")["paused"] == pause
    assert daemon.call("status")["vms"][0]["paused"] == pause

    # Nor does a restart of vesperd end it.
    daemon.stop()
    daemon.start()
    wait_for(lambda: collecting(daemon) == 2, "both probes")
    guest.say("emit", "send_signal", "sig=11", "comm=httpd", "fatal=1")
    assert Monitor(daemon, timeout=2).result() == "fine"

    assert daemon.call("resume", vm="vm1")["resumed"] is True
    assert daemon.call("resume", vm="vm1")["resumed"] is False
    # What was in the pause is over; what comes now is not.
    assert Monitor(daemon, timeout=1).result() == "fine"
    monitor = Monitor(daemon)
    guest.say("emit", "send_signal", "sig=11", "comm=httpd", "fatal=1")
    assert monitor.result() == "fault"


def test_a_pause_ends_by_itself(daemon: DaemonProcess, guest: Guest) -> None:
    daemon.call("pause", vm="vm1", **{"for": 1})
    wait_for(lambda: daemon.call("state", vm="vm1")["paused"] is None, "end of the pause")
    monitor = Monitor(daemon)
    guest.say("emit", "send_signal", "sig=11", "comm=httpd", "fatal=1")
    assert monitor.result() == "fault"


def test_a_death_is_reported_in_a_pause(daemon: DaemonProcess, guest: Guest) -> None:
    daemon.call("pause", vm="vm1", **{"for": 600})
    monitor = Monitor(daemon)
    guest.kill()
    assert monitor.result() == "dead"


def test_an_unknown_vm_and_a_long_time_cannot_be_paused(
    daemon: DaemonProcess, guest: Guest
) -> None:
    for vm, seconds, words in (
        ("vm2", 60, "no VM named vm2"),
        ("vm1", 0, "between"),
        ("vm1", 1e9, "between"),
    ):
        with pytest.raises(DaemonError, match=words):
            daemon.call("pause", vm=vm, **{"for": seconds})


def test_the_commands_pause_and_resume(daemon: DaemonProcess, guest: Guest) -> None:
    done = daemon.vesper("pause", "vm1", "--for", "10m", "--reason", "backup")
    assert done.returncode == 0
    assert done.stdout.startswith("vm1: watching is paused until 2")
    assert done.stdout.endswith("(backup)\n")
    status = daemon.vesper("status").stdout
    assert "paused" in status.splitlines()[1].split()
    assert "(backup)" in status
    assert daemon.vesper("resume", "vm1").stdout == "vm1: faults are reported again\n"
    assert daemon.vesper("resume", "vm1").returncode == 1
    assert daemon.vesper("pause", "vm1", "--for", "soon").returncode == 2
    assert "paused" not in daemon.vesper("status").stdout


def test_a_socket_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    for path, why in (("x" * 200, "too long"), ("taken/sock", "File exists")):
        (tmp_path / "taken").touch()
        done = subprocess.run(
            [sys.executable, "-m", "vesper_monitor.daemon.main", "--socket", str(tmp_path / path),
             "--journal", str(tmp_path / "journal.sqlite")],
            cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert why in done.stderr
        assert str(tmp_path / path) in done.stderr or str(tmp_path / "taken") in done.stderr
        assert "Traceback" not in done.stderr


def test_sighup_stops_the_daemon(daemon: DaemonProcess) -> None:
    """Started by hand on a terminal that is closed."""
    assert daemon.stop(signal.SIGHUP) == 0
    assert not daemon.socket.exists()
