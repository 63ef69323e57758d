# SPDX-License-Identifier: GPL-2.0-or-later
"""Every exit code of the specification, for what it is said to mean.

What Pacemaker makes of them: 1 and 7 are recovered, 2 to 5 keep the resource
from this node, 6 from every node, 190 is shown.
"""

from __future__ import annotations

import subprocess
import time
from typing import Any

import pytest

from tests.unit.ocf.support.host import Host, Result

SUCCESS, ERROR, ARGS, UNIMPLEMENTED, PERM, INSTALLED, CONFIGURED, NOT_RUNNING, DEGRADED = (
    0, 1, 2, 3, 4, 5, 6, 7, 190,
)  # fmt: skip


def test_0_has_no_exit_reason(host: Host) -> None:
    host.have(vm1="running")
    for action in ("start", "monitor", "status", "validate-all", "reload-agent", "stop"):
        result = host.call(action)
        assert (result.code, result.reason) == (SUCCESS, None), action


def test_1_of_a_domain_that_failed(host: Host) -> None:
    host.have(vm1="crashed")
    result = host.call("monitor")
    assert result.code == ERROR
    assert (result.reason or "").startswith("vm1 is crashed")
    assert (result.reason or "").endswith(": it must be stopped")


@pytest.mark.parametrize("arguments", [[], ["start", "stop"]])
def test_2_of_a_call_with_wrong_arguments(host: Host, arguments: list[str]) -> None:
    done = subprocess.run([host.agent, *arguments], env={}, capture_output=True, text=True)
    assert done.returncode == ARGS
    assert f"ocf-exit-reason:usage: {host.name} {{start|" in done.stderr


def test_2_of_a_migration_to_nowhere(host: Host) -> None:
    host.have(vm1="running")
    result = host.call("migrate_to")
    assert result.code == ARGS
    assert "no target" in (result.reason or "")
    assert host.calls() == []


def test_2_of_a_configuration_that_is_not_taken_on_this_node(host: Host) -> None:
    host.break_config()
    assert host.call("validate-all", OCF_CHECK_LEVEL="10").code == SUCCESS
    result = host.call("validate-all", OCF_CHECK_LEVEL="20")
    assert result.code == ARGS
    assert "config parsing error" in result.stderr
    assert host.listed() == []


@pytest.mark.parametrize("action", ["promote", "demote", "notify", "reload", "methods", "-x"])
def test_3_of_an_action_that_is_not_implemented(host: Host, action: str) -> None:
    result = host.call(action)
    assert result.code == UNIMPLEMENTED
    assert f"no such action: {action}" in result.stderr


def test_4_of_a_file_that_may_not_be_read(host: Host) -> None:
    host.config.chmod(0)
    # root may read everything; so it is root without that capability.
    command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", str(host.agent), "start"]
    done = subprocess.run(
        command, env=host.environment(20, 0, OCF_RESKEY_name="vm1"), capture_output=True, text=True
    )
    result = Result(done.returncode, done.stdout, done.stderr, 0.0)
    assert result.code == PERM
    assert f"{host.config} cannot be read on node node1" in result.stderr
    assert host.listed() == []


@pytest.mark.parametrize("what", ["configuration", "toolstack", "monitor script"])
def test_5_of_a_node_that_lacks_something(host: Host, what: str) -> None:
    extra = {}
    if what == "configuration":
        host.config.unlink()
    elif what == "toolstack":
        host.tool.unlink()
    else:
        extra["OCF_RESKEY_monitor_scripts"] = f"{host.folder}/check-web"
    for action, level in (("start", "0"), ("validate-all", "10")):
        result = host.call(action, OCF_CHECK_LEVEL=level, **extra)
        assert result.code == INSTALLED, action
        assert "node1" in result.stderr
    # What is wrong on this node is none of level 0's business.
    assert host.call("validate-all", **extra).code == SUCCESS


def test_5_of_a_node_where_nothing_can_be_watched(host: Host) -> None:
    """Asked for with the deepest validation only: the VM runs there all the same."""
    result = host.call("validate-all", OCF_CHECK_LEVEL="20")
    assert result.code == INSTALLED
    assert "systemctl start vesperd" in (result.reason or "")
    host.vesperd.listen()
    host.vesperd.answers["hello"] = lambda _: {"transports": {"xen": "no /dev/xen/evtchn"}}
    result = host.call("validate-all", OCF_CHECK_LEVEL="20")
    assert result.code == INSTALLED
    assert "no /dev/xen/evtchn" in result.stderr
    host.vesperd.answers["hello"] = lambda _: {"transports": {"xen": None, "other": "away"}}
    assert host.call("validate-all", OCF_CHECK_LEVEL="20").code == SUCCESS


#: What is wrong with it is said, and the VM runs all the same.
DOUBTFUL = [
    ("shutdown_timeout", "1m"),
    ("pause_timeout", "-1"),
    ("pause_timeout", "9" * 400),
    ("hang_timeout", "1"),
    ("boot_timeout", "1.5"),
    ("monitor_scripts_timeout", "0"),
    ("monitor_scripts_interval", "-5"),
    ("probes", "../x"),
    ("services", "httpd /usr/sbin/nginx"),
    ("services", '"httpd svc"'),
    ("services", " ".join(f"httpd{i}" for i in range(65))),
]


@pytest.mark.parametrize(("parameter", "value"), DOUBTFUL)
def test_a_mistake_in_what_is_watched_is_no_outage(host: Host, parameter: str, value: str) -> None:
    """Pacemaker stops a VM on all nodes for a 6; only validate-all says it."""
    wrong = {f"OCF_RESKEY_{parameter}": value}
    result = host.call("validate-all", **wrong)
    assert result.code == CONFIGURED
    assert parameter in (result.reason or "")
    host.vesperd.listen()
    for action in ("start", "reload-agent", "monitor"):
        result = host.call(action, **wrong)
        assert (result.code, result.reason) == (SUCCESS, None), action
        assert (action == "monitor") is (f"parameter {parameter}" not in result.stderr)
    assert host.running() == ["vm1"]
    (started,), (changed,) = host.vesperd.asked("start"), host.vesperd.asked("change")
    assert started["doubt"] == changed["doubt"]
    # What is in force stays: a wrong value is not sent.
    assert parameter not in changed
    assert started["services"] == [n for n in value.split() if n[:5] == "httpd"][:64] or (
        parameter != "services"
    )
    host.vesperd.answers["wait"] = lambda asked: {"result": "degraded", "reason": asked["doubt"]}
    result = host.call("monitor", interval=1, **wrong)
    assert result.code == DEGRADED
    assert f"parameter {parameter}" in (result.reason or "")
    assert host.call("stop", **wrong).code == SUCCESS
    assert host.listed() == []


def test_rules_that_are_wrong_are_no_outage(host: Host) -> None:
    """vesperd says so to the monitor, which does not read the language."""
    host.vesperd.listen()
    wrong = {"OCF_RESKEY_fault_on": "send_signal: fatl"}
    assert host.call("validate-all", **wrong).code == CONFIGURED
    for action in ("start", "reload-agent"):
        result = host.call(action, **wrong)
        assert result.code == SUCCESS
        assert "line 1, column 14: send_signal has no field fatl" in result.stderr
    assert host.vesperd.asked("change")[0]["fault_on"] == "send_signal: fatl"


def odd_boolean(host: Host, parameter: str, value: str) -> None:
    """The stock agents take it for false, and start."""
    wrong = {f"OCF_RESKEY_{parameter}": value}
    assert host.call("validate-all", **wrong).code == CONFIGURED
    host.vesperd.listen()
    for action in ("start", "reload-agent"):
        result = host.call(action, **wrong)
        assert result.code == SUCCESS
        assert f"parameter {parameter}={value}: counts as false" in result.stderr
    assert all("doubt" not in request for request in host.vesperd.requests)
    host.vesperd.close()


@pytest.mark.parametrize("action", ["monitor", "status", "reload-agent"])
def test_7_of_a_domain_that_does_not_run(host: Host, action: str) -> None:
    result = host.call(action)
    assert (result.code, result.reason) == (NOT_RUNNING, "vm1 is not running")


def test_190_of_a_domain_that_is_not_watched(host: Host) -> None:
    host.have(vm1="running")
    assert host.call("monitor", interval=10, timeout=4).code == DEGRADED


@pytest.mark.parametrize("value", ["1", "true", "YES", "on", "ja", "0", "False", "no", "off"])
def test_booleans_as_the_stock_agents_take_them(host: Host, value: str) -> None:
    assert host.call("validate-all", OCF_RESKEY_autoset_utilization_cpu=value).code == SUCCESS


@pytest.mark.parametrize("parameter", ["autoset_utilization_cpu", "autoset_utilization_hv_memory"])
def test_a_wrong_boolean_is_no_outage(host: Host, parameter: str) -> None:
    odd_boolean(host, parameter, "enabled")


@pytest.mark.parametrize("parameter", ["shutdown_acpi", "keep_crashed", "allow_mem_management"])
def test_a_wrong_boolean_of_xens_is_no_outage(xen: Host, parameter: str) -> None:
    odd_boolean(xen, parameter, "yes please")


@pytest.mark.parametrize(
    "parameter",
    ["add_device", "force_stop", "save_config_on_stop", "sync_config_on_stop", "stateless",
     "start_resources", "autoset_utilization_host_memory", "unset_utilization_cpu"],
)  # fmt: skip
def test_a_wrong_boolean_of_libvirts_is_no_outage(kvm: Host, parameter: str) -> None:
    odd_boolean(kvm, parameter, "none" if parameter == "stateless" else "y")


def test_a_wrong_number_of_xens_is_no_outage(xen: Host) -> None:
    test_a_mistake_in_what_is_watched_is_no_outage(xen, "reserved_Dom0_memory", "512M")


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("shutdown_mode", "acpi,sweetly"),
        ("migrateport", "high"),
        ("migration_downtime", "0.3"),
        ("migration_speed", "-1"),
    ],
)
def test_a_wrong_value_of_libvirts_is_no_outage(kvm: Host, parameter: str, value: str) -> None:
    test_a_mistake_in_what_is_watched_is_no_outage(kvm, parameter, value)


def test_6_of_what_the_vm_cannot_run_with(kvm: Host) -> None:
    wrong = {"OCF_RESKEY_stateless": "1"}  # without backingfile
    for action in ("start", "validate-all"):
        result = kvm.call(action, **wrong)
        assert result.code == CONFIGURED, action
        assert "stateless" in (result.reason or "")
    assert kvm.calls() == []
    # What runs is still found, goes on, and is stopped.
    kvm.have(vm1="running")
    assert kvm.call("reload-agent", **wrong).code == SUCCESS
    assert kvm.call("monitor", **wrong).code == SUCCESS
    assert kvm.call("stop", **wrong).code == SUCCESS
    assert kvm.listed() == []


# -- without anything -----------------------------------------------------------------


@pytest.mark.parametrize("action", ["stop", "monitor"])
def test_nothing_is_needed_where_nothing_runs(host: Host, action: str) -> None:
    """No configuration, no toolstack, no vesperd."""
    host.tool.unlink()
    host.config.unlink()
    for value in (str(host.config), "-", "vm1.cfg"):
        result = host.call(action, **{f"OCF_RESKEY_{host.config_parameter}": value})
        assert result.code == (SUCCESS if action == "stop" else NOT_RUNNING)


# -- check levels ------------------------------------------------------------------------


def look(host: Host, level: int, **answer: Any) -> Result:
    """A monitor of that level; vesperd answers so to ``state``."""
    host.vesperd.answers["state"] = lambda _: (
        {"watch": {"state": "active", "degraded": None}} | (answer)
    )
    return host.call("monitor", interval=60, timeout=30, OCF_CHECK_LEVEL=str(level))


@pytest.mark.parametrize("level", [10, 20])
def test_a_deep_monitor_does_not_wait(host: Host, level: int) -> None:
    host.have(vm1="running")
    host.vesperd.listen()
    start = time.monotonic()
    assert look(host, level).code == SUCCESS
    assert time.monotonic() - start < 10
    assert host.vesperd.asked("wait") == []
    assert host.look in host.calls()
    host.domains()
    assert look(host, level).code == NOT_RUNNING
    host.have(vm1="crashed")
    assert look(host, level).code == ERROR
    host.have(vm1="running")
    result = look(host, level, fault={"reason": "httpd[97] killed by SIGSEGV (service)"})
    assert (result.code, result.reason) == (ERROR, "httpd[97] killed by SIGSEGV (service)")


def test_a_note_of_the_start_hides_no_newer_reason_at_level_20(host: Host) -> None:
    host.have(vm1="running")
    host.vesperd.listen()
    (host.folder / "rsctmp").mkdir(exist_ok=True)
    (host.folder / "rsctmp/vesper-r1.note").write_text("vesper-ivshmem was not running")
    newer = {"watch": {"state": "closed", "degraded": "vm1: no image of probe x"}}
    assert (look(host, 20, **newer).reason or "").endswith("no image of probe x")
    device = {"watch": {"state": "closed", "degraded": "vm1: its QEMU has no VESPER device"}}
    assert (look(host, 20, **device).reason or "").endswith("vesper-ivshmem was not running")


def test_what_level_20_looks_at_and_10_does_not(host: Host) -> None:
    host.have(vm1="running")
    host.vesperd.listen()
    unwatched = {"watch": {"state": "closed", "degraded": "no image of probe x"}}
    assert look(host, 10, **unwatched).code == SUCCESS
    result = look(host, 20, **unwatched)
    assert result.code == DEGRADED
    assert "no image of probe x" in (result.reason or "")
    host.vesperd.close()
    assert look(host, 10).code == SUCCESS
    assert look(host, 20).code == DEGRADED


def test_an_unknown_level_is_the_next_lower_one(host: Host) -> None:
    host.have(vm1="running")
    host.vesperd.listen()
    unwatched = {"watch": {"state": "closed", "degraded": "no image"}}
    assert look(host, 15, **unwatched).code == SUCCESS
    assert look(host, 30, **unwatched).code == DEGRADED


# -- reload-agent --------------------------------------------------------------------------


def test_reload_tells_vesperd(host: Host) -> None:
    host.have(vm1="running")
    host.vesperd.listen()
    result = host.call(
        "reload-agent",
        OCF_RESKEY_services="nginx",
        OCF_RESKEY_probes="send_signal",
        OCF_RESKEY_fault_on=" send_signal: main; block_error: any; mine: x > 1 ",
    )
    assert result.code == SUCCESS
    # What is doubtful is said, and no more.
    assert "column 38: mine is not a built-in probe" in result.stderr
    assert "block_error: any: parameter probes does not have block_error" in result.stderr
    (told,) = host.vesperd.asked("change")
    assert (told["resource"], told["vm"]) == ("r1", "vm1")
    assert (told["probes"], told["services"]) == (["send_signal"], ["nginx"])
    assert told["fault_on"] == "send_signal: main; block_error: any; mine: x > 1"
    assert not [call for call in host.calls() if not call.startswith((host.look, "dominfo"))]
    # Pacemaker waits for the monitor after it.
    host.vesperd.answers["wait"] = lambda _: {"result": "fine"}
    host.call("monitor", interval=1)
    assert host.vesperd.asked("wait")[0]["first"] is True


def test_reload_without_vesperd(host: Host) -> None:
    """The next monitor tells it."""
    host.have(vm1="running")
    result = host.call("reload-agent", OCF_RESKEY_services="nginx")
    assert result.code == SUCCESS
    assert "vesperd did not get the request change" in result.stderr
