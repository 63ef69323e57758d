# SPDX-License-Identifier: GPL-2.0-or-later
"""Requests are about the domain that they name; wrong wishes in them change nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.support.daemons import (
    RESOURCE,
    DaemonProcess,
    Monitor,
    serve,
    wait_collecting,
)
from tests.unit.support.guests import wait_for
from tests.unit.support.standins import guest


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DaemonProcess]:
    monkeypatch.setenv("VESPER_STANDIN_DIR", str(tmp_path / "domains"))
    yield from serve(DaemonProcess(tmp_path, "activate_timeout = 0.5"))


def tell(vm: Any, *words: str) -> None:
    assert asyncio.run(vm.tell(*words)).startswith("ok")


def test_an_activation_is_that_of_the_domain_that_is_named(daemon: DaemonProcess) -> None:
    with guest("vm1"), guest("vm2"):
        began = daemon.call("start", **RESOURCE)
        domain = daemon.call("state", vm="vm1")["domain"]
        number, uuid = str(domain["domid"]), domain["uuid"]
        assert began["domid"] == domain["domid"]
        wait_collecting(daemon, 2)

        def alive(**fields: str) -> bool:
            answer = daemon.call("alive", resource="r1", **fields)
            assert list(answer) == ["ok", "alive"]
            return bool(answer["alive"])

        wait_for(lambda: alive(vm="vm1", domain=number), "signs of life")
        assert alive(vm="vm1", domain=uuid)
        assert not alive(vm="vm2")
        assert not alive(vm="vm2", domain=number)
        assert not alive(vm="vm1", domain="4711")

        def age(vm: str, ident: str) -> float | None:
            answer: float | None = daemon.call("life", vm=vm, domain=ident)["age"]
            return answer

        for ident in (number, uuid):
            found = age("vm1", ident)
            assert found is not None
            assert 0.0 <= found < 10.0
        assert age("vm1", "4711") is age("vm2", number) is age("vm3", number) is None

        # The same resource of another VM, and of a domain that is not there.
        same = daemon.call("change", **RESOURCE, domain=uuid)["instance"]
        assert same == began["instance"]
        assert Monitor(daemon, domain=number, timeout=0.2).result() == "fine"
        assert Monitor(daemon, domain="4711", timeout=0.2).result() == "dead"
        for wrong in ({"vm": "vm2"}, {"vm": "vm1", "domain": "4711"}):
            daemon.call("stop", resource="r1", **wrong)
            assert [vm["resource"] for vm in daemon.call("status")["vms"]] == ["r1"]
        other = daemon.call("change", **{**RESOURCE, "vm": "vm2"})["instance"]
        assert other != same
        rows = {vm["vm"]: vm["resource"] for vm in daemon.call("status")["vms"]}
        assert rows == {"vm1": None, "vm2": "r1"}
        daemon.call("stop", resource="r1", vm="vm2")
        assert {vm["resource"] for vm in daemon.call("status")["vms"]} == {None}


def test_no_sign_of_life_of_a_domain_that_has_ended(daemon: DaemonProcess) -> None:
    with guest("vm1") as vm:
        number = str(daemon.call("start", **RESOURCE)["domid"])
        wait_for(
            lambda: daemon.call("life", vm="vm1", domain=number)["age"] is not None,
            "a sign of life",
        )
        tell(vm, "state", "crashed")
        assert Monitor(daemon, timeout=50).result() == "dead"
        assert daemon.call("life", vm="vm1", domain=number)["age"] is None
        # Its resource still names it: an agent that has forgotten what its resource
        # runs, and cannot read it, would else stop a VM of the resource's own name.
        answer = daemon.call("life", resource="r1")
        assert (answer["vm"], answer["domid"], answer["age"]) == ("vm1", int(number), None)


def test_a_stop_of_a_later_life_ends_an_activation_whose_domain_is_dead(
    daemon: DaemonProcess,
) -> None:
    """A guest has rebooted on Xen, and a probe has found it before a monitor did."""
    with guest("vm1") as vm:
        daemon.call("start", **RESOURCE)
        tell(vm, "state", "crashed")
        assert Monitor(daemon, timeout=50).result() == "dead"
        answer = daemon.call("stop", resource="r1", vm="vm1", domain="4711")
        assert answer["cause"] is None
        assert "vm" not in daemon.call("life", resource="r1")


@pytest.mark.parametrize("away", [False, True], ids=["", "vesperd away"])
@pytest.mark.parametrize("ident", [None, "uuid", "domid"])
def test_a_stop_is_for_no_fault_of_an_earlier_life(
    daemon: DaemonProcess, away: bool, ident: str | None
) -> None:
    def stop() -> dict[str, Any]:
        domain = daemon.call("state", vm="vm1")["domain"]
        named = {} if ident is None else {"domain": str(domain[ident])}
        return daemon.call("stop", resource="r1", vm="vm1", **named)

    with guest("vm1") as vm:
        daemon.call("start", **RESOURCE)
        wait_collecting(daemon, 2)
        tell(vm, "words", "panic", "Fatal exception")
        Monitor(daemon).result()
        assert Monitor(daemon).result() == "fault"
        for _ in range(2):  # the first one was killed
            answer = stop()
            assert (answer["fault"]["rule"], answer["system_gone"]) == ("kernel_panic", True)
        if away:
            daemon.stop()
            daemon.start()
            assert stop()["system_gone"] is True
    if away:
        daemon.stop()
    with guest("vm1"):
        if away:
            daemon.start()
        answer = stop()
        assert (answer["fault"], answer["system_gone"]) == (None, False)


def test_wrong_wishes_change_nothing_and_are_said(daemon: DaemonProcess) -> None:
    with guest("vm1") as vm:
        wrong: dict[str, Any]
        daemon.call("start", **RESOURCE)
        wait_collecting(daemon, 2)
        for wrong in (
            {"services": ["x"] * 65},
            {"services": "httpd"},
            {"services": [""]},
            {"services": ["\udcfc"]},
            {"probes": 5},
            {"fault_on": "send_signal: fatl"},
            {"fault_on": "send_signal: fatal # \udcfc"},
            {"fault_on": ["x"]},
            {"hang_timeout": 1},
            {"pause_timeout": "x"},
        ):
            daemon.call("change", **{**RESOURCE, **wrong})
            told = Monitor(daemon, timeout=0.1, **wrong)
            assert told.result() == "degraded", wrong
            assert told.answer["reason"].startswith("vm1: "), wrong
            assert next(iter(wrong)) in told.answer["reason"]
            assert daemon.call("status")["vms"][0]["degraded"] == told.answer["reason"]
            assert Monitor(daemon, timeout=0.1).result() == "fine", wrong  # corrected
        # What was in force still is.
        waiting = Monitor(daemon, services=5)
        tell(vm, "emit", "send_signal", "sig=11", "comm=httpd", "fatal=1")
        if waiting.result() == "degraded":  # that comes first
            waiting = Monitor(daemon, services=5)
        assert waiting.result() == "fault"
        # After a start the defaults are.
        daemon.call("start", **{**RESOURCE, "services": 5, "probes": 5})
        assert Monitor(daemon, services=5, probes=5).result() == "degraded"
        (row,) = daemon.call("status")["vms"]
        assert row["services"] == []
        assert len(row["probes"]) == 2
