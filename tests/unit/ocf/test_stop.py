# SPDX-License-Identifier: GPL-2.0-or-later
"""A stop that knows the cause: who is asked to shut down, who is not, who is kept."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.ocf.support.host import Host, Result

SUCCESS, ERROR = 0, 1
PANIC = {"scope": "system", "reason": "kernel panic: Fatal exception (system)"}
SIGSEGV = {"scope": "service", "reason": "httpd[97] killed by SIGSEGV (service)"}


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
    return host.calls("shutdown")


def test_a_system_that_is_gone_is_destroyed_at_once(told: Host) -> None:
    told.be("stubborn")
    result = stop(told, PANIC, gone=True, OCF_RESKEY_shutdown_timeout="15")
    assert result.code == SUCCESS
    assert shutdowns(told) == []
    assert told.listed() == []
    assert "not shut down, the system inside is gone: kernel panic: Fatal exc" in result.stderr


def test_a_service_that_is_gone_leaves_a_system_to_shut_down(told: Host) -> None:
    result = stop(told, SIGSEGV, gone=False)
    assert result.code == SUCCESS
    assert shutdowns(told) == ["shutdown vm1"]
    assert "destroy vm1" not in told.calls()
    assert "the system inside still runs and is shut down: httpd[97]" in result.stderr


def test_it_has_its_shutdown_timeout_for_that(told: Host) -> None:
    told.be("stubborn")
    result = stop(told, SIGSEGV, gone=False, OCF_RESKEY_shutdown_timeout="3")
    assert result.code == SUCCESS
    assert result.seconds >= 3
    assert told.listed() == []


@pytest.mark.parametrize(
    "answer", [{}, {"fault": None}, {"fault": "x", "system_gone": "yes"}, {"system_gone": 1}]
)
def test_what_vesperd_does_not_clearly_say_is_no_reason_to_destroy(
    told: Host, answer: dict[str, Any]
) -> None:
    told.vesperd.answers["stop"] = lambda _: answer
    assert told.call("stop").code == SUCCESS
    assert shutdowns(told) == ["shutdown vm1"]


def test_a_guest_that_crashes_while_it_shuts_down_is_not_waited_for(told: Host) -> None:
    told.tool.rename(told.bin / "real")
    crashed = f"s/ {told.flags['running']}/ {told.flags['crashed']}/"
    told.script(
        told.command,
        f'case "$*" in *shutdown*) sed -i "{crashed}" {told.fake}/domains; exit 0; esac\n'
        'exec real "$@"',
    )
    result = stop(told, None, gone=False, OCF_RESKEY_shutdown_timeout="600")
    assert result.code == SUCCESS
    assert result.seconds < 10
    assert "destroy vm1" in told.calls()
