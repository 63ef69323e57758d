# SPDX-License-Identifier: GPL-2.0-or-later
"""Whose domain is it, in short sequences of actions. (All sequences: test_identity_machine.py.)"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.ocf.support.virtual_host import VirtualHost, VirtualLibvirtHost, VirtualXenHost
from vesper_monitor.ocf.carried_fault import pack_fault

SUCCESS, ERROR, NOT_RUNNING, DEGRADED = 0, 1, 7, 190


@pytest.fixture(params=[VirtualXenHost, VirtualLibvirtHost], ids=lambda kind: kind.name)
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[VirtualHost]:
    """Resources r1 and r2 are both configured with vm1."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        host = request.param(tmp_path, monkeypatch)
        host.write_config("vm1")
        yield host


def begun_with(host: VirtualHost, name: str) -> Any:
    """A vesperd that knows r1 as that domain's."""

    def answer(asked: dict[str, Any]) -> dict[str, Any]:
        known = {"vm": name, "domid": host.ident(name), "uuid": host.ident(name), "age": None}
        return known if asked["op"] == "life" and asked.get("resource") == "r1" else {"age": None}

    return answer


def test_vesperd_does_not_know_that_another_resource_has_taken_it(host: VirtualHost) -> None:
    host.running = {"vm1"}
    host.vesperd = begun_with(host, "vm1")
    host.resource = "r2"
    assert host.call("monitor") == (SUCCESS, "")
    host.resource = "r1"
    code, reason = host.call("stop")
    assert code == ERROR
    assert "belongs to resource r2" in reason
    assert host.done == []


@pytest.fixture
def rebooting(tmp_path: Path) -> Iterator[VirtualHost]:
    """Xen lists no vm1 for two seconds: its guest reboots."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        host = VirtualXenHost(tmp_path, monkeypatch)
        host.write_config("vm1")
        back, run = host.clock.now + 2, host._run

        def look(command: list[str]) -> tuple[int, str]:
            if host.clock.now > back:
                host.running = {"vm1"}
            return run(command)

        monkeypatch.setattr(host, "_run", look)
        yield host


@pytest.mark.parametrize("owner", ["r1", "r2"])
@pytest.mark.parametrize("action", ["start", "monitor"])
def test_a_guest_that_reboots_runs(rebooting: VirtualHost, action: str, owner: str) -> None:
    rebooting.remember(owner, "vm1")
    assert rebooting.call(action) == (SUCCESS, "")
    assert rebooting.done == []


def test_vesperd_does_not_see_a_guest_that_reboots_either(rebooting: VirtualHost) -> None:
    host, back = rebooting, rebooting.clock.now + 2
    host.remember("r1", "vm1")
    host.mood = "cut"

    def answer(asked: dict[str, Any]) -> dict[str, Any]:
        domain = {"name": "vm1", "domid": 2, "uuid": "u", "state": "running"}
        return {"domain": domain if host.clock.now > back else None}

    host.vesperd = answer
    assert host.call("monitor") == (SUCCESS, "")


def test_what_is_anothers_and_does_not_run(host: VirtualHost) -> None:
    """r2 was removed from the cluster while it was not managed: its record is left."""
    host.remember("r2", "vm1")
    code, reason = host.call("monitor", interval=10)
    assert (code, reason) == (NOT_RUNNING, "vm1 is not running")
    assert host.call("stop") == (SUCCESS, "")
    host.running = {"vm1"}
    assert host.call("monitor", interval=10)[0] == DEGRADED
    assert host.call("stop")[0] == ERROR
    assert host.done == []


def test_a_stop_that_is_killed_still_knows_what_vesperd_has_forgotten(host: VirtualHost) -> None:
    """The state folder is lost, and the file names another domain."""
    host.running = {"vm1"}
    host.vesperd = begun_with(host, "vm1")
    host.write_config("new")
    host.mood = "hangs"
    assert host.call("stop", timeout=5)[0] == ERROR
    host.mood, host.vesperd = "fine", lambda _: {"age": None}
    assert host.call("stop") == (SUCCESS, "")
    assert host.done == [("shutdown", "vm1")]


@pytest.mark.parametrize(
    ("when", "action", "done"),
    [
        ("at its shutdown", "restart", [("shutdown", "vm1"), ("destroy", "vm1")]),
        ("at its shutdown", "destroy", [("shutdown", "vm1")]),
        ("after a panic", "restart", [("destroy", "vm1")]),
        ("after a panic", "destroy", []),
    ],
)
def test_a_stop_meets_a_reboot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str, action: str, done: list[Any]
) -> None:
    """Xen lists no vm1 for two seconds; xl's log says whether it comes back."""
    host = VirtualXenHost(tmp_path, monkeypatch)
    host.write_config("vm1")
    host.remember("r1", "vm1")
    log, run = tmp_path / "var/log/xen/xl-vm1.log", host._run
    back = [float("inf")]

    def end() -> None:
        log.parent.mkdir(parents=True)
        log.write_text(
            f"Domain {host.ident('vm1')} has shut down, reason code 1 0x1\n"
            f"Action for shutdown reason code 1 is {action}\n"
        )
        if action == "restart":
            back[0] = host.clock.now + 2

    def look(command: list[str]) -> tuple[int, str]:
        if host.clock.now > back[0]:
            host.running, back[0] = {"vm1"}, float("inf")
        answer = run(command)
        if "shutdown" in command:
            end()
        return answer

    monkeypatch.setattr(host, "_run", look)
    if when == "at its shutdown":
        host.running = {"vm1"}
    else:
        end()
        panic = {"fault": {"reason": "kernel panic"}, "system_gone": True}
        host.vesperd = lambda asked: panic if asked["op"] == "stop" else {"age": None}
    begun = host.clock.now
    assert host.call("stop") == (SUCCESS, "")
    assert (host.done, host.running) == (done, set())
    if action == "destroy":
        assert host.clock.now < begun + 2


def test_the_host_itself_is_no_vm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """xl shutdown 0 would end it."""
    host = VirtualXenHost(tmp_path, monkeypatch)
    host.write_config("Domain-0")
    commands: list[str] = []
    run = host._run

    def note(command: list[str]) -> tuple[int, str]:
        commands.append(command[1])
        return run(command)

    monkeypatch.setattr(host, "_run", note)
    assert host.call("monitor")[0] == NOT_RUNNING
    assert host.call("stop") == (SUCCESS, "")
    assert set(commands) == {"list"}


def sent_to_be_stopped(host: VirtualHost) -> None:
    """A migration to this node has failed: Pacemaker stops the resource here, too."""
    assert host.call("stop") == (SUCCESS, "")


def sent_and_stopped(host: VirtualHost) -> None:
    """It has arrived, under another name than this node's file gives, and was stopped."""
    host.write_config("vm2")
    host.running = {"vm1"}
    assert host.call("stop") == (SUCCESS, "")
    assert host.done == [("shutdown", "vm1")]


def sent_and_started_anew(host: VirtualHost) -> None:
    """It has never arrived."""
    assert host.call("start") == (SUCCESS, "")
    assert host.call("stop") == (SUCCESS, "")


@pytest.mark.parametrize(
    "before",
    [sent_to_be_stopped, sent_and_stopped, sent_and_started_anew],
    ids=lambda f: f.__name__,
)
def test_what_was_sent_once_is_not_what_has_its_name_later(host: VirtualHost, before: Any) -> None:
    """The resource's file names vm2 by now, and somebody runs another vm1 by hand."""
    host.send("vm1")
    before(host)
    host.write_config("vm2")
    host.running = {"vm1"}
    host.done.clear()
    assert host.call("monitor")[0] == NOT_RUNNING
    assert host.call("stop") == (SUCCESS, "")
    assert (host.done, host.running) == ([], {"vm1"})


def test_a_start_ends_what_was_sent_before(host: VirtualHost) -> None:
    host.send("vm1")
    assert host.call("start") == (SUCCESS, "")
    assert host.sent is None


def test_a_domain_of_that_name_with_another_uuid_was_not_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = VirtualLibvirtHost(tmp_path, monkeypatch)
    host.write_config("vm2")
    host.running = {"vm1"}
    host.sent = pack_fault({"vm": "vm1", "ident": host.ident("vm3"), "fault": None})
    assert host.call("monitor")[0] == NOT_RUNNING
    assert host.call("stop") == (SUCCESS, "")
    assert host.done == []


@pytest.mark.parametrize("kind", [VirtualXenHost, VirtualLibvirtHost])
def test_a_migration_is_seen_on_each_host_of_these_tests(
    tmp_path: Path, kind: type[VirtualHost]
) -> None:
    """What the agents import late must run on the present host, not on the first one."""
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        with pytest.MonkeyPatch.context() as monkeypatch:
            host = kind(folder, monkeypatch)
            host.write_config("vm1")
            host.running = {"vm1"}
            assert host.call("migrate_to") == (SUCCESS, "")
            assert host.done == [("migrate", "vm1")]


def hang_after_create(host: VirtualHost, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let the toolstack hang for so long once it has created a domain."""
    run = host._run

    def create_and_hang(command: list[str]) -> tuple[int, str]:
        done = run(command)
        if "create" in command:
            host.hangs_until = host.clock.now + seconds
        return done

    monkeypatch.setattr(host, "_run", create_and_hang)


def test_a_toolstack_that_hangs_after_a_create_is_asked_again(
    host: VirtualHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The domain is there by then: a start that fails would have it removed again."""
    hang_after_create(host, monkeypatch, 25)
    assert host.call("start", timeout=60) == (SUCCESS, "")
    assert host.running == {"vm1"}


def test_a_toolstack_that_hangs_for_good_after_a_create_fails_the_start_in_time(
    host: VirtualHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    hang_after_create(host, monkeypatch, float("inf"))
    code, reason = host.call("start", timeout=60)
    assert code == ERROR
    assert "was not started" in reason


def test_a_domain_whose_start_failed_is_stopped_under_its_own_name(
    host: VirtualHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file names another domain before the stop."""
    hang_after_create(host, monkeypatch, float("inf"))
    assert host.call("start", timeout=60)[0] == ERROR
    host.hangs_until = 0.0
    host.write_config("other")
    host.running.add("other")
    host.done.clear()
    assert host.call("stop") == (SUCCESS, "")
    assert host.running == {"other"}
    assert {name for _, name in host.done} == {"vm1"}


def test_a_create_that_leaves_nothing_behind_is_forgotten(
    host: VirtualHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = host._run
    monkeypatch.setattr(
        host, "_run", lambda words: (1, "error: refused") if "create" in words else run(words)
    )
    assert host.call("start")[0] == ERROR
    assert not (host.folder / "vesper-r1.domain").exists()
