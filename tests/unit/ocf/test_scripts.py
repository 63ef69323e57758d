# SPDX-License-Identifier: GPL-2.0-or-later
"""monitor_scripts: side by side, with time limits, while a monitor waits."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import pytest

from tests.unit.ocf.support.host import Answer, Host, Result

SUCCESS, ERROR, INSTALLED, NOT_RUNNING, DEGRADED = 0, 1, 5, 7, 190


@pytest.fixture
def host(xen: Host) -> Host:
    """One agent is enough: none of it has to do with a toolstack."""
    return xen


@pytest.fixture
def watched(host: Host) -> Host:
    """vm1 runs, vesperd has nothing to say before a monitor's time is up."""
    host.have(vm1="running")
    host.vesperd.listen()
    host.vesperd.answers["wait"] = quiet
    return host


def quiet(request: dict[str, Any]) -> Answer:
    time.sleep(0 if request.get("first") else request["timeout"])
    return {"result": "fine"}


def monitor(host: Host, *scripts: str, timeout: float = 10, **extra: str) -> Result:
    extra.setdefault("OCF_RESKEY_monitor_scripts", " ".join(scripts))
    return host.call("monitor", interval=1, timeout=timeout, **extra)


def runs(host: Host, name: str) -> list[float]:
    path = host.folder / f"{name}.runs"
    return [float(line) for line in path.read_text().split()] if path.exists() else []


def counted(host: Host, name: str, then: str) -> str:
    """A script that notes when it is run."""
    return str(host.script(name, f"date +%s.%N >>{host.folder}/{name}.runs\n{then}"))


def test_a_monitor_succeeds_when_all_scripts_succeed(watched: Host) -> None:
    scripts = [counted(watched, name, "echo noise; exit 0") for name in ("a", "b")]
    result = monitor(watched, *scripts)
    assert (result.code, result.reason) == (SUCCESS, None)
    assert len(runs(watched, "a")) == len(runs(watched, "b")) == 1


def test_a_failure_is_told_at_once_with_what_the_script_said(watched: Host) -> None:
    good = watched.script("good", "exit 0")
    bad = watched.script("bad", "echo trying; echo '503 from 10.0.0.7' >&2; exit 2")
    result = monitor(watched, str(good), str(bad), timeout=30)
    assert result.code == ERROR
    assert f"monitor script {bad} exit status 2: 503 from 10.0.0.7" in result.stderr
    assert (result.reason or "").endswith("503 from 10.0.0.7")
    assert result.seconds < 10


def test_they_run_side_by_side(watched: Host) -> None:
    names = ["a", "b", "c"]
    scripts = [counted(watched, name, "sleep 2") for name in names]
    result = monitor(watched, *scripts, timeout=10)
    assert result.code == SUCCESS
    begun = [runs(watched, name)[0] for name in names]
    assert max(begun) - min(begun) < 2


def test_they_run_again_and_again_while_the_monitor_waits(watched: Host) -> None:
    script = counted(watched, "a", f"[ $(wc -l <{watched.folder}/a.runs) -lt 3 ]")
    result = monitor(
        watched,
        script,
        timeout=30,
        OCF_RESKEY_monitor_scripts_interval="2",
        OCF_RESKEY_monitor_scripts_timeout="2",
    )
    assert result.code == ERROR
    assert "exit status 1" in (result.reason or "")
    begun = runs(watched, "a")
    assert len(begun) == 3
    assert all(later - earlier > 1.5 for earlier, later in itertools.pairwise(begun))
    # One wait, all the time: vesperd's faults have a monitor to tell.
    assert len(watched.vesperd.asked("wait")) == 1


def test_each_has_a_time_limit(watched: Host) -> None:
    (watched.folder / "child").touch()
    slow = watched.script("slow", f"sleep 1000 & echo $! >{watched.folder}/child; wait")
    result = monitor(watched, str(slow), timeout=30, OCF_RESKEY_monitor_scripts_timeout="1")
    assert result.code == ERROR
    assert "did not finish within 1 s" in (result.reason or "")
    assert result.seconds < 15
    # What it has started ends with it.
    child = (watched.folder / "child").read_text().strip()
    try:
        stat = Path(f"/proc/{child}/stat").read_text()
    except FileNotFoundError:
        return
    assert stat.rpartition(")")[2].split()[0] == "Z"


def test_a_limit_beyond_the_operations_timeout_keeps_to_that(watched: Host) -> None:
    slow = watched.script("slow", "exec sleep 1000")
    result = monitor(watched, str(slow), timeout=6, OCF_RESKEY_monitor_scripts_timeout="600")
    assert result.code == ERROR  # and call() has looked at the time


def test_a_round_that_does_not_fit_is_left_to_the_next_monitor(watched: Host) -> None:
    script = counted(watched, "a", "exit 0")
    result = monitor(watched, script, timeout=10, OCF_RESKEY_monitor_scripts_interval="3")
    assert result.code == SUCCESS  # 10 s for a script that begins at 3 s: there are not
    assert len(runs(watched, "a")) == 1


def test_a_fault_does_not_wait_for_scripts(watched: Host) -> None:
    slow = watched.script("slow", "exec sleep 1000")
    watched.vesperd.answers["wait"] = lambda _: {"result": "fault", "reason": "now"}
    result = monitor(watched, str(slow), timeout=30)
    assert (result.code, result.reason) == (ERROR, "now")
    assert result.seconds < 9


def test_a_first_monitor_runs_them_too(watched: Host) -> None:
    bad = watched.script("bad", "sleep 0.5; exit 1")
    assert watched.call("monitor").code == SUCCESS  # a probe: the next is a first one
    assert monitor(watched, str(bad), timeout=30).code == ERROR


def test_without_vesperd_they_run_as_well(host: Host) -> None:
    host.have(vm1="running")
    assert monitor(host, counted(host, "a", "exit 0"), timeout=5).code == DEGRADED
    assert len(runs(host, "a")) == 1
    assert monitor(host, str(host.script("bad", "exit 1")), timeout=30).code == ERROR


def test_a_script_that_is_gone_is_no_failure_of_the_vm(watched: Host) -> None:
    result = monitor(watched, "/nowhere/check", timeout=10)
    assert result.code == DEGRADED
    assert "/nowhere/check" in result.stderr


def test_a_probe_says_only_whether_the_vm_runs(watched: Host) -> None:
    script = counted(watched, "a", "exit 1")
    assert watched.call("monitor", OCF_RESKEY_monitor_scripts=script).code == SUCCESS
    assert runs(watched, "a") == []
    deep = {"OCF_RESKEY_monitor_scripts": script, "OCF_CHECK_LEVEL": "10"}
    assert watched.call("monitor", **deep).code == ERROR
    assert len(runs(watched, "a")) == 1


def test_in_a_pause_nothing_is_reported(watched: Host) -> None:
    bad = watched.script("bad", "echo away; exit 1")
    pause = {"text": "watching is paused until 22:50 (backup)"}
    watched.vesperd.answers["state"] = lambda _: {"paused": pause}
    result = monitor(watched, str(bad))
    assert result.code == SUCCESS
    assert "not reported (watching is paused until 22:50 (backup)): monitor script" in result.stderr
    deep = {"OCF_RESKEY_monitor_scripts": str(bad), "OCF_CHECK_LEVEL": "20"}
    assert watched.call("monitor", **deep).code == SUCCESS


# -- start ------------------------------------------------------------------------------------


def test_a_start_ends_when_the_scripts_succeed(host: Host) -> None:
    script = counted(host, "a", f"[ $(wc -l <{host.folder}/a.runs) -ge 3 ]")
    result = host.call("start", timeout=30, OCF_RESKEY_monitor_scripts=script)
    assert result.code == SUCCESS
    assert len(runs(host, "a")) == 3


def test_a_start_whose_scripts_never_succeed(host: Host) -> None:
    script = host.script("a", "echo 'no route to host' >&2; exit 1")
    result = host.call("start", timeout=8, OCF_RESKEY_monitor_scripts=str(script))
    assert result.code == ERROR
    assert "vm1 runs, but monitor script" in (result.reason or "")
    assert "no route to host" in (result.reason or "")


def test_a_start_with_a_script_that_cannot_be_executed(host: Host) -> None:
    script = host.folder / "script"
    script.write_text("not a program")
    script.chmod(0o755)
    result = host.call("start", OCF_RESKEY_monitor_scripts=str(script))
    assert result.code == INSTALLED
