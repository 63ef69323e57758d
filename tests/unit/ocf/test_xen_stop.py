# SPDX-License-Identifier: GPL-2.0-or-later
"""What a stop of XenVM knows beside: the power button, and a crashed domain that is kept."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.ocf.support.host import Host, Result

SUCCESS, ERROR = 0, 1
PANIC = {"scope": "system", "reason": "kernel panic: Fatal exception (system)"}
KEEP = {"OCF_RESKEY_keep_crashed": "true"}


@pytest.fixture
def host(xen: Host) -> Host:
    return xen


@pytest.fixture
def told(host: Host) -> Host:
    """vm1 runs, vesperd listens."""
    host.have(vm1="running")
    host.vesperd.listen()
    return host


def stop(host: Host, fault: dict[str, Any] | None, *, gone: bool, **extra: str) -> Result:
    """A stop to which vesperd says so."""
    host.vesperd.answers["stop"] = lambda _: {"fault": fault, "system_gone": gone}
    return host.call("stop", **extra)


def shutdowns(host: Host) -> list[str]:
    return [call for call in host.calls() if call.split()[0] in ("shutdown", "trigger")]


def test_the_power_button(told: Host) -> None:
    result = stop(told, None, gone=False, OCF_RESKEY_shutdown_acpi="1")
    assert result.code == SUCCESS
    assert shutdowns(told) == ["trigger vm1 power"]
    assert told.listed() == []


@pytest.mark.parametrize(("acpi", "times"), [("1", 2), ("0", 1)])
def test_only_the_power_button_is_pressed_again(told: Host, acpi: str, times: int) -> None:
    """What xl writes waits for the guest in xenstore."""
    told.be("stubborn")
    options = {"OCF_RESKEY_shutdown_acpi": acpi, "OCF_RESKEY_shutdown_timeout": "8"}
    assert stop(told, None, gone=False, **options).code == SUCCESS
    assert len(shutdowns(told)) == times


# -- a crashed domain that is kept ---------------------------------------------------------


@pytest.mark.parametrize("flags", ["---sc-", "----c-"])
def test_a_crashed_domain_is_kept_without_its_disks(host: Host, flags: str) -> None:
    host.domains(f"vm1 {flags}")
    result = host.call("stop", **KEEP)
    assert result.code == SUCCESS
    assert host.listed() == [f"vm1--crashed {flags}"]
    # Disks first: a stop that is killed in between must find the domain again.
    assert host.calls()[-5:-1] == [
        "block-list vm1",
        "block-detach --force vm1 51712",
        "block-detach --force vm1 51728",
        "rename vm1 vm1--crashed",
    ]
    assert "xl dump-core vm1--crashed FILE" in result.stderr
    # And it is not the VM any more.
    assert host.call("monitor").code == 7
    assert host.call("stop", **KEEP).code == SUCCESS
    assert host.listed() == [f"vm1--crashed {flags}"]


def test_without_the_parameter_none_is_kept(host: Host) -> None:
    host.have(vm1="crashed")
    assert host.call("stop").code == SUCCESS
    assert host.listed() == []


@pytest.mark.parametrize("flags", ["-b----", "---s--"])
def test_only_crashed_ones_are_kept(host: Host, flags: str) -> None:
    host.domains(f"vm1 {flags}")
    assert host.call("stop", **KEEP).code == SUCCESS
    assert host.listed() == []


def test_disks_that_are_not_released_are_not_kept(host: Host) -> None:
    """Or the VM could not start elsewhere."""
    host.be("busy-disks")
    host.have(vm1="crashed")
    result = host.call("stop", **KEEP)
    assert result.code == SUCCESS
    assert host.listed() == []
    assert "device not removed" in result.stderr


def test_one_is_kept_at_most(host: Host) -> None:
    host.domains("vm1--crashed ---sc-", "vm1 ----c-")
    assert host.call("stop", **KEEP).code == SUCCESS
    assert host.listed() == ["vm1--crashed ----c-"]
    assert "destroy vm1--crashed" in host.calls()


def test_a_panic_that_is_known_before_the_domain_has_crashed(told: Host) -> None:
    told.tool.rename(told.bin / "xl.real")
    told.script(
        "xl",
        'xl.real "$@"; code=$?\n'
        '[ "$1" = list ] && sed -i "s/^vm1 -b----/vm1 ---sc-/" "$FAKE_XL/domains"\n'
        "exit $code",
    )
    result = stop(told, PANIC, gone=True, **KEEP)
    assert result.code == SUCCESS
    assert told.listed() == ["vm1--crashed ---sc-"]
    assert shutdowns(told) == []


def test_a_hang_is_not_waited_for_long(told: Host) -> None:
    result = stop(told, PANIC, gone=True, **KEEP)
    assert result.code == SUCCESS
    assert result.seconds < 12
    assert told.listed() == []


def test_a_kept_domain_never_costs_a_start(host: Host) -> None:
    host.domains("vm1--crashed ---sc-")
    assert host.call("start", **KEEP).code == SUCCESS
    assert host.listed() == ["vm1--crashed ---sc-", "vm1 -b----"]
    host.domains("vm1--crashed ---sc-")
    host.be("full")
    result = host.call("start", **KEEP)
    assert result.code == SUCCESS
    assert host.running() == ["vm1"]
    assert "failed to free memory" in result.stderr


def test_a_start_that_fails_for_another_reason_fails(host: Host) -> None:
    host.config.write_text("# bad-config\n")
    host.domains("vm1--crashed ---sc-")
    assert host.call("start", OCF_RESKEY_name="vm1").code == ERROR
