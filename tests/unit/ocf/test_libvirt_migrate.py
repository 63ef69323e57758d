# SPDX-License-Identifier: GPL-2.0-or-later
"""LibvirtVM's live migration: which way it goes, and what becomes of VESPER's device."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.ocf.support.host import Host, Result
from tests.unit.ocf.support.qemu import NO_DEVICE, StandinIvshmemServer
from vesper_monitor.ocf.libvirt import domain_xml
from vesper_monitor.ocf.libvirt.migrate import Route
from vesper_monitor.ocf.libvirt.virsh_call import Options

SUCCESS, ERROR = 0, 1


@pytest.fixture
def host(kvm: Host) -> Iterator[Host]:
    """vm1 runs here, with a device that is a master."""
    kvm.have(vm1="running", vm2="running")
    live(kvm, master=True)
    kvm.vesperd.listen()
    ivshmem_server = StandinIvshmemServer(kvm.folder / "ivshmem", {"ok": True})
    try:
        yield kvm
    finally:
        ivshmem_server.close()


def live(host: Host, *, master: bool) -> None:
    role, override = ("role='master'", "on") if master else ("", "off")
    (host.fake / "live.xml").write_text(
        f"<domain type='kvm' xmlns:qemu='{domain_xml.QEMU}'>\n<name>vm1</name>\n<devices>\n"
        f"<shmem name='vesper' {role}>\n<model type='ivshmem-doorbell'/>\n"
        f"<server path='{host.folder}/ivshmem/qemu.sock'/>\n<alias name='ua-vesper'/>\n</shmem>\n"
        "</devices>\n<qemu:override><qemu:device alias='ua-vesper'><qemu:frontend>"
        f"<qemu:property name='master' type='string' value='{override}'/>"
        "</qemu:frontend></qemu:device></qemu:override>\n</domain>\n"
    )


def migrate(host: Host, *, timeout: float = 60, **parameters: str) -> Result:
    extra = {f"OCF_RESKEY_{key}": value for key, value in parameters.items()}
    return host.call(
        "migrate_to", timeout=timeout, OCF_RESKEY_CRM_meta_migrate_target="node2.example", **extra
    )


# -- the way ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "remote", "memory", "more"),
    [
        ({}, "qemu://node2.example/system", "", []),
        ({"transport": "ssh"}, "qemu+ssh://node2.example/system", "", []),
        ({"transport": "tcp", "user": "ha"}, "qemu+tcp://ha@node2.example/system", "", []),
        ({"uri": "qemu+unix:///system"}, "qemu+unix://node2.example/system", "", []),
        ({"uri": "qemu+tls://here:1/system"}, "qemu+tls://node2.example:1/system", "", []),
        (
            {"network_suffix": "-mig", "transport": "ssh"},
            "qemu+ssh://node2-mig.example/system",
            "tcp://node2-mig.example",
            [],
        ),
        (
            {"network_suffix": "-mig", "migrate_port": 49160},
            "qemu://node2-mig.example/system",
            "tcp://node2-mig.example:49160",
            [],
        ),
        (
            {"network_suffix": "-mig", "uri": "xen:///system"},
            "xen://node2-mig.example/system",
            "node2-mig.example",
            [],
        ),
        (
            {"network_suffix": "-mig", "remote_uri": "qemu+ssh://%n/system"},
            "qemu+ssh://node2.example/system",
            "tcp://node2-mig.example",
            [],
        ),
        (
            {"migrate_uri": "tcp://%n:7000", "network_suffix": "-m"},
            "qemu://node2-m.example/system",
            "tcp://node2-m.example:7000",
            [],
        ),
        (
            {"migrate_uri": "tcp://%n-x", "remote_uri": "a://%n/b", "user": "ha"},
            "a://node2.example/b",
            "tcp://node2.example-x",
            [],
        ),
        (
            {"migrate_options": ["--p2p", "--migrateuri=tcp://%n:1", "--persistent"]},
            "qemu://node2.example/system",
            "tcp://node2.example:1",
            ["--p2p", "--persistent"],
        ),
        (
            {"migrate_options": ["--migrateuri", "tcp://%n:1"], "migrate_uri": "tcp://other"},
            "qemu://node2.example/system",
            "tcp://other",
            [],
        ),
    ],
)
def test_the_route_follows_the_parameters(
    given: dict[str, object], remote: str, memory: str, more: list[str]
) -> None:
    options = Options()
    for name, value in given.items():
        setattr(options, name, value)
    route = Route(options, "node2.example")
    assert (route.remote, route.memory, route.options) == (remote, memory, more)


@pytest.mark.parametrize(
    ("node", "given", "remote", "memory", "more"),
    [
        ("node2", {"uri": "qemu+tcp://[::1]/system"}, "qemu+tcp://node2/system", "", []),
        ("node2", {"uri": "qemu+tcp://[::1]:99/system"}, "qemu+tcp://node2:99/system", "", []),
        ("node2", {"uri": "qemu+ssh://me@[::1]/system"}, "qemu+ssh://node2/system", "", []),
        ("fd00::2", {"uri": "qemu+ssh://n1/system"}, "qemu+ssh://[fd00::2]/system", "", []),
        ("fd00::2", {"uri": "qemu+tls://[::1]:1/system", "user": "ha"},
         "qemu+tls://ha@[fd00::2]:1/system", "", []),
        ("[fd00::2]", {}, "qemu://[fd00::2]/system", "", []),
        ("fd00::2", {"remote_uri": "qemu+tcp://%n/system", "migrate_uri": "tcp://%n:7000"},
         "qemu+tcp://[fd00::2]/system", "tcp://[fd00::2]:7000", []),
        ("fd00::2", {"remote_uri": "qemu+tcp://[%n]/system", "migrate_uri": "tcp://[%n]:7000"},
         "qemu+tcp://[fd00::2]/system", "tcp://[fd00::2]:7000", []),
        ("fd00::2", {"migrate_options": ["--listen-address", "%n", "--graphicsuri=spice://%n:5"]},
         "qemu://[fd00::2]/system", "", ["--listen-address", "fd00::2",
                                         "--graphicsuri=spice://[fd00::2]:5"]),
    ],
)  # fmt: skip
def test_routes_by_ipv6(
    node: str, given: dict[str, object], remote: str, memory: str, more: list[str]
) -> None:
    options = Options()
    for name, value in given.items():
        setattr(options, name, value)
    route = Route(options, node)
    assert (route.remote, route.memory, route.options) == (remote, memory, more)


def test_what_virsh_is_given(host: Host) -> None:
    result = migrate(
        host,
        migration_transport="ssh",
        migrate_options="--p2p --tunnelled",
        migrateuri="tcp://%n:7",
        migration_speed="50",
    )
    assert (result.code, result.reason) == (SUCCESS, None)
    assert host.calls("migrate") == [
        "migrate --live --p2p --tunnelled vm1 qemu+ssh://node2.example/system tcp://node2.example:7"
    ]
    words = [call.split()[0] for call in host.calls()]
    assert words.index("migrate-setspeed") < words.index("migrate")
    assert host.calls("migrate-setspeed") == ["migrate-setspeed vm1 50"]
    assert host.running() == ["vm2"]
    assert host.calls("detach-device-alias") == []


def test_the_downtime_is_set_while_it_is_under_way(host: Host) -> None:
    (host.fake / "slow").write_text("3")
    assert migrate(host, migration_downtime="200").code == SUCCESS
    assert host.calls("migrate-setmaxdowntime") == ["migrate-setmaxdowntime vm1 200"]


def test_resources_are_started_at_the_target(host: Host) -> None:
    text = (host.fake / "live.xml").read_text()
    (host.fake / "live.xml").write_text(
        text.replace("<devices>", "<devices><disk><source pool='images'/></disk>")
    )
    assert migrate(host, start_resources="1", migration_transport="tcp").code == SUCCESS
    raw, uris = ((host.fake / name).read_text().splitlines() for name in ("raw", "uris"))
    calls = list(zip(raw, uris, strict=True))
    assert ("pool-start images", "qemu+tcp://node2.example/system") in calls


def test_a_failure_leaves_it_here(host: Host) -> None:
    host.be("refuse")
    result = migrate(host)
    assert result.code == ERROR
    assert "Domain creation failed" in result.stderr
    assert host.running() == ["vm1", "vm2"]
    assert host.calls("attach-device") == []


def test_a_migration_that_takes_too_long_is_aborted(host: Host) -> None:
    (host.fake / "slow").write_text("1000")
    result = migrate(host, timeout=12)
    assert result.code == ERROR
    assert "not done within the operation's timeout" in result.stderr
    assert host.calls("domjobabort") == ["domjobabort vm1"]


@pytest.mark.parametrize("state", ["crashed", "shut down"])
def test_what_does_not_run_is_not_sent(host: Host, state: str) -> None:
    host.have(vm1=state)
    assert migrate(host).code == ERROR
    assert host.calls("migrate") == []


def test_a_paused_domain_is_sent_as_the_stock_agent_does(host: Host) -> None:
    host.have(vm1="paused")
    assert migrate(host).code == SUCCESS
    assert host.running() == []
    assert host.listed() == []


def test_a_domain_paused_by_an_io_error_is_not_sent(host: Host) -> None:
    host.domains("vm1 3 5")
    assert migrate(host).code == ERROR
    assert host.calls("migrate") == []


# -- the device -------------------------------------------------------------------------


def test_a_device_that_is_no_master_is_unplugged_before(host: Host) -> None:
    live(host, master=False)
    assert migrate(host).code == SUCCESS
    words = [call.split()[0] for call in host.calls()]
    assert words.index("detach-device-alias") < words.index("migrate")
    assert host.calls("detach-device-alias") == ["detach-device-alias vm1 ua-vesper --live"]


def test_a_device_that_the_guest_does_not_release_is_not_sent(host: Host) -> None:
    live(host, master=False)
    host.be("clinging")
    result = migrate(host)
    assert result.code == ERROR
    reason = "the guest did not release VESPER's device within 10 s; nothing was sent"
    assert result.reason == f"vm1 was not migrated to node2.example: {reason}"
    assert host.calls("migrate") == []
    assert host.running() == ["vm1", "vm2"]


def test_a_qemu_without_kvm_and_of_an_unknown_process_keeps_its_device(host: Host) -> None:
    """It may crash: QEMU 7.2 leaves descriptors of an unplugged device free."""
    live(host, master=False)
    xml = host.fake / "live.xml"
    xml.write_text(xml.read_text().replace("type='kvm'", "type='qemu'"))
    result = migrate(host)
    assert result.code == ERROR
    reason = "QEMU without KVM may crash when VESPER's device is unplugged; nothing was sent"
    assert result.reason == f"vm1 was not migrated to node2.example: {reason}"
    assert host.calls("detach-device-alias") == []
    assert host.running() == ["vm1", "vm2"]


def test_the_device_is_plugged_in_again_after_a_failure(host: Host) -> None:
    live(host, master=False)
    host.be("refuse")
    assert migrate(host).code == ERROR
    assert host.calls("attach-device")
    attached = (host.fake / "attached.xml").read_text()
    assert 'role="master"' in attached
    assert f"{host.folder}/ivshmem/qemu.sock" in attached


def test_a_migration_to_a_node_without_server_goes_without_the_device(host: Host) -> None:
    """A node without vesper-ivshmem: the VM goes there all the same."""
    host.be("no-shmem")
    result = migrate(host)
    assert result.code == SUCCESS
    assert host.running() == ["vm2"]
    assert "unplugging VESPER's device and trying again" in result.stderr
    assert [call.split()[0] for call in host.calls() if "detach" in call or "migrate" in call] == [
        "migrate",
        "detach-device-alias",
        "migrate",
    ]


def test_another_failure_is_not_the_devices(host: Host) -> None:
    """It is not unplugged for that; whatever the language."""
    host.wrap(
        'case "$*" in *" migrate "*) echo "Fehler: cannot connect: device" >&2; exit 1 ;; '
        '*) exec real "$@" ;; esac'
    )
    assert migrate(host).code == ERROR
    assert host.calls("detach-device-alias") == []
    assert host.running() == ["vm1", "vm2"]


def test_a_domain_that_has_left_is_not_sent_again(host: Host) -> None:
    """The migration failed at its very end: here is nothing left to unplug from."""
    host.be("no-shmem")
    host.wrap(
        'case "$*" in *" migrate "*) real "$@"; code=$?; '
        "sed -i '/^vm1 /d' $FAKE_VIRSH/domains; exit $code ;; "
        '*) exec real "$@" ;; esac'
    )
    assert migrate(host).code == ERROR
    assert len(host.calls("migrate")) == 1
    assert host.calls("detach-device-alias") == []


def test_a_device_that_is_not_released_fails_a_migration_to_a_node_without_server(
    host: Host,
) -> None:
    host.be("no-shmem", "clinging")
    result = migrate(host)
    assert result.code == ERROR
    assert "node2.example cannot serve VESPER's device" in result.stderr
    assert host.running() == ["vm1", "vm2"]
    assert len(host.calls("migrate")) == 1


# -- the target -------------------------------------------------------------------------


def arrive(host: Host, **extra: str) -> Result:
    return host.call("migrate_from", timeout=30, **extra)


def test_a_domain_that_came_with_its_device_is_left_alone(host: Host) -> None:
    host.vesperd.listen()
    assert arrive(host).code == SUCCESS
    assert host.calls("attach-device") == []
    assert host.vesperd.asked("start")


def test_a_domain_that_came_without_device_gets_it(host: Host) -> None:
    (host.fake / "live.xml").write_text(host.config_text)
    assert arrive(host).code == SUCCESS
    assert len(host.calls("attach-device")) == 1
    (host.fake / "live.xml").write_text(host.config_text)
    assert arrive(host, OCF_RESKEY_add_device="false").code == SUCCESS
    assert len(host.calls("attach-device")) == 1


def test_a_domain_that_cannot_get_the_device_is_degraded(host: Host) -> None:
    (host.fake / "live.xml").write_text(host.config_text)
    host.be("no-shmem")
    host.vesperd.listen()
    host.vesperd.answers["wait"] = lambda _: {"result": "degraded", "reason": NO_DEVICE}
    assert arrive(host).code == SUCCESS
    assert "No more available PCI slots" in host.call("monitor", interval=1).stderr


@pytest.mark.parametrize("line", ["vm1 3 2", "vm1 3 11", "vm1 0 0"])
def test_a_domain_on_its_way_is_waited_for(host: Host, line: str) -> None:
    host.domains(line)
    result = host.call("migrate_from", timeout=4)
    assert result.code == ERROR
    assert "vm1 is paused" in result.stderr


def test_a_paused_domain_arrives_paused(host: Host) -> None:
    host.have(vm1="paused")
    result = arrive(host)
    assert (result.code, result.reason) == (SUCCESS, None)
    assert "vm1: arrived, and is paused" in result.stderr
    assert host.vesperd.asked("start")


def test_it_has_arrived_when_its_scripts_succeed(host: Host) -> None:
    seen = host.folder / "seen"
    script = host.script("check", f"[ -e {seen} ] && exit 0; touch {seen}; exit 1")
    assert arrive(host, OCF_RESKEY_monitor_scripts=str(script)).code == SUCCESS
    assert seen.exists()
