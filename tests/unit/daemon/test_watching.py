# SPDX-License-Identifier: GPL-2.0-or-later
"""Who watches a domain: no monitor is told that all is well without a live session."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from lab.standin.transport import StandinTransport
from tests.unit.support.daemons import (
    MONITOR,
    RESOURCE,
)
from tests.unit.support.running import Running, collects, run
from tests.unit.support.standins import guest, until
from vesper_monitor.client import Client, DaemonError
from vesper_monitor.faults import monitors
from vesper_monitor.faults.activation import Result
from vesper_monitor.guest.health.heartbeat import HeartbeatWatch
from vesper_monitor.guest.session_link import SessionLink
from vesper_monitor.hypervisor.transport import Domain, DomainEvent, TransportError


class Late(StandinTransport):
    """Comes up when it may."""

    name = "late"
    up = False

    async def start(self) -> None:
        if not self.up:
            raise TransportError("its daemon does not answer")
        await super().start()


class Elsewhere(StandinTransport):
    name = "elsewhere"

    @classmethod
    def explain_unusable(cls) -> str | None:
        return "this kernel does not run on it"


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Running:
    monkeypatch.setenv("VESPER_STANDIN_DIR", str(tmp_path / "domains"))
    return Running(tmp_path)


def test_a_resource_whose_transport_does_not_come_up_is_degraded(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of C1: known from the journal, and nobody is there to watch its domain."""
    monkeypatch.setattr(monitors, "UNWATCHED_WAIT_S", 0.3)
    monkeypatch.setattr("vesper_monitor.daemon.transports.RETRY_FIRST_S", 0.1)
    monkeypatch.setattr("vesper_monitor.daemon.transports.RETRY_LAST_S", 0.1)

    async def body() -> None:
        monkeypatch.setattr(Late, "up", True)
        with guest("vm1") as vm:
            daemon = await running.begin({"late": Late})
            await daemon.sessions.transports.wait_for_first_try("late")
            await running.ask("start", **RESOURCE)
            assert (await running.monitor(first=True))["result"] == "fine"
            await daemon.stop()

            monkeypatch.setattr(Late, "up", False)
            daemon = await running.begin({"elsewhere": Elsewhere, "late": Late})
            for changes in ({}, {"first": True}, {"timeout": 0.1}):
                answer = await running.monitor(**changes)  # not after 20 s
                assert answer["result"] == "degraded", changes
                assert answer["reason"] == (
                    "vm1 is not watched: transport late: its daemon does not answer"
                )
            (row,) = (await running.ask("status"))["vms"]
            assert row["degraded"] == answer["reason"]

            # When it comes up all is well again, by itself and at once.
            monkeypatch.setattr(monitors, "UNWATCHED_WAIT_S", 10.0)
            waiting = asyncio.create_task(running.monitor(timeout=50))
            monkeypatch.setattr(Late, "up", True)
            assert (await waiting)["result"] == "fine"
            await until(lambda: collects(daemon), "probes")
            waiting = asyncio.create_task(running.monitor(timeout=50))
            await until(lambda: daemon.activations.list_all()[0].waiting, "the monitor")
            vm.kill()
            assert (await waiting)["result"] == "dead"
            await daemon.stop()

            # The configuration names another one now.
            daemon = await running.begin({"elsewhere": Elsewhere})
            answer = await running.monitor(timeout=0.1)
            assert answer["result"] == "degraded"
            assert "transport late, which vesperd does not use" in answer["reason"]
            await daemon.stop()

    run(body)


def test_a_vm_without_a_resource_is_degraded_while_its_transport_is_down(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its session knows nothing of that; the status asks the session manager."""

    class Ending(StandinTransport):
        """Its events end when the test says so."""

        name = "ending"
        over: ClassVar[asyncio.Event]

        async def follow_events(self) -> AsyncIterator[DomainEvent]:
            await self.over.wait()
            return
            yield

    monkeypatch.setattr("vesper_monitor.daemon.transports.RETRY_FIRST_S", 60.0)

    async def body() -> None:
        Ending.over = asyncio.Event()
        with guest("vm1"):
            daemon = await running.begin({"ending": Ending})
            await daemon.sessions.transports.wait_for_first_try("ending")
            await running.ask("activate", vm="vm1")
            await until(lambda: collects(daemon), "probes")
            (row,) = (await running.ask("status"))["vms"]
            assert (row["resource"], row["degraded"]) == (None, None)
            Ending.over.set()
            await until(lambda: daemon.sessions.transports.list_states()["ending"], "its end")
            (row,) = (await running.ask("status"))["vms"]
            assert row["degraded"] == (
                "vm1 is not watched: transport ending: its events have ended"
            )
            await daemon.stop()

    run(body)


def test_a_restart_of_vesperd_shows_nowhere(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A monitor that is faster than the transport waits for that."""

    class Slow(StandinTransport):
        name = "slow"

        async def start(self) -> None:
            await asyncio.sleep(0.5)
            await super().start()

    async def body() -> None:
        with guest("vm1"):
            daemon = await running.begin({"slow": Slow})
            await daemon.sessions.transports.wait_for_first_try("slow")
            await running.ask("start", **RESOURCE)
            await daemon.stop()
            for first in (False, True):
                daemon = await running.begin({"slow": Slow})
                answer = await running.monitor(first=first, timeout=2)
                assert answer["result"] == "fine", first
                assert daemon.sessions.session_of("vm1") is not None
                await daemon.stop()

    run(body)


def test_all_reasons_are_said_but_those_that_are_no_trouble(running: Running) -> None:
    class Lacking(StandinTransport):
        name = "lacking"

        @classmethod
        def explain_unusable(cls) -> str | None:
            return "its client library is not installed"

    async def reason(transports: dict[str, Any]) -> str:
        daemon = await running.begin(transports)
        await daemon.sessions.transports.wait_for_first_try("")
        answer = await running.monitor() if daemon.activations.list_all() else {}
        if not answer:
            try:
                await running.ask("start", **RESOURCE)
            except DaemonError as error:
                answer = {"reason": str(error)}
        found = (await running.ask("status"))["transports"]
        await daemon.stop()
        return f"{answer.get('reason')} | {sorted(found)}"

    async def body() -> None:
        with guest("vm1"):
            assert await reason({"lacking": Lacking, "elsewhere": Elsewhere}) == (
                "vesperd can watch no VM on this host: transport lacking: its client library is "
                "not installed; transport elsewhere: this kernel does not run on it "
                "| ['elsewhere', 'lacking']"
            )
            said = await reason({"gone": "cannot be loaded: no module x", "elsewhere": Elsewhere})
            assert "transport gone: cannot be loaded: no module x |" in said
            # Here another one works.
            said = await reason({"standin": StandinTransport, "elsewhere": Elsewhere})
            assert said == "None | ['standin']"

    run(body)


@pytest.mark.parametrize("broken", [Late, "cannot be loaded: no module x"], ids=["down", "broken"])
def test_what_a_transport_that_is_down_may_know_is_not_known(running: Running, broken: Any) -> None:
    """Or a stop would believe the VM gone."""

    async def body() -> None:
        daemon = await running.begin({"standin": StandinTransport, "late": broken})
        await daemon.sessions.transports.wait_for_first_try("")
        with pytest.raises(DaemonError, match="cannot tell whether vm1 runs") as error:
            await running.ask("state", vm="vm1")
        assert error.value.code == "no-transport"
        await daemon.stop()
        daemon = await running.begin({"standin": StandinTransport, "elsewhere": Elsewhere})
        await daemon.sessions.transports.wait_for_first_try("")
        assert (await running.ask("state", vm="vm1"))["domain"] is None
        await daemon.stop()

    run(body)


def test_a_journal_whose_disk_stalls_delays_no_watch(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is started then is watched all the same."""
    monkeypatch.setattr("vesper_monitor.daemon.sessions.POSITIONS_LIMIT_S", 0.2)

    async def never(_: Domain) -> dict[Any, int]:
        await asyncio.Event().wait()
        return {}

    async def body() -> None:
        with guest("vm1") as vm:
            daemon = await running.begin({"standin": StandinTransport})
            await daemon.sessions.transports.wait_for_first_try("standin")
            monkeypatch.setattr(daemon.domains, "read_positions", never)
            await running.ask("start", **RESOURCE)
            await until(lambda: collects(daemon), "probes")
            await running.monitor(first=True)
            await vm.tell("emit", "send_signal", "sig=11", "comm=httpd", "fatal=1")
            assert (await running.monitor())["result"] == "fault"
            await daemon.stop()

    run(body)


class Held(StandinTransport):
    """Says where a domain is when it may."""

    name = "held"
    gate: ClassVar[asyncio.Event]
    asked: ClassVar[int] = 0

    async def find_domain(self, name: str) -> Domain | None:
        Held.asked += 1
        await self.gate.wait()
        return await super().find_domain(name)


@pytest.mark.parametrize("stage", ["find", "positions"])
def test_what_a_killed_monitor_began_is_watched_once(
    running: Running, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """What it has begun is watched (M4), and once."""

    async def body() -> None:
        Held.gate, Held.asked = asyncio.Event(), 0
        with guest("vm1"):
            daemon = await running.begin({"held": Held})
            await until(lambda: daemon.sessions.transports.list_usable("held"), "up")
            positions = daemon.domains.read_positions
            reading = asyncio.Event()

            async def late(domain: Domain) -> Any:
                reading.set()
                await Held.gate.wait()
                return await positions(domain)

            if stage == "positions":
                monkeypatch.setattr(Held, "find_domain", StandinTransport.find_domain)
                monkeypatch.setattr(daemon.domains, "read_positions", late)
            with Client(running.config.socket) as client:
                client.begin_request("wait", **MONITOR)
                if stage == "find":
                    await until(lambda: Held.asked, "the question")
                else:
                    await reading.wait()
            # The next one comes before it is done.
            second = asyncio.create_task(running.monitor(first=True))
            await asyncio.sleep(0.05)
            Held.gate.set()
            assert (await second)["result"] == "fine"
            await until(lambda: collects(daemon), "probes")
            assert len(daemon.sessions.list_sessions()) == 1
            assert not daemon.sessions._starting
            with pytest.raises(AssertionError):  # no second instance took its place
                await until(lambda: len(daemon.activations.list_all()) != 1, "", 0.1)
            await daemon.stop()

    run(body)


def test_a_stop_ends_what_a_killed_monitor_begins(running: Running) -> None:
    async def body() -> None:
        Held.gate, Held.asked = asyncio.Event(), 0
        with guest("vm1"):
            daemon = await running.begin({"held": Held})
            await until(lambda: daemon.sessions.transports.list_usable("held"), "up")
            with Client(running.config.socket) as client:
                client.begin_request("wait", **MONITOR)
                await until(lambda: Held.asked, "the question")
            await running.ask("stop", resource="r1", vm="vm1")
            Held.gate.set()
            await until(lambda: not daemon.domains.unfinished, "its end")
            assert daemon.activations.list_all() == []
            await daemon.stop()

    run(body)


@pytest.mark.parametrize(
    ("part", "helper"), [(SessionLink, "_keep_probes"), (HeartbeatWatch, "_watch_reader")]
)
def test_an_internal_error_of_a_sessions_helper_is_seen(
    running: Running, monkeypatch: pytest.MonkeyPatch, part: type, helper: str
) -> None:
    """The watch is begun again, and the monitor is told meanwhile."""
    monkeypatch.setattr("vesper_monitor.daemon.sessions.BEGIN_AGAIN_AFTER_S", 0.2)
    wrong = [True]
    right = getattr(part, helper)

    async def fails(self: object, *given: object) -> None:
        if wrong:
            raise ZeroDivisionError("a bug")
        await right(self, *given)

    async def body() -> None:
        with guest("vm1"):
            daemon = await running.begin({"standin": StandinTransport})
            await daemon.sessions.transports.wait_for_first_try("standin")
            monkeypatch.setattr(part, helper, fails)
            await running.ask("start", **RESOURCE)
            answer = await running.monitor()
            assert answer["result"] == "degraded"
            assert "internal error" in answer["reason"]
            assert "a bug" in answer["reason"]
            wrong.clear()
            await until(lambda: collects(daemon), "probes")
            await daemon.stop()

    run(body)


def test_a_deactivation_while_the_domain_ends_is_no_error(
    running: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The manager asks for the state of a domain whose session was removed meanwhile."""

    async def body() -> None:
        with guest("vm1") as vm:
            daemon = await running.begin({"standin": StandinTransport})
            await daemon.sessions.transports.wait_for_first_try("standin")
            await running.ask("start", **RESOURCE)
            await until(lambda: collects(daemon), "probes")
            session = daemon.sessions.session_of("vm1")
            assert session is not None
            asked, go_on = asyncio.Event(), asyncio.Event()

            async def report(domain: Domain) -> None:
                if session.state.value == "closed":
                    asked.set()
                    await go_on.wait()

            monkeypatch.setattr(daemon.sessions, "report_of", report)
            vm.kill()
            await asked.wait()
            # Its session has ended, and that it is dead is not known yet: not fine.
            (instance,) = daemon.activations.list_all()
            assert instance.answer_at_timeout().result is Result.DEGRADED
            await running.ask("deactivate", vm="vm1")
            go_on.set()
            await daemon.stop()
        assert "internal error" not in caplog.text

    run(body)
