# SPDX-License-Identifier: GPL-2.0-or-later
"""libvirtd hangs, dies, is restarted, with eight VMs on it: no VM fails for that."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from lab import idle
from lab.kvm import KvmHost, KvmLab
from tests.kvm.support.vm1 import clean

VMS = [f"vm{number}" for number in range(1, 9)]
#: s; libvirtd is away for longer than a monitor may take.
MONITOR_TIMEOUT_S = 10
AWAY_S = 15

_PRIMITIVE = (
    "primitive {vm} ocf:vesper:LibvirtVM params config=/etc/lab/{vm}.xml "
    "op start timeout=180s interval=0 op stop timeout=30s interval=0 "
    f"op monitor interval=1s timeout={MONITOR_TIMEOUT_S}s "
    "meta migration-threshold=1 resource-stickiness=100\n"
)
#: Keeps libvirtd busy until it is killed.
LOAD = "while :; do virsh domstats >/dev/null 2>&1; virsh dominfo vm1 >/dev/null 2>&1; done"


@pytest.fixture(scope="module")
def eight(lab: KvmLab) -> Iterator[KvmLab]:
    """Yield four watched VMs on each host, with both libvirtd under load."""
    clean(lab)
    for host in lab.hosts:
        for number, vm in enumerate(VMS, 1):
            host.put_file(f"/etc/lab/{vm}.xml", lab.domain_xml(number, memory=96).encode())
    configuration = "".join(_PRIMITIVE.format(vm=vm) for vm in VMS)
    lab.a.put_file("/root/eight.crm", configuration.encode())
    lab.a.run_command("crm configure load update /root/eight.crm", check=True)
    try:
        for host in lab.hosts:
            host.wait_for_command(
                f"test $(vesper status --json | grep -c {WAITING}) = 4", timeout=240
            )
        with ExitStack() as stack:
            for host in lab.hosts:
                stack.callback(host.follow_command(LOAD)[0])
            yield lab
    finally:
        for host in lab.hosts:
            host.run_command("pkill -CONT -f ^/usr/sbin/libvirtd || true")
        lab.a.run_command(f"crm -F resource stop {' '.join(VMS)}; ({idle.COMMAND})", timeout=240)
        lab.a.run_command(f"crm -F configure delete {' '.join(VMS)}", timeout=60, check=True)


WAITING = "'\"waiting\": *true'"


def processes(lab: KvmLab) -> dict[str, str]:
    """Return host and PID of each VM's QEMU."""
    found = {}
    for host in lab.hosts:
        for vm in host.list_domains():
            pid = host.run_command(f"cat /run/libvirt/qemu/{vm}.pid", check=True).output
            found[vm] = f"{host.name}: {pid}"
    return found


def failures(lab: KvmLab) -> str:
    """Return the failed operations that the cluster shows; degraded (190) is no failure."""
    said = lab.a.run_command("crm_mon -1 --output-as=xml", check=True).output
    lines = (line for line in said.splitlines() if "<failure " in line)
    return "\n".join(line for line in lines if 'exitcode="190"' not in line)


def still_watched(host: KvmHost) -> None:
    host.wait_for_command(f"test $(vesper status --json | grep -c {WAITING}) = 4", timeout=60)


def test_libvirtd_away_is_no_failure(eight: KvmLab) -> None:
    before = processes(eight)
    assert sorted(before) == VMS
    for how in ("killed", "hung", "restarted"):
        for host in eight.hosts:
            if how == "killed":
                host.stop_libvirtd(signal="KILL")
            elif how == "hung":
                host.signal_libvirtd("STOP")
        if how != "restarted":
            time.sleep(AWAY_S)
        for host in eight.hosts:
            if how == "killed":
                host.start_libvirtd()
            elif how == "hung":
                host.signal_libvirtd("CONT")
            else:
                for _ in range(3):
                    host.stop_libvirtd()
                    host.start_libvirtd()
        for host in eight.hosts:
            still_watched(host)
        assert failures(eight) == "", how
        assert processes(eight) == before, how


def test_stop_and_failure_with_libvirtd_hung(eight: KvmLab) -> None:
    """A VM can be stopped, and one that dies is recovered elsewhere; no other is touched."""
    home = eight.a
    before = processes(eight)
    stopped, killed = [vm for vm in VMS if before[vm].startswith(home.name)][:2]
    home.signal_libvirtd("STOP")
    try:
        eight.b.run_command(
            f"crm -F resource stop {stopped} && ({idle.COMMAND})", timeout=200, check=True
        )
        assert stopped not in home.list_domains()
        assert failures(eight) == ""
        home.run_command(f"kill -9 $(cat /run/libvirt/qemu/{killed}.pid)", check=True)
        eight.b.wait_for_command(
            f"crm_resource --resource {killed} --locate 2>&1 | grep -q 'on: {eight.b.name}'",
            timeout=120,
        )
    finally:
        home.signal_libvirtd("CONT")
    known = failures(eight)
    assert known.count("<failure ") == 1
    assert f'op_key="{killed}_monitor_1000"' in known
    after = processes(eight)
    assert {vm: after[vm] for vm in VMS if vm not in (stopped, killed)} == {
        vm: before[vm] for vm in VMS if vm not in (stopped, killed)
    }
