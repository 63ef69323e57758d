# SPDX-License-Identifier: GPL-2.0-or-later
"""A whole vesperd asks guests for their services, and tells their monitors what is missing."""

from __future__ import annotations

import asyncio
import ctypes
import errno
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lab.standin.transport import StandinTransport
from tests.unit.daemon.test_watching import Running, collects, run
from tests.unit.faults.test_activation import make
from tests.unit.faults.test_carried_fault import death
from tests.unit.guest.test_cchan import FakeLink, answering, talk
from tests.unit.support.daemons import RESOURCE
from tests.unit.support.standins import GuestProcess, guest, until
from vesper_monitor.daemon import services
from vesper_monitor.daemon.daemon import Daemon
from vesper_monitor.faults import service_watch
from vesper_monitor.guest import abi
from vesper_monitor.guest.control.cchan import GuestRefusedError
from vesper_monitor.guest.control.processes import MainProcess, find_processes

# --------------------------------------------------------------- the request


def process_table(names: dict[str, tuple[int, int, int]]) -> Callable[[FakeLink], None]:
    """A guest with processes: name → pid, age in ms, flags. Notes how it was asked."""

    def react(link: FakeLink) -> None:
        data = link.request()
        if data is None:
            return
        reply = abi.MsgProcesses.from_buffer_copy(data)
        asked.append([process.name.decode() for process in reply.process if process.name])
        reply.hdr.status, reply.uptime_ms = 0, 90_500
        for process in reply.process:
            pid, age, flags = names.get(process.name.decode(), (0, 0, 0))
            process.pid, process.age_ms, process.flags = pid, age, flags
        link.reply(bytes(reply))

    asked: list[list[str]] = []
    react.asked = asked  # type: ignore[attr-defined]
    return react


def test_the_request_lists_services_and_gets_their_processes() -> None:
    table = process_table({"httpd": (97, 5500, 0), "a-name-that-is-": (5, 1, 1)})
    names = ["httpd", "", "httpd", "a-name-that-is-too-long", *"abcdef"]
    answer = talk(FakeLink(table), lambda channel: find_processes(channel, names))
    assert answer.uptime_s == 90.5
    assert answer.found == {
        "httpd": MainProcess(97, 5.5),
        "a-name-that-is-too-long": MainProcess(5, 0.001, is_believed=False),
    }
    assert table.asked == [["httpd", "a-name-that-is-", "a", "b", "c"], ["d", "e", "f"]]  # type: ignore[attr-defined]
    assert ctypes.sizeof(abi.MsgProcesses) <= abi.MSG_SIZE


@pytest.mark.parametrize("error", [errno.EOPNOTSUPP, errno.EPERM])
def test_an_older_core_does_not_know_the_request(error: int) -> None:
    link = FakeLink(answering(lambda _: (-error, abi.MsgProcesses())))
    if error == errno.EOPNOTSUPP:
        assert talk(link, lambda channel: find_processes(channel, ["a"])) is None
    else:
        with pytest.raises(GuestRefusedError):
            talk(link, lambda channel: find_processes(channel, ["a"]))


# --------------------------------------------------------------- vesperd itself


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Running:
    """A vesperd that is soon impatient."""
    monkeypatch.setenv("VESPER_STANDIN_DIR", str(tmp_path / "domains"))
    for name, value in (
        ("BACK_S", 1.0), ("BOOT_S", 30.0), ("STEADY_S", 1.0), ("LOOK_S", 0.5),
        ("LOOK_MISSING_S", 0.1), ("LOOK_AGAIN_S", 0.1), ("LOOK_SOON_S", 0.1),
    ):  # fmt: skip
        monkeypatch.setattr(service_watch, name, value)
    monkeypatch.setattr(services, "TICK_S", 0.05)
    monkeypatch.setattr("vesper_monitor.faults.activation.DEGRADED_AFTER_S", 0.0)
    return Running(tmp_path)


#: Returns the vesperd that runs in the end, if that is another one.
Body = Callable[[Daemon, GuestProcess], Awaitable[Daemon | None]]


def watched(running: Running, body: Body) -> None:
    """A guest with httpd under vesperd."""

    async def whole() -> None:
        with guest("vm1") as vm:
            await vm.tell("processes", "1000", "httpd:97:900")
            daemon = await running.begin({"standin": StandinTransport})
            await daemon.sessions.transports.wait_for_first_try("standin")
            await running.ask("start", **RESOURCE)
            await until(lambda: collects(daemon), "probes")
            assert (await running.monitor(first=True))["result"] == "fine"
            last = await body(daemon, vm)
            await (last or daemon).stop()

    run(whole)


async def tick_away(vm: GuestProcess, *processes: str, uptime: int = 1002) -> None:
    """The guest's clock goes on, and with it its processes."""
    await vm.tell("processes", str(uptime), *processes)


async def end_httpd(vm: GuestProcess) -> None:
    await vm.tell("emit", "send_signal", "sig=15", "comm=httpd", "sender_pid=1",
                  "sender_comm=systemd", "pid=97")  # fmt: skip
    await vm.tell("processes", "1000")
    await asyncio.sleep(0.5)
    await tick_away(vm)


def test_a_stopped_service_is_degraded_until_it_is_back(running: Running) -> None:
    async def body(daemon: Daemon, vm: GuestProcess) -> None:
        waiting = asyncio.create_task(running.monitor(timeout=30))
        await until(lambda: daemon.activations.list_all()[0].waiting, "a monitor waits")
        await end_httpd(vm)
        answer = await waiting  # not after 30 s
        assert answer["result"] == "degraded"
        assert answer["reason"].startswith("vm1: httpd was ended by systemd ")
        assert answer["reason"].endswith(" ago and is not back")
        (row,) = (await running.ask("status"))["vms"]
        assert row["degraded"].startswith("vm1: httpd was ended by systemd ")
        assert row["fault"] is None

        waiting = asyncio.create_task(running.monitor(timeout=30))
        await until(lambda: daemon.activations.list_all()[0].waiting, "a monitor waits")
        await tick_away(vm, "httpd:98:10")
        assert (await waiting)["result"] == "fine"
        assert not (await running.ask("faults"))["faults"]

    watched(running, body)


def test_a_restart_of_vesperd_forgets_no_end(running: Running) -> None:
    async def body(daemon: Daemon, vm: GuestProcess) -> Daemon:
        await vm.tell("emit", "send_signal", "sig=15", "comm=httpd", "sender_pid=1",
                      "sender_comm=systemd", "pid=97")  # fmt: skip
        await vm.tell("processes", "1000")
        await asyncio.sleep(0.3)  # the event is in the journal
        await daemon.stop()
        second = await running.begin({"standin": StandinTransport})
        await until(lambda: collects(second), "probes")
        await asyncio.sleep(0.3)
        await tick_away(vm)
        answer = await running.monitor(timeout=5)
        assert answer["result"] == "degraded"
        assert "httpd was ended by systemd" in answer["reason"]
        return second

    watched(running, body)


def test_a_name_that_no_process_has_is_said_until_it_is_mended(running: Running) -> None:
    async def body(_daemon: Daemon, vm: GuestProcess) -> None:
        waiting = asyncio.create_task(running.monitor(services=["httpd", "htppd"], timeout=10))
        await asyncio.sleep(0.5)
        await tick_away(vm, "httpd:97:902")
        answer = await waiting
        assert answer == {
            "ok": True,
            "result": "degraded",
            "reason": "vm1: services: no process is named htppd, 17 min after the boot",
        }
        answer = await running.monitor(services=["httpd"], timeout=1.5)
        assert answer["result"] == "fine"

    watched(running, body)


def test_an_older_core_is_no_trouble(running: Running) -> None:
    async def whole() -> None:
        with guest("vm1"):
            daemon = await running.begin({"standin": StandinTransport})
            await daemon.sessions.transports.wait_for_first_try("standin")
            await running.ask("start", **RESOURCE)
            await until(lambda: collects(daemon), "probes")
            assert (await running.monitor(first=True))["result"] == "fine"
            assert (await running.monitor(timeout=2.5))["result"] == "fine"
            await daemon.stop()

    run(whole)


def test_a_fault_comes_before_what_is_missing(running: Running) -> None:
    async def body(_daemon: Daemon, vm: GuestProcess) -> None:
        await end_httpd(vm)
        assert (await running.monitor(timeout=10))["result"] == "degraded"
        await vm.tell("emit", "send_signal", "sig=11", "comm=httpd", "fatal=1")
        assert (await running.monitor(timeout=10))["result"] == "fault"

    watched(running, body)


def test_what_is_read_again_for_the_journal_has_not_happened_again() -> None:
    instance = make()
    mine = services.Services(lambda: [instance], lambda _: None, lambda _: None)
    ended = death(1)
    mine.note_events([instance], [replace(ended, again=True)])
    (watch,) = mine._watches.values()
    assert [service.end for service in watch._services.values()] == [None]
    mine.note_events([instance], [ended])
    assert all(service.end is not None for service in watch._services.values())
