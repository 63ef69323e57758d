# SPDX-License-Identifier: GPL-2.0-or-later
"""The systemd units, under a real systemd: they start, in their sandbox, and go on."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator

import pytest

from kvm_transport.ivshmem_client import IvshmemClient, ping_server
from tests.unit.support.systemd import UNITS, Systemd, systemd
from tests.unit.transports.support.ivshmem_servers import StandinQemu
from vesper_monitor.client import Client

DIRECTORY = "/lib/systemd/system"
#: systemd's own measure of what a service may do, in tenths of 0 .. 10.
EXPOSURE = {"vesper-ivshmem.service": 15, "vesperd.service": 25}


@pytest.fixture(scope="module")
def booted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Systemd]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    place = tmp_path_factory.mktemp("systemd") / "place"
    place.mkdir()
    with systemd(place) as running:
        yield running


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_accepts_the_units(booted: Systemd, unit: str) -> None:
    verify = booted.run("systemd-analyze", "verify", f"{DIRECTORY}/{unit}")
    # Of other units it says what they lack here.
    said = [line for line in verify.stderr.splitlines() if unit in line]
    assert said == []
    threshold = f"--threshold={EXPOSURE[unit]}"
    path = f"{DIRECTORY}/{unit}"
    security = booted.run("systemd-analyze", "security", "--offline=true", threshold, path)
    assert security.returncode == 0, security.stdout


def test_the_units_may_do_what_they_need_and_no_more(booted: Systemd) -> None:
    pids = {unit: booted.wait_active(unit) for unit in UNITS}
    with Client(str(booted.path("/run/vesper/vesperd.sock")), timeout=60.0) as client:
        assert client.call_vesperd("hello")["pid"] == pids["vesperd.service"]
    assert booted.path("/var/lib/vesper/journal.sqlite").exists()
    for unit, folder in (
        ("vesper-ivshmem.service", "/run/vesper-ivshmem"),
        ("vesperd.service", "/run/vesper"),
        ("vesperd.service", "/var/lib/vesper"),
    ):
        root = f"/proc/{pids[unit]}/root"
        assert booted.run("touch", f"{root}{folder}/x").returncode == 0, (unit, folder)
        for closed in ("/etc/x", "/usr/x", "/var/lib/x"):
            assert "Read-only" in booted.run("touch", f"{root}{closed}").stderr, (unit, closed)


def test_guests_outlive_the_holder(booted: Systemd) -> None:
    """systemd keeps the descriptors: the holder is killed, and each QEMU stays served."""
    first = booted.wait_active("vesper-ivshmem.service")
    control = str(booted.path("/run/vesper-ivshmem/control.sock"))
    qemu = StandinQemu(str(booted.path("/run/vesper-ivshmem/qemu.sock")))
    try:
        end = time.monotonic() + 60
        while ping_server(control).vms != 1:
            assert time.monotonic() < end
            time.sleep(0.02)
        booted.run("kill", "-KILL", str(first))
        while booted.show("vesper-ivshmem.service", "MainPID") in ("0", str(first)):
            assert time.monotonic() < end
            time.sleep(0.1)
        booted.wait_active("vesper-ivshmem.service")
        assert ping_server(control).vms == 1

        async def body() -> None:
            (known,) = await IvshmemClient(control).list_qemus()
            attachment = await IvshmemClient(control).attach_to_qemu(known.pid)
            os.pwrite(attachment.memory, b"again", 8192)
            assert bytes(qemu.view[8192:8197]) == b"again"
            os.eventfd_write(attachment.to_guest, 1)
            assert qemu.rung() == 1
            attachment.close()

        asyncio.run(body())
    finally:
        qemu.close()
    while ping_server(control).vms != 0:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_libvirts_library_works_in_the_sandbox(booted: Systemd) -> None:
    """It brings a good part of what a sandbox may stop."""
    booted.path("/run/libvirt").mkdir()
    booted.path("/etc/vesper").mkdir(exist_ok=True)
    booted.path("/etc/vesper/vesperd.toml").write_text(
        'transports = ["kvm"]\n[kvm]\nuri = "test:///default"\n'
    )
    assert booted.run("systemctl", "restart", "vesperd").returncode == 0
    booted.wait_active("vesperd.service")
    end = time.monotonic() + 60
    with Client(str(booted.path("/run/vesper/vesperd.sock")), timeout=60.0) as client:
        # Its test driver opens, and is asked for something that it does not have.
        while "virConnectSetKeepAlive" not in client.call_vesperd("status")["transports"]["kvm"]:
            assert time.monotonic() < end
            time.sleep(0.1)
