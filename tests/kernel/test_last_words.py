# SPDX-License-Identifier: GPL-2.0-or-later
"""What a real kernel leaves on an oops or a panic, read from outside of the guest."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from lab.session_listener import EventListener
from tests.kernel.support.loopback_guest import TestGuest
from tests.kernel.support.machine import Machine, MachineTransport, machine
from tests.unit.support.standins import until
from vesper_monitor.guest.control.images import ImageStore
from vesper_monitor.guest.event import CrashLog, Event
from vesper_monitor.guest.session import Session
from vesper_monitor.guest.session_state import SessionState

#: s for a kernel under emulation to panic and say so.
SLOW = 30.0

MESSAGE = "BUG: kernel NULL pointer dereference, address: 0000000000000000 at wedge_oops+0x"


async def _watched(guest: Machine, body: Callable[[Session, list[Event]], Awaitable[None]]) -> None:
    events: list[Event] = []
    transport = MachineTransport(guest)
    session = Session(
        transport,
        transport.domain,
        ImageStore(Path("/nonexistent")),
        EventListener(events.extend),
    )
    task = asyncio.create_task(session.run_session())
    try:
        await until(lambda: session.state is SessionState.ACTIVE, "active", SLOW)
        await body(session, events)
    except AssertionError:
        print(guest.console)
        raise
    finally:
        await session.close_session(deactivate=False)
        await asyncio.wait_for(task, 10)


def _words(event: Event) -> CrashLog:
    assert event.words is not None
    return event.words


def test_a_panic_leaves_its_log(test_guest: TestGuest, tmp_path: Path) -> None:
    """Its words are there when the guest's kernel stands still, and nothing waits for a host."""
    with machine(test_guest.kernel, test_guest.files, tmp_path, cmdline="panic=0") as guest:

        async def body(session: Session, events: list[Event]) -> None:
            guest.tell("echo mark >/dev/kmsg; echo c >/proc/sysrq-trigger")
            await until(lambda: events, "last words", SLOW)
            (event,) = events
            assert event.event == "last_words"
            assert event.fields["kind"] == "panic"
            assert event.fields["message"] == "sysrq triggered crash"
            assert event.fields["comm"] == "init"
            words = _words(event)
            assert words.complete
            assert "mark" in words.log
            assert "Kernel panic - not syncing: sysrq triggered crash" in words.log
            assert "sysrq_handle_crash+0x" in words.stack

        asyncio.run(_watched(guest, body))


def test_panic_and_the_end_of_the_machine(test_guest: TestGuest, tmp_path: Path) -> None:
    """The host reads what is left in memory that it still has mapped."""
    with machine(test_guest.kernel, test_guest.files, tmp_path, cmdline="panic=-1") as guest:

        async def body(session: Session, events: list[Event]) -> None:
            session._link._on_notify = lambda: None  # type: ignore[method-assign]
            if session.guest is not None:
                session.guest.link.on_notify(None)  # the notification is lost
            guest.tell("echo c >/proc/sysrq-trigger")
            await until(lambda: events, "last words", SLOW)
            assert guest.process.poll() is not None
            assert events[0].fields["message"] == "sysrq triggered crash"

        asyncio.run(_watched(guest, body))


def test_oopses_leave_their_logs(test_guest: TestGuest, tmp_path: Path) -> None:
    """The kernel goes on after each; with panic_on_oops the panic says which oops it was."""
    with machine(test_guest.kernel, test_guest.files, tmp_path, cmdline="panic=0") as guest:

        async def body(session: Session, events: list[Event]) -> None:
            guest.tell("insmod /vsp_wedge.ko; sh -c 'echo oops >/proc/vsp_wedge' &")
            await until(lambda: events, "the first oops", SLOW)
            first = events[0]
            assert first.fields["kind"] == "oops"
            assert first.fields["comm"] == "sh"
            assert first.fields["message"].startswith(MESSAGE)
            assert "wedge_oops" in _words(first).stack
            await asyncio.sleep(5.5)  # they are read every 5 s at most
            guest.tell("echo 1 >/proc/sys/kernel/panic_on_oops; echo oops >/proc/vsp_wedge")
            await until(lambda: len(events) >= 3, "an oops that is a panic", 2 * SLOW)
            _, second, panic = events
            assert second.fields["message"].startswith(MESSAGE)
            assert panic.fields["kind"] == "panic"
            assert panic.fields["message"].startswith(f"Fatal exception: {MESSAGE}")

        asyncio.run(_watched(guest, body))


def test_the_core_can_be_unloaded(test_guest: TestGuest, tmp_path: Path) -> None:
    with machine(test_guest.kernel, test_guest.files, tmp_path) as guest:
        guest.tell("rmmod vsp_ram && rmmod vesper && insmod /vesper.ko && echo again")
        asyncio.run(until(lambda: "\nagain\n" in guest.console, "unloaded and loaded", SLOW))
