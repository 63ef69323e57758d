# SPDX-License-Identifier: GPL-2.0-or-later
"""A stop has always time to destroy the domain, and never destroys one for want of patience."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.ocf.support.virtual_host import VirtualHost, VirtualLibvirtHost, VirtualXenHost
from vesper_monitor.ocf.invocation import OcfInvocation
from vesper_monitor.ocf.libvirt.virsh_call import VirshCall
from vesper_monitor.ocf.stop_time import DestroyReserve


def reserve(folder: Path, timeout: float = 60.0) -> DestroyReserve:
    environ = {
        "HA_RSCTMP": str(folder),
        "OCF_RESKEY_CRM_meta_timeout": str(int(timeout * 1000)),
    }
    return DestroyReserve(OcfInvocation("stop", environ), "xl")


def test_a_stop_keeps_the_least_time_for_the_destroy(tmp_path: Path) -> None:
    assert reserve(tmp_path).reserve_seconds(0.02) == 15.0
    assert reserve(tmp_path, timeout=12).reserve_seconds(0.02) == 4.0


def test_what_a_destroy_has_taken_here_counts(tmp_path: Path) -> None:
    for seconds in (3.0, 20.0, 4.0):
        reserve(tmp_path).note_duration(seconds)
    assert reserve(tmp_path).reserve_seconds(0.0) == 30.0
    for _ in range(8):
        reserve(tmp_path).note_duration(3.0)
    assert reserve(tmp_path).reserve_seconds(0.0) == 15.0


def test_slow_looks_are_those_of_a_busy_host(tmp_path: Path) -> None:
    assert reserve(tmp_path, timeout=120).reserve_seconds(3.0) == 36.0


@given(st.binary(max_size=100), st.floats(0, 1e6), st.integers(1, 10_000))
def test_whatever_was_noted_the_time_is_within_bounds(
    tmp_path_factory: pytest.TempPathFactory, noted: bytes, look: float, timeout: int
) -> None:
    folder = tmp_path_factory.mktemp("state")
    (folder / "vesper-destroy-xl.times").write_bytes(noted)
    kept = reserve(folder, timeout)
    least = min(15.0, timeout / 3) - 1e-6
    assert least <= kept.reserve_seconds(look) <= max(timeout * 2 / 3, 15.0) + 1e-6
    kept.note_duration(2.5)
    assert reserve(folder, timeout).reserve_seconds(0.0) >= least


# -- whole stops ------------------------------------------------------------------------


@pytest.fixture(params=[VirtualXenHost, VirtualLibvirtHost], ids=lambda kind: kind.name)
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[VirtualHost]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        host: VirtualHost = request.param(tmp_path, monkeypatch)
        host.write_config("vm1")
        host.running = {"vm1"}
        # Not libvirt's QEMU processes: this is about libvirt.
        monkeypatch.setattr(VirshCall, "is_local", lambda _: False)
        yield host


@pytest.mark.parametrize("seconds", [10, 21, 35])
def test_a_toolstack_that_hangs_a_while_costs_no_shutdown(host: VirtualHost, seconds: int) -> None:
    host.hangs_until = host.clock.now + seconds
    assert host.call("stop", timeout=60) == (0, "")
    assert host.done == [("shutdown", "vm1")]


def test_a_request_that_hangs_in_the_toolstack_is_made_anew(host: VirtualHost) -> None:
    host.hanging = {"shutdown"}
    begun = host.clock.now
    spawn = host._spawn

    def later(command: list[str], *args: object, **more: object) -> object:
        if host.clock.now > begun + 12:
            host.hanging = set()
        return spawn(command)

    with pytest.MonkeyPatch.context() as monkeypatch:
        for module in ("libvirt.virsh", "libvirt.virsh_call", "xen.xl"):
            monkeypatch.setattr(f"vesper_monitor.ocf.{module}.spawn_command", later)
        assert host.call("stop", timeout=60) == (0, "")
    assert host.done == [("shutdown", "vm1")]


def test_a_busy_host_keeps_more_time_for_the_destroy(host: VirtualHost) -> None:
    """The guest does not shut down, and each call takes 3 s."""
    host.deaf = {"shutdown"}
    host.call_takes = 3.0
    begun, destroyed = host.clock.now, []
    run = host._run

    def note(command: list[str]) -> tuple[int, str]:
        if "destroy" in command:
            destroyed.append(host.clock.now - begun)
            host.clock.sleep(14.0)  # as it did where it was seen
        return run(command)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(host, "_run", note)
        assert host.call("stop", timeout=60) == (0, "")
    assert destroyed[0] < 40
    assert host.running == set()


def test_a_guest_that_reboots_comes_back_and_is_stopped(tmp_path: Path) -> None:
    """Xen lists no domain for some seconds then; its own daemon brings it back."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        host = VirtualXenHost(tmp_path, monkeypatch)
        host.write_config("vm1")
        host.remember("r1", "vm1")
        back, run = host.clock.now + 3, host._run

        def reboot(command: list[str]) -> tuple[int, str]:
            if host.clock.now > back and not host.done:
                host.running = {"vm1"}
            return run(command)

        monkeypatch.setattr(host, "_run", reboot)
        assert host.call("stop", timeout=60) == (0, "")
        assert host.done == [("shutdown", "vm1")]


@pytest.mark.parametrize("cause", ["asked", "failure"])
def test_a_domain_that_was_destroyed_is_not_waited_for(tmp_path: Path, cause: str) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        host = VirtualXenHost(tmp_path, monkeypatch)
        host.write_config("vm1")
        host.remember("r1", "vm1")
        host.vesperd = lambda asked: {"cause": cause} if asked["op"] == "stop" else {}
        begun = host.clock.now
        assert host.call("stop", timeout=60) == (0, "")
        assert host.clock.now < begun + 2
