# SPDX-License-Identifier: GPL-2.0-or-later
"""Points: defined in a line, loaded into a real guest kernel, several at once."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.kernel.support.loopback_guest import TestGuest
from tests.kernel.support.machine import Machine, MachineTransport, machine
from tests.unit.support.standins import until
from vesper_monitor.daemon.config import Config
from vesper_monitor.daemon.daemon import Daemon
from vesper_monitor.guest.control.modinfo import rename_module
from vesper_monitor.guest.dynamic_probes.program import module_parameters
from vesper_monitor.guest.dynamic_probes.syntax import parse_definition

Boot = Callable[..., Any]

POINTS = {
    point.name: point
    for point in map(
        parse_definition,
        (
            "p:opens do_sys_openat2 dfd=$arg1:s32 path=+0($arg2):ustring flags=+0($arg3):u64 "
            'low=+0(%dx):b4@12/32 comm=$comm if comm == "cat" && dfd == -100 max 1000/s',
            'r16:fails do_sys_openat2 $retval:s64 comm=$comm if arg1 < 0 && comm == "cat"',
            "t:signals signal_generate sig=$arg1:s32 code=+8($arg2):s32 group=$arg4:s32 "
            "result=$arg5:s32 if sig & 8",
            "p:lost do_sys_openat2 gone=-0x40000000(%sp):u64 user=+0(%si):u64 deep=+8(+0(%si)):u32 "
            "name=-0x40000000(%sp):string ret=+0(%sp):symbol where=%ip:symbol caller=$stack0",
            "t:faults page_fault_kernel at=$arg1:x64 again=+0($arg1):u64 max 1000/s",
            "p:often vfs_read max 1/s",
            "do_exit code=$arg1:s64",
            "p:nowhere no_such_function",
            "r:nowhere_either no_such_function",
            "t:no_point no_such_tracepoint",
            "p:forbidden exc_page_fault",
        ),
    )
}


def load(name: str) -> str:
    return f"load {name} /{name}.ko {module_parameters(POINTS[name])}\n"


def test_dynamic_probes_record_what_they_define(run: Boot, modules: dict[str, Path]) -> None:
    """Arguments, texts, a return value, a tracepoint, conditions, a limit, the kernel's errors."""
    image = modules["probe_point.ko"].read_bytes()
    working = ["opens", "fails", "signals", "lost", "faults", "often", "p_do_exit"]
    script = "".join(
        (
            *(load(name) for name in POINTS),
            load("opens"),
            "load opens /opens.ko at=p:do_exit args=r8888\n",
            "load wild /wild.ko at=p:do_exit args=r112r112\n",
            "load wild /wild.ko at=p:do_exit args=r112z0,r112q\n",
            "load wild /wild.ko at=t:signal_generate args=a5\n",
            "load wild /wild.ko at=p:do_exit args=r112 only=1=5\n",
            "table\n",
            "sh cat /proc/sys/kernel/ostype\n",
            "sh cat /no/such/file\n",
            "sh sleep 100 & kill -9 $!; wait; sleep 1\n",
            "sh true & kill -TERM $$\n",
            "sh for i in 1 2 3 4 5 6 7 8; do cat /proc/uptime; done; sleep 2; cat /proc/uptime\n",
            *(f"records {name}\n" for name in working),
            *(f"unload {name}\n" for name in working),
            "table\n",
        )
    )
    result = run(
        script,
        files={f"{name}.ko": rename_module(image, name) for name in (*POINTS, "wild")},
    )
    told = {line.split(":")[0]: line for line in result.said if line.startswith("load ")}
    loaded = [line for line in result.said if line.startswith("load ")]
    assert [line for line in loaded if line.split(": ")[1].startswith("0")] == [
        told[f"load {name}"] if name != "opens" else "load opens: 0 " for name in working
    ], loaded
    assert told["load nowhere"] == "load nowhere: -2 nowhere: no kprobe on no_such_function: -2"
    assert (
        told["load nowhere_either"] == "load nowhere_either: -2 nowhere_either: "
        "no return probe on no_such_function: -2"
    )
    assert told["load no_point"].startswith("load no_point: -2 no_point: no tracepoint no_such")
    assert told["load forbidden"].startswith("load forbidden: -22 forbidden: no kprobe on exc_")
    assert "load opens: -17 " in {line[:16] for line in loaded}, loaded
    assert len([line for line in loaded if line.startswith("load wild: -22 wild: args=")]) == 4
    assert result.said.count("table: 7 channels") == 1
    assert result.said.count("table: 0 channels") == 1

    opens = [event.fields for event in result.events("opens", POINTS["opens"])]
    assert all(event["comm"] == event["common_comm"] == "cat" for event in opens)
    paths = [event["path"] for event in opens]
    assert "/proc/sys/kernel/ostype" in paths
    assert "/no/such/file" in paths
    assert {event["dfd"] for event in opens} == {-100}
    for event in opens:
        assert event["low"] == event["flags"] >> 12 & 15

    (failed,) = result.events("fails", POINTS["fails"])
    assert (failed.fields["arg1"], failed.fields["comm"]) == (-2, "cat")
    assert failed.event == failed.probe == "fails"

    signals = [event.fields for event in result.events("signals", POINTS["signals"])]
    assert all(event["sig"] & 8 for event in signals)
    killed = [event for event in signals if event["sig"] == 9]
    assert killed
    assert killed[0]["code"] == 0  # SI_USER
    assert killed[0]["group"] == 1

    lost = [event.fields for event in result.events("lost", POINTS["lost"])]
    assert lost
    for event in lost:
        assert event["user"] is event["deep"] is None  # an address of the process's
        assert event["gone"] is event["name"] is None, event
        assert event["caller"] >> 63
        assert event["where"] == "do_sys_openat2"
        assert event["ret"] not in (None, "")

    # Where it cannot be read, reading faults again: not recorded, but counted.
    faults = [event.fields for event in result.events("faults", POINTS["faults"])]
    assert any(event["at"] >> 63 and event["again"] is None for event in faults)
    assert any(event["missed"] for event in faults)

    often = [event.fields for event in result.events("often", POINTS["often"])]
    assert any(event["left_out"] >= 5 for event in often)
    ends = [event.fields for event in result.events("p_do_exit", POINTS["p_do_exit"])]
    assert {"cat", "sleep"} <= {event["common_comm"] for event in ends}
    assert 9 in {event["code"] for event in ends}
    assert all(f"unload {name}: 0 " in result.said for name in working)


def test_a_dynamic_probe_is_added_on_the_command_line(
    test_guest: TestGuest, tmp_path: Path
) -> None:
    """A real daemon and a real guest: added, seen, kept over a restart, listed, removed."""
    store = tmp_path / "images" / test_guest.kernel.release
    store.mkdir(parents=True)
    for path in test_guest.files:
        if path.stem in ("probe_point", "send_signal", "out_of_memory"):
            (store / path.name).write_bytes(path.read_bytes())
    config = Config(
        socket=str(tmp_path / "socket"),
        journal=str(tmp_path / "journal.sqlite"),
        probes_dir=str(tmp_path / "images"),
    )

    async def vesper(*words: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "vesper_monitor.command.main", "--socket", config.socket, *words,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        output = (await asyncio.wait_for(process.communicate(), 120))[0].decode()
        return process.returncode or 0, output

    async def works(*words: str) -> str:
        status, output = await vesper(*words)
        assert status == 0, output
        return output

    async def seen(name: str) -> list[dict[str, Any]]:
        lines = (await works("events", "--json", "-n", "1000")).splitlines()
        return [event for event in map(json.loads, lines) if event["event"] == name]

    @asynccontextmanager
    async def daemon(guest: Machine) -> AsyncIterator[None]:
        def transport() -> MachineTransport:
            return MachineTransport(guest)

        transport.explain_unusable = MachineTransport.explain_unusable  # type: ignore[attr-defined]
        running = Daemon(config, {"machine": transport})  # type: ignore[dict-item]
        await running.start()
        try:
            await until(
                lambda: not any(running.sessions.transports.list_states().values()),
                "a transport",
                30,
            )
            yield
        finally:
            await running.stop()

    async def body(guest: Machine) -> None:
        async with daemon(guest):
            await works("activate", "vm1")
            added = await works(
                "probe", "add", "vm1", "p:opens do_sys_openat2", "path=+0($arg2):ustring",
                'if path == "/no/such/file"',
            )  # fmt: skip
            assert added == "vm1: opens loaded\n"
            await works("probe", "add", "vm1", "r:results do_sys_openat2 $retval:s32 if arg1 == -2")
            guest.tell("cat /no/such/file")
            await until_true(lambda: seen("opens"), lambda events: len(events) == 1)
            await until_true(lambda: seen("results"), lambda events: len(events) >= 1)
            (event,) = await seen("opens")
            assert event["fields"]["path"] == "/no/such/file"
            assert event["text"].startswith("opens: cat[")

            for words, said in (
                (("vfs_read x=%dj",), "column 12: no register %dj"),
                (("p:opens vfs_read",), "there is a probe opens already"),
                (("p:send_signal vfs_read",), "there is a probe send_signal already"),
                (("no_such_function",), "no kprobe on no_such_function: -2"),
                (("p:no exc_page_fault",), "no kprobe on exc_page_fault: -22"),
            ):
                status, output = await vesper("probe", "add", "vm1", *words)
                assert status == 1
                assert said in output
            listed = await works("probe", "list", "vm1")
            assert 'p:opens do_sys_openat2 path=+0($arg2):ustring if path == "/no/' in listed
            assert "p_no_such_function" not in listed
            assert "1: opens (deg" not in await works("status")

        guest.tell("cat /no/such/file")
        async with daemon(guest):
            await until_true(lambda: seen("opens"), lambda events: len(events) == 2)
            assert {event["fields"]["path"] for event in await seen("opens")} == {"/no/such/file"}
            assert (await works("probe", "unload", "vm1", "opens")) == "vm1: opens unloaded\n"
            assert "opens" not in await works("probe", "list", "vm1")
            await works("probe", "add", "vm1", "p:opens vfs_read max 1/s")
            await works("probe", "unload", "vm1", "opens")

        async with daemon(guest):
            listed = await works("probe", "list", "vm1")
            assert "results" in listed
            assert "opens" not in listed

    with machine(test_guest.kernel, test_guest.files, tmp_path) as guest:
        try:
            asyncio.run(body(guest))
        except AssertionError:
            print(guest.console)
            raise


async def until_true(
    ask: Callable[[], Awaitable[list[dict[str, Any]]]],
    enough: Callable[[list[dict[str, Any]]], bool],
) -> None:
    end = time.monotonic() + 60
    while not enough(found := await ask()):
        assert time.monotonic() < end, found
