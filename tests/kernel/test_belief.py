# SPDX-License-Identifier: GPL-2.0-or-later
"""Who in a real guest can cause a failover by a signal or by using up memory, and who cannot."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.support.features import CGROUP, said
from tests.kernel.support.ivshmem import SLOW_S, KvmMachine, Watch, kvm_machine, watch
from tests.kernel.support.loopback_guest import TestGuest
from tests.unit.support.standins import until
from vesper_monitor.guest.event import Event
from vesper_monitor.guest.process_origin import NO_LOGIN_UID
from vesper_monitor.rules.fields import is_ordered
from vesper_monitor.rules.rule_set import RuleSet, Scope, judge_by_defaults

Boot = Callable[..., Any]

SERVICES = ("httpd",)
SESSION = "/user.slice/user-1000.slice/session-1.scope"
#: What calls itself httpd in the guest: the name of a program is that of its process.
PROGRAMS = {
    "crash": "kill -SEGV $$",
    "wait": "read x </never",
    "deaf": "trap '' TERM; touch /deaf.ready; read x </never",
    "exit": "trap 'exit 3' TERM; touch /exit.ready; while :; do usleep 100000; done",
    "eat": "x=0123456789; while :; do x=$x$x; done",
}
PREPARE = (
    "mkdir /etc; echo 'user::1000:1000::/:/bin/sh' >/etc/passwd",
    "mkfifo /never",
    *(
        f"mkdir /{name}; printf '%s\\n' '#!/bin/sh' \"{body}\" >/{name}/httpd; "
        f"chmod 755 /{name}/httpd"
        for name, body in ((n, b.replace("$", "\\$")) for n, b in PROGRAMS.items())
    ),
    CGROUP,
    f"mkdir -p /cg{SESSION}",
)
#: As pam_loginuid(8) does it at a login.
LOGIN = "echo 1000 >/proc/self/loginuid"
#: Its PID is in v, and it has its name.
NAMED = "v=$!; until grep -q httpd /proc/$v/comm; do usleep 10000; done"


def killed(seen: Watch, **fields: object) -> list[Event]:
    return seen.list_events("send_signal", fatal=True, leader_comm="httpd", **fields)


async def one(guest: KvmMachine, seen: Watch, line: str, **fields: object) -> Event:
    """Run a command in the guest, and return the next signal that kills an httpd."""
    seen.events.clear()
    guest.machine.tell(line)
    await seen.wait_until(lambda: killed(seen, **fields), line)
    (event,) = killed(seen, **fields)
    return event


async def pid_in_v(guest: KvmMachine) -> int:
    number = guest.machine.console.count("\npid ")
    guest.machine.tell("echo pid $v.")
    last = re.compile(r"\npid (\d+)\.")
    await until(lambda: len(last.findall(guest.machine.console)) > number, "a PID", SLOW_S)
    return int(last.findall(guest.machine.console)[-1])


async def users_are_not_believed(guest: KvmMachine, seen: Watch) -> None:
    """Let an unprivileged user's process take the service's name and kill itself."""
    forget = "echo 4294967295 >/proc/self/loginuid"
    event = await one(
        guest, seen, f"sh -c '{LOGIN}; exec su user -c \"{forget}; exec /crash/httpd\"'"
    )
    assert (event.fields["login_uid"], event.fields["uid"]) == (1000, 1000)
    assert judge_by_defaults(event, SERVICES) is None
    assert RuleSet("send_signal: fatal and main").judge_event(event, SERVICES) is not None
    assert "httpd" in event.text and "(of login uid 1000)" in event.text

    event = await one(guest, seen, f"sh -c 'echo $$ >/cg{SESSION}/cgroup.procs; exec /crash/httpd'")
    assert (event.fields["login_uid"], event.fields["cgroup"]) == (NO_LOGIN_UID, SESSION)
    assert judge_by_defaults(event, SERVICES) is None

    # He may nest his own without end.
    deep = "i=0; while [ $i -lt 300 ]; do mkdir d; cd d; i=$((i + 1)); done"
    event = await one(
        guest,
        seen,
        f"sh -c 'cd /cg{SESSION}; {deep}; echo $$ >cgroup.procs; exec /crash/httpd'",
    )
    assert event.fields["cgroup"].startswith(f"{SESSION}/d/d/")
    assert judge_by_defaults(event, SERVICES) is None

    event = await one(guest, seen, "sh -c 'echo 0 >/proc/self/loginuid; exec /crash/httpd'")
    assert (event.fields["login_uid"], event.fields["cgroup"]) == (0, "/")
    assert judge_by_defaults(event, SERVICES) is not None


async def daemons_are_believed(guest: KvmMachine, seen: Watch) -> None:
    event = await one(guest, seen, "/crash/httpd")
    assert event.fields["login_uid"] == NO_LOGIN_UID
    assert event.fields["age_ms"] < 5000
    assert event.fields["elder_pid"] is None
    assert judge_by_defaults(event, SERVICES) is not None


async def young_ones_are_not_the_service(guest: KvmMachine, seen: Watch) -> None:
    """While an older one of that name lives, which no user has started."""
    guest.machine.tell(f"sh -c '{LOGIN}; exec /wait/httpd' & {NAMED}")
    event = await one(guest, seen, "/crash/httpd")
    assert event.fields["elder_pid"] is None
    assert judge_by_defaults(event, SERVICES) is not None

    guest.machine.tell(f"/wait/httpd & {NAMED}")
    rules = RuleSet()
    verdicts = []
    elder = await pid_in_v(guest)
    for _ in range(3):
        event = await one(guest, seen, "/crash/httpd")
        assert event.fields["elder_pid"] == elder
        verdicts.append(rules.judge_event(event, SERVICES))
    assert verdicts[:2] == [None, None]
    assert verdicts[2] is not None
    assert verdicts[2].reason.startswith("3 within 60 s, the last: httpd[")

    # The older one is the service.
    event = await one(guest, seen, "kill -SEGV $v")
    assert judge_by_defaults(event, SERVICES) is not None
    event = await one(guest, seen, "/crash/httpd")
    assert event.fields["elder_pid"] is None


async def set_asked_limit(guest: KvmMachine, seconds: int) -> None:
    parameters = "/sys/module/send_signal/parameters /sys/module/process_exit/parameters"
    guest.machine.tell(f"for d in {parameters}; do echo {seconds} >$d/asked_s; done")
    await said(guest, f"limit-{seconds}")


async def orderly_ends_are_no_faults(guest: KvmMachine, seen: Watch) -> None:
    """The guest's shell is its PID 1."""
    event = await one(guest, seen, f"/wait/httpd & {NAMED}; kill -TERM $v")
    assert (event.fields["sender_pid"], event.fields["sig"]) == (1, 15)
    assert judge_by_defaults(event, SERVICES) is None
    await seen.wait_until(lambda: seen.list_events("process_exit", comm="httpd", sig=15), "its end")
    (end,) = seen.list_events("process_exit", comm="httpd", sig=15)
    assert end.fields["asked"] and is_ordered(end.fields)

    ready = "until [ -e /deaf.ready ]; do usleep 10000; done; rm /deaf.ready"
    event = await one(guest, seen, f"/deaf/httpd & {NAMED}; {ready}; kill -TERM $v; kill -KILL $v")
    assert (event.fields["signal"], event.fields["asked"]) == ("SIGKILL", True)
    assert judge_by_defaults(event, SERVICES) is None

    # It lived on, and is killed later.
    await set_asked_limit(guest, 1)
    event = await one(
        guest, seen, f"/deaf/httpd & {NAMED}; {ready}; kill -TERM $v; sleep 2; kill -KILL $v"
    )
    assert (event.fields["signal"], event.fields["asked"]) == ("SIGKILL", False)
    assert judge_by_defaults(event, SERVICES) is not None
    await seen.wait_until(lambda: seen.list_events("process_exit", comm="httpd", sig=9), "its end")
    (end,) = seen.list_events("process_exit", comm="httpd", sig=9)
    assert not end.fields["asked"]
    await set_asked_limit(guest, 7200)

    # By its own parent, which is not PID 1.
    event = await one(guest, seen, f"sh -c '/wait/httpd & {NAMED}; kill -TERM $v; wait'")
    assert event.fields["sender_pid"] == event.fields["parent_pid"] != 1
    assert judge_by_defaults(event, SERVICES) is None

    # Nobody has asked it before; and one who may not ask.
    event = await one(guest, seen, f"/wait/httpd & {NAMED}; kill -KILL $v")
    assert not event.fields["asked"]
    assert judge_by_defaults(event, SERVICES) is not None
    event = await one(guest, seen, f"/wait/httpd & {NAMED}; sh -c 'kill -TERM '$v'; true'")
    assert event.fields["sender_pid"] not in (1, event.fields["parent_pid"])
    assert judge_by_defaults(event, SERVICES) is not None

    # Asked so, it ends by itself, as it likes.
    seen.events.clear()
    ready = "until [ -e /exit.ready ]; do usleep 10000; done; rm /exit.ready"
    guest.machine.tell(f"/exit/httpd & {NAMED}; {ready}; kill -TERM $v")
    await seen.wait_until(
        lambda: seen.list_events("process_exit", comm="httpd", status=3), "its end"
    )
    (end,) = seen.list_events("process_exit", comm="httpd", status=3)
    assert end.fields["asked"] and is_ordered(end.fields)


async def limits_of_others_are_no_faults(guest: KvmMachine, seen: Watch) -> None:
    """A memory cgroup, the guest has memory: a fault only if it is the service."""
    limited = "echo $$ >/cg/small/cgroup.procs; exec /eat/httpd"
    for login, believed in ((f"{LOGIN}; ", False), ("", True)):
        seen.events.clear()
        guest.machine.tell(f"sh -c '{login}{limited}'")
        await seen.wait_until(lambda: seen.list_events("out_of_memory", comm="httpd"), "OOM")
        # Or what comes next would take it for its own.
        await seen.wait_until(lambda: killed(seen), "the signal of the OOM kill")
        (event,) = seen.list_events("out_of_memory", comm="httpd")
        assert (event.fields["constraint"], event.fields["cgroup"]) == ("cgroup", "/small")
        verdict = judge_by_defaults(event, SERVICES)
        assert (verdict is not None) is believed
        always = RuleSet("out_of_memory: any").judge_event(event, SERVICES)
        assert always is not None
        assert always.scope is (Scope.SERVICE if believed else Scope.PROCESS)
        assert "(system)" not in always.reason


async def a_thread_is_not_the_parent(guest: KvmMachine, seen: Watch) -> None:
    event = await one(guest, seen, "vsp_host worker httpd")
    assert event.fields["parent_comm"] == "httpd"
    assert judge_by_defaults(event, SERVICES) is None


async def a_timer_has_no_sender(guest: KvmMachine, seen: Watch) -> None:
    """On PREEMPT_RT, too, where the kernel's thread ktimers sends its signal."""
    event = await one(guest, seen, "vsp_host alarm httpd")
    assert event.fields["signal"] == "SIGALRM"
    assert event.fields["in_irq"]
    assert event.fields["sender_comm"] == ""


def test_who_is_the_service(test_guest: TestGuest, tmp_path: Path) -> None:
    async def body(guest: KvmMachine) -> None:
        async with watch(guest) as seen:
            for line in PREPARE:
                guest.machine.tell(line)
            await seen.wait_collecting("send_signal", "out_of_memory", "process_exit")
            guest.machine.tell("echo 0 >/sys/module/process_exit/parameters/min_age_ms; echo set")
            await until(lambda: "\nset\n" in guest.machine.console, "set", SLOW_S)
            for part in (
                daemons_are_believed, users_are_not_believed, young_ones_are_not_the_service,
                orderly_ends_are_no_faults, limits_of_others_are_no_faults,
                a_thread_is_not_the_parent, a_timer_has_no_sender,
            ):  # fmt: skip
                await part(guest, seen)
            assert not seen.list_events("lost")

    with kvm_machine(test_guest.kernel, test_guest.files, tmp_path) as guest:
        asyncio.run(body(guest))


#: What a user floods a probe's buffer with: its parameters, and one of his processes.
FLOODS = {
    "send_signal": ("max_users_per_s=1", "sh -c 'kill -SEGV $$'"),
    "process_exit": ("max_users_per_s=1 min_age_ms=0", "sh -c 'exit 7'"),
}


@pytest.mark.parametrize("probe", FLOODS)
def test_a_user_does_not_push_the_service_out(run: Boot, probe: str) -> None:
    """Nobody reads meanwhile, and the buffer has room for some 200 records."""
    params, one = FLOODS[probe]
    # The last says how many before it were too many, however fast they were.
    flood = f"{LOGIN}\nfor i in $(seq 300); do {one}; done; sleep 2; {one}\n"
    result = run(
        f"""\
load {probe} /{probe}.ko {params}
crash httpd
sh sh /flood.sh
crash late
records {probe}
unload {probe}
""",
        files={"flood.sh": flood.encode()},
        cpus=1,
    )
    events = [event.fields for event in result.events(probe)]
    others = [fields["comm"] for fields in events if fields["login_uid"] != 1000]
    # The shell of the test, and the core's helper that has loaded the probe.
    assert [comm for comm in others if comm not in ("sh", "helper")] == ["httpd", "late"]
    users = [fields for fields in events if fields["login_uid"] == 1000]
    assert users
    left_out = sum(fields["left_out"] for fields in users)
    assert left_out > 0
    assert left_out + len(users) <= 304  # with the shell, seq and sleep
