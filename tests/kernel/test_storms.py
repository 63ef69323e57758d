# SPDX-License-Identifier: GPL-2.0-or-later
"""A real guest with every probe, through storms of what they record, and with no memory left.

``VESPER_STORMS=60`` makes each storm last so many seconds (``make storms``).
"""

from __future__ import annotations

import asyncio
import os
import re
from collections import Counter
from pathlib import Path

import pytest

from tests.kernel.support.features import CGROUP, CPU1, KILLED, said, unimpaired
from tests.kernel.support.ivshmem import PROBES, SLOW, KvmMachine, Watch, kvm_machine, watch
from tests.kernel.support.loopback_guest import TestGuest
from tests.unit.support.standins import until
from vesper_monitor.guest.errors import SessionError
from vesper_monitor.guest.event import Event
from vesper_monitor.guest.session_state import ProbeState, SessionState

#: s
STORM = float(os.environ.get("VESPER_STORMS", "2"))
#: The log of a storm, too, is looked through.
CMDLINE = "panic=0 log_buf_len=8M"
#: kB that are available when there is no memory left: with 6000 the OOM killer comes.
LITTLE = 7200


#: A kprobe of the kernel's own stays where ours go: Linux 6.1 in QEMU 7.2, without any of
#: VESPER's modules, too, jumps to address 0 once in a while when the last one is taken from
#: a function that is called without a pause.
KEEP = (
    "mount -t tracefs tracefs /sys/kernel/tracing; "
    "echo p:keep __send_signal_locked >/sys/kernel/tracing/kprobe_events; "
    "echo 1 >/sys/kernel/tracing/events/kprobes/keep/enable"
)


class Tally:
    """
    :ivar seen: the storm's records, by probe and CPU.
    :ivar lost: those that are counted as lost, likewise.
    :ivar left_out: how many the records say were before them.
    """

    def __init__(self, watched: Watch) -> None:
        self.watched = watched
        self.seen: Counter[tuple[str, int]] = Counter()
        self.lost: Counter[tuple[str, int]] = Counter()
        self.left_out = 0
        watched.on_events = self._add

    def _add(self, events: list[Event]) -> None:
        for event in events:
            where = (event.probe, event.cpu)
            if event.event == "lost":
                self.lost[where] += event.fields["count"]
                continue
            if event.event == "send_signal":
                self.left_out += event.fields["left_out"]
                if event.fields["comm"] == "vsp_busy":
                    self.seen[where] += 1
                    continue
            self.watched.events.append(event)

    def total(self) -> int:
        return self.seen.total() + self.lost.total() + self.left_out


def storms(guest: KvmMachine) -> list[tuple[int, float]]:
    """Signals, and a second's share of them, of each storm that is over."""
    found = re.findall(r"^storm (\d+) done in (\d+)$", guest.machine.console, re.MULTILINE)
    return [(int(count), int(count) / (int(ns) / 1e9)) for count, ns in found]


async def faults_are_seen(guest: KvmMachine, seen: Watch) -> None:
    """Every probe is there, and the first three are heard."""
    await seen.collecting(*PROBES)
    seen.events.clear()
    guest.machine.tell(f"sh -c 'kill -SEGV $$'; sh -c 'sleep 1; exit 3'; {KILLED}")
    await seen.see(lambda: seen.of("send_signal", signal="SIGSEGV", comm="sh"), "SIGSEGV")
    await seen.see(lambda: seen.of("process_exit", comm="sh", status=3), "exit")
    await seen.see(lambda: seen.of("out_of_memory", comm="tail"), "OOM")
    assert seen.session.state is SessionState.ACTIVE
    await unimpaired(guest)


async def limited_storm(guest: KvmMachine, seen: Watch) -> None:
    """Signals that kill nobody: so many are recorded as the probe is to, the rest is counted."""
    await signal_storm(guest, seen)


async def whole_storm(guest: KvmMachine, seen: Watch) -> None:
    """All are recorded: faster than anybody reads."""
    guest.machine.tell("echo 4294967295 >/sys/module/send_signal/parameters/max_per_s")
    tally = await signal_storm(guest, seen)
    assert not tally.left_out


async def signal_storm(guest: KvmMachine, seen: Watch) -> Tally:
    """On both CPUs; each signal is seen, counted as lost, or counted as left out."""
    tally, number = Tally(seen), len(storms(guest))
    guest.machine.tell(
        f"for cpu in 1 2; do taskset $cpu vsp_busy storm {STORM:.0f} & done; wait; "
        "sh -c 'kill -SEGV $$'"
    )
    await until(lambda: len(storms(guest)) == number + 2, "the end of the storm", SLOW + STORM)
    sent = sum(count for count, _rate in storms(guest)[number:])
    await seen.see(lambda: tally.total() >= sent, "the last of it")
    print(
        f"signal storm: {sent} signals in {STORM:.0f} s on 2 CPUs, "
        f"{sum(rate for _count, rate in storms(guest)[number:]):.0f}/s; {tally.seen.total()} read, "
        f"{tally.lost.total()} counted as lost, {tally.left_out} as left out"
    )
    assert tally.total() == sent
    assert {probe for probe, _cpu in tally.lost} <= {"send_signal"}
    assert seen.session.state is SessionState.ACTIVE
    return tally


async def changes_in_a_storm(guest: KvmMachine, seen: Watch) -> None:
    """CPUs go and come, probes do, by the host's will and the guest's, and the frontend."""
    loop = asyncio.get_running_loop()
    number, end = len(storms(guest)), loop.time() + STORM
    guest.machine.tell("while [ ! -e /calm ]; do vsp_busy storm 1; done &")
    rounds = 0
    # In the second one the probes were loaded before the frontend came back.
    while rounds < 2 or loop.time() < end:
        rounds += 1
        guest.machine.tell(f"echo 0 >{CPU1}; echo 1 >{CPU1}")
        await seen.collecting("send_signal")
        guest.machine.tell(f"echo 0 >{CPU1}; echo 1 >{CPU1}")
        await seen.collecting(*PROBES)
        guest.machine.tell("rmmod send_signal process_exit")
        await seen.see(lambda: stopped(seen), "a probe that has stopped")
        await seen.collecting(*PROBES)
        seen.states.clear()
        guest.machine.tell("rmmod vesper_ivshmem; insmod /vesper_ivshmem.ko")
        await seen.see(lambda: SessionState.WAITING in seen.states, "no frontend")
        await seen.collecting(*PROBES)
    guest.machine.tell("touch /calm; wait; rm /calm")
    await said(guest, "calm")
    assert len(storms(guest)) > number
    print(f"probes, CPU 1 and the frontend gone and come back in a storm: {rounds} times")


def stopped(seen: Watch) -> bool:
    return seen.session.probes["send_signal"].state is not ProbeState.COLLECTING


async def core_goes(guest: KvmMachine, seen: Watch) -> None:
    """Not while it is in use; else with all that is loaded, in a storm."""
    guest.machine.tell("rmmod vesper || echo refused")
    await said(guest, "tried")
    assert "\nrefused\n" in guest.machine.console
    seen.states.clear()
    guest.machine.tell(
        f"vsp_busy storm {STORM:.0f} & rmmod vesper_ivshmem {' '.join(PROBES)} && rmmod vesper && "
        "echo gone && insmod /vesper.ko && insmod /vesper_ivshmem.ko; wait"
    )
    await seen.see(lambda: SessionState.WAITING in seen.states, "gone")
    await said(guest, "back")
    assert "\ngone\n" in guest.machine.console


def test_a_storm_of_signals_is_counted(test_guest: TestGuest, tmp_path: Path) -> None:
    async def body(guest: KvmMachine) -> None:
        async with watch(guest) as seen:
            guest.machine.tell(KEEP)
            guest.machine.tell(CGROUP)
            await seen.collecting(*PROBES)
            for part in (limited_storm, whole_storm, changes_in_a_storm, core_goes):
                await part(guest, seen)
                await faults_are_seen(guest, seen)

    with kvm_machine(test_guest.kernel, test_guest.files, tmp_path, cmdline=CMDLINE) as guest:
        asyncio.run(body(guest))


async def oom_storm(guest: KvmMachine, seen: Watch) -> None:
    """Process after process is killed; each is seen."""
    seen.events.clear()
    guest.machine.tell(
        f"n=0; end=$(($(date +%s) + {STORM:.0f})); while [ $n -lt 10 ] || "
        f"[ $(date +%s) -lt $end ]; do {KILLED}; n=$((n + 1)); done; echo killed $n"
    )
    await until(lambda: "\nkilled " in guest.machine.console, "the end of the storm", SLOW + STORM)
    (killed,) = re.findall(r"^killed (\d+)$", guest.machine.console, re.MULTILINE)

    def told() -> int:
        lost = sum(e.fields["count"] for e in seen.of("lost") if e.probe == "out_of_memory")
        return len(seen.of("out_of_memory", comm="tail", constraint="cgroup")) + int(lost)

    await seen.see(lambda: told() >= int(killed), "the last OOM kill")
    assert told() == int(killed)
    print(f"OOM storm: {killed} kills in {STORM:.0f} s; lost: {len(seen.of('lost'))}")


async def eaten(guest: KvmMachine) -> None:
    """All memory is, and who has it takes what becomes free."""
    number = guest.machine.console.count("\neaten ")
    guest.machine.tell(f"vsp_busy eat {LITTLE} &")
    await until(lambda: guest.machine.console.count("\neaten ") > number, "no memory", SLOW)


async def no_memory(guest: KvmMachine, seen: Watch) -> None:
    """A probe is to be loaded and there is no memory left: refused, and nobody is killed for it."""
    rounds = max(1, round(STORM / 10))
    for _ in range(rounds):
        await seen.collecting("send_signal", "out_of_memory")
        seen.events.clear()
        await eaten(guest)
        await seen.session.set_probes(dict.fromkeys(PROBES, ""))
        with pytest.raises(SessionError) as error:
            await seen.session.load_probe("die")
        assert "ENOMEM: vesper: " in str(error.value)
        assert "kB of memory are available" in str(error.value)
        # Tried again, until there is memory.
        await asyncio.sleep(2)
        assert not seen.of("out_of_memory")
        guest.machine.tell("kill -KILL $!")
        await seen.collecting(*PROBES)
        assert seen.of("send_signal", signal="SIGKILL", comm="vsp_busy"), "it was killed before"
    print(f"a load with no memory left: refused, and done once there was, {rounds} times")


def test_a_storm_of_oom_kills_is_counted(test_guest: TestGuest, tmp_path: Path) -> None:
    async def body(guest: KvmMachine) -> None:
        async with watch(guest) as seen:
            guest.machine.tell(CGROUP)
            await seen.collecting(*PROBES)
            for part in (oom_storm, no_memory):
                await part(guest, seen)
                await faults_are_seen(guest, seen)

    with kvm_machine(test_guest.kernel, test_guest.files, tmp_path, cmdline=CMDLINE) as guest:
        asyncio.run(body(guest))
