# SPDX-License-Identifier: GPL-2.0-or-later
"""LibvirtVM while libvirtd hangs, is being restarted, or is not there: QEMU's process tells.

Whatever process calls itself vm1's QEMU counts: so all tests with such a stand-in
are in this file, whose tests do not run side by side.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.unit.ocf.support.host import Host
from tests.unit.ocf.support.qemu import Monitor, Qemu
from vesper_monitor.hypervisor import qemu_process, qmp

SUCCESS, ERROR, NOT_RUNNING, DEGRADED = 0, 1, 7, 190
AWAY = ["hang", "away"]


@pytest.fixture
def host(kvm: Host) -> Host:
    (kvm.folder / "qemu").mkdir()
    return kvm


@pytest.fixture
def qemu(host: Host) -> Iterator[Qemu]:
    qemu = Qemu(host.folder / "qemu")
    try:
        yield qemu
    finally:
        qemu.close()


@pytest.mark.parametrize("mood", AWAY)
def test_a_vm_whose_process_runs_is_well(host: Host, qemu: Qemu, mood: str) -> None:
    host.be(mood)
    for action in ("monitor", "status"):
        result = host.call(action)
        assert (result.code, result.reason) == (SUCCESS, None)
        assert "looking at QEMU's processes instead" in result.stderr
    # Without vesperd, too, nothing but that is wrong.
    result = host.call("monitor", interval=10)
    assert result.code == DEGRADED
    assert "vesperd is not running" in result.stderr


@pytest.mark.parametrize("mood", AWAY)
def test_without_its_process_it_does_not_run(host: Host, mood: str) -> None:
    host.be(mood)
    assert host.call("monitor").code == NOT_RUNNING
    assert host.call("stop").code == SUCCESS


def test_a_pid_file_without_its_process_says_nothing(host: Host, qemu: Qemu) -> None:
    """Its number may be another's by now: this test's own."""
    host.be("away")
    qemu.close()
    qemu.pid_file.write_text(str(threading.get_native_id()))
    assert host.call("monitor").code == NOT_RUNNING
    assert host.call("stop").code == SUCCESS


def test_a_qemu_without_a_pid_file_is_not_missed(host: Host, qemu: Qemu) -> None:
    """And not ended either: it is not known to be libvirt's."""
    host.be("away")
    qemu.pid_file.unlink()
    assert host.call("monitor").code == SUCCESS
    result = host.call("stop", timeout=10, OCF_RESKEY_force_stop="1")
    assert result.code == ERROR
    assert "see: virsh list --all" in (result.reason or "")
    assert qemu.runs()


def test_another_vms_process_is_left_alone(host: Host, qemu: Qemu) -> None:
    host.be("away")
    other = Qemu(host.folder / "qemu", "vm1,2")
    try:
        assert host.call("stop", OCF_RESKEY_name="vm1,2", OCF_RESKEY_force_stop="1").code == 0
        assert not other.runs()
        assert qemu.runs()
        assert host.call("status").code == SUCCESS
    finally:
        other.close()


@pytest.mark.parametrize("mood", AWAY)
def test_a_stop_ends_the_process(host: Host, qemu: Qemu, mood: str) -> None:
    host.be(mood)
    result = host.call("stop", timeout=30, OCF_RESKEY_shutdown_timeout="3")
    assert result.code == SUCCESS
    assert not qemu.runs()
    assert f"ending its QEMU, process {qemu.process.pid}" in result.stderr


def test_a_stop_ends_a_process_that_does_not_listen(host: Host) -> None:
    qemu = Qemu(host.folder / "qemu", deaf=True)
    try:
        host.be("away")
        result = host.call("stop", timeout=30, OCF_RESKEY_force_stop="1")
        assert result.code == SUCCESS
        assert not qemu.runs()
    finally:
        qemu.close()


def test_a_system_that_is_gone_is_ended_at_once(host: Host, qemu: Qemu) -> None:
    host.be("hang")
    host.vesperd.listen()
    host.vesperd.answers["stop"] = lambda _: {"system_gone": True, "fault": {"reason": "panic"}}
    result = host.call("stop", timeout=60)
    assert result.code == SUCCESS
    assert result.seconds < 20
    assert not qemu.runs()


@pytest.mark.parametrize("mood", ["undying", "hang-destroy"])
def test_a_destroy_that_libvirt_does_not_carry_out(host: Host, qemu: Qemu, mood: str) -> None:
    host.have(vm1="running")
    host.be(mood)
    process = host.begin("stop", timeout=20, OCF_RESKEY_force_stop="1")
    start = time.monotonic()
    qemu.process.wait(20)
    host.domains()  # libvirt sees its end
    assert host.end(process, start).code == SUCCESS


def test_nothing_is_saved_while_libvirtd_hangs(host: Host, qemu: Qemu) -> None:
    """It would take the time that the stop has."""
    host.be("hang")
    extra = {"OCF_RESKEY_snapshot": str(host.folder), "OCF_RESKEY_save_config_on_stop": "1"}
    result = host.call("stop", timeout=30, OCF_RESKEY_shutdown_timeout="2", **extra)
    assert result.code == SUCCESS
    assert not qemu.runs()
    assert host.calls("save") == host.calls("dumpxml") == []


def test_a_stop_without_virsh_and_without_a_process(host: Host) -> None:
    host.tool.unlink()
    assert host.call("stop").code == SUCCESS


def test_a_restart_of_libvirtd_does_not_fail_a_start(host: Host) -> None:
    (host.fake / "away").write_text("3")
    result = host.call("start")
    assert result.code == SUCCESS
    assert host.running() == ["vm1"]
    assert "Connection refused; trying again" in result.stderr


def test_a_libvirtd_that_dies_when_it_has_done_it(host: Host) -> None:
    host.tool.rename(host.bin / "real")
    host.script(
        "virsh",
        'real "$@" || exit\n[ "$3" = create ] || exit 0\n'
        'echo "error: End of file while reading data: Input/output error" >&2; exit 1',
    )
    result = host.call("start")
    assert result.code == SUCCESS
    assert host.running() == ["vm1"]
    assert len(host.calls("create")) == 2


def test_a_libvirtd_that_stays_away_fails_a_start_in_time(host: Host) -> None:
    host.be("away")
    result = host.call("start", timeout=6)
    assert result.code == ERROR
    assert "Connection refused" in result.stderr


def test_an_answer_that_is_cut_off_is_none(host: Host) -> None:
    host.have(vm1="running", vm2="running")
    host.be("broken-stats")
    result = host.call("monitor")
    assert "not understood" in result.stderr
    assert result.code == NOT_RUNNING  # by the processes, of which there are none


@pytest.mark.parametrize("uri", ["qemu:///session", "qemu+ssh://other/system", "lxc:///"])
def test_the_processes_tell_of_this_hosts_system_libvirtd_only(host: Host, uri: str) -> None:
    host.be("away")
    result = host.call("monitor", timeout=8, OCF_RESKEY_hypervisor=uri)
    assert result.code == ERROR
    assert "cannot tell whether" in (result.reason or "")
    assert host.call("stop", timeout=10, OCF_RESKEY_hypervisor=uri).code == ERROR


def test_without_libvirts_folder_nothing_is_claimed(host: Host) -> None:
    (host.folder / "qemu").rmdir()
    host.be("away")
    assert host.call("monitor", timeout=8).code == ERROR


def test_the_owner_of_a_pid_files_lock_is_found(
    host: Host, qemu: Qemu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VESPER_QEMU_RUN", str(host.folder / "qemu"))
    assert qemu_process.find_qemu_pid("vm1") == qemu.process.pid
    assert qemu_process.find_qemu_pid("vm2") is None
    assert qemu_process.list_running()["vm1"] == qemu.process.pid
    assert qemu_process.find_domain_name(threading.get_native_id()) == ""
    # A lock of a process that is not this VM's QEMU.
    qemu.pid_file.rename(qemu.pid_file.with_name("vm2.pid"))
    assert qemu_process.find_qemu_pid("vm2") is None


# -- QEMU's own monitor ---------------------------------------------------------------------


def test_without_libvirtd_qemu_itself_presses_the_button(host: Host, qemu: Qemu) -> None:
    host.be("away")
    with closing(Monitor(qemu)) as monitor:
        result = host.call("stop", timeout=90)
    assert result.code == SUCCESS
    assert not qemu.runs()
    asked = [command for command in monitor.asked if command != "qmp_capabilities"]
    assert asked == ["system_powerdown", "query-status", "quit"]
    assert "destroying it" not in result.stderr


@pytest.mark.parametrize("mode", ["", "agent"])
def test_who_cannot_be_asked_is_ended_in_time(host: Host, qemu: Qemu, mode: str) -> None:
    """A libvirtd that hangs has the monitor; and the guest's agent is its alone."""
    host.be("hang")
    with closing(Monitor(qemu, greets=mode == "agent")) as monitor:
        result = host.call("stop", timeout=30, OCF_RESKEY_shutdown_mode=mode)
    assert result.code == SUCCESS
    assert not qemu.runs()
    assert monitor.asked == []
    assert "cannot be asked to shut down" in result.stderr
    assert f"ending its QEMU, process {qemu.process.pid}" in result.stderr


def test_qemus_monitor_is_asked_within_a_limit(
    host: Host, qemu: Qemu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VESPER_QEMU_RUN", str(host.folder / "qemu"))
    with pytest.raises(OSError, match=r"vm1\.xml"):
        qmp.ask_qemu("vm1", "query-status", limit=1)
    qemu.pid_file.with_suffix(".xml").write_text("<domstatus><domain/></domstatus>")
    with pytest.raises(OSError, match="names no monitor"):
        qmp.ask_qemu("vm1", "query-status", limit=1)
    with closing(Monitor(qemu)) as monitor:
        assert qmp.ask_qemu("vm1", "query-status", limit=5) == {"status": "running"}
    assert monitor.asked == ["qmp_capabilities", "query-status"]
    qemu.pid_file.with_suffix(".monitor").unlink()
    with closing(Monitor(qemu, greets=False)), pytest.raises(TimeoutError):
        qmp.ask_qemu("vm1", "query-status", limit=0.2)
