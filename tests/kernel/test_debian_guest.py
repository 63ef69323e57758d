# SPDX-License-Identifier: GPL-2.0-or-later
"""What docs/security.md says that an unprivileged user of a guest cannot do, tried by one.

In a real Debian with systemd, PAM and delegated cgroups, with the default
rules: the user causes no fault and hides none, root's service does.  One boot
for all of it.
"""

from __future__ import annotations

import base64
import os
import signal
import time
from pathlib import Path

from tests.kernel.support.debian import VM, Debian, Login, debian
from tests.kernel.support.impatient_vesperd import BACK
from tests.kernel.support.loopback_guest import TestGuest
from tests.kernel.support.neighbours import until
from vesper_monitor.rules.rule_set import RuleSet

#: The user's programs. Each takes the name of the service.
PROGRAMS = {
    "crash": "printf httpd >/proc/self/comm; kill -SEGV $$",
    # At an age that counts, with a status that does; and by a signal.
    "fail": "printf httpd >/proc/self/comm; sleep 6; exit 3",
    "end": "printf httpd >/proc/self/comm; sleep 6; kill -KILL $$",
    "stay": "printf httpd >/proc/self/comm; sleep 1000; :",
    # All memory that there is.
    "eat": """exec perl -e '$0 = "httpd"; $x .= "x" x 1048576 while 1'""",
    # Signals that kill, and some that do not, as many as go.
    "flood": "trap '' USR1; while :; do kill -USR1 $$; sh -c 'kill -SEGV $$'; done 2>/dev/null",
}
LIMITED = "systemd-run --user --scope -q -p MemoryMax=16M -p MemorySwapMax=0"

#: What the user does → what it says.
ATTEMPTS = {
    # More of them in a minute than the rule for crash loops wants.
    "for i in 1 2 3 4 5; do ./crash; echo status $?; done": "status 139",
    # A child of init's or of the user's systemd; one that is root in a namespace of its own.
    "setsid -f ./crash; sleep 1; echo detached": "detached",
    "systemd-run --user --wait ~/crash": "SEGV",
    "unshare -UrC ./crash; echo status $?": "status 139",
    "unshare -Urpf --mount-proc sh -c './crash; id -u'": "\n0\n",
    "./fail; echo status $?": "status 3",
    "./end; echo status $?": "status 137",
    f"for i in 1 2 3; do {LIMITED} ./eat; echo status $?; done": "status 137",
}

#: Rules that believe every process of the service's name → attempts that are faults by them.
CREDULOUS = {
    "send_signal: fatal and main": 10,
    "process_exit: main and age_ms >= 5000 and (sig != 0 or status != 0)": 2,
    "out_of_memory: main": 3,
}

#: What the user is refused.
REFUSED = {
    "kill -TERM $(pidof httpd)": "not permitted",
    "echo 0 >/proc/self/loginuid": "not permitted",
    "echo $$ >/sys/fs/cgroup/system.slice/httpd.service/cgroup.procs": "denied",
    "cat /dev/vda": "denied",
    "cat /sys/bus/pci/devices/*/resource2": "denied",
}


def try_all(guest: Debian, user: Login) -> None:
    """A login's processes have its mark, and cannot be rid of it."""
    for name, text in PROGRAMS.items():
        data = base64.b64encode(f"#!/bin/sh\n{text}\n".encode()).decode()
        user.run(f"echo {data} | base64 -d >{name}; chmod +x {name}")
    assert "1000" in user.run("cat /proc/self/loginuid; echo")
    assert "/user.slice/user-1000.slice/" in user.run("cat /proc/self/cgroup")
    for command, refusal in REFUSED.items():
        assert refusal in user.run(command), command
    for command, sign in ATTEMPTS.items():
        said = user.run(command)
        assert sign in said, (command, said)
        assert guest.faults == [], command
    assert guest.monitor(1)[0] == "fine"
    # Who believes every process of that name would have had as many failovers.
    for rule, attempts in CREDULOUS.items():
        rules = RuleSet(rule)
        found = [event.text for event in guest.events if rules.match_event(event, ["httpd"])]
        assert len(found) >= attempts, (rule, found)


def stop_and_start(guest: Debian, user: Login) -> None:
    """A restart is nothing; a stop is said, cannot be hidden, and ends with a start."""
    guest.root("systemctl restart httpd")
    assert guest.monitor(3)[0] == "fine"
    guest.root("systemctl stop httpd")
    result, reason = guest.monitor(50)
    assert (result, guest.faults) == ("degraded", []), reason
    assert reason is not None
    assert reason.startswith(f"{VM}: httpd was ended by systemd ")
    assert reason.endswith(" s ago and is not back")
    user.run("{ ./stay & }")
    time.sleep(7)  # it would count as back
    assert guest.monitor(1)[0] == "degraded"
    guest.root("systemctl start httpd")
    until(lambda: guest.monitor(1)[0] == "fine", "httpd is back")
    user.run("kill %1; wait")
    assert guest.faults == []


def crash(guest: Debian, user: Login) -> None:
    """The service's own SIGSEGV is a fault, also when a user floods the ring before it is read."""
    vesperd = guest.vesperd.process
    pid = guest.root("systemctl show -P MainPID httpd").strip()
    vesperd.send_signal(signal.SIGSTOP)
    try:
        user.run("for i in 1 2 3 4; do ./flood & done")
        guest.root(f"kill -SEGV {pid}")
        time.sleep(8)
        user.run("kill $(jobs -p); wait")
    finally:
        vesperd.send_signal(signal.SIGCONT)
    result, reason = guest.monitor(50)
    assert result == "fault"
    assert reason is not None
    assert reason.startswith(f"httpd[{pid}] killed by SIGSEGV")


def shut_down(guest: Debian) -> None:
    """All services end by systemd's SIGTERM: that is neither a fault nor said to be missing.

    One takes longer to end than a service may be away.
    """
    guest.vesperd.call("clear", resource=f"r-{VM}")
    guest.root("systemctl start httpd")
    until(lambda: guest.monitor(1)[0] == "fine", "httpd is back")
    guest.root(f"systemd-run -q -p ExecStop='/bin/sleep {BACK + 10:.0f}' sleep 1000")
    guest.machine.tell("systemctl poweroff")
    said = set()
    while guest.machine.process.poll() is None:
        said.add(guest.monitor(1))
    assert {result for result, _ in said} <= {"fine", "dead"}, said
    until(lambda: guest.monitor(1)[0] == "dead", "vesperd knows")
    reasons = guest.faults
    assert len([reason for reason in reasons if "httpd" in reason]) == 1, reasons


def test_an_unprivileged_user_causes_no_failover(test_guest: TestGuest, tmp_path: Path) -> None:
    with debian(test_guest.kernel, test_guest.files, tmp_path) as guest:
        guest.vesperd.start(VM)
        until(lambda: guest.vesperd.collects(VM), "the probes are there")
        user = guest.log_in()
        try:
            try_all(guest, user)
            stop_and_start(guest, user)
            crash(guest, user)
            shut_down(guest)
        finally:
            user.close()
        assert os.path.exists(guest.vesperd.journal)
