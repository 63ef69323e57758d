# SPDX-License-Identifier: GPL-2.0-or-later
"""LibvirtVM: what is created is named as the agent will look for it, and saved as it was."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.unit.ocf.support.host import PROJECT, Host
from vesper_monitor.ocf.libvirt import domain_xml

SUCCESS, NOT_RUNNING = 0, 7


@pytest.fixture
def host(kvm: Host) -> Host:
    return kvm


def created(host: Host) -> str:
    """The name as it stands there."""
    root = domain_xml.parse_domain((host.fake / "created.xml").read_bytes())
    return root.findtext("name") or ""


@pytest.mark.parametrize(
    "name",
    [
        "\n  vm1\n ", " vm1", "<![CDATA[vm1]]>", "<!-- c -->vm1", "v<!-- c -->m1",
        "<?p i?>vm<![CDATA[1]]>",
    ],
)  # fmt: skip
def test_the_name_is_written_plainly(host: Host, name: str) -> None:
    host.config.write_text(host.config_text.replace("<name>vm1", f"<!-- one -->\n<name>{name}"))
    assert host.call("start").code == SUCCESS
    assert created(host) == "vm1"
    assert host.running() == ["vm1"]
    assert host.call("monitor").code == SUCCESS
    assert "<!-- one -->" in (host.fake / "created.xml").read_text()


def test_the_parameters_name_counts(host: Host) -> None:
    assert host.call("start", OCF_RESKEY_name="other").code == SUCCESS
    assert created(host) == "other"
    assert host.running() == ["other"]


@pytest.mark.parametrize("code", ["iso-8859-1", "utf-8"])
def test_another_encoding(host: Host, code: str) -> None:
    text = host.config_text.replace(
        "<devices>", "<devices><disk type='file'><source file='/srv/größe.img'/></disk>"
    )
    host.config.write_bytes(f"<?xml version='1.0' encoding='{code}'?>\n{text}".encode(code))
    assert host.call("start").code == SUCCESS
    assert "/srv/größe.img" in (host.fake / "created.xml").read_text()
    assert "encoding" not in (host.fake / "created.xml").read_text()


SAVE = {"OCF_RESKEY_save_config_on_stop": "1"}


def save(host: Host, file: str, live: str) -> str:
    """What the file is after a stop."""
    host.have(vm1="running")
    host.config.write_text(file)
    (host.fake / "live.xml").write_text(live)
    assert host.call("stop", **SAVE, OCF_RESKEY_name="vm1").code == SUCCESS
    return host.config.read_text()


def test_a_file_that_is_another_domains_by_now_is_not_overwritten(host: Host) -> None:
    file = host.config_text.replace("vm1", "vm2")
    assert save(host, file, host.config_text) == file


def test_the_files_own_name_stays(host: Host) -> None:
    uuid = "<uuid>11111111-2222-3333-4444-55555555555{}</uuid><devices>"
    live = host.config_text.replace("<devices>", "<vcpu>7</vcpu>" + uuid.format("A"))
    file = host.config_text.replace("<devices>", uuid.format("a")).replace("vm1", "file")
    saved = save(host, file, live)
    assert "<vcpu>7</vcpu>" in saved
    assert "<name>file</name>" in saved


def test_what_says_the_same_is_not_written(host: Host) -> None:
    """Comments, blanks and quotes of the administrator's stay."""
    file = "<!-- mine -->\n" + host.config_text.replace("'", '"').replace("\n", "\n  ")
    assert save(host, file, host.config_text) == file


# -- VESPER's device ------------------------------------------------------------------------


def with_device(host: Host, text: str) -> str:
    root = domain_xml.parse_domain(text)
    assert domain_xml.add_device(root, f"{host.folder}/ivshmem/qemu.sock") == ""
    return domain_xml.serialize_domain(root)


def test_a_device_that_could_not_be_served_is_not_lost(host: Host) -> None:
    file = with_device(host, host.config_text)
    saved = save(host, file, host.config_text.replace("<devices>", "<vcpu>7</vcpu><devices>"))
    assert "<vcpu>7</vcpu>" in saved
    root = domain_xml.parse_domain(saved)
    device = domain_xml.find_device(root, f"{host.folder}/ivshmem/qemu.sock")
    assert device is not None
    assert domain_xml.is_migratable_with(root, device)


PORT = (
    "<controller type='pci' index='{}' model='pcie-root-port'>"
    "<address type='pci' bus='0x00' slot='0x02' function='{}'/></controller>"
)
BRIDGE = (
    "<controller type='pci' index='2' model='pcie-to-pci-bridge'>"
    "<address type='pci' bus='0x01' slot='0x00'/></controller>"
)
NIC = "<interface type='user'><address type='pci' bus='0x{}' slot='0x00'/></interface>"


@pytest.mark.parametrize("used", [False, True])
def test_the_bridge_that_was_added_for_it_goes_with_it(host: Host, used: bool) -> None:
    """As libvirt did for a device without an address, which former versions gave it."""
    more = PORT.format(1, 0) + BRIDGE + PORT.format(3, 1) + NIC.format("03")
    if used:
        more += NIC.format("02")
    live = host.config_text.replace("<devices>", "<devices>" + more)
    live = with_device(host, live).replace(
        'bus="0x00" slot="0x1c" function="0x0"', 'bus="0x02" slot="0x01" function="0x0"'
    )
    saved = save(host, host.config_text, live)
    assert "vesper" not in saved
    assert "qemu" not in saved
    root = domain_xml.parse_domain(saved)
    left = [found.get("index") for found in root.iterfind("devices/controller")]
    assert left == (["1", "2", "3"] if used else ["3"])
    assert root.find("devices/interface/address").get("bus") == "0x03"


MONITOR = """
import os, sys
sys.path[:0] = [{tree!r}, "/usr/lib/python3/dist-packages"]
from vesper_monitor.ocf.libvirt.parameters import main
code = main(["monitor"], os.environ)
print(int(code), "lxml" in sys.modules)
"""


def test_a_monitor_does_not_wait_for_lxml(host: Host) -> None:
    """It takes 40 ms to start; a file that has not changed is not read again."""
    host.have(vm1="running")
    for read in ("True", "False"):
        done = subprocess.run(
            ["/usr/bin/python3", "-SE", "-c", MONITOR.format(tree=str(PROJECT))],
            env=host.environment(20, 0),
            capture_output=True,
            text=True,
            timeout=20,
        )
        assert done.stdout.split() == ["0", read], done.stderr


def test_a_host_without_lxml_does_what_it_can(host: Host) -> None:
    """That the name is not known does not make the resource's id the domain's name."""
    tree = host.folder / "tree"
    shutil.copytree(PROJECT / "ocf", tree / "ocf")
    (tree / "vesper_monitor").symlink_to(PROJECT / "vesper_monitor")
    host.agent = tree / "ocf/LibvirtVM"
    host.agent.write_text(host.agent.read_text().replace("/usr/lib/python3/dist", "/nothing"))
    assert host.call("start").code not in (SUCCESS, NOT_RUNNING)
    assert host.calls("create") == []
    host.have(vm1="running")
    assert host.call("monitor").code == SUCCESS
    assert host.call("stop", OCF_RESKEY_shutdown_timeout="0").code == SUCCESS
    assert host.running() == []
