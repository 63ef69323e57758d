# SPDX-License-Identifier: GPL-2.0-or-later
"""libvirt resets a guest that has panicked (on_crash=restart): no monitor says it does not run."""

from __future__ import annotations

import time

from lab.kvm import KvmLab
from tests.kvm.support.vm1 import CONFIG, agent

SUCCESS, DEGRADED = 0, 190


def test_a_guest_without_modules_that_libvirt_restarts(cleaned: KvmLab) -> None:
    lab = cleaned
    host, guest = lab.a, lab.guest_through(through=lab.a)
    xml = lab.domain_xml(extra="lab.vesper=no", on_crash="restart")
    host.put_file(CONFIG, xml.encode())
    assert agent(host, "start", timeout=90).rc == SUCCESS
    guest.wait_ready(60)
    qemu, boot = (
        host.run_command("cat /run/libvirt/qemu/vm1.pid").output,
        guest.fetch_page(timeout=10),
    )
    agent(host, "monitor")  # the first, which does not wait
    guest.power_guest_off("panic")
    codes = []
    deadline = time.monotonic() + 120
    while guest.fetch_page(timeout=1) in (None, boot):
        codes.append(agent(host, "monitor", timeout=12).rc)
        assert time.monotonic() < deadline, codes
    codes.append(agent(host, "monitor", timeout=12).rc)
    assert set(codes) <= {SUCCESS, DEGRADED}, codes
    assert host.run_command("cat /run/libvirt/qemu/vm1.pid").output == qemu
