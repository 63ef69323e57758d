# SPDX-License-Identifier: GPL-2.0-or-later
"""LibvirtVM: which libvirt is meant, and drivers of it that can say less."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.ocf.support.host import Host
from vesper_monitor.ocf.libvirt import parameters
from vesper_monitor.ocf.libvirt.virsh import Virsh
from vesper_monitor.ocf.libvirt.virsh_call import Options

SUCCESS, ERROR, NOT_RUNNING = 0, 1, 7
LXC = {"OCF_RESKEY_hypervisor": "lxc:///"}


@pytest.fixture
def host(kvm: Host) -> Host:
    return kvm


@pytest.mark.parametrize(
    ("line", "uri"),
    [
        ('uri_default = "qemu:///system"  # comment', "qemu:///system"),
        ("uri_default='xen:///system'#c", "xen:///system"),
        ('uri_default = """qemu:///session""" # "c"', "qemu:///session"),
        ('  uri_default="qemu+ssh://root@a/system?keyfile=/k#x" # c', "qemu+ssh://root@a/system?keyfile=/k#x"),
        ("uri_default = qemu:///embed # c", "qemu:///embed"),
        ('#uri_default = "xen:///system"', "qemu:///system"),
        ('uri_default = ""', "qemu:///system"),
        ('uri_aliases = [ "a=b", ]\nuri_default = "a"', "a"),
        ("", "qemu:///system"),
    ],
)  # fmt: skip
def test_the_default_uri_is_the_clients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, uri: str
) -> None:
    for name in ("VIRSH_DEFAULT_CONNECT_URI", "LIBVIRT_DEFAULT_URI"):
        monkeypatch.delenv(name, raising=False)
    config = tmp_path / "libvirt.conf"
    config.write_text(f"# uri_default\n{line}\n")
    monkeypatch.setattr(parameters, "CLIENT_CONFIG", str(config))
    assert parameters._default_uri() == uri


@pytest.mark.parametrize(
    ("uri", "local", "driver"),
    [
        ("qemu:///system", True, "qemu"),
        ("qemu:///system?socket=/run/libvirt/libvirt-sock", True, "qemu"),
        ("qemu:///system?mode=legacy", True, "qemu"),
        ("qemu+unix:///system?mode=direct&no_verify=1", True, "qemu"),
        ("qemu:///session", False, "qemu"),
        ("qemu:///system/", False, "qemu"),
        ("qemu://node2/system", False, "qemu"),
        ("qemu+ssh://node2/system?socket=/system", False, "qemu"),
        ("xen:///system", False, "xen"),
        ("lxc:///", False, "lxc"),
        ("hail", False, ""),
    ],
)
def test_each_uri_is_local_or_not_and_has_its_driver(uri: str, local: bool, driver: str) -> None:
    options = Options()
    options.uri = uri
    assert (Virsh(options).is_local(), Virsh(options).driver_name()) == (local, driver)


# -- drivers without domstats ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "code"),
    [
        ("1", SUCCESS),
        ("2", SUCCESS),
        ("3", SUCCESS),
        ("4", SUCCESS),
        ("0", SUCCESS),
        ("7", SUCCESS),
        ("6", ERROR),
        ("5", NOT_RUNNING),
    ],
)
def test_each_state_is_read_from_a_list(host: Host, state: str, code: int) -> None:
    """libvirt's words for it are the daemon's, in its own language."""
    host.be("no-stats")
    host.domains("a b 1 1", f"vm1 {state} 0", "vm2 3 1")
    assert host.call("status", **LXC).code == code
    assert host.call("status", OCF_RESKEY_name="a b", **LXC).code == SUCCESS


def test_a_crashed_one_is_started_anew(host: Host) -> None:
    host.be("no-stats")
    host.domains("vm1 6 0")
    assert host.call("start", **LXC).code == SUCCESS
    assert host.calls("create")


def test_a_state_that_is_not_understood_is_not_known(host: Host) -> None:
    host.be("no-stats")
    host.domains("vm1 0 0")
    host.wrap('case "$*" in *domstate*) echo was ;; *) exec real "$@" ;; esac')
    result = host.call("status", **LXC, timeout=8)
    assert result.code == ERROR
    assert "not understood" in (result.reason or "")


@pytest.mark.parametrize("mood", ["away", "hang"])
def test_an_absent_daemon_is_an_error(host: Host, mood: str) -> None:
    """That it can say less hides neither."""
    host.be("no-stats", mood)
    host.have(vm1="running")
    assert host.call("status", **LXC, timeout=12).code == ERROR


def test_qemu_knows_domstats(host: Host) -> None:
    """So what it says instead is no reason to ask for less."""
    host.be("no-stats")
    host.have(vm1="running")
    assert host.call("status", timeout=8).code == ERROR
    assert host.calls("list") == []
