# SPDX-License-Identifier: GPL-2.0-or-later
"""Real libvirt and QEMU, an installed vesperd: what happens to a domain is told apart,
and libvirtd's absence is no failure of any."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from lab.kvm import KvmHost, KvmLab
from tests.unit.support.daemons import Monitor
from tests.unit.transports.support.boot_sector_guest import (
    BETWEEN,
    PLACE,
    Tiny,
    boot_sector,
    prepare,
)
from vesper_monitor.client import Client

pytestmark = pytest.mark.cluster

CONFIG = """\
transports = ["kvm"]
pause_timeout = 3
# These guests have no modules, which shall not be told meanwhile.
activate_timeout = 100000
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KvmLab]:
    with KvmLab(2, vesperd_config=CONFIG) as up:
        sector = boot_sector(tmp_path_factory.mktemp("sector"))
        for host in up.hosts:
            prepare(host, sector)
        yield up


def log(host: KvmHost) -> str:
    return host.run_command("cat /var/log/vesperd.log", check=True).output


def create(host: KvmHost, wanted: dict[str, dict[str, str]]) -> dict[str, Tiny]:
    """By name, with the options of each."""
    with ThreadPoolExecutor(4) as pool:
        made = pool.map(lambda item: Tiny(host, item[0], **item[1]), wanted.items())
        return dict(zip(wanted, made, strict=True))


def waiting(tiny: Tiny, timeout: float = 300.0) -> Monitor:
    """A monitor that waits."""
    daemon = SimpleNamespace(socket=tiny.socket)
    return Monitor(daemon, **tiny.resource, timeout=timeout)  # type: ignore[arg-type]


FAULTS: dict[str, tuple[dict[str, str], Callable[[Tiny], object], str, str, str | None]] = {
    # what, of the domain: how it comes about, the monitor's answer, and the exit reason
    "panic": (
        {}, lambda t: t.tell("p"),
        "dead", r"(has crashed|does not run any more): its kernel has panicked", "failure",
    ),
    "panic_kept": (
        {"on_crash": "preserve"}, lambda t: t.tell("p"),
        "dead", r"has crashed: its kernel has panicked", "failure",
    ),
    "watchdog": (
        {}, lambda t: t.tell("w"),
        "fault", r"is paused: its watchdog has expired \(system\)", None,
    ),
    "watchdog_off": (
        {"watchdog": "poweroff"}, lambda t: t.tell("w"),
        "dead", r"does not run any more: switched off by its watchdog", "failure",
    ),
    "disk_full": (
        {}, lambda t: t.tell("d"),
        "fault", r"is paused: I/O error \(sdb: no space left.*\) \(system\)", None,
    ),
    "power_off": (
        {}, lambda t: t.tell("o"), "dead", r"does not run any more: shut down from inside", "asked",
    ),
    "destroyed": (
        {}, lambda t: t.virsh("destroy"),
        "dead", r"does not run any more: destroyed by an operator", "asked",
    ),
    "saved": (
        {}, lambda t: t.host.run_command(f"virsh save {t.name} {PLACE}/saved", check=True),
        "dead", r"does not run any more: saved to a file", "asked",
    ),
    "killed": (
        {}, lambda t: t.kill(), "dead", r"does not run any more: its QEMU was killed", "failure",
    ),
    "terminated": (
        {}, lambda t: t.kill("TERM"),
        "dead", r"does not run any more: its QEMU was ended by a signal", "failure",
    ),
    "stopped": (
        {}, lambda t: t.host.run_command(
            f"virsh qemu-monitor-command {t.name} '{{\"execute\":\"stop\"}}'", check=True
        ),
        "fault", r"is paused for \d s: libvirt knows no reason \(system\)", None,
    ),
}  # fmt: skip


def test_what_fails_is_told_with_its_cause(lab: KvmLab) -> None:
    guests = create(lab.a, {name: fault[0] for name, fault in FAULTS.items()})
    domids = {name: tiny.watch() for name, tiny in guests.items()}
    monitors = {name: waiting(tiny) for name, tiny in guests.items()}
    took = {}
    for name, (_, cause, result, reason, meant) in FAULTS.items():
        assert monitors[name].is_alive(), f"{name}: {monitors[name].answer}"
        begin = time.monotonic()
        cause(guests[name])
        assert monitors[name].result() == result, (name, monitors[name].answer)
        took[name] = time.monotonic() - begin
        answer = monitors[name].answer
        assert re.search(reason, answer["reason"]), (name, answer["reason"])
        assert answer.get("cause") == meant, name
        if result == "dead":
            assert f"(domain {domids[name]})" in answer["reason"]
    print(" ".join(f"{name} {seconds:.2f}" for name, seconds in took.items()))
    # A fault is one: who comes to ask later is told the same.
    held = guests["disk_full"]
    lab.a.run_command(f"rm {PLACE}/full/filler && virsh resume disk_full", check=True)
    again = waiting(held)
    assert again.result() == "fault"
    assert again.answer["fault"]["id"] == monitors["disk_full"].answer["fault"]["id"]
    names = " ".join(guests)
    lab.a.run_command(f"for name in {names}; do virsh destroy $name; done")


def test_harmless_events_are_no_failure(lab: KvmLab) -> None:
    lab.a.run_command(f"{{ cat /dev/zero >{PLACE}/full/filler 2>/dev/null; true; }}")
    tiny = Tiny(lab.a, "calm", errors="report", watchdog="none")
    domid = tiny.watch()
    monitor = waiting(tiny)
    tiny.virsh("suspend")
    time.sleep(5.0)  # longer than pause_timeout
    tiny.virsh("resume")
    tiny.tell("r")
    end = time.monotonic() + 60
    while tiny.tell("x", answer=True) != b"x":
        assert time.monotonic() < end
    assert tiny.tell("d", answer=True) == b"E"
    tiny.tell("w")
    lab.a.run_command(
        f"virsh dump --memory-only {tiny.name} {PLACE}/dump && rm {PLACE}/dump", check=True
    )
    wanted = (
        r"is paused: suspended by an operator", r"^calm runs", r"the guest reboots",
        r"I/O error \(.*\): the guest is told",
        r"its watchdog has expired: nothing is done", r"is paused: its memory is being dumped",
    )  # fmt: skip
    while not all(any(re.search(one, event) for event in tiny.events()) for one in wanted):
        assert time.monotonic() < end, "\n".join(tiny.events())
        time.sleep(0.2)
    assert monitor.is_alive(), monitor.answer
    with Client(tiny.socket, timeout=60.0) as client:
        assert client.call_vesperd("state", vm=tiny.name)["domain"]["state"] == "running"
    assert tiny.watch() == domid
    tiny.virsh("destroy")


#: CPU, bank, status, MCG status, address and its kind, in the words of QEMU's monitor:
#: an uncorrected error of a data load (SRAR).
MCE = "mce 0 1 0xbd00000000000134 5 0x1000000 0x8c"


def test_a_memory_failure_of_the_host_is_reported(lab: KvmLab) -> None:
    """QEMU 7.2 itself tells of one (without KVM, too); what needs broken hardware is put in."""
    tiny = Tiny(lab.a, "memory", emulator=BETWEEN)
    tiny.watch()
    monitor = waiting(tiny)
    flags = {"action-required": True, "recursive": False}

    def told(text: str) -> None:
        end = time.monotonic() + 60
        time.sleep(1.0)  # there is one notice of a kind in a second
        while not any(text in event for event in tiny.events()):
            assert time.monotonic() < end, "\n".join(tiny.events())
            time.sleep(0.2)

    # An uncorrected error, of which a boot sector can make nothing.
    lab.a.run_command(f"virsh qemu-monitor-command {tiny.name} --hmp '{MCE}'", check=True)
    told("in the guest's memory: the guest is reset")
    tiny.says("MEMORY_FAILURE", recipient="hypervisor", action="ignore", flags=flags)
    told("in QEMU's own memory: ignored")
    # Failures come in bursts: one that is fatal is not left out.
    tiny.says("MEMORY_FAILURE", recipient="guest", action="inject", flags=flags)
    assert monitor.is_alive(), monitor.answer
    tiny.says("MEMORY_FAILURE", recipient="guest", action="fatal", flags=flags)
    assert monitor.result() == "fault"
    assert "in the guest's memory: fatal (system)" in monitor.answer["reason"]
    tiny.virsh("destroy")


def test_migration_is_no_failure_on_either_side(lab: KvmLab) -> None:
    there = Tiny(lab.b, "mover")  # its files, and that it can run there
    there.virsh("destroy")
    here = Tiny(lab.a, "mover")
    here.watch()
    # As Pacemaker does it: the monitor is cancelled before.
    lab.a.run_command(
        "virsh migrate --live --unsafe mover qemu+tcp://node2/system", timeout=120, check=True
    )
    there.watch()
    monitor = waiting(there)
    assert there.tell("x", answer=True) == b"x"
    left = waiting(here)
    assert left.result() == "dead"
    assert (left.answer["state"], left.answer["cause"]) == ("gone", "asked")
    assert "migrated to another host" in left.answer["reason"]
    for tiny in (here, there):
        with Client(tiny.socket, timeout=60.0) as client:
            assert client.call_vesperd("faults", vm="mover")["faults"] == []
    assert "mover is paused: it is being migrated" in here.events()
    assert monitor.is_alive(), monitor.answer
    there.tell("p")
    assert monitor.result() == "dead" and monitor.answer["cause"] == "failure"


def test_a_libvirtd_that_hangs_ends_and_comes_back_is_survived(lab: KvmLab) -> None:
    """With eight VMs, none of which fails; and one that does is seen in the meantime."""
    host = lab.a
    guests = list(create(host, {f"away{i}": {} for i in range(8)}).values())
    domids = [tiny.watch() for tiny in guests]
    monitors = [waiting(tiny) for tiny in guests]

    def others_are_well(dead: int) -> None:
        assert all(monitor.is_alive() for monitor in monitors[dead:])
        with Client(guests[0].socket, timeout=60.0) as client:
            for tiny, domid in list(zip(guests, domids, strict=True))[dead:]:
                domain = client.call_vesperd("state", vm=tiny.name)["domain"]
                assert (domain["state"], domain["domid"]) == ("running", domid)

    host.signal_libvirtd("STOP")
    others_are_well(0)
    with Client(guests[0].socket, timeout=60.0) as client:
        assert "libvirtd does not answer" in client.call_vesperd("status")["transports"]["kvm"]
        assert client.call_vesperd("hello")["transports"] == {"kvm": None}
    # Until the keep-alive messages end the connection (20 s), and beyond.
    end = time.monotonic() + 60
    while "connection to libvirtd has ended" not in log(host):
        assert time.monotonic() < end
        time.sleep(0.5)
    others_are_well(0)
    # Nor does it keep vesperd from ending, and from starting.
    host.stop_vesperd()
    host.start_vesperd()
    monitors[:] = [waiting(tiny) for tiny in guests]
    others_are_well(0)
    guests[0].kill()
    assert monitors[0].result() == "dead"
    assert "its QEMU has ended" in monitors[0].answer["reason"]
    host.signal_libvirtd("CONT")

    host.stop_libvirtd(signal="KILL")
    others_are_well(1)
    guests[1].kill()
    assert monitors[1].result() == "dead"
    others_are_well(2)

    connected = log(host).count("connected")
    host.start_libvirtd()
    end = time.monotonic() + 60
    while log(host).count("connected") == connected:
        assert time.monotonic() < end, log(host)
        time.sleep(0.2)
    others_are_well(2)
    with Client(guests[2].socket, timeout=60.0) as client:
        assert client.call_vesperd("status")["transports"] == {"kvm": None}
    guests[2].tell("p")
    assert monitors[2].result() == "dead"
    assert "its kernel has panicked" in monitors[2].answer["reason"]
    others_are_well(3)
    for tiny in guests[3:]:
        tiny.virsh("destroy")
