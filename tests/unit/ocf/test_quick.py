# SPDX-License-Identifier: GPL-2.0-or-later
"""A plain monitor of a VM that shows life to vesperd asks nobody else."""

from __future__ import annotations

import pytest

from tests.unit.ocf.support.host import Host
from vesper_monitor.ocf import fast_monitor


def test_a_vesperd_that_sees_life_is_enough(host: Host) -> None:
    host.have(vm1="running")
    assert host.call("monitor").code == 0
    ident = host.ident("vm1")
    host.domains()
    asked_before = host.calls()
    host.vesperd.listen()
    host.vesperd.answers["alive"] = lambda _: {"alive": True}
    host.vesperd.answers["wait"] = lambda _: {"result": "fine"}
    result = host.call("monitor")
    assert (result.code, result.stderr) == (0, "")
    assert host.calls() == asked_before
    (asked,) = host.vesperd.requests
    assert asked == {"op": "alive", "resource": "r1", "vm": "vm1", "domain": ident}
    # As after any plain monitor: Pacemaker waits for the next one.
    host.call("monitor", interval=1)
    assert host.vesperd.asked("wait")[0]["first"] is True


@pytest.mark.parametrize("answer", [{"alive": False}, {"ok": False}, None, {"alive": True, "x": 1}])
def test_anything_else_is_no_answer(host: Host, answer: dict[str, object] | None) -> None:
    known(host)
    host.vesperd.answers["alive"] = lambda _: answer
    assert host.call("monitor").code == 7
    assert host.vesperd.asked("alive")


@pytest.mark.parametrize("name", ["vm2", ""])
def test_another_name_in_the_file_is_for_the_whole_agent(host: Host, name: str) -> None:
    """vesperd hears the domain that the resource had, and not the one that it names now."""
    known(host)
    host.vesperd.answers["alive"] = lambda _: {"alive": True}
    host.config.write_text(host.config_text.replace("vm1", name))
    assert host.call("monitor").code == 7
    assert host.call("monitor", OCF_RESKEY_name="vm3").code == 7
    assert host.vesperd.asked("alive") == []


def test_without_a_domain_nobody_is_asked(host: Host) -> None:
    host.vesperd.listen()
    host.vesperd.answers["alive"] = lambda _: {"alive": True}
    assert host.call("monitor").code == 7
    assert host.vesperd.asked("alive") == []


def known(host: Host) -> None:
    """A probe has found vm1, which has gone since; vesperd listens."""
    host.have(vm1="running")
    assert host.call("monitor").code == 0
    host.domains()
    host.vesperd.listen()


def test_a_vesperd_that_hangs_is_not_waited_for(host: Host) -> None:
    known(host)
    host.vesperd.answers["alive"] = lambda _: 20.0
    result = host.call("monitor")
    assert result.code == 7
    assert result.seconds < 15


def test_a_monitor_with_a_level_is_for_the_whole_agent(host: Host) -> None:
    host.vesperd.listen()
    host.vesperd.answers["alive"] = lambda _: {"alive": True}
    assert host.call("monitor", OCF_CHECK_LEVEL="10").code != 0
    assert host.vesperd.asked("alive") == []


@pytest.fixture(autouse=True)
def _young(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the tests' own process, which is old for a monitor."""
    monkeypatch.setattr(fast_monitor, "process_age", lambda: 0.0)


@pytest.fixture
def asked(host: Host) -> Host:
    """A recurring monitor has asked vesperd, and all was well."""
    host.have(vm1="running")
    host.vesperd.listen()
    host.vesperd.answers["wait"] = lambda _: {"result": "fine"}
    assert host.call("monitor").code == 0
    host.call("monitor", interval=1, timeout=20, OCF_RESKEY_services="httpd")
    (host.fake / "calls").unlink()
    assert (host.folder / "rsctmp" / "vesper-r1.again").exists()
    return host


def again(host: Host, **extra: str) -> tuple[int | None, bytes]:
    """The quick path alone, with the same parameters but for those."""
    return fast_monitor.run_fast_monitor(
        host.environment(20, 1, **{"OCF_RESKEY_services": "httpd", **extra})
    )


def test_the_next_monitor_asks_the_same(asked: Host) -> None:
    assert again(asked) == (0, b"")
    one, two = asked.vesperd.asked("wait")
    assert one.pop("first")
    assert 10 < two.pop("timeout") < one.pop("timeout")
    assert one == two
    assert asked.calls() == []


def test_what_a_fault_is_called_is_told_at_once(
    asked: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    reason = 'httpd[97] "killed" by\nSIGSEGV ü ' + "x" * 200 + " (service)"
    asked.vesperd.answers["wait"] = lambda _: {"result": "fault", "reason": reason, "fault": {}}
    assert again(asked) == (1, b"")
    shown = capsys.readouterr().err
    result = asked.call("monitor", interval=1, timeout=20, OCF_RESKEY_services="other")
    assert (result.code, result.stderr) == (1, shown)
    assert result.reason is not None
    assert result.reason.startswith('httpd[97] "killed" by SIGSEGV ü xx')


@pytest.mark.parametrize(
    "answer",
    [{"result": "degraded", "reason": "no modules"}, {"result": "dead", "state": "gone"}, {}],
)
def test_any_other_answer_is_not_asked_for_twice(asked: Host, answer: dict[str, object]) -> None:
    asked.vesperd.answers["wait"] = lambda _: answer
    if answer.get("result") == "dead":
        asked.domains()
    result = asked.call("monitor", interval=1, timeout=20, OCF_RESKEY_services="httpd")
    assert result.code == (7 if "state" in answer else 190)
    assert len(asked.vesperd.asked("wait")) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"OCF_RESKEY_services": "nginx"},
        {"OCF_RESKEY_hang_timeout": "9"},
        {"OCF_RESKEY_CRM_meta_interval": "2000"},
        {"OCF_RESKEY_CRM_meta_on_node": "node2"},
        {"OCF_CHECK_LEVEL": "10"},
        {"OCF_RESOURCE_INSTANCE": "r2"},
    ],
)
def test_other_parameters_are_another_question(asked: Host, change: dict[str, str]) -> None:
    assert again(asked, **change) == (None, b"")
    assert len(asked.vesperd.asked("wait")) == 1


def test_the_first_after_a_start_is_not_asked_in_haste(asked: Host) -> None:
    asked.call("start", OCF_RESKEY_services="httpd")
    assert again(asked) == (None, b"")


def test_a_probe_of_another_resource_has_found_its_domain(asked: Host) -> None:
    """Else vesperd would watch it for this resource again."""
    asked.call("monitor", OCF_RESOURCE_INSTANCE="r2")
    assert again(asked) == (None, b"")
    result = asked.call("monitor", interval=1, timeout=20, OCF_RESKEY_services="httpd")
    assert (result.code, len(asked.vesperd.asked("wait"))) == (190, 1)


def test_monitor_scripts_are_for_the_whole_agent(host: Host) -> None:
    host.have(vm1="running")
    host.vesperd.listen()
    host.vesperd.answers["wait"] = lambda _: {"result": "fine"}
    script = {"OCF_RESKEY_monitor_scripts": str(host.script("check", "exit 0"))}
    host.call("monitor", interval=1, timeout=20, **script)
    assert fast_monitor.run_fast_monitor(host.environment(20, 1, **script)) == (None, b"")


def test_a_vesperd_that_goes_away_is_left_to_the_whole_agent(asked: Host) -> None:
    asked.vesperd.answers["wait"] = lambda _: None
    assert again(asked) == (None, b"")
    asked.vesperd.close()
    assert again(asked) == (None, b"")


def test_a_vesperd_that_hangs_leaves_time_for_the_toolstack(asked: Host) -> None:
    asked.vesperd.answers["wait"] = lambda _: 20.0
    result = asked.call("monitor", interval=1, timeout=6, OCF_RESKEY_services="httpd")
    assert result.code == 190
    result = asked.call("monitor", interval=1, timeout=6, OCF_RESKEY_services="httpd")
    assert result.code == 190
