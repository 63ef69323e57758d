# SPDX-License-Identifier: GPL-2.0-or-later
"""The whole chain on real Xen: from the fault in the guest to the standby host."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.evaluation import trial
from lab.guest import Guest
from lab.xen import XenHost, XenLab, project
from tests.support.vm1 import FAULTS, fail_count, wait_collecting


@pytest.mark.parametrize(("fault", "reason"), FAULTS)
def test_fault_fails_over(vm1: XenLab, fault: str, reason: tuple[str, ...]) -> None:
    home = vm1.running_on()
    run = trial.perform_trial(vm1, fault, "vesper", print)
    steps = [run.seen_s, run.recorded_s, run.stop_s, run.started_elsewhere_s]
    assert all(step is not None for step in steps), run
    assert steps == sorted(steps), run  # type: ignore[type-var]
    assert run.service_back_s is not None
    for word in reason:
        assert word in run.exit_reason
    assert vm1.running_on() is not home
    assert fail_count(vm1) == 1


def test_vesperd_is_restarted_while_the_guest_runs(vm1: XenLab) -> None:
    home = vm1.running_on()
    assert home is not None
    guest = vm1.guest_through(through=home)
    domid, boot = home.run_command("xl domid vm1").output, guest.fetch_page(timeout=5)
    home.stop_vesperd(signal="KILL")
    home.start_vesperd()
    wait_collecting(home)

    # It sees again what happens in the guest; that a worker dies is no fault.
    # (The first sleep: until it has become what it is.)
    guest.run_command("sleep 1000 & sleep 1; kill -SEGV $!; sleep 1")
    home.wait_for_command("vesper events --json | grep SIGSEGV | grep -q sleep", timeout=30)
    assert home.run_command("xl domid vm1").output == domid
    assert guest.fetch_page(timeout=5) == boot
    assert fail_count(vm1) == 0


def test_destroyed_domain_leaves_no_zombie(guest_on_a: XenHost) -> None:
    host = guest_on_a
    host.run_command("vesper activate vm1", timeout=60, check=True)
    wait_collecting(host)
    domid = host.run_command("xl domid vm1", check=True).output.strip()
    host.run_command("xl destroy vm1", timeout=60, check=True)
    # xl list does not show a dying domain by its name: ask by its number.
    host.wait_for_command(f"! xl list {domid}", timeout=20)
    assert host.run_command("vesper status", timeout=30).rc == 0


@pytest.fixture
def impatient(cleaned: XenLab) -> Iterator[XenLab]:
    """vesperd on host-a gives a guest less time to boot than it does by itself."""
    host, path = cleaned.a, "/etc/vesper/vesperd.toml"
    before = host.run_command(f"cat {path}", check=True).output
    host.put_file(path, f"activate_timeout = 10\n{before}".encode())
    host.stop_vesperd()
    host.start_vesperd()
    try:
        yield cleaned
    finally:
        host.put_file(path, before.encode())
        host.stop_vesperd()
        host.start_vesperd()


def test_guest_without_modules_degrades(impatient: XenLab) -> None:
    host = impatient.a
    host.put_file("/etc/xen/vm1.cfg", project.guest_config("lab.vesper=no").encode())
    host.run_command("xl create /etc/xen/vm1.cfg", timeout=60, check=True)
    Guest(host).wait_ready(60)
    agent = (
        "OCF_ROOT=/usr/lib/ocf OCF_RESOURCE_INSTANCE=vm1 OCF_RESOURCE_TYPE=XenVM "
        "OCF_RESOURCE_PROVIDER=vesper OCF_RESKEY_xmfile=/etc/xen/vm1.cfg "
        "OCF_RESKEY_CRM_meta_interval=1000 OCF_RESKEY_CRM_meta_timeout=40000 "
        "/usr/lib/ocf/resource.d/vesper/XenVM "
    )
    result = host.run_command(agent + "monitor", timeout=60)
    if result.rc == 0:  # the first one returns at once, before the guest could answer
        result = host.run_command(agent + "monitor", timeout=60)
    assert result.rc == 190, result.output
    assert "vesper.ko" in result.output or "module" in result.output
    # Not a bare destroy: vesperd would keep a resource whose domain is dead.
    host.run_command(agent + "stop", timeout=60, check=True)
