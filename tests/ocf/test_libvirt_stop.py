# SPDX-License-Identifier: GPL-2.0-or-later
"""LibvirtVM's stop: a guest that boots, and a libvirtd that cannot ask the guest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.ocf.host import Host
from tests.ocf.qemu import Monitor, Qemu
from vesper_monitor import qemu_monitor

SUCCESS = 0


@pytest.fixture
def host(kvm: Host) -> Host:
    (kvm.folder / "qemu").mkdir()
    return kvm


@pytest.fixture
def qemu(host: Host) -> Iterator[Qemu]:
    with closing(Qemu(host.folder / "qemu")) as qemu:
        yield qemu


def test_a_guest_that_boots_is_asked_again(host: Host) -> None:
    host.have(vm1="running")
    (host.fake / "booting").write_text("1")
    result = host.call("stop", timeout=90, OCF_RESKEY_shutdown_mode="acpi")
    assert result.code == SUCCESS
    assert result.seconds < 30
    assert host.calls("shutdown") == ["shutdown vm1 --mode acpi"] * 2
    assert host.calls("destroy") == []
    assert "asked to shut down once more" in result.stderr


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
def test_who_cannot_be_asked_is_not_waited_for(host: Host, qemu: Qemu, mode: str) -> None:
    """A libvirtd that hangs has the monitor; and the guest's agent is its alone."""
    host.be("hang")
    with closing(Monitor(qemu, greets=mode == "agent")) as monitor:
        result = host.call("stop", timeout=120, OCF_RESKEY_shutdown_mode=mode)
    assert result.code == SUCCESS
    assert result.seconds < 45
    assert not qemu.runs()
    assert monitor.asked == []
    assert "nobody can ask it to shut down" in result.stderr
    assert f"ending its QEMU, process {qemu.process.pid}" in result.stderr


def test_the_monitor(host: Host, qemu: Qemu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VESPER_QEMU_RUN", str(host.folder / "qemu"))
    with pytest.raises(OSError, match=r"vm1\.xml"):
        qemu_monitor.ask("vm1", "query-status", limit=1)
    qemu.pid_file.with_suffix(".xml").write_text("<domstatus><domain/></domstatus>")
    with pytest.raises(OSError, match="names no monitor"):
        qemu_monitor.ask("vm1", "query-status", limit=1)
    with closing(Monitor(qemu)) as monitor:
        assert qemu_monitor.ask("vm1", "query-status", limit=5) == {"status": "running"}
    assert monitor.asked == ["qmp_capabilities", "query-status"]
    qemu.pid_file.with_suffix(".monitor").unlink()
    with closing(Monitor(qemu, greets=False)), pytest.raises(TimeoutError):
        qemu_monitor.ask("vm1", "query-status", limit=0.2)
