# SPDX-License-Identifier: GPL-2.0-or-later
"""LibvirtVM: what a start and a stop do by the stock agent's parameters."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from tests.unit.ocf.support.host import Host
from tests.unit.ocf.support.qemu import Holder
from vesper_monitor.ocf.libvirt import domain_xml

SUCCESS, ERROR, INSTALLED, CONFIGURED = 0, 1, 5, 6


@pytest.fixture
def host(kvm: Host) -> Host:
    return kvm


def tool(host: Host, name: str, then: str = "") -> Path:
    """A command that notes how it was called."""
    host.script(name, f'echo "$*" >>{host.folder}/{name}.called\n{then}')
    return host.folder / f"{name}.called"


# -- stop -----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["acpi", "agent", "acpi,agent"])
def test_shutdown_mode_is_given_to_virsh(host: Host, mode: str) -> None:
    host.have(vm1="running")
    assert host.call("stop", OCF_RESKEY_shutdown_mode=mode).code == SUCCESS
    assert host.calls("shutdown") == [f"shutdown vm1 --mode {mode}"]


def test_force_stop_destroys_at_once(host: Host) -> None:
    host.have(vm1="running")
    assert host.call("stop", OCF_RESKEY_force_stop="true").code == SUCCESS
    assert host.calls("shutdown") == []
    assert host.calls("destroy") == ["destroy vm1"]


def test_a_guest_has_nearly_all_of_the_stops_time(host: Host) -> None:
    """The stock agent leaves 5 s; here a third of a short time, for a destroy that fails."""
    host.be("stubborn")
    host.have(vm1="running")
    result = host.call("stop", timeout=12)
    assert result.code == SUCCESS
    assert 6.5 <= result.seconds < 12
    assert host.calls("destroy") == ["destroy vm1"]
    assert "cut to" not in result.stderr


# -- the domain is created, not defined ---------------------------------------------------


def test_a_domain_that_is_defined_is_undefined(host: Host) -> None:
    host.domains("vm1 5 0")
    assert host.call("start").code == SUCCESS
    assert host.calls("undefine") == ["undefine vm1 --keep-nvram --keep-tpm"]
    assert host.listed() == ["vm1 1 1"]


def test_one_that_stays_defined_is_started_all_the_same(host: Host) -> None:
    host.domains("vm1 5 0")
    host.be("snapshots")
    result = host.call("start")
    assert result.code == SUCCESS
    assert "stays defined" in result.stderr
    assert host.running() == ["vm1"]


def test_a_file_that_libvirt_removes_with_it_is_put_back(host: Host) -> None:
    host.domains("vm1 5 0")
    (host.fake / "managed").write_text(str(host.config))
    host.config.chmod(0o640)
    before = host.config.read_bytes()
    assert host.call("start").code == SUCCESS
    assert host.config.read_bytes() == before
    assert stat.S_IMODE(host.config.stat().st_mode) == 0o640


# -- snapshot ------------------------------------------------------------------------------


@pytest.fixture
def snapshot(host: Host) -> dict[str, str]:
    (host.folder / "states").mkdir()
    return {"OCF_RESKEY_snapshot": str(host.folder / "states")}


def test_a_stop_saves_and_a_start_restores(host: Host, snapshot: dict[str, str]) -> None:
    state = host.folder / "states/vm1.state"
    assert host.call("start", **snapshot).code == SUCCESS
    assert host.calls("create")
    assert host.call("stop", **snapshot).code == SUCCESS
    assert host.listed() == []
    assert host.calls("shutdown") == []
    assert state.exists()
    assert host.call("start", **snapshot).code == SUCCESS
    assert host.calls("restore") == [f"restore {state}"]
    assert host.listed() == ["vm1 1 4"]
    assert len(host.calls("create")) == 1
    assert not state.exists()  # or it would be restored again, with a disk that has gone on


def test_what_cannot_be_saved_shuts_down(host: Host, snapshot: dict[str, str]) -> None:
    host.have(vm1="running")
    host.be("refuse")
    result = host.call("stop", **snapshot)
    assert result.code == SUCCESS
    assert host.calls("shutdown") == ["shutdown vm1"]
    assert "domain save job failed" in result.stderr


def test_a_vm_with_a_fault_is_not_saved(host: Host, snapshot: dict[str, str]) -> None:
    host.have(vm1="running")
    host.vesperd.listen()
    fault = {"reason": "httpd[97] killed by SIGSEGV (service)"}
    host.vesperd.answers["stop"] = lambda _: {"fault": fault, "system_gone": False}
    assert host.call("stop", **snapshot).code == SUCCESS
    assert host.calls("save") == []
    assert host.calls("shutdown") == ["shutdown vm1"]


def test_what_cannot_be_restored_is_not_started_anew(host: Host, snapshot: dict[str, str]) -> None:
    (host.folder / "states/vm1.state").write_text(host.config_text)
    host.be("refuse")
    result = host.call("start", **snapshot)
    assert result.code == ERROR
    assert "Failed to restore" in result.stderr
    assert host.calls("create") == []
    assert (host.folder / "states/vm1.state").exists()


def test_snapshot_and_force_stop_exclude_each_other(host: Host, snapshot: dict[str, str]) -> None:
    result = host.call("start", OCF_RESKEY_force_stop="1", **snapshot)
    assert result.code == CONFIGURED


# -- images ------------------------------------------------------------------------------


@pytest.fixture
def images(host: Host) -> Path:
    """The log of qemu-img, which makes images."""
    return tool(
        host,
        "qemu-img",
        '[ "$1" = info ] && { echo "image: x"; echo "file format: raw"; exit 0; }\n'
        'for image; do :; done\necho disk >"$image"',
    )


def backing(host: Host, **more: str) -> dict[str, str]:
    return {"OCF_RESKEY_backingfile": "/images/base.img"} | {
        f"OCF_RESKEY_{key}": value for key, value in more.items()
    }


def test_an_image_is_made_once(host: Host, images: Path) -> None:
    image = host.folder / "vm1.qcow2"
    for _ in range(2):
        assert host.call("start", **backing(host)).code == SUCCESS
        host.domains()
    assert images.read_text().splitlines() == [
        "info -U /images/base.img",
        f"create -q -f qcow2 -F raw -b /images/base.img {image}",
    ]


def test_a_stateless_vm_gets_a_new_one_each_time(host: Host, images: Path) -> None:
    copied = tool(host, "virt-copy-in")
    extra = backing(host, stateless="true", copyindirs="/etc/a /etc/b")
    for _ in range(2):
        assert host.call("start", **extra).code == SUCCESS
        host.domains()
    assert images.read_text().count("create") == 2
    assert copied.read_text().splitlines() == [f"-a {host.folder}/vm1.qcow2 /etc/a /etc/b /"] * 2


def test_an_image_that_cannot_be_made_fails_the_start(host: Host) -> None:
    host.script("qemu-img", "echo 'qemu-img: Could not open base.img' >&2; exit 1")
    result = host.call("start", **backing(host))
    assert result.code == ERROR
    assert "Could not open" in result.stderr
    assert host.calls("create") == []


@pytest.mark.parametrize(
    ("parameters", "command"),
    [
        ({"backingfile": "/x"}, "qemu-img"),
        ({"backingfile": "/x", "stateless": "1", "copyindirs": "/etc"}, "virt-copy-in"),
        ({"sync_config_on_stop": "1"}, "csync2"),
    ],
)
def test_commands_that_a_parameter_needs_are_checked(
    host: Host, parameters: dict[str, str], command: str
) -> None:
    for name in {"qemu-img", "virt-copy-in", "csync2"} - {command}:
        tool(host, name)
    extra = {f"OCF_RESKEY_{key}": value for key, value in parameters.items()}
    result = host.call("start", PATH=str(host.bin), **extra)
    assert result.code == INSTALLED
    assert f"{command} is not installed on node node1" in result.stderr


# -- pools and networks -----------------------------------------------------------------


DEVICES = (
    "<disk><source pool='images' volume='a'/></disk><disk><source pool='iso'/></disk>"
    "<interface><source network='net one'/></interface><interface><source bridge='br'/></interface>"
)


def test_what_it_uses_is_started(host: Host) -> None:
    host.config.write_text(host.config_text.replace("<devices>", "<devices>" + DEVICES))
    (host.fake / "active").write_text("pool iso\nnet other\n")
    assert host.call("start", OCF_RESKEY_start_resources="yes").code == SUCCESS
    begun = [call for call in host.calls() if call.startswith(("pool-", "net-"))]
    assert begun == [
        "pool-list --name",
        "pool-start images",
        "pool-refresh iso",
        "net-list --name",
        "net-start net one",
    ]
    words = [call.split()[0] for call in host.calls()]
    assert words.index("net-start") < words.index("create")
    host.domains()
    before = len(host.calls("pool-start"))
    host.call("start")
    assert len(host.calls("pool-start")) == before


# -- save_config_on_stop ----------------------------------------------------------------


def live(host: Host, more: str = "") -> None:
    """What libvirt says of the domain that runs."""
    root = domain_xml.parse_domain(host.config_text.replace("<devices>", f"{more}<devices>"))
    domain_xml.add_device(root, f"{host.folder}/ivshmem/qemu.sock")
    (host.fake / "live.xml").write_text(domain_xml.serialize_domain(root))


SAVE = {"OCF_RESKEY_save_config_on_stop": "1"}


@pytest.mark.parametrize("action", ["stop", "monitor"])
def test_the_configuration_is_saved_without_the_device(host: Host, action: str) -> None:
    host.have(vm1="running")
    live(host, "<vcpu>7</vcpu>")
    host.vesperd.listen()
    host.vesperd.answers["wait"] = lambda _: {"result": "fine"}
    csync = tool(host, "csync2")
    assert host.call(action, interval=1, OCF_RESKEY_sync_config_on_stop="1").code == SUCCESS
    saved = host.config.read_text()
    assert "<vcpu>7</vcpu>" in saved
    assert "vesper" not in saved
    assert csync.read_text() == f"-x {host.config}\n"
    assert host.calls("dumpxml") == ["dumpxml vm1 --inactive --security-info"]
    # What has not changed is not written again.
    host.have(vm1="running")
    inode = host.config.stat().st_ino
    assert host.call(action, interval=1, OCF_RESKEY_sync_config_on_stop="1").code == SUCCESS
    assert host.config.stat().st_ino == inode
    assert csync.read_text().count("\n") == 1


def test_a_device_that_the_file_has_stays_in_it(host: Host) -> None:
    host.have(vm1="running")
    live(host)
    host.config.write_text((host.fake / "live.xml").read_text().replace("<devices>", "<devices >"))
    assert host.call("stop", **SAVE).code == SUCCESS
    assert "vesper" in host.config.read_text()


@pytest.mark.parametrize("said", ["", "<domain type='kvm'><name>vm1</na", "<domain/>"])
def test_half_a_configuration_is_not_saved(host: Host, said: str) -> None:
    host.have(vm1="running")
    (host.fake / "live.xml").write_text(said)
    before = host.config.read_bytes()
    result = host.call("stop", **SAVE)
    assert result.code == SUCCESS
    assert host.config.read_bytes() == before
    assert "is not saved" in result.stderr


def test_a_restored_vm_has_the_device_it_was_saved_with(
    host: Host, snapshot: dict[str, str]
) -> None:
    holder = Holder(host.folder / "ivshmem", {"ok": True})
    try:
        assert host.call("start", **snapshot).code == SUCCESS
        assert host.call("stop", **snapshot).code == SUCCESS
        assert "vesper" in (host.folder / "states/vm1.state").read_text()
    finally:
        holder.close()
