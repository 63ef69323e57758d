# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether services have a process: what is said of them, and when, by a clock of the test's own."""

from __future__ import annotations

from typing import Any

import pytest

from vesper_monitor.faults.service_watch import BACK_S, BOOT_S, SHUTDOWN_S, ServiceWatch
from vesper_monitor.guest.control.processes import MainProcess, Processes
from vesper_monitor.guest.event import Event

#: s. The guest has been up for long when a test begins.
UPTIME = 10_000.0


class Guest:
    """A guest and whoever asks it, in one-second steps."""

    def __init__(self, *services: str, uptime: float = UPTIME) -> None:
        self.watch = ServiceWatch("vm1")
        self.now, self.booted = 100_000.0, 100_000.0 - uptime
        self.boot_id, self.heard, self.old = 1, True, False
        self.looks = 0
        #: name → (pid, since, whether the system has started it)
        self.running: dict[str, tuple[int, float, bool]] = {}
        self.services = services or ("httpd",)

    def run(self, name: str, pid: int = 97, believed: bool = True) -> None:
        self.running[name] = (pid, self.now, believed)

    def sent(self, signal: str, pid: int = 97, **more: Any) -> None:
        self.note(
            "send_signal", signal=signal, tgid=pid, leader_comm="httpd", parent_comm="systemd",
            **{"sender_pid": 1, "sender_comm": "systemd", "fatal": True, **more},
        )  # fmt: skip

    def exited(self, pid: int = 97, **more: Any) -> None:
        self.note(
            "process_exit", pid=pid, comm="httpd", parent_comm="systemd",
            **{"signal": None, "status": 0, **more},
        )  # fmt: skip

    def note(self, name: str, **fields: Any) -> None:
        event = Event("vm1", 1, name, name, 0, 0, 0, 0.0, fields, "")
        self.watch.note_event(event, self.now)

    def reboot(self) -> None:
        self.running.clear()
        self.boot_id, self.booted = self.boot_id + 1, self.now

    def pass_time(self, seconds: float) -> str | None:
        """:returns: what is said then."""
        for _ in range(round(seconds)):
            self.now += 1.0
            self.look()
        return self.said

    def look(self) -> None:
        self.watch.set_services(self.services, self.now)
        if not self.heard:
            self.watch.note_unheard()
            return
        self.watch.note_heard(self.boot_id, self.now)
        if self.watch.is_due(self.now):
            self.looks += 1
            self.watch.note_answer(None if self.old else self.answer(), self.now)

    def answer(self) -> Processes:
        found = {
            name: MainProcess(pid, self.now - since, believed)
            for name, (pid, since, believed) in self.running.items()
            if name in self.watch.names
        }
        return Processes(self.now - self.booted, found)

    @property
    def said(self) -> str | None:
        return self.watch.find_missing_service(self.now)


def serving(**more: Any) -> Guest:
    """httpd has run for a while, and was seen."""
    guest = Guest(**more)
    for name, pid in (("httpd", 97), ("systemd-logind", 60), ("agetty", 61)):
        guest.run(name, pid)
    assert guest.pass_time(100) is None
    return guest


def test_a_service_that_was_stopped_is_said_after_a_minute() -> None:
    guest = serving()
    guest.sent("SIGTERM")
    del guest.running["httpd"]
    assert guest.pass_time(BACK_S - 1) is None
    guest.pass_time(16)
    assert guest.said == "vm1: httpd was ended by systemd 75 s ago and is not back"
    guest.pass_time(600)
    assert guest.said == "vm1: httpd was ended by systemd 11 min ago and is not back"
    # Back: but only what lives for a moment is.
    guest.run("httpd", 98)
    assert guest.pass_time(3) is not None
    assert guest.pass_time(14) is None


def test_a_restart_is_not_said() -> None:
    guest = serving()
    for pid in range(98, 102):
        guest.sent("SIGTERM", pid - 1)
        del guest.running["httpd"]
        assert guest.pass_time(50) is None
        guest.run("httpd", pid)
        assert guest.pass_time(30) is None


def test_a_service_that_ends_slowly_is_counted_from_its_end() -> None:
    """Its last moment counts, and who has ended it is still known."""
    guest = serving()
    guest.sent("SIGTERM", fatal=False)  # it handles that
    guest.pass_time(40)
    guest.exited()
    del guest.running["httpd"]
    assert guest.pass_time(BACK_S - 1) is None
    guest.pass_time(11)
    assert guest.said == "vm1: httpd was ended by systemd 70 s ago and is not back"


@pytest.mark.parametrize(
    ("fields", "how"),
    [
        ({}, "has ended with status 0"),
        ({"status": 3}, "has ended with status 3"),
        ({"signal": "SIGKILL"}, "was ended by SIGKILL"),
    ],
)
def test_an_end_by_itself_is_said_as_well(fields: dict[str, Any], how: str) -> None:
    guest = serving()
    guest.exited(**fields)
    del guest.running["httpd"]
    guest.pass_time(80)
    assert guest.said == f"vm1: httpd {how} 80 s ago and is not back"


def test_the_reason_names_who_ended_the_service() -> None:
    for fields, how in (
        ({"sender_comm": "systemd", "sender_pid": 1}, "was ended by systemd"),
        ({"sender_comm": "sh", "sender_pid": 80}, "was ended by sh[80]"),
        ({"sender_pid": 97}, "has ended itself by SIGTERM"),
        ({"from_kernel": True}, "was ended by SIGTERM of the kernel"),
    ):
        guest = serving()
        guest.sent("SIGTERM", **fields)
        del guest.running["httpd"]
        guest.pass_time(80)
        assert guest.said == f"vm1: httpd {how} 80 s ago and is not back"


def test_an_end_that_no_event_shows_is_reported() -> None:
    """No probe that sees it, its record was lost, or it has another name now."""
    guest = serving()
    del guest.running["httpd"]
    assert guest.pass_time(2 * BACK_S + 15) is not None
    assert (guest.said or "").startswith("vm1: no process is named httpd any more, for ")


def test_a_signal_that_ends_nobody_is_not_blamed() -> None:
    guest = serving()
    guest.sent("SIGTERM", fatal=False)
    guest.sent("SIGHUP", fatal=False)
    assert guest.pass_time(1000) is None
    # Nor is a process beside it that ends, as httpd -t does, or whoever calls itself so.
    guest.exited(pid=4711)
    assert guest.pass_time(1000) is None
    del guest.running["httpd"]
    guest.pass_time(200)
    assert (guest.said or "").startswith("vm1: no process is named httpd any more")


def test_another_process_cannot_take_the_blame() -> None:
    """Of the process that was seen is known how it has ended; users' own do not count at all."""
    guest = serving()
    guest.exited(pid=97, status=7, login_uid=1000)
    guest.exited(pid=97, status=7, cgroup="/user.slice/user-1000.slice")
    guest.exited(pid=97, status=3)
    guest.exited(pid=4711, status=0)
    del guest.running["httpd"]
    guest.pass_time(80)
    assert guest.said == "vm1: httpd has ended with status 3 80 s ago and is not back"


def test_a_user_cannot_take_the_blame_by_a_handled_signal() -> None:
    """Whose the process is, the record of such a signal does not tell."""
    guest = serving()
    guest.sent("SIGTERM", pid=4711, fatal=False, sender_pid=4710, sender_comm="sh")
    del guest.running["httpd"]
    guest.pass_time(2 * BACK_S + 15)
    assert (guest.said or "").startswith("vm1: no process is named httpd any more")
    # Of the one that was seen it may be how it was ended.
    guest = serving()
    guest.sent("SIGTERM", fatal=False, sender_pid=4710, sender_comm="sh")
    del guest.running["httpd"]
    guest.pass_time(80)
    assert guest.said == "vm1: httpd was ended by sh[4710] 80 s ago and is not back"


def test_a_crash_loop_is_said_once() -> None:
    """It never lives for long."""
    guest = serving()
    del guest.running["httpd"]
    said = []
    for step in range(600):
        if step % 7 == 0:
            guest.run("httpd", 200 + step)
        elif step % 7 == 4:
            guest.running.pop("httpd", None)
        said.append(guest.pass_time(1) is not None)
    assert said[-1]
    assert said == sorted(said)  # it does not come and go


def test_a_guest_that_shuts_down_is_left_to_it() -> None:
    guest = serving()
    for name in list(guest.running):
        del guest.running[name]
    guest.sent("SIGTERM")
    assert guest.pass_time(SHUTDOWN_S - 1) is None
    # It does not end: then that is said.
    assert guest.pass_time(15) is not None


def test_a_reboot_forgets_all() -> None:
    guest = serving()
    guest.sent("SIGTERM")
    guest.running.clear()
    guest.pass_time(30)
    guest.heard = False
    assert guest.pass_time(100) is None
    guest.reboot()
    guest.heard = True
    assert guest.pass_time(BOOT_S - 10) is None
    guest.run("httpd", 50)
    assert guest.pass_time(1000) is None


def test_nothing_is_said_while_the_guest_boots() -> None:
    guest = Guest(uptime=0.0)
    assert guest.pass_time(BOOT_S - 1) is None
    assert guest.pass_time(15) == "vm1: services: no process is named httpd, 5 min after the boot"


def test_a_short_check_before_the_start_is_not_the_service() -> None:
    guest = Guest(uptime=0.0)
    guest.pass_time(20)
    guest.exited(pid=40)
    assert guest.pass_time(BOOT_S - 60) is None
    guest.run("httpd")
    assert guest.pass_time(500) is None


def test_a_name_that_no_process_has_is_reported() -> None:
    guest = Guest("httpd", "htppd")
    guest.run("httpd")
    assert guest.pass_time(BACK_S - 5) is None  # it may be about to be restarted
    assert guest.pass_time(20) == "vm1: services: no process is named htppd, 3 h after the boot"
    guest.services = ("httpd",)  # the mistake is mended
    assert guest.pass_time(2) is None


def test_a_guest_that_stands_still_has_no_less_time() -> None:
    """Paused for an hour while its service is restarted."""
    guest = serving()
    guest.sent("SIGTERM")
    del guest.running["httpd"]
    guest.pass_time(15)
    guest.now += 3600
    guest.booted += 3600  # its clock stood still, too
    assert guest.pass_time(40) is None
    assert guest.pass_time(30) is not None


def test_a_user_cannot_hide_that_a_service_is_gone() -> None:
    guest = serving()
    guest.sent("SIGTERM")
    guest.run("httpd", 4711, believed=False)
    said = guest.pass_time(100)
    assert said is not None
    # Who looks for it there finds one of that name.
    assert said.endswith(" s ago and is not back (httpd[4711] is a login's)")
    del guest.running["httpd"]
    assert (guest.pass_time(15) or "").endswith(" s ago and is not back")
    # Root's own does count.
    guest.run("httpd", 4712)
    assert guest.pass_time(15) is None


def test_a_user_cannot_hide_it_from_a_vesperd_that_is_started_anew() -> None:
    """Which has seen it by its end alone."""
    cases: tuple[tuple[dict[str, Any], bool], ...] = (
        ({"cgroup": "/system.slice/httpd.service"}, False),
        ({}, True),
    )
    for whose, is_hidden in cases:
        guest = Guest()
        guest.watch.set_services(guest.services, guest.now)
        guest.exited(**whose)
        guest.run("httpd", 4711, believed=False)
        assert (guest.pass_time(100) is None) is is_hidden
        # Another boot: what was the system's may be a user's now.
        guest.reboot()
        guest.pass_time(1)
        guest.run("httpd", 4712, believed=False)
        assert guest.pass_time(BOOT_S + 100) is None


def test_a_service_that_a_user_runs_is_there() -> None:
    guest = Guest()
    guest.run("httpd", 4711, believed=False)
    assert guest.pass_time(1000) is None


def test_an_older_core_is_asked_once() -> None:
    guest = serving()
    guest.old = True
    guest.heard = False
    guest.pass_time(1)
    guest.heard, guest.looks = True, 0
    del guest.running["httpd"]
    assert guest.pass_time(1000) is None
    assert guest.looks == 1
    # A new one may be loaded.
    guest.old = False
    guest.reboot()
    guest.pass_time(10)
    assert guest.looks > 1


def test_a_healthy_guest_is_asked_once_a_minute() -> None:
    guest = serving()
    guest.looks = 0
    guest.pass_time(600)
    assert guest.looks <= 10
    # However much is killed there.
    guest.looks = 0
    for _ in range(100):
        for pid in range(1000, 1010):
            guest.exited(pid=pid)
        guest.pass_time(1)
    assert guest.looks <= 51


def test_what_an_earlier_vesperd_has_seen_counts() -> None:
    guest = serving()
    guest.sent("SIGTERM")
    del guest.running["httpd"]
    before = guest.now
    guest.watch = ServiceWatch("vm1")
    guest.watch.set_services(("httpd",), guest.now)
    guest.sent("SIGTERM")
    guest.now = before + 40
    guest.pass_time(55)
    assert guest.said == "vm1: httpd was ended by systemd 95 s ago and is not back"
    # Of an earlier boot of the guest it does not.
    guest = Guest(uptime=10.0)
    guest.watch.set_services(("httpd",), guest.now)
    guest.watch.note_event(
        Event("vm1", 1, "process_exit", "process_exit", 0, 0, 0, 0.0,
              {"pid": 97, "comm": "httpd", "parent_comm": "init", "status": 0}, ""),
        guest.now - 40,
    )  # fmt: skip
    assert guest.pass_time(200) is None
