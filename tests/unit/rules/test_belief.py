# SPDX-License-Identifier: GPL-2.0-or-later
"""Who is believed to be the service, and which of its ends are faults by default."""

from __future__ import annotations

import ctypes
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vesper_monitor.faults.service_watch import ServiceWatch
from vesper_monitor.guest import abi
from vesper_monitor.guest.control.processes import Processes
from vesper_monitor.guest.event import Event
from vesper_monitor.guest.process_origin import NO_LOGIN_UID, is_users_cgroup, is_users_login
from vesper_monitor.guest.record_types import RECORDS
from vesper_monitor.guest.relay.decode import decode_records
from vesper_monitor.guest.relay.relay import RawRecord
from vesper_monitor.rules.dry_run import Hit, compare_with_faults, try_rules
from vesper_monitor.rules.fields import DERIVED, NEGATED
from vesper_monitor.rules.rule_set import (
    RuleError,
    RuleSet,
    Scope,
    default_rules,
    judge_by_defaults,
)

HTTPD = ["httpd"]
ALL = abi.WHO_LOGIN_UID | abi.WHO_CGROUP | abi.WHO_AGE | abi.WHO_ELDER
#: What makes each of them a fault of the service's by default.
STRUCTS: dict[abi.EventType, ctypes.Structure] = {
    abi.EventType.SEND_SIGNAL: abi.SendSignal(
        sig=11, flags=abi.SIG_FATAL, pid=97, tgid=97, parent_pid=5, sender_pid=80,
        leader_comm=b"httpd", parent_comm=b"init", age_ms=60_000,
    ),
    abi.EventType.OUT_OF_MEMORY: abi.OutOfMemory(
        constraint=abi.OomConstraint.CGROUP, pid=97, comm=b"httpd", parent_comm=b"init",
        age_ms=60_000,
    ),
    abi.EventType.PROCESS_EXIT: abi.ProcessExit(
        pid=97, sig=11, age_ms=60_000, comm=b"httpd", parent_comm=b"init"
    ),
    abi.EventType.HUNG_TASK: abi.HungTask(tgid=97, leader_comm=b"httpd", parent_comm=b"init"),
}  # fmt: skip
#: Of a daemon that systemd has started.
DAEMON: dict[str, Any] = {
    "known": ALL,
    "login_uid": NO_LOGIN_UID,
    "cgroup": b"/system.slice/httpd.service",
}


def record(
    kind: abi.EventType, who: dict[str, Any], *, time_ns: int = 0, **changes: Any
) -> Event:
    found = type(STRUCTS[kind]).from_buffer_copy(STRUCTS[kind])
    found.who = abi.Who(**who)
    for key, value in changes.items():
        setattr(found, key, value)
    return decoded(kind, bytes(found), time_ns)


def decoded(kind: abi.EventType, data: bytes, time_ns: int = 0) -> Event:
    raw = RawRecord(0, time_ns, kind, 0, data)
    (event,) = decode_records([raw], vm="vm1", domid=1, probe="p", cpu=0, received=1.0)
    return event


def signal(**changes: Any) -> Event:
    return record(abi.EventType.SEND_SIGNAL, DAEMON, **changes)


@pytest.mark.parametrize(
    "kind",
    [abi.EventType.SEND_SIGNAL, abi.EventType.OUT_OF_MEMORY, abi.EventType.PROCESS_EXIT],
)
def test_what_a_user_had_too_much_of_is_said(kind: abi.EventType) -> None:
    """And an older probe, whose record ends before, has said nothing of it."""
    assert record(kind, DAEMON, left_out=300).text.endswith(" (300 more before it)")
    event = decoded(kind, bytes(STRUCTS[kind])[: type(STRUCTS[kind]).who.offset])
    assert event.fields["left_out"] == 0
    assert "more before it" not in event.text


@pytest.mark.parametrize("kind", STRUCTS)
@pytest.mark.parametrize(
    ("who", "believed"),
    [
        ({}, True),
        ({"cgroup": b"/"}, True),  # no systemd, or no cgroup v2
        ({"login_uid": 0}, True),  # root has logged in, and started it
        ({"login_uid": 1000}, False),
        ({"login_uid": 1000, "cgroup": b"/system.slice/cron.service"}, False),
        ({"cgroup": b"/user.slice/user-1000.slice/user@1000.service/app.slice/x.service"}, False),
        ({"cgroup": b"/machine.slice/machine-c1.scope/payload/user.slice"}, False),
        ({"cgroup": b"/system.slice/docker-0123.scope"}, True),
        ({"cgroup": b"/system.slice/end-user.slice"}, True),
        # A kernel without audit, or without cgroups.
        ({"known": abi.WHO_CGROUP, "login_uid": 0}, True),
        ({"known": abi.WHO_LOGIN_UID, "cgroup": b""}, True),
        ({"known": abi.WHO_LOGIN_UID, "cgroup": b"", "login_uid": 1000}, False),
    ],
)
def test_a_process_is_believed_unless_it_shows_a_user(
    kind: abi.EventType, who: dict[str, Any], believed: bool
) -> None:
    event = record(kind, DAEMON | who)
    assert (judge_by_defaults(event, HTTPD) is not None) is believed
    name = RECORDS[kind].event
    assert (RuleSet(f"{name}: believed").judge_event(event, HTTPD) is not None) is believed
    # Who wants the old rules has them by a line.
    assert RuleSet(f"{name}: main").judge_event(event, HTTPD) is not None


@pytest.mark.parametrize("kind", STRUCTS)
def test_an_older_probes_record_loses_no_fault(kind: abi.EventType) -> None:
    """It ends where the new fields begin."""
    old = bytes(STRUCTS[kind])[: type(STRUCTS[kind]).who.offset]
    event = decoded(kind, old)
    for name in ("login_uid", "cgroup", "elder_pid"):
        assert event.fields.get(name) is None
    assert event.fields.get("age_ms") in (None, 60_000)
    assert "known" not in event.fields
    assert judge_by_defaults(event, HTTPD) is not None


@given(
    login=st.sampled_from([None, 0, 1000, NO_LOGIN_UID]) | st.integers(),
    cgroup=st.none() | st.text() | st.sampled_from(["/", "/user.slice", "/a/user.slice/b"]),
)
def test_only_what_is_known_shows_a_user(login: int | None, cgroup: str | None) -> None:
    fields = {"fatal": True, "leader_comm": "httpd", "parent_comm": "init", "sig": 11}
    event = Event("vm1", 1, "p", "send_signal", 0, 0, 0, 0.0,
                  fields | {"login_uid": login, "cgroup": cgroup}, "")  # fmt: skip
    users = is_users_login(login) or is_users_cgroup(cgroup)
    assert (judge_by_defaults(event, HTTPD) is None) is users
    assert not users or login is not None or cgroup is not None


INIT, PARENT, OTHER = 1, 5, 80


@pytest.mark.parametrize(
    ("sig", "sender", "flags", "is_fault"),
    [
        (15, INIT, 0, False),  # a reboot, systemctl restart
        (2, INIT, 0, False),  # KillSignal=SIGINT
        (3, PARENT, 0, False),
        (15, PARENT, 0, False),
        (9, INIT, abi.SIG_ASKED, False),  # TimeoutStopSec= is over
        (9, PARENT, abi.SIG_ASKED, False),
        (9, INIT, 0, True),  # systemctl kill -s KILL
        (9, OTHER, abi.SIG_ASKED, True),
        (15, OTHER, 0, True),
        (6, INIT, 0, True),  # WatchdogSec= is over
        (11, INIT, abi.SIG_ASKED, True),  # it crashes on its way
        (15, INIT, abi.SIG_FROM_KERNEL, True),
        (9, 0, abi.SIG_IN_IRQ | abi.SIG_ASKED, True),
    ],
)
def test_an_orderly_end_is_no_fault(sig: int, sender: int, flags: int, is_fault: bool) -> None:
    event = signal(sig=sig, sender_pid=sender, flags=abi.SIG_FATAL | flags)
    assert (judge_by_defaults(event, HTTPD) is not None) is is_fault
    assert RuleSet("send_signal: fatal and main").judge_event(event, HTTPD) is not None


@pytest.mark.parametrize("name", ["a-name-that-is-cut", "größenwächter-1", "ééééééééé", "a\tb"])
def test_a_service_of_any_name_is_known(name: str) -> None:
    """The kernel has 15 bytes of it, and perhaps half a letter at the end."""
    event = signal(leader_comm=name.encode()[:15])
    verdict = judge_by_defaults(event, [name])
    assert verdict is not None
    assert verdict.scope is Scope.SERVICE
    watch = ServiceWatch("vm1")
    watch.set_services([name], 0.0)
    watch.note_heard(1, 0.0)
    watch.note_event(event, 0.0)
    for now in (100.0, 300.0):
        watch.note_answer(Processes(9000.0 + now, {}), now)
    assert f"{name} was ended by " in str(watch.find_missing_service(300.0))


def test_a_parent_that_is_unknown_has_asked_nobody() -> None:
    event = signal(sig=15, sender_pid=0, parent_pid=0)
    assert judge_by_defaults(event, HTTPD) is not None


@pytest.mark.parametrize(
    ("sig", "status", "flags", "is_fault"),
    [
        (15, 0, abi.EXIT_ASKED, False),
        (9, 0, abi.EXIT_ASKED, False),
        (0, 143, abi.EXIT_ASKED, False),
        (0, 143, 0, True),
        (15, 0, 0, True),
        (11, 0, abi.EXIT_ASKED, True),
    ],
)
def test_an_end_that_init_or_the_parent_asked_for_is_orderly(
    sig: int, status: int, flags: int, is_fault: bool
) -> None:
    event = record(abi.EventType.PROCESS_EXIT, DAEMON, sig=sig, status=status, flags=flags)
    assert (judge_by_defaults(event, HTTPD) is not None) is is_fault


def test_a_young_process_is_the_service_unless_an_older_one_lives() -> None:
    assert judge_by_defaults(signal(age_ms=300), HTTPD) is not None
    assert judge_by_defaults(signal(age_ms=300, elder_pid=50), HTTPD) is None
    oom = record(abi.EventType.OUT_OF_MEMORY, DAEMON, age_ms=300, elder_pid=50)
    assert judge_by_defaults(oom, HTTPD) is None


def test_a_crash_loop_is_found() -> None:
    rules, second = RuleSet(), 1_000_000_000
    crashes = [signal(age_ms=300, elder_pid=50, time_ns=at * 20 * second) for at in range(3)]
    verdicts = [rules.judge_event(crash, HTTPD) for crash in crashes]
    assert verdicts[:2] == [None, None]
    assert verdicts[2] is not None
    assert verdicts[2].reason.startswith("3 within 60 s, the last: httpd[97] killed by SIGSEGV")
    assert rules.judge_event(signal(age_ms=300, elder_pid=50, time_ns=200 * second), HTTPD) is None


def test_a_users_crash_loop_is_none() -> None:
    rules = RuleSet()
    crash = record(abi.EventType.SEND_SIGNAL, DAEMON | {"login_uid": 1000}, age_ms=300)
    assert not any(rules.judge_event(crash, HTTPD) for _ in range(20))


def test_the_systems_lack_of_memory_counts_whoever_is_hit() -> None:
    """And a user's process is not called the service."""
    for who in ({}, {"login_uid": 1000}):
        event = record(abi.EventType.OUT_OF_MEMORY, DAEMON | who, constraint=0)
        verdict = judge_by_defaults(event, HTTPD)
        assert verdict is not None
        assert verdict.scope is (Scope.SYSTEM if who else Scope.SERVICE)


def test_a_users_own_process_is_called_so() -> None:
    event = record(abi.EventType.SEND_SIGNAL, DAEMON | {"login_uid": 1000})
    assert "kills httpd[97] (of login uid 1000), by" in event.text
    event = record(abi.EventType.PROCESS_EXIT, DAEMON | {"cgroup": b"/user.slice/x"})
    assert event.text.startswith("httpd[97] (in /user.slice/x) killed by SIGSEGV")
    assert "(" not in signal().text


def test_rules_are_compared_with_what_was_in_force() -> None:
    """By the faults on record of the same events."""
    events = [signal(), record(abi.EventType.SEND_SIGNAL, DAEMON | {"login_uid": 1000})]
    for number, event in enumerate(events, 10):
        event.id = number
    faults = [
        {"id": 3, "event": {"id": 11}}, {"id": 4, "event": {"id": 11}},
        {"id": 5, "event": {"id": 99}}, {"id": 6, "event": {"id": None}},
    ]  # fmt: skip
    hits: list[Hit] = try_rules("", events, lambda _vm: HTTPD)
    assert [hit.event.id for hit in hits] == [10]
    beside = compare_with_faults(hits, events, faults)
    assert beside.was == {11: (3, 4)}
    assert [fault["id"] for fault in beside.dropped] == [3, 4]


@pytest.mark.parametrize("page", ["docs/security.md", "docs/man/vesper-rules.7"])
def test_no_cgroup_of_a_users_own_gets_past_the_rules_of_the_docs(page: str) -> None:
    """He names them as he likes; and so does the systemd of a container."""
    text = Path(page).read_text(encoding="utf-8").replace(r"\-", "-")
    rules = re.findall(r"send_signal: [^`\n]*\bcgroup\b[^`\n]*", text)
    assert rules
    for rule in rules:
        (path,) = re.findall(r'"(/[^"]*)"', rule)
        for root in ("/user.slice/user-1000.slice", "/system.slice/podman-1.scope"):
            if root.startswith("/system.slice") and path.startswith("/docker"):
                continue  # a container within another: no user has started that
            event = record(abi.EventType.SEND_SIGNAL, DAEMON | {"cgroup": f"{root}{path}".encode()})
            assert RuleSet(rule).judge_event(event, HTTPD) is None, (rule, root)


#: Those that are said to believe anybody.
CREDULOUS = ("send_signal: fatal and main", "out_of_memory: any")
PAGES = sorted(
    str(path)
    for pattern in ("README.md", "docs/*.md", "docs/man/*.[78]", "vesper_monitor/ocf/*.xml",
                    "vesper_monitor/knowledge/*.toml")
    for path in Path().glob(pattern)
)  # fmt: skip


def advised(text: str) -> list[str]:
    """The rules in a text that are over processes."""
    for written, meant in ((r"\-", "-"), (r"\(dq", '"'), (r"\"", '"')):
        text = text.replace(written, meant)
    found = []
    for rule in re.findall(r"\b(?:send_signal|out_of_memory|process_exit): [^;`'\n]+", text):
        for end in ("", '"', '".', "."):
            with suppress(RuleError):
                RuleSet(rule.removesuffix(end))
                found.append(rule.removesuffix(end))
                break
    return [rule for rule in found if not rule.endswith((": default", ": none"))]


@pytest.mark.parametrize("page", PAGES)
def test_no_user_gets_past_a_rule_that_is_advised(page: str) -> None:
    """Whatever he calls his processes, he has them killed as often as he likes."""
    for rule in advised(Path(page).read_text(encoding="utf-8")):
        if rule in CREDULOUS:
            continue
        rules = RuleSet(rule)
        for name in ["httpd", *re.findall('"([^"]+)"', rule)] * 5:
            for kind in STRUCTS:
                names = ("leader_comm", "comm", "sender_comm", "asker_comm")
                his = {key: name.encode()[:15] for key in names if hasattr(STRUCTS[kind], key)}
                event = record(kind, DAEMON | {"login_uid": 1000}, **his)
                verdict = rules.judge_event(event, HTTPD)
                assert verdict is None or RECORDS[kind].event not in rule, (rule, name)


def test_rules_that_are_advised_are_found() -> None:
    texts = (Path(page).read_text(encoding="utf-8") for page in PAGES)
    assert len({rule for text in texts for rule in advised(text)}) > 15


def test_the_default_rules_are_said_in_words() -> None:
    words = [rule.describe_rule() for rule in default_rules()["send_signal"]]
    assert words[0].endswith(
        "nothing shows that the process is a user's own and neither init nor the process's parent "
        "has asked it to end and no older main process of its name lives, if it is younger than 5 s"
    )
    assert words[1].startswith("a fault if 3 events within 60 s match: fatal is true and ")
    (words_of_oom,) = (rule.describe_rule() for rule in default_rules()["out_of_memory"])
    assert 'constraint is none of "cgroup", "cpuset", "memory_policy" or (' in words_of_oom
    # Of each name that is said otherwise when it does not hold, one can say that it holds.
    assert set(NEGATED) <= set(DERIVED)
