# SPDX-License-Identifier: GPL-2.0-or-later
"""Which events are faults, and what is said of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vesper_monitor.guest import abi
from vesper_monitor.guest.event import Event
from vesper_monitor.guest.relay.decode import decode_records
from vesper_monitor.guest.relay.relay import RawRecord
from vesper_monitor.ocf.fast_common import shorten_reason
from vesper_monitor.rules.fields import FIELDS
from vesper_monitor.rules.rule_set import RuleSet, Scope, Verdict, judge_by_defaults


def event(kind: str, **fields: Any) -> Event:
    return Event("vm1", 1, kind, kind, 0, 0, 0, 0.0, fields, "text")


def signal(**changes: Any) -> Event:
    fields = {
        "sig": 11, "signal": "SIGSEGV", "fatal": True, "from_kernel": False, "in_irq": False,
        "addr": None, "sender_comm": "sh", "sender_pid": 80, "sender_uid": 0, "tgid": 97,
        "pid": 97, "comm": "httpd", "leader_comm": "httpd", "parent_comm": "init",
    }  # fmt: skip
    return event("send_signal", **{**fields, **changes})


def oom(**changes: Any) -> Event:
    fields = {
        "pid": 97, "comm": "httpd", "parent_comm": "init", "rss_kb": 83412, "asker_pid": 120,
        "asker_comm": "sh", "order": 0, "constraint": "system", "free_kb": 2048,
    }  # fmt: skip
    return event("out_of_memory", **{**fields, **changes})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, "httpd[97] killed by SIGSEGV sent by sh[80] uid 0 (service)"),
        (
            {"addr": 0, "from_kernel": True},
            "httpd[97] killed by SIGSEGV at 0x0 (service)",
        ),
        (
            {"signal": "SIGKILL", "from_kernel": True},
            "httpd[97] killed by SIGKILL by the kernel (service)",
        ),
        ({"in_irq": True}, "httpd[97] killed by SIGSEGV (service)"),
        # It aborts, or one of its threads does.
        (
            {"signal": "SIGABRT", "sender_pid": 97, "sender_comm": "httpd"},
            "httpd[97] killed by SIGABRT raised by itself (service)",
        ),
        (
            {"signal": "SIGABRT", "sender_pid": 97, "sender_comm": "worker-3"},
            "httpd[97] killed by SIGABRT raised by itself, thread worker-3 (service)",
        ),
        # A thread's name is not the process's.
        (
            {"comm": "worker", "pid": 99},
            "httpd[97] killed by SIGSEGV sent by sh[80] uid 0 (service)",
        ),
    ],
)
def test_the_death_of_a_services_main_process_is_a_fault(
    changes: dict[str, Any], reason: str
) -> None:
    assert judge_by_defaults(signal(**changes), ["httpd"]) == Verdict(
        "send_signal", Scope.SERVICE, reason
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"fatal": False},
        {"parent_comm": "httpd"},  # a worker
        {"leader_comm": "cron"},
        {"leader_comm": "sh", "comm": "httpd"},  # a thread that calls itself so
    ],
)
def test_other_signals_are_events_only(changes: dict[str, Any]) -> None:
    assert judge_by_defaults(signal(**changes), ["httpd"]) is None


def test_without_named_services_a_signal_is_no_fault() -> None:
    assert judge_by_defaults(signal(), []) is None
    assert judge_by_defaults(signal(leader_comm=""), [""]) is None


def test_long_names_are_compared_as_the_kernel_cuts_them() -> None:
    verdict = judge_by_defaults(signal(leader_comm="a-very-long-ser"), ["a-very-long-service-name"])
    assert verdict is not None
    assert verdict.scope is Scope.SERVICE


def test_an_oom_kill_of_the_service_is_a_fault_of_the_service() -> None:
    assert judge_by_defaults(oom(), ["httpd"]) == Verdict(
        "out_of_memory",
        Scope.SERVICE,
        "out of memory: httpd[97] (83412 kB) killed for sh[120], system-wide "
        "(order 0, 2048 kB free) (service)",
    )


@pytest.mark.parametrize("changes", [{"comm": "cron"}, {"parent_comm": "httpd"}])
def test_any_other_oom_kill_is_a_fault_of_the_system(changes: dict[str, Any]) -> None:
    verdict = judge_by_defaults(oom(**changes), ["httpd"])
    assert verdict is not None
    assert verdict.scope is Scope.SYSTEM
    assert verdict.reason.endswith("(system)")


def test_an_oom_kill_in_a_memory_cgroup_counts_only_for_the_service() -> None:
    """A job or a container over its own limit; the system has memory."""
    assert judge_by_defaults(oom(constraint="cgroup", comm="jobx"), ["httpd"]) is None
    assert judge_by_defaults(oom(constraint="cgroup", parent_comm="httpd"), ["httpd"]) is None
    verdict = judge_by_defaults(oom(constraint="cgroup"), ["httpd"])
    assert verdict is not None
    assert verdict.scope is Scope.SERVICE
    # As it was, and as the original has it: never called a fault of the system.
    verdict = RuleSet("out_of_memory: any").judge_event(
        oom(constraint="cgroup", comm="jobx"), ["httpd"]
    )
    assert verdict is not None
    assert verdict.scope is Scope.PROCESS
    assert verdict.reason == (
        "out of memory: jobx[97] (83412 kB) killed for sh[120], memory cgroup "
        "(order 0, 2048 kB free) (process)"
    )


@pytest.mark.parametrize("constraint", ["cpuset", "memory_policy"])
def test_a_limit_of_a_part_is_not_the_system(constraint: str) -> None:
    """A process may limit itself to a node of the memory, without any privilege."""
    assert judge_by_defaults(oom(constraint=constraint, comm="cron"), ["httpd"]) is None
    verdict = judge_by_defaults(oom(constraint=constraint), ["httpd"])
    assert verdict is not None
    assert verdict.scope is Scope.SERVICE
    always = RuleSet("out_of_memory: any").judge_event(oom(constraint=constraint, comm="cron"), [])
    assert always is not None
    assert always.scope is Scope.PROCESS


@pytest.mark.parametrize("constraint", ["constraint 9", None])
def test_an_oom_kill_that_is_not_understood_is_a_fault(constraint: str | None) -> None:
    """Nothing is lost for what an older or newer guest does not say."""
    assert judge_by_defaults(oom(constraint=constraint, comm="cron"), ["httpd"]) is not None


def test_a_process_that_a_rule_names_is_not_the_system() -> None:
    rules = RuleSet('send_signal: fatal and leader_comm == "Plex Media Serv"')
    verdict = rules.judge_event(signal(leader_comm="Plex Media Serv"), [])
    assert verdict is not None
    assert verdict.reason.endswith("sent by sh[80] uid 0 (process)")


def test_the_longest_reason_keeps_what_matters() -> None:
    """Within the bytes that Pacemaker keeps."""
    comm = "name-of-15-byte"
    longest = oom(
        comm=comm, pid=4194304, rss_kb=99_999_999, asker_comm=comm, asker_pid=4194304,
        constraint="cgroup", free_kb=99_999_999,
    )  # fmt: skip
    verdict = judge_by_defaults(longest, [comm])
    assert verdict is not None
    assert shorten_reason(f"{verdict.reason}; flapping: 16th fault in 25 min") == (
        f"out of memory: {comm}[4194304] (99999999 kB) killed for {comm}[4194304], memory cgroup "
        "(service)"
    )


def test_an_oom_kill_by_sysrq_says_so() -> None:
    verdict = judge_by_defaults(oom(order=-1), [])
    assert verdict is not None
    assert "asked by sysrq" in verdict.reason


@given(data=st.binary(min_size=24, max_size=400), services=st.lists(st.text(), max_size=3))
def test_no_record_makes_a_rule_raise(data: bytes, services: list[str]) -> None:
    for kind in (*abi.EventType, data[12]):
        record = data[:4] + kind.to_bytes(2, "little") + data[6:]
        found = RawRecord(0, 0, kind, 0, record)
        (decoded,) = decode_records([found], vm="vm1", domid=1, probe="p", cpu=0, received=0.0)
        verdict = judge_by_defaults(decoded, services)
        assert verdict is None or ("\n" not in verdict.reason and verdict.reason.isprintable())


def ended(**changes: Any) -> Event:
    fields = {
        "comm": "httpd", "pid": 97, "parent_comm": "init", "status": 3, "sig": 0,
        "signal": None, "age_ms": 4_711_000, "oom": False, "core": False,
    }  # fmt: skip
    return event("process_exit", **{**fields, **changes})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, "httpd[97] exited with status 3 after 4711 s (service)"),
        (
            {"signal": "SIGTERM", "sig": 15, "status": 0},
            "httpd[97] killed by SIGTERM after 4711 s (service)",
        ),
        ({"age_ms": 5000}, "httpd[97] exited with status 3 after 5 s (service)"),
    ],
)
def test_the_end_of_a_services_main_process_is_a_fault(
    changes: dict[str, Any], reason: str
) -> None:
    assert judge_by_defaults(ended(**changes), ["httpd"]) == Verdict(
        "process_exit", Scope.SERVICE, reason
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"status": 0},  # has forked into the background, or was asked to stop
        {"age_ms": 4999},  # httpd -t
        {"parent_comm": "httpd"},
        {"comm": "sh"},
    ],
)
def test_other_ends_are_events_only(changes: dict[str, Any]) -> None:
    assert judge_by_defaults(ended(**changes), ["httpd"]) is None


def test_a_hung_main_process_is_a_fault() -> None:
    hung = {"leader_comm": "httpd", "tgid": 97, "parent_comm": "init", "waited_s": 122}
    assert judge_by_defaults(event("hung_task", **hung), ["httpd"]) == Verdict(
        "hung_task", Scope.SERVICE, "httpd[97] hangs in the kernel for 122 s (service)"
    )
    assert judge_by_defaults(event("hung_task", **hung), []) is None
    assert (
        judge_by_defaults(event("hung_task", **{**hung, "parent_comm": "httpd"}), ["httpd"]) is None
    )


def test_a_file_system_error_is_a_fault_of_the_system() -> None:
    lost = {"fstype": "ext4", "disk": "vda1", "mount": "/data", "error": "EIO"}
    assert judge_by_defaults(event("fs_error", **lost), []) == Verdict(
        "fs_error",
        Scope.SYSTEM,
        "ext4 file system on vda1 at /data takes no more writes: EIO (system)",
    )
    unknown = judge_by_defaults(event("fs_error", fstype="xfs", disk=None, error="EUCLEAN"), [])
    assert unknown is not None
    assert unknown.reason == "xfs file system takes no more writes: EUCLEAN (system)"
    assert judge_by_defaults(event("fs_error", **{**lost, "error": "ESHUTDOWN"}), []) is None


def test_a_block_error_alone_is_no_fault() -> None:
    assert judge_by_defaults(event("block_error", error="EIO", disk="vda"), ["httpd"]) is None


values = st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.integers())
keys = st.sampled_from(
    [*signal().fields, *oom().fields, *ended().fields, "waited_s", "fstype", "error", "anything"]
)  # what the rules look at, and more


@given(
    kind=st.sampled_from([*FIELDS, "lost", "unknown", "?"]),
    fields=st.dictionaries(keys, values),
    services=st.lists(st.text(), max_size=3),
)
def test_no_event_makes_a_rule_raise(
    kind: str, fields: dict[str, Any], services: list[str]
) -> None:
    judge_by_defaults(event(kind, **fields), services)
