# SPDX-License-Identifier: GPL-2.0-or-later
"""VESPER's device in a domain's XML, and how LibvirtVM starts a domain with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml.etree import _Element as Element

from tests.unit.ocf.support.host import Host, Result
from tests.unit.ocf.support.qemu import NO_DEVICE, StandinIvshmemServer
from vesper_monitor.ocf.libvirt import domain_xml

SUCCESS, ERROR, DEGRADED = 0, 1, 190
DATA = Path(__file__).parent / "data"
SOCKET = "/run/vesper-ivshmem/qemu.sock"
WELL = {"ok": True, "vms": 0, "free": 5}
QEMU = f'xmlns:qemu="{domain_xml.QEMU}"'


@pytest.fixture
def host(kvm: Host) -> Host:
    return kvm


@pytest.fixture
def ivshmem_server(host: Host) -> Iterator[StandinIvshmemServer]:
    ivshmem_server = StandinIvshmemServer(host.folder / "ivshmem", WELL)
    try:
        yield ivshmem_server
    finally:
        ivshmem_server.close()


def created(host: Host) -> Element:
    return domain_xml.parse_domain((host.fake / "created.xml").read_bytes())


def socket(host: Host) -> str:
    return str(host.folder / "ivshmem/qemu.sock")


def degraded(host: Host) -> Result:
    """The first monitor, to which vesperd says that the domain has no device."""
    host.vesperd.answers["wait"] = lambda _: {"result": "degraded", "reason": NO_DEVICE}
    return host.call("monitor", interval=1)


# -- the XML alone ------------------------------------------------------------------


def test_added_device_is_a_master_in_both_ways() -> None:
    root = domain_xml.parse_domain(
        "<domain type='kvm'><name>a</name><devices><disk/></devices></domain>"
    )
    assert domain_xml.find_device(root, SOCKET) is None
    assert domain_xml.add_device(root, SOCKET) == ""
    text = domain_xml.serialize_domain(root)
    again = domain_xml.parse_domain(text)
    device = domain_xml.find_device(again, SOCKET)
    assert device is not None
    assert domain_xml.is_migratable_with(again, device)
    assert device.get("role") == "master"
    # Declared where it is used: see test_a_prefix_that_is_not_declared_stays_without_meaning.
    assert f"<qemu:override {QEMU}>" in text
    assert '<qemu:property name="master" type="string" value="on"/>' in text
    domain_xml.remove_device(again, device)
    assert domain_xml.serialize_domain(again).count("vesper") == 0
    assert "qemu" not in domain_xml.serialize_domain(again)


def test_what_else_is_overridden_stays() -> None:
    root = domain_xml.parse_domain(
        f"<domain type='qemu' {QEMU} xmlns:o='http://o'><name>a</name><metadata><o:x/></metadata>"
        "<devices/><qemu:commandline><qemu:arg value='-s'/></qemu:commandline>"
        "<qemu:override><qemu:device alias='ua-x'/></qemu:override></domain>"
    )
    assert domain_xml.add_device(root, SOCKET) == ""
    text = domain_xml.serialize_domain(root)
    assert text.count("<qemu:override>") == 1
    assert '<qemu:arg value="-s"/>' in text
    assert "<o:x/>" in text
    device = domain_xml.find_device(root, SOCKET)
    assert device is not None
    domain_xml.remove_device(root, device)
    assert '<qemu:device alias="ua-x"/>' in domain_xml.serialize_domain(root)


@pytest.mark.parametrize(
    ("role", "override", "master"),
    [
        ("role='master'", "on", True),
        ("", "on", False),  # libvirt would refuse
        ("role='master'", "off", False),  # QEMU would
        ("role='master'", None, False),
        ("role='peer'", "on", False),
    ],
)
def test_only_both_make_a_master(role: str, override: str | None, master: bool) -> None:
    text = (
        f"<domain type='kvm' {QEMU}><devices><shmem name='x' {role}>"
        f"<model type='ivshmem-doorbell'/><server path='{SOCKET}'/><alias name='ua-mine'/>"
        "</shmem></devices>"
    )
    if override is not None:
        text += (
            "<qemu:override><qemu:device alias='ua-mine'><qemu:frontend><qemu:property "
            f"name='master' type='string' value='{override}'/></qemu:frontend></qemu:device>"
            "</qemu:override>"
        )
    root = domain_xml.parse_domain(text + "</domain>")
    device = domain_xml.find_device(root, SOCKET)
    assert device is not None
    assert domain_xml.is_migratable_with(root, device) is master


def test_anothers_shared_memory_is_not_ours() -> None:
    root = domain_xml.parse_domain(
        "<domain type='kvm'><devices>"
        "<shmem name='a'><model type='ivshmem-plain'/></shmem>"
        "<shmem name='b'><model type='ivshmem-doorbell'/><server path='/run/b'/></shmem>"
        "</devices></domain>"
    )
    assert domain_xml.find_device(root, SOCKET) is None


@pytest.mark.parametrize("kind", ["lxc", "xen", ""])
def test_domains_that_cannot_have_the_device_are_told_apart(kind: str) -> None:
    root = domain_xml.parse_domain(f"<domain type='{kind}'><devices/></domain>")
    assert "ivshmem" in domain_xml.add_device(root, SOCKET)
    assert "shmem" not in domain_xml.serialize_domain(root)


@pytest.mark.parametrize(
    ("xml", "name"),
    [
        ("<domain type='kvm'>\n  <name>web</name>\n</domain>", "web"),
        ("<domain><name> web </name></domain>", "web"),
        ("<domain><name>a&amp;b</name></domain>", "a&b"),
        ("<!-- <name>no</name> --><domain><name>web</name></domain>", "web"),
        ("<?xml version='1.0'?><domain><name>web</name></domain>", "web"),
        ("<domain><metadata><name>no</name></metadata><name>web</name></domain>", "web"),
        ("<domain><!-- <name>no</name> --><name>web</name></domain>", "web"),
        ("<domain><name><![CDATA[a<b]]></name></domain>", "a<b"),
        ("<domain>\n<name>x<!-- c -->y</name></domain>", "xy"),
        ("<domain>\n  <name>\n    web\n  </name></domain>", "web"),
        ("<domain><!-- c --><name>web</name><qemu:commandline/></domain>", "web"),
        ("<domain><devices/></domain>", ""),
        ("<domain><name> </name></domain>", ""),
        ("<domain><name>web</na", ""),
        ("<network><name>web</name></network>", ""),
        ("not XML", ""),
    ],
)
def test_a_name_is_read_or_refused(xml: str, name: str) -> None:
    for code in ("utf-8", "utf-16"):
        if name:
            assert domain_xml.read_name(xml.encode(code)) == name
        else:
            with pytest.raises(ValueError, match=r"not XML|not <domain>|no <name>"):
                domain_xml.read_name(xml.encode(code))


@pytest.mark.parametrize("code", ["iso-8859-1", "utf-16", "utf-8", "windows-1252"])
def test_the_declared_encoding_is_heeded(code: str) -> None:
    text = f"<?xml version='1.0' encoding='{code}'?><domain><name>größe</name></domain>"
    assert domain_xml.read_name(text.encode(code)) == "größe"
    assert domain_xml.read_name(text) == "größe"
    assert "größe" in domain_xml.serialize_domain(domain_xml.parse_domain(text.encode(code)))


def test_comments_and_prefixes_stay() -> None:
    text = (
        "<!-- before --><domain xmlns:app='http://app'><!-- inside --><name>a</name>"
        "<metadata><app:x app:y='1'/><other:z/></metadata></domain><!-- behind -->"
    )
    same = domain_xml.serialize_domain(domain_xml.parse_domain(text)).replace('"', "'")
    assert "".join(same.splitlines()) == text


def test_a_prefix_that_is_not_declared_stays_without_meaning() -> None:
    """libvirt leaves such elements out: our own declaration must not bring them to life."""
    text = (
        "<domain type='kvm'><name>a</name><devices/>"
        "<qemu:commandline><qemu:arg value='-snapshot'/></qemu:commandline></domain>"
    )
    root = domain_xml.parse_domain(text)
    assert domain_xml.add_device(root, SOCKET) == ""
    again = domain_xml.parse_domain(domain_xml.serialize_domain(root))
    assert again.find(f"{domain_xml.Q}override") is not None
    assert again.find(f"{domain_xml.Q}commandline") is None
    assert "qemu:commandline" in domain_xml.serialize_domain(again)


@pytest.mark.parametrize(
    "broken",
    [
        "<domain><name>a</name>",
        "<domain><name>a</name></domain",
        "<domain><name>a</nome></domain>",
        "<domain><name>a&b</name></domain>",
        "<domain><name>&unknown;</name></domain>",
        "<domain><name>a</name></domain><domain/>",
        "<domain a='1' a='2'><name>a</name></domain>",
        "<domain><qemu:a><name>a</name></domain>",  # beside what is forgiven
        "<domain>" + "<q:a/>" * 200 + "<name>a</name>",  # behind much of that
        "<!DOCTYPE domain [<!ENTITY n 'a'>]><domain><name>&n;</name></domain>",
        "<!DOCTYPE domain [<!ENTITY n SYSTEM '/etc/hostname'>]><domain><name>&n;</name></domain>",
    ],
)
def test_broken_xml_is_refused(broken: str) -> None:
    """lxml is told to recover, which must not mend such."""
    with pytest.raises(ValueError, match="not XML"):
        domain_xml.read_name(broken.encode())


def test_entities_do_not_explode() -> None:
    entities = "".join(f"<!ENTITY e{n} '{f'&e{n - 1};' * 10}'>" for n in range(1, 20))
    bomb = f"<!DOCTYPE domain [<!ENTITY e0 'x'>{entities}]><domain a='&e19;'>&e19;</domain>"
    with pytest.raises(ValueError, match="not XML"):
        domain_xml.parse_domain(bomb.encode())


@given(st.binary())
def test_any_bytes_are_a_domain_or_an_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"not XML|not <domain>"):
        domain_xml.parse_domain(data)


@given(st.text())
def test_any_text_is_a_domain_or_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"not XML|not <domain>"):
        domain_xml.parse_domain(text)


# -- start --------------------------------------------------------------------------


def test_the_device_is_added_and_the_file_stays(
    host: Host, ivshmem_server: StandinIvshmemServer
) -> None:
    before = host.config.read_bytes()
    result = host.call("start")
    assert result.code == SUCCESS
    assert "gets VESPER's device, which its file lacks" in result.stderr
    root = created(host)
    device = domain_xml.find_device(root, socket(host))
    assert device is not None
    assert domain_xml.is_migratable_with(root, device)
    assert ivshmem_server.asked == 1
    assert host.config.read_bytes() == before
    assert [path.name for path in host.folder.iterdir() if "vesper-new" in path.name] == []


def test_the_device_can_be_forbidden(host: Host, ivshmem_server: StandinIvshmemServer) -> None:
    assert host.call("start", OCF_RESKEY_add_device="no").code == SUCCESS
    assert b"shmem" not in (host.fake / "created.xml").read_bytes()
    assert ivshmem_server.asked == 0
    host.vesperd.listen()
    result = degraded(host)
    assert result.code == DEGRADED
    assert "add_device=false" in (result.reason or "")


def test_a_device_of_the_users_stays_as_it_is(
    host: Host, ivshmem_server: StandinIvshmemServer
) -> None:
    own = (
        "<shmem name='mine'><model type='ivshmem-doorbell'/>"
        f"<server path='{socket(host)}'/></shmem>"
    )
    host.config.write_text(host.config_text.replace("</devices>", own + "</devices>"))
    for forbidden in ("true", "false"):
        result = host.call("start", OCF_RESKEY_add_device=forbidden)
        assert result.code == SUCCESS
        assert [shmem.get("name") for shmem in created(host).iter("shmem")] == ["mine"]
        assert "is no master" in result.stderr
        host.domains()


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize(
    ("answer", "word"),
    [
        ("absent", "vesper-ivshmem did not run"),
        (None, "did not answer within 1 s"),
        ({"ok": True, "vms": 9, "free": 0}, "takes no more"),
        ({"ok": False, "error": "x"}, "x"),
        ({"hello": 1}, "is not vesper-ivshmem"),
    ],
)
def test_without_the_ivshmem_server_it_starts_without_the_device(
    host: Host, answer: dict[str, object] | str | None, word: str, own: bool
) -> None:
    """QEMU would not start, or hang for ever."""
    ivshmem_server = (
        None if isinstance(answer, str) else StandinIvshmemServer(host.folder / "ivshmem", answer)
    )
    if own:
        root = domain_xml.parse_domain(host.config_text)
        domain_xml.add_device(root, socket(host))
        host.config.write_text(domain_xml.serialize_domain(root))
    try:
        host.vesperd.listen()
        result = host.call("start")
        assert result.code == SUCCESS
        assert host.running() == ["vm1"]
        assert b"shmem" not in (host.fake / "created.xml").read_bytes()
        assert word in result.stderr
        result = degraded(host)
        assert result.code == DEGRADED
        assert word in result.stderr
    finally:
        if ivshmem_server is not None:
            ivshmem_server.close()


def test_a_qemu_that_cannot_have_the_device_starts_without(
    host: Host, ivshmem_server: StandinIvshmemServer
) -> None:
    """For example where it may not open the socket, or has no PCI."""
    host.be("no-shmem")
    host.vesperd.listen()
    result = host.call("start")
    assert result.code == SUCCESS
    assert host.running() == ["vm1"]
    assert "trying again without VESPER's device" in result.stderr
    assert len(host.calls("create")) == 2
    assert "Permission denied" in degraded(host).stderr


def test_another_language_and_another_reason(
    host: Host, ivshmem_server: StandinIvshmemServer
) -> None:
    """Whatever libvirt says: the device is left out once."""
    host.be("no-room")
    result = host.call("start")
    assert result.code == SUCCESS
    assert "Keine PCI-Busse" in result.stderr
    assert len(host.calls("create")) == 2
    assert b"shmem" not in (host.fake / "created.xml").read_bytes()


def test_one_that_is_there_after_all_is_not_created_again(
    host: Host, ivshmem_server: StandinIvshmemServer
) -> None:
    host.be("late-failure")
    result = host.call("start")
    assert result.code == ERROR
    assert "Timed out" in (result.reason or "")
    assert len(host.calls("create")) == 1


def test_a_create_that_hangs_is_not_tried_again(
    host: Host, ivshmem_server: StandinIvshmemServer
) -> None:
    host.be("hang-create")
    result = host.call("start", timeout=4)
    assert result.code == ERROR
    assert len(host.calls("create")) == 1


def test_without_room_nothing_is_tried(host: Host, ivshmem_server: StandinIvshmemServer) -> None:
    host.config.write_text((DATA / "isapc.xml").read_text())
    host.vesperd.listen()
    assert host.call("start").code == SUCCESS
    assert len(host.calls("create")) == 1
    assert "no PCI bus" in degraded(host).stderr


def test_validation_is_of_the_file_alone(host: Host, ivshmem_server: StandinIvshmemServer) -> None:
    host.be("no-room")
    host.vesperd.listen()
    host.vesperd.answers["hello"] = lambda _: {"transports": {"kvm": None}}
    assert host.call("validate-all", OCF_CHECK_LEVEL="20").code == SUCCESS
    # Who is not asked for QEMU's options cannot refuse them.
    host.config.write_text(host.broken_text)
    uri = {"OCF_RESKEY_hypervisor": "lxc:///system"}
    assert host.call("validate-all", OCF_CHECK_LEVEL="20", **uri).code == SUCCESS


@pytest.mark.parametrize("passed", ["hostdev type='pci'", "interface type='hostdev'"])
def test_libvirtd_is_not_asked_what_crashes_it(host: Host, passed: str) -> None:
    host.vesperd.listen()
    host.vesperd.answers["hello"] = lambda _: {"transports": {"kvm": None}}
    host.config.write_text(host.config_text.replace("<devices>", f"<devices><{passed}/>"))
    result = host.call("validate-all", OCF_CHECK_LEVEL="20")
    assert result.code == SUCCESS
    assert host.calls("domxml-to-native") == []
    assert "before it starts" in result.stderr


def test_what_is_wrong_beside_the_device_is_told(
    host: Host, ivshmem_server: StandinIvshmemServer
) -> None:
    host.config.write_text(host.broken_text)
    result = host.call("start")
    assert result.code == ERROR
    assert "no such kernel" in (result.reason or "")
    assert len(host.calls("create")) == 2


def test_a_missing_server_fits_into_what_pacemaker_keeps(host: Host) -> None:
    """The cause and what to do are both shown."""
    host.vesperd.listen()
    assert host.call("start").code == SUCCESS
    reason = degraded(host).reason or ""
    assert " ... " not in reason
    assert reason.endswith("vesper-ivshmem did not run (No such file or directory); "
                           "start it, then restart the VM")  # fmt: skip


def test_a_note_is_forgotten_when_all_is_well(
    host: Host, ivshmem_server: StandinIvshmemServer
) -> None:
    host.vesperd.listen()
    assert host.call("start", OCF_RESKEY_add_device="no").code == SUCCESS
    assert "add_device=false" in (degraded(host).reason or "")
    host.vesperd.answers["wait"] = lambda _: {"result": "fine"}
    assert host.call("monitor", interval=1).code == SUCCESS
    assert degraded(host).reason == NO_DEVICE
