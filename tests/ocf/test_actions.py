# SPDX-License-Identifier: GPL-2.0-or-later
"""start, stop, status, validate-all and probes: exit codes and exit reasons."""

from __future__ import annotations

import pytest

from tests.ocf.host import Host

SUCCESS, ERROR, ARGS, UNIMPLEMENTED, INSTALLED, CONFIGURED, NOT_RUNNING = 0, 1, 2, 3, 5, 6, 7


# -- start ----------------------------------------------------------------------


def test_start_creates_and_tells_vesperd(host: Host) -> None:
    host.vesperd.listen()
    assert host.call("start", OCF_RESKEY_services="httpd, sshd").code == SUCCESS
    assert host.running() == "vm1 -b----\n"
    (told,) = host.vesperd.asked("start")
    assert (told["resource"], told["vm"]) == ("r1", "vm1")
    assert told["probes"] == ["send_signal", "out_of_memory"]
    assert told["services"] == ["httpd", "sshd"]


def test_start_works_without_vesperd(host: Host) -> None:
    assert host.call("start").code == SUCCESS
    assert host.running() == "vm1 -b----\n"


def test_start_does_not_wait_for_what_xl_leaves_running(host: Host) -> None:
    # fake_xl's create leaves a process for 20 s that holds its output open.
    assert host.call("start").seconds < 10


def test_start_of_a_running_vm_creates_nothing(host: Host) -> None:
    host.domains("vm1 -b----")
    assert host.call("start").code == SUCCESS
    assert not [call for call in host.calls() if call.startswith("create")]


def test_start_removes_a_crashed_domain_first(host: Host) -> None:
    host.domains("vm1 ---sc-")
    assert host.call("start").code == SUCCESS
    assert host.running() == "vm1 -b----\n"
    assert "destroy vm1" in host.calls()


def test_start_failure_has_xls_own_words(host: Host) -> None:
    host.xmfile.write_text("# bad-config\n")
    result = host.call("start", OCF_RESKEY_name="vm1")
    assert result.code == ERROR
    assert "no such kernel" in (result.reason or "")


def test_start_on_a_node_without_the_xmfile(host: Host) -> None:
    host.xmfile.unlink()
    result = host.call("start")
    assert result.code == INSTALLED
    assert str(host.xmfile) in result.stderr
    assert "node1" in result.stderr


def test_start_on_a_node_without_xl(host: Host) -> None:
    (host.bin / "xl").unlink()
    result = host.call("start")
    assert result.code == INSTALLED
    assert "xl is not installed on node node1" in (result.reason or "")


def test_start_is_refused_while_xl_hangs(host: Host) -> None:
    host.be("hang")
    result = host.call("start", timeout=6)
    assert result.code == ERROR
    assert "xl list did not end" in (result.reason or "")


@pytest.mark.parametrize(
    ("parameter", "value", "word"),
    [
        ("xmfile", "-", "xmfile is not set"),
        ("xmfile", "vm1.cfg", "absolute"),
        ("shutdown_timeout", "soon", "whole number"),
        ("shutdown_timeout", "-1", "whole number"),
        ("probes", "send_signal ../x", "../x"),
        ("services", "/usr/sbin/httpd", "is a path"),
        ("services", "a-name-of-more-than-15", "a-name-of-more-"),
        ("fault_on", "send_signal: fatl", "line 1, column 14: send_signal has no field fatl"),
    ],
)
@pytest.mark.parametrize("action", ["start", "validate-all"])
def test_wrong_parameters(host: Host, action: str, parameter: str, value: str, word: str) -> None:
    result = host.call(action, **{f"OCF_RESKEY_{parameter}": value})
    assert result.code == CONFIGURED
    assert word in (result.reason or "")
    assert host.calls() == []


# -- the name -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ('name = "web"', "web"),
        ("name='web'  # ours", "web"),
        ("name=web", "web"),
        ('fullname = "x"\nname = "web"', "web"),
        ('name = "vm%d" % 3', "r1"),
        ("", "r1"),
    ],
)
def test_name_from_the_xmfile(host: Host, config: str, name: str) -> None:
    host.xmfile.write_text(config + "\n")
    host.domains(f"{name} -b----")
    assert host.call("status").code == SUCCESS


def test_parameter_name_goes_first(host: Host) -> None:
    host.domains("other -b----")
    assert host.call("status", OCF_RESKEY_name="other").code == SUCCESS
    assert host.call("status").code == NOT_RUNNING


# -- status and probe -------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        ("r-----", SUCCESS),
        ("-b----", SUCCESS),
        ("------", SUCCESS),
        ("--p---", SUCCESS),
        ("---s--", ERROR),
        ("---sc-", ERROR),
        ("----c-", ERROR),
        ("--psrd", ERROR),
    ],
)
@pytest.mark.parametrize("action", ["monitor", "status"])
def test_probe_by_state(host: Host, action: str, flags: str, code: int) -> None:
    host.vesperd.listen()
    host.domains("vm10 -b----", f"vm1 {flags}", "vm -b----")
    assert host.call(action).code == code
    assert host.vesperd.asked("wait") == []


def test_probe_of_a_name_that_is_part_of_another(host: Host) -> None:
    host.domains("vm10 -b----", "xvm1 -b----", "vm1 x -b----")
    assert host.call("monitor").code == NOT_RUNNING


def test_of_two_domains_of_one_name_the_living_counts(host: Host) -> None:
    host.domains("vm1 --psrd", "vm1 -b----")
    assert host.call("monitor").code == SUCCESS


def test_probe_asks_vesperd_when_xl_does_not_answer(host: Host) -> None:
    host.be("hang")
    host.vesperd.listen()
    domain = {"name": "vm1", "domid": 3, "uuid": "u", "state": "running"}
    host.vesperd.answers["state"] = lambda _: {"domain": domain}
    assert host.call("monitor", timeout=8).code == SUCCESS


def test_probe_never_guesses_that_it_is_not_running(host: Host) -> None:
    host.be("hang")
    result = host.call("monitor", timeout=6)
    assert result.code == ERROR
    assert "cannot be told" in (result.reason or "")


def test_probe_without_configuration_and_without_xl(host: Host) -> None:
    (host.bin / "xl").unlink()
    assert host.call("monitor", OCF_RESKEY_xmfile="-").code == NOT_RUNNING


# -- stop -------------------------------------------------------------------------


def test_stop_shuts_down(host: Host) -> None:
    host.vesperd.listen()
    host.domains("vm1 -b----", "vm2 -b----")
    assert host.call("stop").code == SUCCESS
    assert host.running() == "vm2 -b----\n"
    assert "shutdown vm1" in host.calls()
    assert "destroy vm1" not in host.calls()
    (told,) = host.vesperd.asked("stop")
    assert (told["resource"], told["vm"]) == ("r1", "vm1")


def test_stop_leaves_clearing_away_to_the_toolstack(host: Host) -> None:
    """A destroy meanwhile would run the slow hotplug scripts twice."""
    host.be("tidy")
    host.domains("vm1 -b----")
    assert host.call("stop").code == SUCCESS
    assert host.running() == ""
    assert "destroy vm1" not in host.calls()


@pytest.mark.parametrize("mood", ["stubborn", "deaf"])
def test_stop_destroys_a_guest_that_does_not_go(host: Host, mood: str) -> None:
    host.be(mood)
    host.domains("vm1 -b----")
    result = host.call("stop", OCF_RESKEY_shutdown_timeout="2")
    assert result.code == SUCCESS
    assert host.running() == ""
    assert 2 <= result.seconds < 8


def test_shutdown_timeout_0_destroys_at_once(host: Host) -> None:
    host.domains("vm1 -b----")
    assert host.call("stop", OCF_RESKEY_shutdown_timeout="0").code == SUCCESS
    assert not [call for call in host.calls() if call.startswith("shutdown")]


def test_shutdown_timeout_is_two_thirds_of_the_operations(host: Host) -> None:
    host.be("stubborn")
    host.domains("vm1 -b----")
    result = host.call("stop", timeout=6)
    assert result.code == SUCCESS
    assert 3.5 <= result.seconds < 6


def test_a_shutdown_timeout_beyond_the_operations_still_destroys(host: Host) -> None:
    host.be("stubborn")
    host.domains("vm1 -b----")
    assert host.call("stop", timeout=6, OCF_RESKEY_shutdown_timeout="600").code == SUCCESS
    assert host.running() == ""


@pytest.mark.parametrize("flags", ["---sc-", "----c-", "---s--"])
def test_stop_does_not_ask_a_dead_guest_to_shut_down(host: Host, flags: str) -> None:
    host.domains(f"vm1 {flags}")
    assert host.call("stop").code == SUCCESS
    assert host.running() == ""
    assert not [call for call in host.calls() if call.startswith("shutdown")]


def test_stop_of_what_does_not_run_needs_nothing(host: Host) -> None:
    (host.bin / "xl").unlink()
    host.xmfile.unlink()
    result = host.call("stop", OCF_RESKEY_shutdown_timeout="soon", OCF_RESKEY_probes="../x")
    assert result.code == SUCCESS


def test_stop_with_a_hanging_vesperd(host: Host) -> None:
    host.vesperd.listen()
    host.vesperd.answers["stop"] = lambda _: 60.0
    host.domains("vm1 -b----")
    assert host.call("stop").code == SUCCESS
    assert host.running() == ""


def test_stop_never_claims_what_it_does_not_know(host: Host) -> None:
    host.be("hang")
    host.domains("vm1 -b----")
    result = host.call("stop", timeout=8)
    assert result.code == ERROR
    assert "could not be stopped" in (result.reason or "")
    assert "xl list" in (result.reason or "")


def test_stop_of_a_domain_that_stays_dying(host: Host) -> None:
    host.be("undead")
    host.domains("vm1 -b----")
    result = host.call("stop", timeout=8, OCF_RESKEY_shutdown_timeout="0")
    assert result.code == SUCCESS
    assert "dying" in result.stderr


# -- the rest -----------------------------------------------------------------------


def test_actions_that_do_not_exist(host: Host) -> None:
    result = host.call("migrate_to_mars")
    assert result.code == UNIMPLEMENTED
    assert "migrate_to_mars" in (result.reason or "")


def test_validate_all_levels(host: Host) -> None:
    assert host.call("validate-all").code == SUCCESS
    assert host.calls() == []
    assert host.call("validate-all", OCF_CHECK_LEVEL="10").code == SUCCESS
    host.xmfile.unlink()
    assert host.call("validate-all").code == SUCCESS
    assert host.call("validate-all", OCF_CHECK_LEVEL="10").code == INSTALLED
