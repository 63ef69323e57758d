# SPDX-License-Identifier: GPL-2.0-or-later
"""start, stop, status, validate-all and probes: exit codes and exit reasons."""

from __future__ import annotations

import pytest

from tests.unit.ocf.support.host import Host

SUCCESS, ERROR, ARGS, UNIMPLEMENTED, INSTALLED, CONFIGURED, NOT_RUNNING = 0, 1, 2, 3, 5, 6, 7


# -- start ----------------------------------------------------------------------


def test_start_creates_and_tells_vesperd(host: Host) -> None:
    host.vesperd.listen()
    assert host.call("start", OCF_RESKEY_services="httpd, sshd").code == SUCCESS
    assert host.running() == ["vm1"]
    (told,) = host.vesperd.asked("start")
    assert (told["resource"], told["vm"]) == ("r1", "vm1")
    assert told["probes"] == ["send_signal", "out_of_memory"]
    assert told["services"] == ["httpd", "sshd"]


def test_start_works_without_vesperd(host: Host) -> None:
    assert host.call("start").code == SUCCESS
    assert host.running() == ["vm1"]


def test_start_does_not_wait_for_what_the_toolstack_leaves_running(host: Host) -> None:
    # fake_xl's create leaves a process for 20 s that holds its output open.
    assert host.call("start").seconds < 10


def test_start_of_a_running_vm_creates_nothing(host: Host) -> None:
    host.have(vm1="running")
    assert host.call("start").code == SUCCESS
    assert not host.calls("create")


def test_start_removes_a_crashed_domain_first(host: Host) -> None:
    host.have(vm1="crashed")
    assert host.call("start").code == SUCCESS
    assert host.running() == ["vm1"]
    assert "destroy vm1" in host.calls()


def test_start_failure_has_the_toolstacks_own_words(host: Host) -> None:
    host.break_config()
    result = host.call("start", OCF_RESKEY_name="vm1")
    assert result.code == ERROR
    assert "no such kernel" in (result.reason or "")


def test_start_on_a_node_without_the_configuration(host: Host) -> None:
    host.config.unlink()
    result = host.call("start")
    assert result.code == INSTALLED
    assert str(host.config) in result.stderr
    assert "node1" in result.stderr


def test_start_on_a_node_without_the_toolstack(host: Host) -> None:
    host.tool.unlink()
    result = host.call("start")
    assert result.code == INSTALLED
    assert f"{host.command} is not installed on node node1" in (result.reason or "")


def test_start_is_refused_while_the_toolstack_hangs(host: Host) -> None:
    host.be("hang")
    result = host.call("start", timeout=6)
    assert result.code == ERROR
    assert "did not finish" in (result.reason or "")


@pytest.mark.parametrize(
    ("parameter", "value", "word"),
    [
        ("CONFIG", "-", " is not set: it must name the domain's"),
        ("CONFIG", "vm1.cfg", "absolute"),
        ("shutdown_timeout", "soon", "whole number"),
        ("shutdown_timeout", "-1", "whole number"),
        ("probes", "send_signal ../x", "../x"),
        ("services", "/usr/sbin/httpd", "is a path"),
        ("services", "a-name-of-more-than-15", "a-name-of-more-"),
        ("fault_on", "send_signal: fatl", "line 1, column 14: send_signal has no field fatl"),
    ],
)
def test_wrong_parameters(host: Host, parameter: str, value: str, word: str) -> None:
    needed = parameter == "CONFIG"
    parameter = host.config_parameter if needed else parameter
    # Without what is wrong elsewhere the VM runs: tests/unit/ocf/test_exit_codes.py.
    for action in ("validate-all", "start") if needed else ("validate-all",):
        result = host.call(action, **{f"OCF_RESKEY_{parameter}": value})
        assert result.code == CONFIGURED
        assert word in (result.reason or "")
        assert host.calls() == []


# -- the name -------------------------------------------------------------------


def test_parameter_name_goes_first(host: Host) -> None:
    host.have(other="running")
    assert host.call("status", OCF_RESKEY_name="other").code == SUCCESS
    assert host.call("status", OCF_RESOURCE_INSTANCE="r2").code == NOT_RUNNING


# -- status and probe -------------------------------------------------------------


def test_probe_of_a_name_that_is_part_of_another(host: Host) -> None:
    host.domains(*map(host.vm, ("vm10", "xvm1", "vm1 x")))
    assert host.call("monitor").code == NOT_RUNNING


def test_probe_asks_vesperd_when_the_toolstack_does_not_answer(host: Host) -> None:
    host.be("hang")
    host.vesperd.listen()
    domain = {"name": "vm1", "domid": 3, "uuid": "u", "state": "running"}
    host.vesperd.answers["state"] = lambda _: {"domain": domain}
    assert host.call("monitor", timeout=8).code == SUCCESS


def test_probe_never_guesses_that_it_is_not_running(host: Host) -> None:
    host.be("hang")
    result = host.call("monitor", timeout=6)
    assert result.code == ERROR
    assert "cannot tell whether" in (result.reason or "")


def test_probe_without_configuration_and_toolstack(host: Host) -> None:
    host.tool.unlink()
    assert host.call("monitor", **{f"OCF_RESKEY_{host.config_parameter}": "-"}).code == NOT_RUNNING


# -- stop -------------------------------------------------------------------------


def test_stop_shuts_down(host: Host) -> None:
    host.vesperd.listen()
    host.have(vm1="running", vm2="running")
    assert host.call("stop").code == SUCCESS
    assert host.running() == ["vm2"]
    assert "shutdown vm1" in host.calls()
    assert "destroy vm1" not in host.calls()
    (told,) = host.vesperd.asked("stop")
    assert (told["resource"], told["vm"]) == ("r1", "vm1")


def test_stop_leaves_clearing_away_to_the_toolstack(host: Host) -> None:
    """A destroy meanwhile would run the slow hotplug scripts twice."""
    host.be("tidy")
    host.have(vm1="running")
    assert host.call("stop").code == SUCCESS
    assert host.listed() == []
    assert "destroy vm1" not in host.calls()


@pytest.mark.parametrize("mood", ["stubborn", "deaf"])
def test_stop_destroys_a_guest_that_does_not_go(host: Host, mood: str) -> None:
    host.be(mood)
    host.have(vm1="running")
    result = host.call("stop", OCF_RESKEY_shutdown_timeout="2")
    assert result.code == SUCCESS
    assert host.listed() == []
    assert 2 <= result.seconds < 8


def test_shutdown_timeout_0_destroys_at_once(host: Host) -> None:
    host.have(vm1="running")
    assert host.call("stop", OCF_RESKEY_shutdown_timeout="0").code == SUCCESS
    assert not host.calls("shutdown")


def test_shutdown_timeout_is_two_thirds_of_the_operations(host: Host) -> None:
    host.be("stubborn")
    host.have(vm1="running")
    result = host.call("stop", timeout=6)
    assert result.code == SUCCESS
    assert 3.5 <= result.seconds < 6


def test_a_shutdown_timeout_beyond_the_operations_still_destroys(host: Host) -> None:
    host.be("stubborn")
    host.have(vm1="running")
    assert host.call("stop", timeout=6, OCF_RESKEY_shutdown_timeout="600").code == SUCCESS
    assert host.listed() == []


@pytest.mark.parametrize("state", ["crashed", "shut down"])
def test_stop_does_not_ask_a_dead_guest_to_shut_down(host: Host, state: str) -> None:
    host.have(vm1=state)
    assert host.call("stop").code == SUCCESS
    assert host.listed() == []
    assert not host.calls("shutdown")


def test_stop_of_what_does_not_run_needs_nothing(host: Host) -> None:
    host.tool.unlink()
    host.config.unlink()
    result = host.call("stop", OCF_RESKEY_shutdown_timeout="soon", OCF_RESKEY_probes="../x")
    assert result.code == SUCCESS


def test_stop_with_a_hanging_vesperd(host: Host) -> None:
    host.vesperd.listen()
    host.vesperd.answers["stop"] = lambda _: 60.0
    host.have(vm1="running")
    assert host.call("stop").code == SUCCESS
    assert host.listed() == []


def test_stop_never_claims_what_it_does_not_know(host: Host) -> None:
    host.be("hang")
    host.have(vm1="running")
    result = host.call("stop", timeout=8)
    assert result.code == ERROR
    assert "could not be stopped" in (result.reason or "")
    assert f"see: {host.command} list" in (result.reason or "")


# -- the rest -----------------------------------------------------------------------


def test_actions_that_do_not_exist(host: Host) -> None:
    result = host.call("migrate_to_mars")
    assert result.code == UNIMPLEMENTED
    assert "migrate_to_mars" in (result.reason or "")


def test_validate_all_levels(host: Host) -> None:
    assert host.call("validate-all").code == SUCCESS
    assert host.calls() == []
    assert host.call("validate-all", OCF_CHECK_LEVEL="10").code == SUCCESS
    host.config.unlink()
    assert host.call("validate-all").code == SUCCESS
    assert host.call("validate-all", OCF_CHECK_LEVEL="10").code == INSTALLED
