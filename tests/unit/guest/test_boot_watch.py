# SPDX-License-Identifier: GPL-2.0-or-later
"""A reset that the guest's kernel does not announce is no hang; and a boot that never ends."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.standin.transport import StandinTransport
from tests.unit.guest.test_session import images as images
from tests.unit.guest.test_session import watch
from tests.unit.support.daemons import RESOURCE, DaemonProcess, Monitor
from tests.unit.support.standins import GuestProcess, guest, until
from vesper_monitor.guest.control.images import ImageStore
from vesper_monitor.guest.health.boot_watch import BootWatch
from vesper_monitor.guest.session_state import SessionState
from vesper_monitor.hypervisor.domain_state import DomainState
from vesper_monitor.hypervisor.transport import Cause, CpuUse, Domain, DomainReport

#: s of CLOCK_REALTIME.
AT = 1_700_000_000.0
WHEN = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(AT))
SLEEPS = DomainReport(DomainState.PAUSED, Cause.UNKNOWN, "..", says="sleeps (suspend to RAM)")
SUSPENDED = DomainReport(DomainState.PAUSED, Cause.ASKED, "suspended by \x1b an operator")


def boot(*, heard: bool = True) -> BootWatch:
    watched = BootWatch("vm1", heard=False)
    if heard:
        assert watched.note_heard() is None
    return watched


@pytest.mark.parametrize(
    ("happens", "words"),
    [
        (lambda b: b.note_reset(AT), f"vm1 was reset at {WHEN} and boots; it has not been heard"),
        (lambda b: b.note_leave(AT), f"vm1 has said good-bye at {WHEN}: it has halted, boots"),
        (lambda b: (b.note_leave(AT - 5), b.note_reset(AT)), f"vm1 reboots since {WHEN}"),
        (lambda b: b.note_unsure(AT), f"vm1 shows no life since {WHEN}: it hangs, or was reset"),
        (lambda b: (b.note_unsure(AT - 9), b.note_reset(AT)), f"vm1 was reset at {WHEN}"),
        # In a loop of resets the first one counts.
        (lambda b: (b.note_reset(AT), b.note_reset(AT + 9)), f"vm1 was reset at {WHEN}"),
        (lambda b: b.note_report(SLEEPS, AT), f"vm1 sleeps (suspend to RAM), since {WHEN}"),
        (
            lambda b: (b.note_leave(AT - 9), b.note_report(SUSPENDED, AT)),
            f"vm1 is paused: suspended by \\x1b an operator, since {WHEN}",
        ),
    ],
)
def test_why_a_guest_is_not_heard(happens: Callable[[BootWatch], None], words: str) -> None:
    watched = boot()
    assert watched.words is None
    happens(watched)
    assert watched.words is not None
    assert watched.words.startswith(words)
    assert watched.since == AT
    watched.note_report(DomainReport(DomainState.RUNNING), AT + 20)
    watched.note_heard()
    assert watched.words is watched.since is None


def test_a_reboot_that_nobody_has_seen_is_not_claimed() -> None:
    assert boot(heard=False).words is None  # the transport's advice holds
    assert "was heard before" in (BootWatch("vm1", heard=True).words or "")


def test_an_earlier_vesperd_had_heard_it_and_it_has_not_said_good_bye() -> None:
    """It hangs, or was reset while no vesperd was there: both end at boot_timeout."""
    watched = BootWatch("vm1", heard=True)
    assert overdue(watched, 30.0, seconds(0, 100)) == []
    watched.note_unsure(AT)
    assert (watched.words or "").startswith(f"vm1 shows no life since {WHEN}: it hangs, or was")
    said = "the guest was not heard for 30 s"
    assert overdue(watched, 30.0, seconds(200, 300)) == [(230, said)]


def overdue(watched: BootWatch, limit: float, times: list[float]) -> list[tuple[float, str]]:
    found = []
    for now in times:
        notice = watched.check_boot(now, limit)
        if notice is not None:
            assert notice.failure
            found.append((now, notice.text))
    return found


def seconds(begin: float, end: float) -> list[float]:
    return [begin + second for second in range(round(end - begin) + 1)]


def test_a_boot_that_takes_too_long_is_reported() -> None:
    watched = boot()
    assert overdue(watched, 30.0, seconds(0, 100)) == []  # it is heard
    watched.note_reset(AT)
    assert overdue(watched, 0.0, seconds(100, 1000)) == []  # no limit
    said = "the guest has not come back within 30 s of its reset"
    assert overdue(watched, 30.0, seconds(1000, 2000)) == [(1030, said)]  # once
    back = watched.note_heard()
    assert back is not None and not back.failure
    assert watched.note_heard() is None
    # The next one is another.
    watched.note_reset(AT)
    assert overdue(watched, 30.0, seconds(3000, 3100)) == [(3030, said)]


def test_suspended_time_does_not_count_as_boot_time() -> None:
    watched = boot(heard=False)
    assert watched.is_first
    said = "the guest was not heard within 30 s of its start"
    assert overdue(watched, 30.0, seconds(0, 20)) == []
    watched.note_report(SUSPENDED, AT)
    assert overdue(watched, 30.0, seconds(20, 500)) == []
    watched.note_report(DomainReport(DomainState.RUNNING), AT)
    # vesperd itself stands still meanwhile.
    assert overdue(watched, 30.0, seconds(500, 510) + seconds(900, 915)) == []
    assert overdue(watched, 30.0, seconds(916, 990)) == [(920, said)]


def test_a_guest_that_has_said_good_bye_does_not_boot() -> None:
    """halt -f, or its modules were unloaded: nobody knows that it boots."""
    watched = boot()
    watched.note_leave(AT)
    assert overdue(watched, 30.0, seconds(0, 1000)) == []
    watched.note_reset(AT)
    assert len(overdue(watched, 30.0, seconds(1000, 1100))) == 1


# -------------------------------------------------------------- a session


def run(test: Any) -> None:
    asyncio.run(asyncio.wait_for(test(), 60))


async def spins(vm: GuestProcess) -> None:
    """As a guest does that boots."""
    assert await vm.tell("cpu", "spin") == "ok"


def test_the_next_kernel_is_another(images: ImageStore) -> None:
    async def body() -> None:
        with guest() as vm:
            async with watch(images, hang_timeout_s=2.0, activate_timeout_s=0.3) as told:
                session = told.session
                await until(told.all_collecting, "collecting")
                await until(lambda: session.alive, "alive")
                await spins(vm)
                before = session.hello
                await vm.tell("words", "oops", "before")
                await until(lambda: told.events, "an oops")
                await vm.tell("quiet", "words", "panic", "the last word")
                await vm.tell("reset", "quiet")
                session.note_reset()
                assert not session.alive
                await until(lambda: session.degraded, "degraded")
                assert "vm1 was reset at" in str(session.degraded)
                assert session.standstill is not None and session.standstill[0] == session.degraded
                await asyncio.sleep(3.0)  # longer than a hang takes
                await vm.tell("boot")
                await until(told.all_collecting, "collecting again")
                await until(lambda: session.alive, "alive again")
                assert session.standstill is None
                assert before is not None and session.hello is not None
                assert before.boot_id != session.hello.boot_id
                assert all(p.boot_id == session.hello.boot_id for p in session.positions)
                await vm.tell("emit", "send_signal", "sig=11", "comm=sh")
                await until(lambda: len(told.events) >= 3, "an event")
                kinds = [(e.event, e.fields.get("kind")) for e in told.events]
                # The old kernel's last word, and no hang, nor anything twice.
                assert kinds == [
                    ("last_words", "oops"), ("last_words", "panic"), ("send_signal", None),
                ]  # fmt: skip

    run(body)


def test_a_reset_while_nobody_told_of_it(images: ImageStore, monkeypatch: Any) -> None:
    """libvirtd was away: a guest without life must answer anew, and may take its time."""
    since: list[float] = []
    honest = StandinTransport.cpu_use

    async def cpu_use(self: StandinTransport, domain: Domain) -> CpuUse:
        use = await honest(self, domain)
        return dataclasses.replace(use, resets_known_since=since[-1] if since else 0.0)

    monkeypatch.setattr(StandinTransport, "cpu_use", cpu_use)

    async def body() -> None:
        with guest() as vm:
            async with watch(images, hang_timeout_s=2.0, activate_timeout_s=0.0) as told:
                session = told.session
                await until(lambda: session.alive, "alive")
                await spins(vm)
                await vm.tell("reset", "quiet")
                await asyncio.sleep(0.1)
                since.append(time.monotonic())
                await until(lambda: session.state is SessionState.WAITING, "a new question")
                assert "vm1 shows no life since" in str(session.degraded)
                await asyncio.sleep(3.0)
                await vm.tell("boot")
                await until(lambda: session.alive, "alive again")
                assert told.events == []
                # One that has shown life since is judged as ever.
                await vm.tell("life", "off")
                await until(lambda: told.events, "a hang")
                assert [event.event for event in told.events] == ["hang"]

    run(body)


# ------------------------------------------------------- the whole daemon


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DaemonProcess]:
    (tmp_path / "domains").mkdir()
    monkeypatch.setenv("VESPER_STANDIN_DIR", str(tmp_path / "domains"))
    daemon = DaemonProcess(tmp_path, "hang_timeout = 2\nactivate_timeout = 1")
    daemon.start()
    yield daemon
    daemon.stop()


def tell(vm: GuestProcess, *words: str) -> None:
    assert asyncio.run(vm.tell(*words)) == "ok"


def row(daemon: DaemonProcess) -> dict[str, Any]:
    (found,) = daemon.call("status")["vms"]
    return dict(found)


def wait_alive(daemon: DaemonProcess) -> None:
    end = time.monotonic() + 30
    while not daemon.call("alive", resource="r1")["alive"]:
        assert time.monotonic() < end, row(daemon)
        time.sleep(0.05)


def test_a_reset_is_no_fault_and_is_shown(daemon: DaemonProcess) -> None:
    with guest() as vm:
        daemon.call("start", **RESOURCE)
        assert Monitor(daemon).result() == "fine"
        wait_alive(daemon)
        tell(vm, "cpu", "spin")
        waiting = Monitor(daemon, timeout=60)
        tell(vm, "reset")
        assert waiting.result() == "degraded"
        reason = waiting.answer["reason"]
        assert reason.startswith("vm1 was reset at ")
        # The same text later, for Pacemaker; how long ago, for people.
        assert Monitor(daemon, timeout=3).result() == "degraded"
        assert row(daemon)["degraded"] == row(daemon)["standstill"]["text"] == reason
        said = daemon.vesper("status").stdout
        assert " ago)" in " ".join(said.split()), said
        tell(vm, "boot")
        wait_alive(daemon)
        assert Monitor(daemon, timeout=1).result() == "fine"
        assert row(daemon)["standstill"] is None
        assert [event["text"] for event in daemon.events()] == ["vm1: the guest reboots"]


def test_a_domain_that_runs_again_after_it_had_shut_down(daemon: DaemonProcess) -> None:
    """Xen's soft reset (kexec), or libvirt's restart after a crash: the same domain."""
    with guest() as vm:
        daemon.call("start", **RESOURCE)
        wait_alive(daemon)
        tell(vm, "cpu", "spin")
        tell(vm, "reset", "quiet")
        for state in ("shutdown", "running"):
            tell(vm, "state", state)
            end = time.monotonic() + 20
            while daemon.call("state", vm="vm1")["domain"]["state"] != state:
                assert time.monotonic() < end
                time.sleep(0.05)
            while not any(e["fields"].get("state") == state for e in daemon.events()):
                assert time.monotonic() < end
                time.sleep(0.05)
        assert row(daemon)["standstill"]["text"].startswith("vm1 was reset at ")
        time.sleep(3.0)  # longer than a hang takes
        tell(vm, "boot")
        while row(daemon)["state"] != "active":
            assert time.monotonic() < end
            time.sleep(0.05)
        texts = [event["text"] for event in daemon.events()]
        assert texts == ["vm1 has shut down by itself", "vm1 runs"]


def test_a_guest_that_does_not_come_back_is_reported(daemon: DaemonProcess) -> None:
    with guest() as vm:
        daemon.call("start", **RESOURCE, boot_timeout=-1)
        assert "'boot_timeout' must be" in daemon.call("status")["vms"][0]["degraded"]
        daemon.call("start", **RESOURCE, boot_timeout=600)
        assert Monitor(daemon).result() == "fine"
        wait_alive(daemon)
        # Another parameter holds at once, and is in the journal.
        assert Monitor(daemon, timeout=1, boot_timeout=4).result() == "fine"
        daemon.stop()
        daemon.start()
        wait_alive(daemon)
        waiting = Monitor(daemon, timeout=60)
        tell(vm, "reset")
        while waiting.result() == "degraded":
            waiting = Monitor(daemon, timeout=60)
        assert waiting.answer["result"] == "fault", waiting.answer
        reason = waiting.answer["reason"]
        assert reason.startswith("vm1: the guest has not come back within 4 s of its reset"), reason
        assert reason.endswith(" (system)")
        assert waiting.answer["fault"]["rule"] == "boot"
        # It may be a kernel without the modules: it is shut down in order.
        assert daemon.call("stop", resource="r1", vm="vm1")["system_gone"] is False


def test_a_start_counts_only_by_the_resources_own_word(daemon: DaemonProcess) -> None:
    with guest(cmdline="lab.vesper=no"):
        daemon.call("start", **RESOURCE)
        assert Monitor(daemon).result() == "fine"
        assert Monitor(daemon, timeout=20).result() == "degraded"
        waiting = Monitor(daemon, timeout=60, boot_timeout=2)
        assert waiting.result() == "fault"
        reason = waiting.answer["reason"]
        assert reason == "vm1: the guest was not heard within 2 s of its start (system)"


def test_a_domain_that_somebody_has_paused_shows(daemon: DaemonProcess) -> None:
    with guest() as vm:
        daemon.call("start", **RESOURCE, pause_timeout=0)
        wait_alive(daemon)
        tell(vm, "state", "paused")
        end = time.monotonic() + 20
        while row(daemon)["standstill"] is None:
            assert time.monotonic() < end
            time.sleep(0.05)
        shown = row(daemon)["standstill"]
        assert shown["paused"] is True
        assert shown["text"].startswith("vm1 is paused, since ")
        said = daemon.vesper("status").stdout
        assert "paused" in said.splitlines()[1], said
        assert Monitor(daemon, timeout=1).result() == "fine"
        tell(vm, "state", "running")
        while row(daemon)["standstill"] is not None:
            assert time.monotonic() < end
            time.sleep(0.05)


def test_who_has_ended_a_domain_that_the_cluster_stops(daemon: DaemonProcess) -> None:
    with guest() as vm:
        daemon.call("start", **RESOURCE)
        wait_alive(daemon)
        daemon.call("stop", resource="r1", vm="vm1")
        # It was not carried through.
        daemon.call("start", **RESOURCE)
        tell(vm, "state", "shutdown")
        tell(vm, "state", "running")
        daemon.call("stop", resource="r1", vm="vm1")
        vm.kill()
        end = time.monotonic() + 20
        said = "vm1 does not run any more: stopped by the cluster"
        while (texts := [e["text"] for e in daemon.events()])[-1:] != [said]:
            assert time.monotonic() < end, texts
            time.sleep(0.05)
        assert "vm1 has shut down by itself: stopped by the cluster" not in texts
