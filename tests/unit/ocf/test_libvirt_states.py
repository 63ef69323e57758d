# SPDX-License-Identifier: GPL-2.0-or-later
"""What LibvirtVM makes of libvirt's states, of a domain's name, and of its size."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.ocf.support.host import Host
from vesper_monitor.ocf.libvirt.virsh_states import parse_stats
from vesper_monitor.ocf.toolstack import ToolstackError

SUCCESS, ERROR, CONFIGURED, NOT_RUNNING = 0, 1, 6, 7


@pytest.fixture
def host(kvm: Host) -> Host:
    return kvm


#: virDomainState and its reason, the exit code, and what is said of it.
STATES = [
    ("1 1", SUCCESS, ""),  # running
    ("1 5", SUCCESS, ""),  # running again after a save that was cancelled
    ("2 0", SUCCESS, ""),  # blocked
    ("4 1", SUCCESS, ""),  # asked to shut down
    ("3 1", SUCCESS, ""),  # paused by an operator
    ("3 2", SUCCESS, ""),  # by a migration
    ("3 9", SUCCESS, ""),  # by a snapshot
    ("3 99", SUCCESS, ""),  # by what a later libvirt knows
    ("7 0", SUCCESS, ""),  # asleep
    ("0 0", SUCCESS, ""),  # on its way here
    ("3 5", ERROR, "paused after an I/O error"),
    ("3 6", ERROR, "paused by its watchdog"),
    ("3 10", ERROR, "paused after a panic"),
    ("3 13", ERROR, "paused after a migration that failed"),
    ("3 8", ERROR, "shutdown"),
    ("6 1", ERROR, "crashed (panic of the guest)"),
    ("6 0", ERROR, "crashed"),
    ("5 2", NOT_RUNNING, "not running"),  # shut off; so it is defined
]


@pytest.mark.parametrize(("state", "code", "said"), STATES)
def test_each_state_has_its_exit_code(host: Host, state: str, code: int, said: str) -> None:
    host.domains("vm10 1 1", f"vm1 {state}", "vm 1 1")
    for action in ("monitor", "status"):
        result = host.call(action)
        assert result.code == code
        assert said in (result.reason or "")


@pytest.mark.parametrize("state", ["3 5", "3 10", "6 1"])
def test_without_vesperd_a_pause_by_an_error_is_a_failure(host: Host, state: str) -> None:
    host.domains(f"vm1 {state}")
    result = host.call("monitor", interval=10)
    assert result.code == ERROR
    assert result.reason


@pytest.mark.parametrize("state", ["3 5", "3 6", "3 10"])
def test_what_is_stuck_is_destroyed_without_a_shutdown(host: Host, state: str) -> None:
    host.domains(f"vm1 {state}")
    result = host.call("stop")
    assert result.code == SUCCESS
    assert host.calls("shutdown") == []
    assert host.calls("destroy") == ["destroy vm1"]
    assert "paused" in result.stderr


def test_another_driver_of_libvirts_has_a_list_only(host: Host) -> None:
    host.be("no-stats")
    host.domains("a b 1 1", "vm1 3 1", "vm2 5 0")
    uri = {"OCF_RESKEY_hypervisor": "lxc:///"}
    assert host.call("status", **uri).code == SUCCESS
    for name, code in (("a b", SUCCESS), ("vm2", NOT_RUNNING)):
        other = {"OCF_RESOURCE_INSTANCE": name, "OCF_RESKEY_name": name}
        assert host.call("status", **other, **uri).code == code


@given(st.text())
def test_only_an_answer_can_say_gone(text: str) -> None:
    try:
        found = parse_stats(text)
    except ToolstackError:
        return
    # Nothing is passed over: only whole records were there.
    record = r"Domain: '(.*?)'\n  state\.state=\d+\n  state\.reason=\d+\n+"
    left = re.sub(record, "", text, flags=re.DOTALL)
    assert left == ""
    assert bool(found) == bool(text)


STATS = "".join(f"Domain: '{name}'\n  state.state=1\n  state.reason=1\n\n" for name in "abc")


@given(st.integers(min_value=0, max_value=len(STATS)))
def test_a_list_that_is_cut_off_is_not_known(length: int) -> None:
    """But between two domains, which shows nowhere: so all of it is read."""
    try:
        found = parse_stats(STATS[:length])
    except ToolstackError:
        return
    assert STATS[:length].count("reason=1\n") == len(found)
    assert STATS[:length].rstrip("\n").endswith("reason=1") or not length


def test_a_domain_whose_name_has_lines() -> None:
    """libvirt 9.0 creates it; it must hide no other one."""
    text = "Domain: '\n web\n'\n  state.state=1\n  state.reason=1\n" + STATS
    assert set(parse_stats(text)) == {"\n web\n", "a", "b", "c"}


# -- how libvirt is reached -----------------------------------------------------------


def test_each_call_says_which_libvirt(host: Host) -> None:
    """The stand-in refuses a call without --connect."""
    host.call("start")
    host.call("stop")
    uris = (host.fake / "uris").read_text().split()
    assert len(uris) > 4
    assert set(uris) == {"qemu:///system"}


@pytest.mark.parametrize(
    ("extra", "uri"),
    [
        ({"OCF_RESKEY_hypervisor": "xen:///system"}, "xen:///system"),
        ({"LIBVIRT_DEFAULT_URI": "qemu:///session"}, "qemu:///session"),
        (
            {"LIBVIRT_DEFAULT_URI": "qemu:///session", "OCF_RESKEY_hypervisor": "lxc:///"},
            "lxc:///",
        ),
    ],
)
def test_the_uri(host: Host, extra: dict[str, str], uri: str) -> None:
    host.call("monitor", **extra)
    assert (host.fake / "uris").read_text().split() == [uri]


# -- the name -------------------------------------------------------------------------


def test_the_name_is_the_parameter_or_of_the_config_or_the_resources_id(host: Host) -> None:
    host.have(web="running", other="running", r1="running")
    host.config.write_text("<domain type='kvm'><name>web</name></domain>")
    host.call("stop")
    host.call("stop", OCF_RESKEY_name="other")
    assert host.running() == ["r1"]
    host.config.write_text("<domain type='kvm'></domain>")
    host.call("stop")
    assert host.running() == []


@pytest.mark.parametrize("action", ["stop", "monitor"])
def test_a_vm_whose_config_has_vanished_is_still_known(host: Host, action: str) -> None:
    """Or it would be taken for one that does not run, and started elsewhere."""
    assert host.call("start").code == SUCCESS
    host.config.unlink()
    assert host.call(action).code == SUCCESS
    assert host.running() == ([] if action == "stop" else ["vm1"])


def test_a_name_that_libvirt_does_not_allow(host: Host) -> None:
    result = host.call("start", OCF_RESKEY_name="a/b")
    assert result.code == CONFIGURED
    assert "libvirt allows no /" in (result.reason or "")


# -- utilization ------------------------------------------------------------------------


@pytest.fixture
def told(host: Host) -> Host:
    host.script("crm_resource", f'echo "$*" >>{host.folder}/told')
    (host.fake / "sizes").write_text("vm1 2048 4\n")
    host.have(vm1="running")
    host.parameters = {}
    host.vesperd.listen()
    host.vesperd.answers["wait"] = lambda _: {"result": "fine"}
    return host


def utilization(host: Host) -> list[str]:
    path = host.folder / "told"
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return [line.removeprefix("--resource r1 --utilization ") for line in lines]


def test_utilization_is_set_by_default_and_once(told: Host) -> None:
    assert told.call("monitor", interval=1).code == SUCCESS
    assert utilization(told) == [
        "--set-parameter cpu --parameter-value 4",
        "--set-parameter host_memory --parameter-value 2048",
        "--set-parameter hv_memory --parameter-value 2048",
    ]
    told.call("monitor", interval=1)
    assert utilization(told) == []
    (told.fake / "sizes").write_text("vm1 4096 4\n")
    told.call("monitor", interval=1)
    assert utilization(told) == [
        f"--set-parameter {name} --parameter-value 4096" for name in ("host_memory", "hv_memory")
    ]


def test_utilization_can_be_removed(told: Host) -> None:
    extra = {
        "OCF_RESKEY_autoset_utilization_cpu": "0",
        "OCF_RESKEY_unset_utilization_cpu": "1",
        "OCF_RESKEY_autoset_utilization_host_memory": "0",
        "OCF_RESKEY_unset_utilization_hv_memory": "1",  # set wins, as with the stock agent
    }
    told.call("monitor", interval=1, **extra)
    assert utilization(told) == [
        "--set-parameter hv_memory --parameter-value 2048",
        "--delete-parameter cpu",
    ]
    told.call("monitor", interval=1, **extra)
    assert utilization(told) == []


def test_a_hung_libvirtd_does_not_fail_the_monitor_for_it(told: Host) -> None:
    told.be("hang")
    result = told.call("monitor", interval=1, timeout=20)
    assert (result.code, result.reason) == (SUCCESS, None)
    assert "utilization is not updated" in result.stderr
