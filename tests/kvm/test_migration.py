# SPDX-License-Identifier: GPL-2.0-or-later
"""Live migration under Pacemaker, with VESPER's device in place, and with one that cannot go."""

from __future__ import annotations

import os
import time

import pytest

from lab.evaluation import cluster
from lab.kvm import KvmHost, KvmLab
from tests.kvm.support.vm1 import CONFIG, agent, clean, fatal_signals, other
from tests.support.vm1 import fail_count, status, wait_collecting, wait_started

#: ``make migrations`` does 20.
COUNT = int(os.environ.get("VESPER_MIGRATIONS", "3"))


def seconds_until_watched(target: KvmHost) -> float:
    """From the first moment at which the guest runs there."""
    target.wait_for_command("virsh domstate vm1 | grep -q running", timeout=120, every=0.02)
    begin = time.monotonic()
    while True:
        now = status(target)
        if [probe["state"] for probe in now.get("probes", [])] == ["collecting"] * 2:
            return time.monotonic() - begin
        assert time.monotonic() < begin + 60, f"not watched: {now}"


def test_migrations_are_no_fault(vm1: KvmLab) -> None:
    home = vm1.running_on()
    assert home is not None
    wait_collecting(home)
    boot = vm1.guest_through(through=home).fetch_page(timeout=5)
    took = []
    for number in range(COUNT):
        target = other(vm1, home)
        target.run_command("truncate -s 0 /var/log/vesperd.log", check=True)
        before = fatal_signals(target)
        # A worker dies on each side of the migration; that is no fault.
        guest = vm1.guest_through(through=target)
        guest.run_command("sleep 1000 & sleep 1; kill -ILL $!; sleep 1")
        home.wait_for_command("vesper events --json | tail -n 1 | grep -q SIGILL", timeout=30)
        target.run_command(f"crm_resource --resource vm1 --move --node {target.name}", check=True)
        took.append(seconds_until_watched(target))
        wait_started(target)
        target.run_command("crm_resource --resource vm1 --clear", check=True)
        assert vm1.running_on() is target
        assert home.list_domains() == []
        assert guest.fetch_page(timeout=10) == boot, "it was started anew, not migrated"
        assert fail_count(vm1) == 0, f"migration {number + 1}"
        # The probes came along: none was loaded, and what they see comes once.
        assert "loaded probe" not in target.run_command("cat /var/log/vesperd.log").output
        guest.run_command("sleep 1000 & sleep 1; kill -FPE $!; sleep 1")
        target.wait_for_command("vesper events --json | tail -n 1 | grep -q SIGFPE", timeout=30)
        new = fatal_signals(target)[len(before) :]
        assert new[-1] == "SIGFPE"
        assert new.count("SIGFPE") == 1
        target.wait_for_command(
            "vesper status --json | grep -q '\"waiting\": *true'", timeout=60
        )  # a monitor of Pacemaker's
        home = target
    print("watched again after", ", ".join(f"{seconds:.2f} s" for seconds in took))


#: In virsh's place: a migration goes slowly until /run/go is there, and /run/under-way
#: says that memory is being sent.
SLOW_VIRSH = r"""#!/bin/sh
case " $* " in *" migrate "*) ;; *) exec /usr/bin/virsh "$@" ;; esac
[ -e /run/before ] && { touch /run/under-way; until [ -e /run/go ]; do sleep 0.1; done; }
/usr/bin/virsh --quiet migrate-setspeed vm1 1
/usr/bin/virsh "$@" & job=$!
until [ -e /run/go ]; do
    /usr/bin/virsh --quiet domjobinfo vm1 | grep -q "^Memory remaining" && touch /run/under-way
    kill -0 $job || break
    sleep 0.1
done
/usr/bin/virsh --quiet migrate-setspeed vm1 1000
wait $job
"""


@pytest.mark.parametrize("phase", ["before", "under-way"])
def test_a_fault_during_a_migration_is_told_at_the_target(vm1: KvmLab, phase: str) -> None:
    """Pacemaker has cancelled the monitor: the fault goes along, and is one failure."""
    home = vm1.running_on()
    assert home is not None
    target = other(vm1, home)
    wait_collecting(home)
    guest = vm1.guest_through(through=target)
    boot = guest.fetch_page(timeout=5)
    home.run_command("rm -f /run/before /run/under-way /run/go; touch /run/" + phase, check=True)
    home.run_command("rm -f /run/under-way", check=True)
    home.put_file("/usr/sbin/virsh", SLOW_VIRSH.encode())
    home.run_command("chmod 755 /usr/sbin/virsh", check=True)
    try:
        target.run_command("truncate -s 0 /var/log/vesperd.log", check=True)
        target.run_command(f"crm_resource --resource vm1 --move --node {target.name}", check=True)
        home.wait_for_command("[ -e /run/under-way ]", timeout=60)
        guest.run_command("kill -SEGV $(pidof httpd)")
        home.wait_for_command("vesper faults | grep -q SIGSEGV", timeout=30)
        home.run_command("touch /run/go", check=True)
        target.wait_for_command("grep -q 'came along' /var/log/vesperd.log", timeout=120)
        # Restarted: another boot of the guest.
        home.run_command("crm_resource --wait --timeout=120s", timeout=150)
        vm1.guest_through(through=target).wait_ready(120)
    finally:
        home.run_command(
            "touch /run/go; rm -f /usr/sbin/virsh /run/before /run/under-way", check=True
        )
        target.run_command("crm_resource --resource vm1 --clear", check=True)
    assert vm1.guest_through(through=target).fetch_page(timeout=10) != boot
    told = [
        line
        for host in vm1.hosts
        for line in host.run_command("vesper faults", check=True).output.splitlines()
        if "SIGSEGV" in line
    ]
    print("\n".join(told))
    assert fail_count(vm1) == 1
    left = target.run_command("attrd_updater --query --all --name vesper-carried-vm1").output
    assert 'value="ey' not in left


def test_a_paused_vm_arrives_paused(vm1: KvmLab) -> None:
    """As with the stock agent: what an operator has paused is moved and keeps its memory."""
    home = vm1.running_on()
    assert home is not None
    target = other(vm1, home)
    boot = vm1.guest_through(through=target).fetch_page(timeout=5)
    home.run_command("virsh suspend vm1", check=True)
    target.run_command(f"crm_resource --resource vm1 --move --node {target.name}", check=True)
    wait_started(target)
    target.run_command("crm_resource --resource vm1 --clear", check=True)
    assert target.run_command("virsh domstate --reason vm1").output.strip() == "paused (user)"
    target.run_command("virsh resume vm1", check=True)
    assert vm1.guest_through(through=target).fetch_page(timeout=10) == boot
    assert fail_count(vm1) == 0


#: As an administrator might write it, without the override.
NO_MASTER = """\
<shmem name='vesper'><model type='ivshmem-doorbell'/>
  <server path='/run/vesper-ivshmem/qemu.sock'/><msi vectors='1'/><alias name='ua-mine'/></shmem>
"""


def worker_dies(lab: KvmLab, host: KvmHost, number: str, name: str) -> None:
    """In the guest that runs there, which vesperd sees once; it is no fault."""
    before = fatal_signals(host)
    lab.guest_through(through=host).run_command(f"sleep 1000 & sleep 1; kill -{number} $!; sleep 1")
    host.wait_for_command(f"vesper events --json | tail -n 1 | grep -q {name}", timeout=30)
    assert fatal_signals(host)[len(before) :].count(name) == 1


def test_a_device_that_cannot_go_along(lab: KvmLab) -> None:
    """It is unplugged and plugged in, there or, where it did not go, here; QEMU lives on."""
    clean(lab)
    for host in lab.hosts:
        host.put_file(CONFIG, lab.domain_xml(devices=NO_MASTER).encode())
    try:
        cluster.configure_resource(lab, "vesper", print)
        home = lab.running_on()
        assert home is not None
        wait_collecting(home)
        boot = lab.guest_through(through=home).fetch_page(timeout=5)
        qemu = home.run_command("cat /run/libvirt/qemu/vm1.pid").output
        for _ in range(3):
            to = agent(home, "migrate_to", CRM_meta_migrate_target="nowhere")
            assert to.rc == 1, to.output
            assert "cannot be migrated; unplugging it" in to.output
            assert "VESPER's device is plugged in" in to.output
            wait_collecting(home)
            worker_dies(lab, home, "ILL", "SIGILL")
        assert home.run_command("cat /run/libvirt/qemu/vm1.pid").output == qemu
        # What it has left behind keeps QEMU's own thread from nothing, and from resting.
        used = f"awk '{{print $14 + $15}}' /proc/{qemu}/task/{qemu}/stat".replace("\n", "")
        first = int(home.run_command(used, check=True).output)
        time.sleep(3.0)
        assert int(home.run_command(used, check=True).output) - first < 150  # of 300
        for _ in range(2):
            target = other(lab, home)
            target.run_command(
                f"crm_resource --resource vm1 --move --node {target.name}", check=True
            )
            print(f"plugged in, and watched again after {seconds_until_watched(target):.2f} s")
            wait_started(target)
            target.run_command("crm_resource --resource vm1 --clear", check=True)
            assert lab.running_on() is target
            assert lab.guest_through(through=target).fetch_page(timeout=10) == boot
            worker_dies(lab, target, "FPE", "SIGFPE")
            home = target
        assert fail_count(lab) == 0
    finally:
        clean(lab)


def test_an_ivshmem_server_that_hangs_at_the_target(cleaned: KvmLab) -> None:
    """QEMU there waits for it for ever: nobody else does, and the guest goes on here."""
    home, target = cleaned.hosts
    assert agent(home, "start").rc == 0
    guest = cleaned.guest_through(through=home)
    guest.wait_ready(60)
    boot = guest.fetch_page(timeout=10)
    target.run_command("pkill -STOP -f /usr/sbin/vesper-ivshmem", check=True)
    try:
        parameters = {"CRM_meta_migrate_target": target.name, "migration_transport": "tcp"}
        to = agent(home, "migrate_to", timeout=20, **parameters)
        assert to.rc == 1, to.output
        assert "not done within the operation's timeout" in to.output
        assert guest.fetch_page(timeout=10) == boot
        assert agent(home, "monitor").rc in (0, 190)
        # Pacemaker stops it on both then.
        assert agent(target, "stop").rc == 0
        assert target.list_domains() == []
    finally:
        target.run_command("pkill -CONT -f /usr/sbin/vesper-ivshmem", check=True)
    assert guest.fetch_page(timeout=10) == boot
    worker_dies(cleaned, home, "ILL", "SIGILL")
    assert agent(home, "stop").rc == 0
