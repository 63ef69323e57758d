# SPDX-License-Identifier: GPL-2.0-or-later
"""Features of a guest on QEMU beside its probes, tried while probes run."""

from __future__ import annotations

import re

from tests.kernel.support.ivshmem import SLOW_S, KvmMachine, Watch
from tests.unit.support.standins import until
from vesper_monitor.guest.dynamic_probes.syntax import parse_definition
from vesper_monitor.guest.health.heartbeat import HeartbeatReader

__all__ = [
    "CGROUP",
    "CPU1",
    "KILLED",
    "POINT",
    "cpus_go_and_come",
    "finds_processes",
    "point",
    "said",
    "sees_deep_cgroups",
    "shows_life",
    "unimpaired",
]

CPU1 = "/sys/devices/system/cpu/cpu1/online"
CPU2 = "/sys/devices/system/cpu/cpu2/online"
#: How a kernel's log says that something is wrong in it.
WRONG = "WARNING:|BUG:|Oops|general protection|INFO: task|possible .* detected"
#: What kmemleak has found, where there is one (lab/images/debug.config): what is young, or has
#: changed since the last scan, is not told (Documentation/dev-tools/kmemleak.rst).
LEAKS = (
    "mount -t debugfs debugfs /sys/kernel/debug 2>/dev/null; leaks=/sys/kernel/debug/kmemleak; "
    "if [ -e $leaks ]; then sleep 6; echo scan >$leaks; echo scan >$leaks; cat $leaks; fi"
)
#: Documentation/admin-guide/tainted-kernels.rst: a bad page, an oops, a warning, a soft lockup.
TAINTS = 1 << 5 | 1 << 7 | 1 << 9 | 1 << 14
#: Where the OOM killer comes soon, however much memory the guest has, and however slow it is.
CGROUP = (
    "mkdir -p /cg; mount -t cgroup2 none /cg; echo +memory >/cg/cgroup.subtree_control; "
    "mkdir -p /cg/small; echo 8M >/cg/small/memory.max"
)
KILLED = "sh -c 'echo $$ >/cg/small/cgroup.procs; exec tail /dev/zero'"
#: Of those who read the file's name it is.
POINT = parse_definition(
    'p:opens do_sys_openat2 path=+0($arg2):ustring comm=$comm if comm == "cat"'
)


async def said(guest: KvmMachine, word: str) -> None:
    """Wait until the guest has said a word; its shell has then run all earlier commands."""
    guest.machine.tell(f"echo {word}")
    await until(lambda: f"\n{word}\n" in guest.machine.console, word, SLOW_S)


async def unimpaired(guest: KvmMachine) -> None:
    """Check that the guest's kernel has reported no error so far."""
    number = guest.machine.console.count("\ntainted ")
    guest.machine.tell(
        f"{{ dmesg | grep -E '{WRONG}'; {LEAKS}; }} | sed 's/^/wrong: /'; "
        f"echo tainted $(($(cat /proc/sys/kernel/tainted) & {TAINTS}))"
    )
    await until(
        lambda: guest.machine.console.count("\ntainted ") > number, "the kernel's word", SLOW_S
    )
    lines = guest.machine.console.splitlines()
    assert not [line for line in lines if line.startswith("wrong: ")]
    assert [line for line in lines if line.startswith("tainted ")][-1] == "tainted 0"


async def shows_life(seen: Watch) -> None:
    guest = seen.session.guest
    assert guest is not None
    reader = HeartbeatReader(guest.link, guest.hello.heartbeat_region, guest.hello.nr_cpus)
    try:
        first = reader.read_signs()
        await until(lambda: reader.read_signs() != first, "signs of life", SLOW_S)
    finally:
        reader.close()


async def cpus_go_and_come(guest: KvmMachine, seen: Watch, *, plugged_in: bool = True) -> None:
    """Take CPUs offline and online while a probe records; each record arrives.

    :param plugged_in: as the third is; else it is there, and has never run.
    """
    seen.events.clear()
    guest.machine.tell(
        "(i=0; while [ $i -lt 60 ]; do sh -c 'kill -USR1 $$'; i=$((i + 1)); done) &"
        f" for n in 1 2 3; do echo 0 >{CPU1}; echo 1 >{CPU1}; done; wait"
    )
    guest.machine.tell(f"echo 0 >{CPU1}; sh -c 'kill -USR2 $$'; echo 1 >{CPU1}")
    guest.machine.tell("taskset 2 sh -c 'kill -USR2 $$'")
    if plugged_in:
        guest.plug_in_cpu()
    guest.machine.tell(f"until [ -e {CPU2} ]; do sleep 1; done; echo 1 >{CPU2}")
    guest.machine.tell("taskset 4 sh -c 'kill -USR2 $$'")
    await seen.wait_until(
        lambda: {e.cpu for e in seen.list_events("send_signal", signal="SIGUSR2")} >= {2}, "2"
    )
    assert len(seen.list_events("send_signal", signal="SIGUSR1")) == 60
    assert {e.cpu for e in seen.list_events("send_signal", signal="SIGUSR2")} == {0, 1, 2}
    assert not seen.list_events("lost")


async def sees_deep_cgroups(guest: KvmMachine, seen: Watch) -> None:
    """Nobody hides below user.slice by nesting cgroups, not before Linux 6.1 either."""
    nest = "i=0; while [ $i -lt 300 ]; do mkdir d; cd d; i=$((i + 1)); done"
    guest.machine.tell("mkdir -p /deep; mount -t cgroup2 none /deep; mkdir -p /deep/user.slice")
    guest.machine.tell(f"sh -c 'cd /deep/user.slice; {nest}; echo $$ >cgroup.procs; kill -ILL $$'")
    await seen.wait_until(lambda: seen.list_events("send_signal", signal="SIGILL"), "SIGILL")
    (event,) = seen.list_events("send_signal", signal="SIGILL")
    assert event.fields["cgroup"].startswith("/user.slice/d/d/")


async def point(guest: KvmMachine, seen: Watch) -> None:
    """:data:`POINT` is loaded beside one probe, and hit."""
    await seen.wait_collecting("send_signal", POINT.name)
    guest.machine.tell("cat /proc/sys/kernel/ostype")
    await seen.wait_until(
        lambda: seen.list_events(POINT.name, path="/proc/sys/kernel/ostype"), "the point's hit"
    )


#: A service with a worker of the same name; and one that a user has started, a moment before.
_SERVICES = (
    "sh -c 'echo 1000 >/proc/self/loginuid; printf served >/proc/self/comm; "
    "echo theirs $$ >/dev/console; sleep 1000; :' & sleep 1; "
    "sh -c 'printf served >/proc/self/comm; (while :; do sleep 1; done) & "
    "echo served $$ $! >/dev/console; wait' & "
)


async def finds_processes(guest: KvmMachine, seen: Watch) -> None:
    """Check that the guest's core finds the main process of a name among several."""
    names = ["init", "kthreadd", "nobody", "served", "a", "b", "a-name-that-is-cut-off"]
    guest.machine.tell(_SERVICES)
    await until(lambda: "\nserved " in guest.machine.console, "the service's number", SLOW_S)
    pids = re.findall(r"^(theirs|served) (\d+) ?(\d*)$", guest.machine.console, re.MULTILINE)
    (_, theirs, _), (_, pid, worker) = pids
    first = await seen.session.find_processes(names)
    assert first is not None
    assert first.found.keys() == {"init", "served"}
    assert (first.found["init"].pid, first.found["served"].pid) == (1, int(pid))
    assert 0.0 < first.found["served"].age_s < first.found["init"].age_s <= first.uptime_s
    assert first.found["served"].is_believed
    # Then it is gone, and only a user's own is left.
    guest.machine.tell(f"kill -9 {pid} {worker}")
    await said(guest, "ended")
    second = await seen.session.find_processes(names)
    assert second is not None
    assert (second.found["served"].pid, second.found["served"].is_believed) == (int(theirs), False)
    guest.machine.tell(f"kill -9 {theirs}")
    await said(guest, "all ended")
