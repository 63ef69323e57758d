# SPDX-License-Identifier: GPL-2.0-or-later
"""Host and a real Xen guest: activation, probes, what goes and comes back."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from lab.guest import Guest
from lab.xen import XenHost, XenLab
from tests.support.vm1 import wait_collecting
from tests.xen.support.vm1 import clean, create_guest

PROBES = "/var/lib/vesper/probes"
#: Frontend and backend of domain %s in xenstore.
NODES = "xenstore-ls -f /local/domain/%s/device/vesper; xenstore-ls -f %s"
BACKENDS = "/local/domain/0/backend/vesper"


def events(host: XenHost) -> list[tuple[str, str]]:
    """(signal, comm) of the fatal signals since the host has booted."""
    output = host.run_command("vesper events --json -n 1000", timeout=60, check=True).output
    rows = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    rows = [row.get("event", row) if isinstance(row.get("event"), dict) else row for row in rows]
    return [
        (row["fields"]["signal"], row["fields"]["leader_comm"])
        for row in rows
        if row["event"] == "send_signal" and row["fields"]["fatal"]
    ]


def kill_a_process(guest: Guest, signal: str) -> None:
    guest.run_command(
        f"sleep 1000 >/dev/null 2>&1 & usleep 100000; kill -{signal} $!; usleep 100000"
    )


def new_events(host: XenHost, before: list[tuple[str, str]], count: int) -> list[str]:
    """Signals since, when there are ``count`` of them."""
    deadline = time.monotonic() + 30
    while True:
        new = [signal for signal, _ in events(host)[len(before) :]]
        if len(new) >= count:
            return new
        assert time.monotonic() < deadline, f"{new}, not {count}"
        time.sleep(0.3)


@pytest.fixture(scope="module")
def host(lab: XenLab) -> Iterator[XenHost]:
    """host-a with an activated vm1: one guest for all tests of this file."""
    clean(lab)
    create_guest(lab)
    lab.a.run_command("vesper activate vm1", timeout=60, check=True)
    yield lab.a
    clean(lab)


@pytest.fixture
def active(host: XenHost) -> XenHost:
    """The same, both probes collecting."""
    wait_collecting(host)
    return host


def test_images_are_nowhere_in_the_guest(active: XenHost) -> None:
    found = Guest(active).run_command(
        "find / -xdev -name 'send_signal*' -o -xdev -name '*out_of_mem*.ko'"
    )
    assert not [line for line in found.output.splitlines() if not line.startswith("/sys")]
    modules = Guest(active).run_command("lsmod").output
    assert "send_signal" in modules
    assert "out_of_memory" in modules


def test_deactivate_leaves_nothing_and_activate_brings_it_back(active: XenHost) -> None:
    guest = Guest(active)
    domid = active.run_command("xl domid vm1", check=True).output.strip()
    active.run_command("vesper deactivate vm1", timeout=60, check=True)
    modules = guest.run_command("lsmod").output
    assert "send_signal" not in modules
    assert "out_of_memory" not in modules
    nodes = active.run_command(NODES % (domid, BACKENDS)).output
    assert "/vesper/0" not in nodes
    assert f"/vesper/{domid}" not in nodes

    before = events(active)
    active.run_command("vesper activate vm1", timeout=60, check=True)
    wait_collecting(active)
    kill_a_process(guest, "ILL")
    assert new_events(active, before, 1) == ["SIGILL"]


def test_a_restart_of_vesperd_loses_and_doubles_nothing(active: XenHost) -> None:
    """Killed, so that it cannot save anything on its way out."""
    guest = Guest(active)
    before = events(active)
    kill_a_process(guest, "ILL")
    assert new_events(active, before, 1) == ["SIGILL"]
    active.stop_vesperd(signal="KILL")
    kill_a_process(guest, "BUS")
    kill_a_process(guest, "FPE")
    active.start_vesperd()
    wait_collecting(active)
    kill_a_process(guest, "SEGV")
    new_events(active, before, 4)
    time.sleep(1)  # what is doubled would come at the same time
    assert new_events(active, before, 4) == ["SIGILL", "SIGBUS", "SIGFPE", "SIGSEGV"]


def test_frontend_goes_and_comes_back(active: XenHost) -> None:
    guest = Guest(active)
    before = events(active)
    kill_a_process(guest, "ILL")
    new_events(active, before, 1)
    guest.run_command("echo vesper-0 >/sys/bus/xen/drivers/vesper/unbind")
    kill_a_process(guest, "BUS")
    guest.run_command("echo vesper-0 >/sys/bus/xen/drivers/vesper/bind")
    wait_collecting(active)
    kill_a_process(guest, "FPE")
    new_events(active, before, 3)
    time.sleep(1)
    assert new_events(active, before, 3) == ["SIGILL", "SIGBUS", "SIGFPE"]


def test_a_guest_is_saved_and_restored_with_its_probes(active: XenHost) -> None:
    """Another domain, the same guest: its probes are still there, nothing is doubled."""
    guest = Guest(active)
    domid = active.run_command("xl domid vm1", check=True).output
    before = events(active)
    kill_a_process(guest, "ILL")
    new_events(active, before, 1)
    active.run_command("xl save vm1 /var/tmp/vm1.save", timeout=120, check=True)
    active.run_command(
        "xl restore /var/tmp/vm1.save; rm /var/tmp/vm1.save", timeout=120, check=True
    )
    guest.wait_ready(60)
    assert active.run_command("xl domid vm1", check=True).output != domid
    active.run_command("vesper activate vm1", timeout=60, check=True)
    wait_collecting(active)
    kill_a_process(guest, "FPE")
    new_events(active, before, 2)
    time.sleep(1)
    assert new_events(active, before, 2) == ["SIGILL", "SIGFPE"]


def test_a_probe_can_be_unloaded_and_loaded_again(active: XenHost) -> None:
    guest = Guest(active)
    before = events(active)
    for _ in range(2):
        active.run_command("vesper probe unload vm1 send_signal", timeout=60, check=True)
        assert "send_signal" not in guest.run_command("lsmod").output
        active.run_command("vesper probe load vm1 send_signal", timeout=60, check=True)
    kill_a_process(guest, "FPE")
    assert new_events(active, before, 1) == ["SIGFPE"]


def test_unfitting_images_are_refused_with_a_reason(active: XenHost) -> None:
    """Damaged, or another module: the guest kernel's own error; nothing is harmed."""
    guest = Guest(active)
    release = guest.run_command("uname -r").output.strip()
    directory = f"{PROBES}/{release}"
    good = active.get_file(f"{directory}/send_signal.ko")
    images = {
        # e_machine: not this processor's
        "damaged": (good[:18] + b"\x28\x00" + good[20:], "ENOEXEC"),
        # its own name is that of a module that is loaded
        "twice": (good, "EEXIST"),
        # for another kernel: the host need not ask
        "foreign": (good.replace(b"vermagic=6", b"vermagic=5"), "was built for '5"),
    }
    before = events(active)
    for name, (image, reason) in images.items():
        active.put_file(f"{directory}/{name}.ko", image)
        result = active.run_command(f"vesper probe load vm1 {name}", timeout=60)
        active.run_command(f"rm {directory}/{name}.ko")
        assert result.rc == 1
        assert reason in result.output
        assert name not in guest.run_command("lsmod").output
    wait_collecting(active)
    kill_a_process(guest, "FPE")
    assert new_events(active, before, 1) == ["SIGFPE"]
