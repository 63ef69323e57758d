# SPDX-License-Identifier: GPL-2.0-or-later
"""An agent whose library cannot be loaded: nothing is stopped for it, and no node fenced."""

from __future__ import annotations

import importlib
import shutil
import time
from pathlib import Path

import pytest

from tests.unit.ocf.support.host import PROJECT, Host, Result, XenHost
from tests.unit.ocf.support.library import copy_library, damage, install
from vesper_monitor.ocf.carried_fault import pack_fault

SUCCESS, ERROR, INSTALLED, NOT_RUNNING, DEGRADED = 0, 1, 5, 7, 190


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("installed")
    install(root)
    return root


def use_copy(host: Host, installed: Path) -> Path:
    """Let a host's agent be a copy of what was installed; return its library."""
    folder = host.folder / "copy"
    folder.mkdir()
    host.agent = copy_library(installed, folder) / host.name
    return folder / "vesper_monitor"


@pytest.fixture
def bare(host: Host, installed: Path) -> Host:
    """A host whose agent lacks a part of its library."""
    damage(use_copy(host, installed) / "ocf/agent.py", "missing")
    return host


@pytest.fixture
def bare_xen(xen: Host, installed: Path) -> Host:
    damage(use_copy(xen, installed) / "ocf/agent.py", "missing")
    return xen


@pytest.fixture
def bare_kvm(kvm: Host, installed: Path) -> Host:
    damage(use_copy(kvm, installed) / "ocf/agent.py", "missing")
    return kvm


def monitor(host: Host, **extra: str) -> Result:
    return host.call("monitor", interval=10.0, **extra)


def remember(host: Host, name: str, ident: str = "", resource: str = "r1") -> Path:
    folder = host.folder / "rsctmp"
    folder.mkdir(exist_ok=True)
    path = folder / f"vesper-{resource}.domain"
    path.write_text(f"{name}\n{ident}\nkey\n")
    return path


# -- each kind of damage --------------------------------------------------------

#: Module (``*``: of the hypervisor's), what became of it, and whether its size is known.
DAMAGES = (
    ("__init__", "missing", True),
    ("client", "half", False),
    ("ocf/fast_monitor", "half", True),
    ("ocf/fast_common", "empty", False),
    ("ocf/dispatch", "    if agent ==", False),
    ("ocf/agent", "half", True),
    ("ocf/stop", "missing", False),
    # Cut off between two functions: what is left can be loaded.
    ("ocf/domain_lookup", "    def describe_domains(", True),
    ("ocf/vesperd_requests", "half", False),
    ("ocf/status", "def reload_parameters(", True),
    ("ocf/stop", "    def _end_domain(", True),
    ("ocf/toolstack", "half", False),
    ("ocf/*", "half", False),
    ("ocf/*call", "empty", False),
)
MODULES = {
    "XenVM": {"ocf/*": "ocf/xen/parameters", "ocf/*call": "ocf/xen/xl"},
    "LibvirtVM": {"ocf/*": "ocf/libvirt/parameters", "ocf/*call": "ocf/libvirt/virsh_call"},
}


@pytest.mark.parametrize(("module", "how", "sizes"), DAMAGES)
def test_whatever_is_damaged_a_vm_is_monitored_and_stopped(
    host: Host, installed: Path, module: str, how: str, sizes: bool
) -> None:
    library = use_copy(host, installed)
    module = MODULES[host.name].get(module, module)
    damage(library / f"{module}.py", how)
    if not sizes:
        (library / "installed-sizes").unlink()

    host.have(vm1="running", other="running")
    assert host.call("monitor").code == SUCCESS
    assert monitor(host).code == DEGRADED
    stop = host.call("stop")
    assert stop.code == SUCCESS, stop
    assert host.running() == ["other"]
    assert host.call("monitor").code == NOT_RUNNING


def test_a_file_of_another_version_is_degraded(host: Host, installed: Path) -> None:
    library = use_copy(host, installed)
    with (library / "ocf/stop.py").open("a") as file:
        file.write("# newer\n")
    host.have(vm1="running")
    result = monitor(host)
    assert result.code == DEGRADED
    assert "vesper_monitor/ocf/stop.py has" in result.stderr


def test_an_internal_error_of_the_agent_is_degraded(host: Host, installed: Path) -> None:
    """A defect of ours is no reason to stop a VM either."""
    library = use_copy(host, installed)
    (library / "installed-sizes").unlink()
    with (library / "ocf/invocation.py").open("a") as file:
        file.write("\ndef finish_action(action):\n    return 1 // 0\n")
    host.have(vm1="running")
    result = monitor(host)
    assert result.code == DEGRADED
    assert result.reason is not None
    assert result.reason.startswith("internal error of VESPER's agent, please report it (Zero")
    assert "Traceback" in result.stderr


def test_without_the_fallback_the_agent_says_so(bare: Host) -> None:
    (bare.agent.parent / "fallback_toolstacks.py").write_text("")
    bare.have(vm1="running")
    for action, interval, code in (
        ("monitor", 10.0, DEGRADED), ("monitor", 0.0, ERROR), ("stop", 0.0, ERROR),
        ("start", 0.0, ERROR), ("meta-data", 0.0, SUCCESS),
    ):  # fmt: skip
        result = bare.call(action, interval=interval)
        assert result.code == code, result
        if code != SUCCESS:
            assert (result.reason or "").startswith("VESPER is not installed correctly: ")


def test_both_agents_are_one_script() -> None:
    assert (PROJECT / "ocf/XenVM").read_bytes() == (PROJECT / "ocf/LibvirtVM").read_bytes()


# -- each action ------------------------------------------------------------------


def test_monitor_says_what_is_missing(bare: Host) -> None:
    bare.have(vm1="running")
    result = monitor(bare)
    assert result.reason is not None
    assert result.reason.startswith("VESPER's library cannot be loaded (ImportError: ")
    assert result.reason.endswith("vm1 runs and is not watched")
    assert len(result.reason.encode()) <= 128
    assert "vesper_monitor/ocf/agent.py" in result.stderr


def test_a_second_monitor_is_degraded(bare: Host) -> None:
    bare.have(vm1="running")
    assert monitor(bare, OCF_CHECK_LEVEL="10").code == DEGRADED


def test_a_start_is_refused(bare: Host) -> None:
    result = bare.call("start")
    assert result.code == INSTALLED
    assert (result.reason or "").endswith("install VESPER again on this node")
    assert bare.calls() == []


def test_actions_that_need_the_library_fail(bare: Host) -> None:
    bare.have(vm1="running")
    assert bare.call("validate-all").code == INSTALLED
    assert bare.call("migrate_to").code == ERROR
    assert bare.call("no-such-action").code == 3
    assert bare.running() == ["vm1"]


def test_status_migrate_from_and_reload_say_whether_it_runs(bare: Host) -> None:
    for action in ("status", "migrate_from", "reload-agent"):
        bare.have(vm1="running")
        assert bare.call(action).code == SUCCESS
        bare.have(other="running")
        assert bare.call(action).code == NOT_RUNNING


def test_meta_data_are_printed(bare: Host, installed: Path) -> None:
    result = bare.call("meta-data")
    assert result.code == SUCCESS
    assert result.stdout.startswith("<?xml")
    shutil.rmtree(bare.folder / "copy/vesper_monitor/ocf")
    assert bare.call("meta-data").code == INSTALLED


@pytest.mark.parametrize("state", ["crashed", "shut down"])
def test_a_domain_that_has_ended_is_an_error_and_stop_removes_it(bare: Host, state: str) -> None:
    bare.have(vm1=state)
    assert bare.call("monitor", interval=10.0, timeout=2.0).code == ERROR
    assert bare.call("monitor").code == ERROR
    assert bare.call("stop").code == SUCCESS
    assert bare.listed() == []


def test_a_paused_domain_runs(bare: Host) -> None:
    bare.have(vm1="paused")
    assert monitor(bare).code == DEGRADED
    assert bare.call("monitor").code == SUCCESS


def test_a_reboot_on_xen_is_waited_for(bare_xen: Host) -> None:
    bare_xen.have(other="running")
    start = time.monotonic()
    process = bare_xen.begin("monitor", interval=10.0)
    while not bare_xen.calls("list"):
        time.sleep(0.01)
    bare_xen.have(vm1="running")
    assert bare_xen.end(process, start).code == DEGRADED


def test_a_domain_that_is_gone_for_good_is_not_running(bare: Host) -> None:
    bare.have(vm10="running", xvm1="running")
    assert bare.call("monitor", interval=10.0, timeout=3.0).code == NOT_RUNNING


# -- the stop ---------------------------------------------------------------------


def test_stop_destroys_a_guest_that_does_not_shut_down(bare: Host) -> None:
    bare.be("stubborn")
    bare.have(vm1="running", vm10="running", other="paused")
    result = bare.call("stop", timeout=5.0)
    assert result.code == SUCCESS
    assert result.seconds > 1.5
    assert bare.calls("shutdown") and bare.calls("destroy")
    assert bare.running() == ["vm10"]
    assert bare.vm("other", "paused") in bare.listed()


def test_stop_keeps_to_shutdown_timeout(bare: Host) -> None:
    bare.be("stubborn")
    bare.have(vm1="running")
    result = bare.call("stop", timeout=20.0, OCF_RESKEY_shutdown_timeout="1")
    assert result.code == SUCCESS
    assert result.seconds < 4.0


def test_stop_destroys_a_guest_that_refuses(bare: Host) -> None:
    bare.be("deaf")
    bare.have(vm1="running")
    assert bare.call("stop", timeout=4.0).code == SUCCESS
    assert bare.listed() == []


def test_a_stop_that_cannot_destroy_fails(bare_kvm: Host) -> None:
    bare_kvm.be("stubborn", "undying")
    bare_kvm.have(vm1="running")
    result = bare_kvm.call("stop", timeout=4.0)
    assert result.code == ERROR
    assert "vm1 was not stopped" in result.stderr


def test_stop_leaves_a_domain_that_is_dying(bare_xen: Host) -> None:
    bare_xen.be("undead")
    bare_xen.have(vm1="running")
    assert bare_xen.call("stop", timeout=4.0, OCF_RESKEY_shutdown_timeout="0").code == SUCCESS


def test_stop_ends_what_a_migration_left(bare_xen: Host) -> None:
    bare_xen.domains(bare_xen.vm("vm1--incoming", "paused"), bare_xen.vm("vm1--crashed", "crashed"))
    assert bare_xen.call("stop").code == SUCCESS
    assert bare_xen.listed() == [bare_xen.vm("vm1--crashed", "crashed")]


def test_stop_forgets_the_domain(bare: Host) -> None:
    path = remember(bare, "vm1")
    bare.have(vm1="running")
    assert bare.call("stop").code == SUCCESS
    assert not path.exists()


def test_the_power_button_is_pressed(bare_xen: Host) -> None:
    bare_xen.have(vm1="running")
    assert bare_xen.call("stop", OCF_RESKEY_shutdown_acpi="true").code == SUCCESS
    assert bare_xen.calls("trigger") and not bare_xen.calls("shutdown")


def test_the_shutdown_mode_is_heeded(bare_kvm: Host) -> None:
    bare_kvm.have(vm1="running")
    assert bare_kvm.call("stop", OCF_RESKEY_shutdown_mode="agent").code == SUCCESS
    assert bare_kvm.calls("shutdown") == ["shutdown vm1 --mode agent"]


# -- what is not known ----------------------------------------------------------


@pytest.mark.parametrize("mood", ["hang", "cut"])
def test_without_a_list_nothing_is_claimed(bare: Host, mood: str) -> None:
    bare.have(vm1="running")
    bare.be(mood)
    assert bare.call("monitor", timeout=2.0, interval=10.0).code == DEGRADED
    assert bare.call("monitor", timeout=2.0).code == ERROR
    result = bare.call("stop", timeout=2.0)
    assert result.code == ERROR
    assert "vm1 was not stopped" in result.stderr
    assert bare.running() == ["vm1"]


def test_without_libvirtd_nothing_is_claimed(bare_kvm: Host) -> None:
    bare_kvm.have(vm1="running")
    bare_kvm.be("away")
    assert monitor(bare_kvm).code == DEGRADED
    assert bare_kvm.call("monitor").code == ERROR
    assert bare_kvm.call("stop", timeout=2.0).code == ERROR


def test_a_driver_without_domstats_is_asked_for_its_list(bare_kvm: Host) -> None:
    bare_kvm.be("no-stats")
    bare_kvm.have(vm1="running", other="running")
    assert bare_kvm.call("monitor").code == SUCCESS
    assert bare_kvm.call("stop").code == SUCCESS
    assert bare_kvm.running() == ["other"]
    assert bare_kvm.call("monitor").code == NOT_RUNNING


def test_on_a_node_without_toolstack_nothing_runs(bare: Host) -> None:
    bare.tool.unlink()
    assert bare.call("monitor").code == NOT_RUNNING
    assert bare.call("stop").code == SUCCESS


def test_a_toolstack_that_cannot_be_run_is_degraded(bare: Host) -> None:
    bare.tool.chmod(0o644)
    bare.tool.write_text("")
    bare.have(vm1="running")
    (bare.folder / "qemu").mkdir()
    assert monitor(bare).code in (DEGRADED, NOT_RUNNING if isinstance(bare, XenHost) else DEGRADED)


def test_many_domains_are_listed(bare: Host) -> None:
    bare.have(**{f"{'x' * 400}-{i}": "running" for i in range(200)}, vm1="running")
    assert monitor(bare).code == DEGRADED


# -- whose domain ------------------------------------------------------------------


def test_without_a_name_nothing_is_claimed(bare: Host) -> None:
    bare.config.unlink()
    bare.have(other="running")
    assert monitor(bare).code == DEGRADED
    assert bare.call("monitor").code == ERROR
    assert bare.call("stop").code == ERROR
    assert bare.running() == ["other"]


def test_without_a_name_and_without_domains_it_does_not_run(bare: Host) -> None:
    bare.config.unlink()
    bare.domains()
    assert bare.call("monitor").code == NOT_RUNNING
    assert bare.call("stop").code == SUCCESS


@pytest.mark.parametrize("config", [None, "", "other"])
def test_the_remembered_name_counts(bare: Host, config: str | None) -> None:
    remember(bare, "vm1")
    if config is None:
        bare.config.unlink()
    else:
        bare.config.write_text(bare.config_text.replace("vm1", config) if config else "")
    bare.have(vm1="running", other="running")
    assert monitor(bare).code == DEGRADED
    assert bare.call("stop").code == SUCCESS
    assert bare.running() == ["other"]


def test_the_parameter_goes_before_the_remembered_name(bare: Host) -> None:
    remember(bare, "vm1")
    bare.have(vm1="running", other="running")
    assert bare.call("stop", OCF_RESKEY_name="other").code == SUCCESS
    assert bare.running() == ["other"]


def test_the_parameter_names_the_domain(bare: Host) -> None:
    bare.have(vm1="running", other="running")
    assert bare.call("stop", OCF_RESKEY_name="other").code == SUCCESS
    assert bare.running() == ["vm1"]


def test_a_domain_of_another_resource_is_left_alone(bare: Host) -> None:
    remember(bare, "vm1", resource="r2")
    bare.have(vm1="running")
    assert monitor(bare).code == DEGRADED
    assert bare.call("stop", timeout=2.0).code == ERROR
    assert bare.running() == ["vm1"]


def test_a_domain_that_was_renamed_is_left_alone(bare_xen: Host) -> None:
    bare_xen.have(old="running")
    assert bare_xen.call("monitor").code == NOT_RUNNING
    number = bare_xen.ident("old")
    remember(bare_xen, "vm1", number)
    assert bare_xen.call("monitor").code == ERROR
    assert bare_xen.call("stop", timeout=2.0).code == ERROR
    assert bare_xen.running() == ["old"]


@pytest.mark.parametrize("name", ["my vm", "7", "load50%", "größe"])
def test_unusual_names_are_found(bare: Host, name: str) -> None:
    bare.config.write_text(bare.config_text.replace("vm1", name))
    bare.have(other="running", **{name: "running"})
    assert monitor(bare).code == DEGRADED
    assert bare.call("stop").code == SUCCESS
    assert bare.running() == ["other"]
    assert bare.call("monitor").code == NOT_RUNNING


@pytest.mark.parametrize(
    "text",
    ['name = "vm1', 'name = "a"; name = "vm1"\n', 'name = "a"\nname = "vm1"\n', "name = vm1\n"],
)
def test_without_an_understood_configuration_nothing_is_claimed_on_xen(
    bare_xen: Host, text: str
) -> None:
    bare_xen.config.write_text(text)
    bare_xen.have(vm1="running", a="running")
    assert monitor(bare_xen).code == DEGRADED
    assert bare_xen.call("monitor").code == ERROR
    assert bare_xen.call("stop", timeout=2.0).code == ERROR
    assert len(bare_xen.running()) == 2


# -- reboots on Xen -------------------------------------------------------------


@pytest.mark.parametrize("action", ["migrate_from", "stop"])
def test_what_was_sent_here_is_its_domain(bare: Host, action: str) -> None:
    """A live migration brought vm1; the file on this node names another domain."""
    ident = bare.ident("vm1") if bare.name == "LibvirtVM" else ""
    value = pack_fault({"vm": "vm1", "ident": ident, "fault": None})
    bare.script("attrd_updater", f'echo \'name="x" host="node1" value="{value}"\'')
    bare.config.write_text(bare.config_text.replace("vm1", "new"))
    bare.have(vm1="running", other="running")
    assert bare.call(action).code == SUCCESS
    assert set(bare.running()) == ({"other"} if action == "stop" else {"other", "vm1"})


@pytest.mark.parametrize("value", ["", "(null)", "bm90IEpTT04=", "W10=", "eyJ2bSI6IDF9"])
def test_an_attribute_that_is_not_understood_names_no_domain(bare: Host, value: str) -> None:
    bare.script("attrd_updater", f'echo \'name="x" host="node1" value="{value}"\'')
    bare.have(other="running")
    assert bare.call("migrate_from").code == NOT_RUNNING


@pytest.mark.parametrize(("action", "stops"), [("restart", 2), ("destroy", 1)])
def test_a_stop_that_meets_a_reboot_stops_the_next_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str, stops: int
) -> None:
    """The domain is gone when it is asked to shut down; its guest was rebooting."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "ocf"))
    actions = importlib.import_module("fallback_actions")
    call, toolstacks = map(importlib.import_module, ("fallback_call", "fallback_toolstacks"))
    monkeypatch.setattr(toolstacks, "XL_LOGS", str(tmp_path))
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    monkeypatch.setattr(call, "_process_age", lambda: 0.0)
    lives = [("5", 0.0)]  # number of the domain, and from when on
    asked: list[list[str]] = []

    def run(_: object, command: list[str], limit: float) -> tuple[int, str, str]:
        if command[1] == "list":
            there = [f"vm1 {n} 160 1 -b---- 1.0\n" for n, begun in lives if now[0] >= begun]
            return 0, "".join(["Name ID Mem VCPUs State Time(s)\n", *there]), ""
        asked.append(command[1:])
        lives.clear()
        if action == "restart" and len(asked) == 1:
            lives.append(("6", now[0] + 2))
        (tmp_path / "xl-vm1.log").write_text(
            "Domain 5 has shut down, reason code 1 0x1\n"
            f"Action for shutdown reason code 1 is {action}\n"
        )
        return 0, "", ""

    monkeypatch.setattr(toolstacks.Toolstack, "run", run)
    environ = {"OCF_RESKEY_name": "vm1", "HA_RSCTMP": str(tmp_path)}
    assert actions.main("XenVM", ["stop"], environ, ImportError("")) == SUCCESS
    assert asked == [["shutdown", "5"], ["shutdown", "6"]][:stops]
    assert now[0] < 1000 + (10 if action == "restart" else 1)
