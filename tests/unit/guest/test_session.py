# SPDX-License-Identifier: GPL-2.0-or-later
"""Sessions with stand-in guests: the life cycle, restarts, what may go wrong."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from lab.session_listener import EventListener
from lab.standin.image import make_image, make_store
from lab.standin.memory import CCHAN_PAGE
from lab.standin.transport import StandinTransport
from tests.unit.support.standins import GuestProcess, guest, until
from vesper_monitor.guest import abi
from vesper_monitor.guest.control.images import ImageStore
from vesper_monitor.guest.errors import SessionError
from vesper_monitor.guest.event import Event
from vesper_monitor.guest.relay.channel import TableError
from vesper_monitor.guest.session import Session
from vesper_monitor.guest.session_listener import SessionSettings
from vesper_monitor.guest.session_reader import SessionReader
from vesper_monitor.guest.session_state import ProbeState, SessionState, StateError

REQUESTS_TAKEN = abi.field_offset(abi.Cchan, "to_guest") + abi.field_offset(abi.CchanRing, "cons")
BOTH = {"send_signal": "", "out_of_memory": ""}


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ImageStore:
    monkeypatch.setenv("VESPER_STANDIN_DIR", str(tmp_path / "domains"))
    make_store(tmp_path / "probes")
    return ImageStore(tmp_path / "probes")


class Watch:
    """A session and what it told."""

    session: Session

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.listener = EventListener(self._take_events, note_change=self._note_change)
        self.states: list[SessionState] = []
        self.degraded: set[str] = set()

    def _take_events(self, events: list[Event]) -> None:
        self.events += events

    def _note_change(self) -> None:
        if not self.states or self.states[-1] is not self.session.state:
            self.states.append(self.session.state)
        if self.session.degraded is not None:
            self.degraded.add(self.session.degraded)

    def all_collecting(self) -> bool:
        wanted = self.session.probes
        return len(wanted) == 2 and all(
            probe.state is ProbeState.COLLECTING for probe in wanted.values()
        )


@asynccontextmanager
async def watch(
    images: ImageStore, name: str = "vm1", *, hang_timeout_s: float = 0.0, **settings: Any
) -> AsyncIterator[Watch]:
    """:param settings: of :class:`SessionSettings`."""
    transport = StandinTransport()
    await transport.start()
    domain = await transport.find_domain(name)
    assert domain is not None
    told = Watch()
    told.listener.hang_timeout_s = hang_timeout_s
    session = Session(transport, domain, images, told.listener, SessionSettings(**settings))
    told.session = session
    await session.set_probes(BOTH)
    task = asyncio.create_task(session.run_session())
    try:
        yield told
    finally:
        await session.close_session(deactivate=False)
        await asyncio.wait_for(task, 10)
        await transport.stop()


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(test(), 60)

    asyncio.run(limited())


def test_a_session_connects_loads_probes_and_reads_an_event(images: ImageStore) -> None:
    async def body() -> None:
        with guest() as vm:
            async with watch(images) as told:
                await until(told.all_collecting, "probes collecting")
                assert told.session.degraded is None
                await vm.tell("emit", "send_signal", "sig=11", "fatal=1", "addr=0x10")
                await vm.tell("emit", "out_of_memory", "pid=98", "comm=dd")
                await until(lambda: len(told.events) == 2, "both events")
                first, second = told.events
                assert first.fields["signal"] == "SIGSEGV"
                assert first.fields["fatal"] is True
                assert first.fields["addr"] == 16
                assert second.probe == "out_of_memory"
                assert second.fields["comm"] == "dd"
            assert told.states == [
                SessionState.CONNECTING,
                SessionState.ACTIVE,
                SessionState.CLOSING,
                SessionState.CLOSED,
            ]

    run(body)


def test_restart_loses_and_doubles_nothing(images: ImageStore) -> None:
    """Also what happens while no daemon is there."""

    async def body() -> None:
        with guest(cmdline="lab.cpus=2") as vm:
            async with watch(images) as told:
                await until(told.all_collecting, "probes collecting")
                await vm.tell("emit", "send_signal", "cpu=1", "count=3")
                await until(lambda: len(told.events) == 3, "three events")
                saved = told.session.positions
            await vm.tell("emit", "send_signal", "cpu=1", "count=2")
            await vm.tell("emit", "send_signal", "cpu=0")
            await vm.tell("emit", "out_of_memory")
            async with watch(images, resume_from=saved) as again:
                await until(lambda: len(again.events) >= 4, "what was missed")
                await vm.tell("emit", "out_of_memory")
                await until(lambda: len(again.events) >= 5, "what is new")
                seen = sorted((e.probe, e.cpu, e.seq) for e in again.events)
                assert seen == [
                    ("out_of_memory", 0, 0),
                    ("out_of_memory", 0, 1),
                    ("send_signal", 0, 0),
                    ("send_signal", 1, 3),
                    ("send_signal", 1, 4),
                ]

    run(body)


def test_without_a_journal_the_guest_knows_what_was_read(images: ImageStore) -> None:
    """As on another host, to which it has been migrated."""

    async def body() -> None:
        with guest() as vm:
            async with watch(images) as told:
                await until(told.all_collecting, "probes collecting")
                await vm.tell("emit", "send_signal", "fatal=1")
                await until(lambda: told.events, "the event")
            await vm.tell("emit", "send_signal", "sig=6")
            async with watch(images) as again:
                await until(again.all_collecting, "probes adopted")
                await vm.tell("emit", "send_signal", "sig=15")
                await until(lambda: len(again.events) >= 2, "the new events")
                assert [event.seq for event in again.events] == [1, 2]

    run(body)


def test_a_guest_that_is_being_suspended_is_left_to_the_next_host(images: ImageStore) -> None:
    async def body() -> None:
        with guest() as vm:
            async with watch(images) as told:
                await until(told.all_collecting, "probes collecting")
                await vm.tell("emit", "send_signal")
                await until(lambda: told.events, "the event")
                await vm.tell("asleep", "1")
                await vm.tell("emit", "send_signal")
                await asyncio.sleep(0.3)
            assert [event.seq for event in told.events] == [0]
            async with watch(images) as again:
                await until(again.all_collecting, "probes adopted")
                await vm.tell("asleep", "0")
                await until(lambda: again.events, "what the other has left")
                assert [event.seq for event in again.events] == [1]

    run(body)


def fall_asleep_while_read(session: Session) -> list[list[int]]:
    """Let the guest fall asleep whenever records have just been read.

    :returns: what was read, a list of sequence numbers for each round.
    """
    read = session._reader.collector.read_events
    rounds: list[list[int]] = []

    def read_and_fall_asleep() -> tuple[list[Event], bool]:
        events, more = read()
        if events and not rounds:
            assert session.guest is not None
            view = session.guest.link.cchan.view
            abi.store_u32(view, abi.field_offset(abi.Cchan, "asleep"), 1)
            rounds.append([event.seq for event in events])
        return events, more

    session._reader.collector.read_events = read_and_fall_asleep  # type: ignore[method-assign]
    return rounds


def test_a_guest_that_falls_asleep_while_it_is_read_is_not_read_twice(images: ImageStore) -> None:
    """What was read then is reported by the next host, and by that one only."""

    async def body() -> None:
        with guest() as vm:
            async with watch(images) as told:
                await until(told.all_collecting, "probes collecting")
                await vm.tell("emit", "send_signal")
                await until(lambda: told.events, "the event")
                rounds = fall_asleep_while_read(told.session)
                await vm.tell("emit", "send_signal")
                await until(lambda: rounds, "a round")
            assert rounds == [[1]]
            assert [event.seq for event in told.events] == [0]
            async with watch(images) as again:  # it knows no positions
                await until(again.all_collecting, "probes adopted")
                await vm.tell("asleep", "0")
                await until(lambda: again.events, "what the other has left")
                assert [event.seq for event in again.events] == [1]

    run(body)


def test_after_a_suspension_that_is_called_off_reading_goes_on(images: ImageStore) -> None:
    """The same host reads on, where it was."""

    async def body() -> None:
        with guest() as vm:
            async with watch(images) as told:
                await until(told.all_collecting, "probes collecting")
                rounds = fall_asleep_while_read(told.session)
                await vm.tell("emit", "send_signal")
                await until(lambda: rounds, "a round")
                assert not told.events
                await vm.tell("asleep", "0")
                await until(lambda: told.events, "the event")
                probe = told.session.probes["send_signal"]
                assert [event.seq for event in told.events] == [0]
                assert (probe.records, probe.lost) == (1, 0)

    run(body)


def test_overrun_is_counted_exactly(images: ImageStore) -> None:
    async def body() -> None:
        with guest() as vm:
            async with watch(images) as told:
                await until(told.all_collecting, "probes collecting")
                await vm.tell("emit", "send_signal", "count=500")
                probe = told.session.probes["send_signal"]
                await until(
                    lambda: told.session.probes and probe.records + probe.lost == 500, "all"
                )
                lost = [e.fields["count"] for e in told.events if e.event == "lost"]
                assert probe.lost > 0
                assert sum(lost) == probe.lost
                assert len(told.events) - len(lost) == probe.records

    run(body)


def test_a_late_frontend_is_picked_up(images: ImageStore) -> None:
    async def body() -> None:
        with guest(cmdline="lab.vesper=no") as vm:
            async with watch(images, activate_timeout_s=0.0) as told:
                await until(lambda: told.session.degraded, "degraded")
                assert "vm1" in (told.session.degraded or "")
                await vm.tell("load-modules")
                await until(told.all_collecting, "probes collecting")
                assert told.session.degraded is None

    run(body)


def test_a_request_in_a_wrong_state_says_which_is_needed(images: ImageStore) -> None:
    async def body() -> None:
        with guest(cmdline="lab.vesper=no"):
            async with watch(images) as told:
                with pytest.raises(StateError) as caught:
                    await told.session.load_probe("send_signal")
                assert (caught.value.state, caught.value.needed, caught.value.code) == (
                    SessionState.WAITING, SessionState.ACTIVE, "not-active",
                )  # fmt: skip
                assert "cannot load a probe: the session is waiting, but must be active" in str(
                    caught.value
                )
                with pytest.raises(StateError, match="cannot ask for processes"):
                    await told.session.find_processes(["httpd"])

    run(body)


def test_a_guest_of_another_version_is_unfit(images: ImageStore) -> None:
    async def body() -> None:
        with guest(cmdline="lab.version=9"):
            async with watch(images) as told:
                await until(lambda: told.session.state is SessionState.UNFIT, "unfit")
                assert "protocol 9" in (told.session.degraded or "")

    run(body)


def test_a_kernel_without_image_is_degraded(images: ImageStore) -> None:
    async def body() -> None:
        with guest(cmdline="lab.release=5.10.0-1"):
            async with watch(images, activate_timeout_s=0.0) as told:
                await until(
                    lambda: told.session.probes["send_signal"].state is ProbeState.FAILED, "failed"
                )
                assert told.session.degraded == (
                    "vm1: guest kernel 5.10.0-1 has no image of probe send_signal "
                    "(have: 6.1.0-standin); build it with: vesper probe build 5.10.0-1"
                )

    run(body)


def test_an_image_that_the_guest_refuses_is_an_error(images: ImageStore) -> None:
    """The guest's own errno and words reach the caller; C-chan goes on."""

    async def body() -> None:
        with guest() as vm:
            async with watch(images) as told:
                await until(told.all_collecting, "probes collecting")
                image = images.root / "6.1.0-standin/broken.ko"
                image.write_bytes(make_image("broken"))
                with pytest.raises(SessionError, match="no relay channel"):
                    await told.session.load_probe("broken")
                with pytest.raises(SessionError) as caught:
                    await told.session.load_probe("broken")
                assert caught.value.errno == 17
                assert caught.value.code == "guest"
                await vm.tell("emit", "send_signal")
                await until(lambda: told.events, "an event all the same")

    run(body)


def test_a_probe_can_be_unloaded_and_loaded_again(images: ImageStore) -> None:
    async def body() -> None:
        with guest() as vm:
            async with watch(images) as told:
                await until(told.all_collecting, "probes collecting")
                await told.session.unload_probe("send_signal")
                assert "send_signal" not in told.session.probes
                assert (await vm.tell("emit", "send_signal")).startswith("error")
                with pytest.raises(SessionError) as caught:
                    await told.session.unload_probe("send_signal")
                assert caught.value.code == "no-such-probe"
                await told.session.load_probe("send_signal")
                await vm.tell("emit", "send_signal")
                await until(lambda: told.events, "an event of the second load")
                assert told.events[0].seq == 0

    run(body)


def test_probe_removed_in_the_guest_comes_back(images: ImageStore) -> None:
    async def body() -> None:
        with guest() as vm:
            async with watch(images) as told:
                await until(told.all_collecting, "probes collecting")
                first = {p.generation for p in told.session.positions}
                await vm.tell("rmmod", "send_signal")
                await until(
                    lambda: told.all_collecting()
                    and {p.generation for p in told.session.positions} != first,
                    "loaded again",
                )

    run(body)


def test_a_channel_that_comes_back_is_read_on(images: ImageStore) -> None:
    """As when the guest's frontend closes and connects again: same channel."""

    async def body() -> None:
        with guest() as vm:
            async with watch(images) as told:
                await until(told.all_collecting, "probes collecting")
                await vm.tell("emit", "send_signal", "count=2")
                await until(lambda: len(told.events) == 2, "two events")
                await vm.tell("hide", "send_signal")
                probes = told.session.probes
                await until(lambda: not told.all_collecting(), "noticed")
                assert "send_signal" in (probes["send_signal"].error or "")
                await vm.tell("emit", "send_signal")
                await vm.tell("show", "send_signal")
                await until(told.all_collecting, "adopted again")
                await vm.tell("emit", "send_signal")
                await until(lambda: len(told.events) >= 4, "what was missed, and the new one")
                assert [event.seq for event in told.events] == [0, 1, 2, 3]

    run(body)


def test_the_death_of_the_guest_closes_the_session(images: ImageStore) -> None:
    async def body() -> None:
        with guest() as vm:
            async with watch(images) as told:
                await until(told.all_collecting, "probes collecting")
                vm.kill()
                await until(lambda: told.session.state is SessionState.CLOSED, "closed")

    run(body)


def test_a_guest_that_leaves_lacks_no_probe(
    images: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in each reboot: its channels are closed before the session waits for it again."""
    monkeypatch.setattr("vesper_monitor.guest.session_contact.PROBES_TIMEOUT_S", 0.0)

    async def body() -> None:
        with guest() as vm:
            async with watch(images) as told:
                await until(told.all_collecting, "probes collecting")
                told.degraded.clear()
                await vm.tell("boot")
                await until(lambda: SessionState.WAITING in told.states[2:], "left")
                assert told.degraded == set()

    run(body)


def test_a_table_that_is_unreadable_while_the_guest_leaves_is_no_misfit(
    images: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> None:
        async def fail(*_: object) -> bool:
            raise TableError("vm1: the guest's channel table has no magic number")

        with guest() as vm:
            async with watch(images) as told:
                await until(told.all_collecting, "probes collecting")
                with monkeypatch.context() as patch:
                    patch.setattr(SessionReader, "read_round", fail)
                    told.session._reader.wake_up()
                    await vm.tell("boot")
                    await until(lambda: SessionState.ACTIVE not in told.states[-1:], "left")
                await until(told.all_collecting, "probes collecting again")
                assert SessionState.UNFIT not in told.states

    run(body)


def test_a_session_that_closes_waits_for_no_loss_of_its_link(
    images: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vesper_monitor.guest.session_link.LEAVE_LIMIT_S", 60.0)

    async def body() -> None:
        rounds: list[None] = []

        async def fail(*_: object) -> bool:
            rounds.append(None)
            raise TableError("vm1: the guest's channel table has no magic number")

        with guest():
            async with watch(images) as told:
                await until(told.all_collecting, "probes collecting")
                monkeypatch.setattr(SessionReader, "read_round", fail)
                told.session._reader.wake_up()
                await until(lambda: rounds, "table read")
                begin = time.monotonic()
            assert time.monotonic() - begin < 5

    run(body)


def test_deactivate_leaves_nothing_loaded(images: ImageStore) -> None:
    async def body() -> None:
        with guest() as vm:
            async with watch(images) as told:
                await until(told.all_collecting, "probes collecting")
                await told.session.close_session(deactivate=True)
                assert (await vm.tell("emit", "send_signal")).startswith("error")
                await until(lambda: not vm.place.active.exists(), "deactivated")

    run(body)


@pytest.mark.parametrize("cmdline", ["lab.version=9", "lab.silent=yes"])
def test_deactivate_without_a_session(images: ImageStore, cmdline: str) -> None:
    """The next daemon would take it for a guest to watch."""

    async def body() -> None:
        with guest(cmdline=cmdline) as vm:
            async with watch(images) as told:
                await until(vm.place.active.exists, "activated")
                await until(
                    lambda: told.session.state in (SessionState.UNFIT, SessionState.CONNECTING),
                    "no session",
                )
                opened = os.listdir("/proc/self/fd")
                await asyncio.wait_for(told.session.close_session(deactivate=True), 5)
                await until(lambda: not vm.place.active.exists(), "deactivated")
                assert len(os.listdir("/proc/self/fd")) <= len(opened)

    run(body)


def test_a_spoilt_cchan_is_begun_anew(images: ImageStore) -> None:
    async def body() -> None:
        with guest() as vm:
            async with watch(images) as told:
                await until(told.all_collecting, "probes collecting")
            with vm.place.memory.open("r+b") as memory:
                memory.seek(CCHAN_PAGE * abi.PAGE_SIZE + REQUESTS_TAKEN)
                memory.write((77).to_bytes(4, "little"))
            async with watch(images) as told:
                await until(told.all_collecting, "probes collecting again")
                await vm.tell("emit", "send_signal", "sig=11", "fatal=1")
                await until(lambda: told.events, "the event")

    run(body)


def test_raw_records_can_be_followed(images: ImageStore) -> None:
    async def body() -> None:
        with guest(cmdline="lab.cpus=2") as vm:
            async with watch(images) as told:
                await until(told.all_collecting, "probes collecting")
                follow = told.session.subscribe_raw("send_signal", 1)
                for cpu in (0, 1):
                    await vm.tell("emit", "send_signal", f"cpu={cpu}")
                cpu, seq, data = await anext(follow)
                assert (cpu, seq) == (1, 0)
                assert int.from_bytes(data[:4], "little") == len(data)

    run(body)


def test_guests_do_not_disturb_each_other(images: ImageStore) -> None:
    """One floods, the other's events arrive."""

    async def body() -> None:
        with guest() as loud, guest("vm2") as quiet:
            async with watch(images) as first, watch(images, "vm2") as second:
                await until(first.all_collecting, "vm1")
                await until(second.all_collecting, "vm2")
                flood = asyncio.create_task(_flood(loud))
                await quiet.tell("emit", "send_signal")
                await until(lambda: second.events, "the quiet guest's event")
                await flood

    run(body)


async def _flood(vm: GuestProcess) -> None:
    for _ in range(20):
        await vm.tell("emit", "send_signal", "count=400")


def test_a_pause_that_nobody_reports_is_noticed(images: ImageStore) -> None:
    """Xen says nothing of one: the guest shows no life, and is looked at; likewise at its end."""

    async def body() -> None:
        looks: list[str] = []
        with guest() as vm:
            async with watch(images, hang_timeout_s=2.0) as told:
                told.listener.recheck_domain = lambda: looks.append("")
                await until(lambda: told.session.alive, "signs of life")
                await vm.tell("state", "paused")
                await until(lambda: len(looks) == 1, "a look at the paused one")
                await asyncio.sleep(1.0)
                assert len(looks) == 1
                await vm.tell("state", "running")
                await until(lambda: len(looks) == 2, "a look at the one that runs again")
                assert told.events == []

    run(body)
