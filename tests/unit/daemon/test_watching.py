# SPDX-License-Identifier: GPL-2.0-or-later
"""Who watches a domain: nobody is told that all is well where no live session stands behind it."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import pytest

from lab.standin.image import make_store
from lab.standin.transport import StandinTransport
from tests.unit.faults.test_activation import (
    begin,
    fault,
    make,
    monitored,
    result,
    watch_changes,
)
from tests.unit.support.daemons import (
    MONITOR,
    RESOURCE,
    DaemonProcess,
    Monitor,
    serve,
    wait_collecting,
)
from tests.unit.support.standins import guest, until
from vesper_monitor.client import Client, DaemonError
from vesper_monitor.daemon.config import Config
from vesper_monitor.daemon.daemon import Daemon
from vesper_monitor.faults import activations
from vesper_monitor.faults.activation import DEGRADED_AFTER_S, ResourceActivation, Result
from vesper_monitor.faults.watching import Watching
from vesper_monitor.guest.health.heartbeat import HeartbeatWatch
from vesper_monitor.guest.session_link import SessionLink
from vesper_monitor.hypervisor.transport import Domain, TransportError
from vesper_monitor.journal.journal import Journal

# ----------------------------------------------------------------- the instance


def unwatched() -> ResourceActivation:
    """After its first monitor; then nobody watches its domain."""
    instance = monitored()
    instance._watching = lambda: Watching(False, "transport x: not up")
    return instance


def test_an_unwatched_domain_is_never_fine() -> None:
    instance = unwatched()
    waiter = begin(instance, 1.0)
    assert waiter.answer is None  # it may be watched in a moment
    assert instance.answer_at_timeout().result is Result.DEGRADED
    assert instance.answer_at_timeout().reason == "transport x: not up"
    # Nor in a pause: its end is told then, too.
    instance.set_paused(True)
    assert instance.answer_at_timeout().result is Result.DEGRADED
    assert instance.degraded == "transport x: not up"


def test_a_first_monitor_of_an_unwatched_domain_is_degraded_at_once() -> None:
    instance = unwatched()
    assert result(begin(instance, 1.0, interval=10.0)) is Result.DEGRADED


def test_when_it_is_watched_again_that_is_said() -> None:
    instance = unwatched()
    waiter = begin(instance, 1.0)
    waiter.answer = instance.answer_at_timeout()
    instance.monitor_ends(waiter, 11.0, delivered=True)
    waiter = begin(instance, 12.0)
    instance._watching = lambda: Watching(True, None)
    instance.watch_changed(12.0)
    assert result(waiter) is Result.FINE


def test_a_moment_without_a_watch_is_not_told() -> None:
    """As while vesperd is restarted."""
    instance = unwatched()
    waiter = begin(instance, 1.0)
    instance.watch_changed(1.1)
    instance._watching = lambda: Watching(True, None)
    instance.watch_changed(1.2)
    assert waiter.answer is None


def test_a_wish_that_cannot_be_fulfilled_is_degraded_while_it_is_wished() -> None:
    instance = monitored()
    instance.refuse_wishes("fault_on: wrong")
    waiter = begin(instance, 1.0)
    assert result(waiter) is Result.DEGRADED
    instance.monitor_ends(waiter, 1.0, delivered=True)
    waiter = begin(instance, 2.0)
    assert waiter.answer is None
    instance.refuse_wishes(None)
    instance.watch_changed(2.0 + DEGRADED_AFTER_S)
    assert result(waiter) is Result.FINE


def test_whoever_waits_for_what_was_ended_by_hand_is_told() -> None:
    instance = monitored()
    waiter = begin(instance, 1.0)
    instance.end_activation(1.0, "deactivate", "ended by hand")
    assert waiter.answer is not None
    assert (waiter.answer.result, waiter.answer.reason) == (Result.DEGRADED, "ended by hand")


def test_a_fault_is_told_whether_it_is_watched_or_not() -> None:
    instance = make(fault=fault())
    watch_changes(instance, "no modules", 1.0)
    assert result(begin(instance, 2.0)) is Result.FAULT


# --------------------------------------------------------------- vesperd itself


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


class Running:
    """A daemon in this process."""

    def __init__(self, directory: Path) -> None:
        (directory / "domains").mkdir()
        make_store(directory / "probes")
        self.config = Config(
            socket=str(directory / "socket"),
            journal=str(directory / "journal"),
            probes_dir=str(directory / "probes"),
            activate_timeout=0.5,
        )

    async def begin(self, transports: dict[str, Any]) -> Daemon:
        daemon = Daemon(self.config, transports)
        await daemon.start()
        return daemon

    async def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        with Client(self.config.socket, timeout=20.0) as client:
            return await asyncio.to_thread(client.call_vesperd, op, **fields)

    async def monitor(self, **changes: Any) -> dict[str, Any]:
        return await self.ask("wait", **{**MONITOR, "first": False, **changes})


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Running:
    monkeypatch.setenv("VESPER_STANDIN_DIR", str(tmp_path / "domains"))
    return Running(tmp_path)


def run(body: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(body(), 60)

    asyncio.run(limited())


def collects(daemon: Daemon, vm: str = "vm1") -> bool:
    session = daemon.sessions.session_of(vm)
    return session is not None and len(session._reader.channels) == 2


def test_a_resource_whose_transport_does_not_come_up_is_degraded(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of C1: known from the journal, and nobody is there to watch its domain."""
    monkeypatch.setattr(activations, "UNWATCHED_WAIT_S", 0.3)
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
            monkeypatch.setattr(activations, "UNWATCHED_WAIT_S", 10.0)
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
        with pytest.raises(DaemonError, match="whether vm1 runs is not known") as error:
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
    """Watch._run() asks for the domain's state, and finds itself replaced."""

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


# ------------------------------------------------ vesperd as a process: who is asked


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DaemonProcess]:
    monkeypatch.setenv("VESPER_STANDIN_DIR", str(tmp_path / "domains"))
    yield from serve(DaemonProcess(tmp_path, "activate_timeout = 0.5"))


def wait_for(condition: Callable[[], object], what: str) -> None:
    asyncio.run(until(condition, what))


def waits(daemon: DaemonProcess) -> bool:
    return any(row["waiting"] for row in daemon.call("status")["vms"])


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


# ---------------------------------------------------------------- the way back


def probes_in_guests(daemon: DaemonProcess) -> int:
    return sum(len(vm["probes"]) for vm in daemon.call("status")["vms"])


def test_what_was_deactivated_stays_so(daemon: DaemonProcess, tmp_path: Path) -> None:
    """The resource is no longer VESPER's: over restarts, and in the VM's next life."""
    with guest("vm1") as vm:
        daemon.call("start", **RESOURCE)
        wait_collecting(daemon, 2)
        waiting = Monitor(daemon, first=False, timeout=50)
        wait_for(lambda: waits(daemon), "the monitor")
        daemon.call("deactivate", vm="vm1")
        assert waiting.result() == "degraded"
        assert daemon.call("status")["vms"] == []
        for _ in range(2):
            daemon.stop()
            daemon.start()
            assert daemon.call("status")["vms"] == []
            assert not vm.place.active.exists()
    daemon.call("expect", resource="r2", vm="vm2", probes=["send_signal"])
    with guest("vm1") as vm, guest("vm2"):
        # vm2, which is expected, shows when arrivals have been looked at.
        wait_collecting(daemon, 1)
        assert not vm.place.active.exists()
        # Its next start is VESPER's again.
        daemon.call("start", **RESOURCE)
        wait_collecting(daemon, 3)
        daemon.stop()
        daemon.start()
        wait_collecting(daemon, 3)


def test_a_resource_that_still_monitors_is_told_until_its_next_start(
    daemon: DaemonProcess,
) -> None:
    with guest("vm1") as vm:
        daemon.call("start", **RESOURCE)
        wait_collecting(daemon, 2)
        daemon.call("deactivate", vm="vm1")
        for restarted in (False, True):
            if restarted:
                daemon.stop()
                daemon.start()
            for _ in range(2):
                told = Monitor(daemon, timeout=0.2)
                assert told.result() == "degraded"
                assert "vesper activate vm1" in told.answer["reason"]
            assert probes_in_guests(daemon) == 0
        # Its agent's other requests change nothing in that.
        daemon.call("change", **{**RESOURCE, "probes": ["send_signal"]})
        assert Monitor(daemon, timeout=0.2).result() == "degraded"
        assert not vm.place.active.exists()
        # Its end is still seen.
        waiting = Monitor(daemon, timeout=50)
        wait_for(lambda: waits(daemon), "the monitor")
        vm.kill()
        assert waiting.result() == "dead"
    with guest("vm1"):
        daemon.call("start", **RESOURCE)
        wait_collecting(daemon, 2)
        assert Monitor(daemon, timeout=0.2).result() == "fine"


def test_a_deactivation_holds_when_the_journal_is_read_late(running: Running) -> None:
    """A monitor does not change that, a start does, and each is kept."""
    path = Path(running.config.journal)
    aside = path.with_name("aside")

    def take_away() -> None:
        path.rename(aside)
        path.mkdir()  # it cannot be opened

    def bring_back() -> None:
        path.rmdir()
        aside.rename(path)

    async def body() -> None:
        journal = Journal(path)
        for vm in ("vm1", "vm2", "vm3"):
            journal.set_deactivation(vm, vm != "vm3")
        journal.close()
        with guest("vm1"), guest("vm2") as left_alone, guest("vm3"):
            take_away()
            daemon = await running.begin({"standin": StandinTransport})
            assert daemon.recorder.error is not None
            await running.ask("start", **RESOURCE)
            await running.monitor(first=True, resource="r2", vm="vm2")
            await running.ask("activate", vm="vm3", probes=["send_signal"])
            await until(lambda: collects(daemon), "vm1 is watched")
            await until(lambda: collects(daemon, "vm2"), "so is vm2")
            bring_back()
            await until(lambda: daemon.recorder.error is None, "the journal is read")
            await until(lambda: not left_alone.place.active.exists(), "vm2 is left alone")
            assert collects(daemon)
            await daemon.stop()
        journal = Journal(path)
        assert journal.read_deactivations() == {"vm2"}
        assert journal.read_activations() == {"vm3": ("send_signal",)}
        journal.close()

    run(body)


def test_a_wish_is_kept_as_soon_as_the_journal_takes_it(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vesper_monitor.daemon.operator_wishes.RETRY_LAST_S", 0.05)

    async def body() -> None:
        daemon = await running.begin({})
        with closing(sqlite3.connect(running.config.journal, isolation_level=None)) as backup:
            backup.execute("BEGIN IMMEDIATE")
            await daemon.operators.activate_vm("vm1", ("send_signal",))
        await until(lambda: not daemon.operators._unwritten, "it is remembered")
        await daemon.stop()
        journal = Journal(Path(running.config.journal))
        assert journal.read_activations() == {"vm1": ("send_signal",)}
        journal.close()

    run(body)


def test_a_deactivated_vm_can_be_activated_by_hand(daemon: DaemonProcess) -> None:
    with guest("vm1"):
        daemon.call("start", **RESOURCE)
        wait_collecting(daemon, 2)
        daemon.call("deactivate", vm="vm1")
        assert Monitor(daemon, timeout=0.2).result() == "degraded"
        daemon.call("activate", vm="vm1")
        wait_collecting(daemon, 2)
        assert Monitor(daemon, timeout=0.2).result() == "fine"
        daemon.stop()
        daemon.start()
        wait_collecting(daemon, 2)


def test_the_death_of_a_client_does_not_undo_a_deactivation(daemon: DaemonProcess) -> None:
    with guest("vm1") as vm:
        daemon.call("start", **RESOURCE)
        wait_collecting(daemon, 2)
        with Client(str(daemon.socket)) as client:
            client.begin_request("deactivate", vm="vm1")
            assert client._socket is not None
            client._socket.shutdown(socket.SHUT_RDWR)
        wait_for(lambda: not vm.place.active.exists(), "the guest is let go")
        wait_for(lambda: not daemon.call("status")["vms"], "nothing is watched")
