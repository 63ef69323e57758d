# SPDX-License-Identifier: GPL-2.0-or-later
"""LibvirtVM's stop of a guest that does not hear."""

from __future__ import annotations

from tests.unit.ocf.support.host import Host

SUCCESS = 0


def test_a_guest_that_boots_is_asked_again(kvm: Host) -> None:
    kvm.have(vm1="running")
    (kvm.fake / "booting").write_text("1")
    result = kvm.call("stop", timeout=90, OCF_RESKEY_shutdown_mode="acpi")
    assert result.code == SUCCESS
    assert result.seconds < 30
    assert kvm.calls("shutdown") == ["shutdown vm1 --mode acpi"] * 2
    assert kvm.calls("destroy") == []
    assert "asked to shut down once more" in result.stderr
