# SPDX-License-Identifier: GPL-2.0-or-later
"""LibvirtVM: the state of a virtual TPM is never deleted, and what cannot be kept is said."""

from __future__ import annotations

import pytest
from lxml.etree import _Element as Element

from tests.unit.ocf.support.host import Host
from vesper_monitor.ocf.libvirt import domain_xml, vtpm

SUCCESS = 0
UUID = "<uuid>11111111-2222-3333-4444-555555555555</uuid>"
TPM = "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>"
NEW_EACH_TIME = "its TPM is new at each start"


@pytest.fixture
def host(kvm: Host) -> Host:
    """A domain with a TPM, and without VESPER's device."""
    configure(kvm)
    return kvm


def configure(host: Host, tpm: str = TPM, uuid: str = UUID) -> None:
    text = host.config_text.replace("<devices>", f"{uuid}<devices>{tpm}")
    host.config.write_text(text)


def created(host: Host) -> Element:
    return domain_xml.parse_domain((host.fake / "created.xml").read_bytes())


def test_libvirt_is_told_to_keep_it(host: Host) -> None:
    before = host.config.read_bytes()
    result = host.call("start")
    assert result.code == SUCCESS
    assert [backend.get("persistent_state") for backend in vtpm.list_backends(created(host))] == [
        "yes"
    ]
    assert host.config.read_bytes() == before
    assert "TPM" not in result.stderr


def test_what_the_administrator_has_chosen_stays(host: Host) -> None:
    configure(host, TPM.replace("version", "persistent_state='no' version"))
    result = host.call("start")
    assert result.code == SUCCESS
    assert created(host).find("devices/tpm/backend").get("persistent_state") == "no"
    assert "is lost when it ends" in result.stderr


def test_a_tpm_of_the_hosts_own_is_left_alone(host: Host) -> None:
    configure(host, "<tpm model='tpm-tis'><backend type='passthrough'/></tpm>", uuid="")
    result = host.call("start")
    assert result.code == SUCCESS
    assert "persistent_state" not in domain_xml.serialize_domain(created(host))
    assert "TPM" not in result.stderr


def test_undefining_keeps_it(host: Host) -> None:
    host.domains("vm1 5 0")
    assert host.call("start").code == SUCCESS
    assert host.calls("undefine") == ["undefine vm1 --keep-nvram --keep-tpm"]


@pytest.mark.parametrize("where", ["file", "definition", "unknown"])
def test_with_a_virsh_that_cannot_keep_it_nothing_is_undefined(host: Host, where: str) -> None:
    host.domains("vm1 5 0")
    host.be("no-keep-tpm")
    (host.fake / "live.xml").write_text(host.config.read_text())
    if where != "file":
        configure(host, tpm="")
    if where == "unknown":
        (host.fake / "live.xml").write_text("<dom")
    result = host.call("start")
    assert result.code == SUCCESS
    assert host.calls("undefine") == []
    assert host.calls("autostart") == ["autostart vm1 --disable"]
    assert "stays defined" in result.stderr
    assert host.running() == ["vm1"]
    assert "is lost when it ends" not in result.stderr  # it is not, as it is defined


def test_without_a_tpm_an_old_virsh_undefines(host: Host) -> None:
    configure(host, tpm="")
    host.domains("vm1 5 0")
    host.be("no-keep-tpm")
    (host.fake / "live.xml").write_text(host.config.read_text())
    assert host.call("start").code == SUCCESS
    assert host.calls("undefine") == ["undefine vm1 --keep-nvram"]


def test_what_an_old_libvirt_loses_is_said(host: Host) -> None:
    host.be("old-libvirt")
    result = host.call("start")
    assert result.code == SUCCESS
    assert "the state of its vTPM is lost when it ends" in result.stderr


def test_one_that_stays_defined_keeps_its_uuid(host: Host) -> None:
    """Else libvirt refuses the name, and the TPM would be another one."""
    configure(host, uuid="")
    host.domains("vm1 5 0")
    host.be("snapshots")
    result = host.call("start")
    assert result.code == SUCCESS
    assert created(host).findtext("uuid") == host.ident("vm1")
    assert host.calls("autostart") == ["autostart vm1 --disable"]


def test_without_a_uuid_it_is_a_new_one_each_time(host: Host) -> None:
    assert NEW_EACH_TIME not in host.call("validate-all", OCF_CHECK_LEVEL="20").stderr
    configure(host, uuid="")
    host.vesperd.listen()
    host.vesperd.answers["hello"] = lambda _: {"transports": {"kvm": None}}
    result = host.call("validate-all", OCF_CHECK_LEVEL="20")
    assert result.code == SUCCESS
    assert NEW_EACH_TIME in result.stderr
    assert NEW_EACH_TIME in host.call("start").stderr


def test_what_was_asked_of_libvirt_is_not_saved(host: Host) -> None:
    assert host.call("start").code == SUCCESS
    live = (host.fake / "live.xml").read_text()
    assert "persistent_state" in live
    (host.fake / "live.xml").write_text(live.replace("<devices>", "<vcpu>7</vcpu><devices>"))
    assert host.call("stop", OCF_RESKEY_save_config_on_stop="1").code == SUCCESS
    saved = host.config.read_text()
    assert "<vcpu>7</vcpu>" in saved
    assert "persistent_state" not in saved
