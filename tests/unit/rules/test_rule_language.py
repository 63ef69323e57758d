# SPDX-License-Identifier: GPL-2.0-or-later
"""The language of ``fault_on``: what it understands, and what it says of the rest."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.support.daemons import PROJECT
from vesper_monitor.guest.event import Event
from vesper_monitor.rules.fields import FIELDS
from vesper_monitor.rules.language import MAX_LENGTH, RuleError, parse_rules
from vesper_monitor.rules.rule_set import RuleSet, Scope, default_rules

OLD = sys.version_info < (3, 13)


def event(kind: str, at: float = 1.0, probe: str = "", **fields: Any) -> Event:
    return Event("vm1", 1, probe or kind, kind, 3, 0, int(at * 1e9), 0.0, fields, "its text")


def is_fault(rules: str, what: Event, services: tuple[str, ...] = ("httpd",)) -> bool:
    return RuleSet(rules).judge_event(what, services) is not None


SIGNAL: dict[str, Any] = {
    "sig": 11, "signal": "SIGSEGV", "fatal": True, "tgid": 97, "leader_comm": "httpd",
    "parent_comm": "init", "comm": "worker", "sender_uid": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "holds"),
    [
        ("any", True),
        ("none", False),
        ("default", True),
        ("fatal and main", True),
        ('service == "httpd"', True),
        ('service == "nginx"', False),
        ("not main", False),
        ("sig == 11", True),
        ("sig != 11", False),
        ("sig > 10 and sig <= 11", True),
        ("11 < sig", False),
        ("sig in [9, 15]", False),
        ("sig not in (9, 15)", True),
        ("sig > -1", True),
        ('"SEGV" in signal', True),
        ('"KILL" in signal', False),
        ("comm == leader_comm", False),
        ("fatal == true", True),
        ("fatal and (sig == 9 or signal == 'SIGSEGV')", True),
        ("cpu == 3", True),
        # Absent (uid): equal to nothing, different from everything, not less, not greater.
        ("uid == 0", False),
        ("uid != 0", True),
        ("uid < 5", False),
        ("uid >= 5", False),
        ("uid in [0, 1]", False),
        ("uid not in [0, 1]", True),
        ("traced", False),
        ("not traced", True),
        ("addr == addr", False),
    ],
)
def test_each_condition_holds_or_not(rule: str, holds: bool) -> None:
    assert is_fault(f"send_signal: {rule}", event("send_signal", **SIGNAL)) is holds


def test_a_value_of_another_type_counts_as_absent() -> None:
    odd = event("send_signal", **{**SIGNAL, "sig": "11", "fatal": 1, "signal": [1]})
    assert not is_fault("send_signal: sig == 11", odd)
    assert not is_fault("send_signal: sig > 0", odd)
    assert not is_fault("send_signal: fatal", odd)
    assert not is_fault('send_signal: "" in signal', odd)


def test_a_probe_that_is_named_has_these_rules_and_no_other() -> None:
    killed = event("send_signal", **SIGNAL)
    oom = event("out_of_memory", comm="cron")
    assert is_fault("out_of_memory: none", killed)
    assert not is_fault("out_of_memory: none", oom)
    # Several rules of one probe: each of them may find a fault.
    both = 'send_signal: default; send_signal: leader_comm == "cron"'
    assert is_fault(both, killed)
    assert is_fault(both, event("send_signal", **{**SIGNAL, "leader_comm": "cron"}))
    assert not is_fault(both, event("send_signal", **{**SIGNAL, "leader_comm": "sh"}))


def test_sentences_of_what_the_default_rules_do_not_call_a_fault() -> None:
    rules = RuleSet("block_error: any; send_signal: any")
    found = rules.judge_event(event("block_error"), ())
    assert found is not None
    assert (found.rule, found.scope, found.reason) == (
        "block_error", Scope.SYSTEM, "its text (system)",
    )  # fmt: skip
    # "killed" would not be true.
    harmless = rules.judge_event(event("send_signal", **{**SIGNAL, "fatal": False}), ("httpd",))
    assert harmless is not None
    assert harmless.reason == "its text (service)"


def test_rules_can_name_probes_of_the_users_own() -> None:
    text = 'slow_write: latency > 100 and name == "x"'
    (doubt,) = parse_rules(text).doubts
    assert "slow_write is not a built-in probe" in str(doubt)
    mine = event("slow_write", latency=101, name="x")
    assert is_fault(text, mine)
    assert not is_fault(text, event("slow_write", latency="101", name="x"))
    assert not is_fault(text, event("other", latency=101, name="x"))
    mine.fields["from"] = 3
    assert is_fault("slow_write: from_ == 3", mine)
    assert not is_fault("slow_write: any", event("lost", probe="slow_write"))
    # Whatever a probe is called, an event that is known is known by its own name.
    assert not is_fault("slow_write: any", event("block_error", probe="slow_write"))


def test_a_count_needs_its_number_within_its_time() -> None:
    rules = RuleSet('block_error: disk == "vda", 3 in 60s')
    judged = [
        rules.judge_event(event("block_error", at, disk=disk), ()) is not None
        for at, disk in [
            (0.5, "vda"), (10, "vdb"), (20, "vda"), (61, "vda"),  # 60.5 s from the first
            (62, "vda"),  # 20, 61, 62
            (63, "vda"), (64, "vda"),  # anew
            (65, "vda"),
        ]
    ]  # fmt: skip
    assert judged == [False, False, False, False, True, False, False, True]


def test_the_reason_of_a_count_names_number_time_and_last_event() -> None:
    rules = RuleSet("net_link: 2 in 1m")
    assert rules.judge_event(event("net_link", 1), ()) is None
    found = rules.judge_event(event("net_link", 61), ())
    assert found is not None
    assert found.reason == "2 within 60 s, the last: its text (system)"
    assert rules.horizon == 60


def test_a_rule_that_is_written_twice_counts_once() -> None:
    rules = RuleSet("net_link: 3 in 1m; net_link:  3 in  1m; net_link: default")
    judged = [rules.judge_event(event("net_link", at), ()) is not None for at in (1, 2, 3, 4)]
    assert judged == [False, False, True, False]


def test_each_rule_is_explained_in_words() -> None:
    text = (
        'block_error: any; block_error: none; block_error: 2 in 1m; block_error: disk != "a"; '
        'block_error: not (cpu < 2 or "x" in disk) and op in ["read", "write"], 2 in 1h'
    )
    assert [rule.describe_rule() for rule in parse_rules(text).rules] == [
        "each event is a fault",
        "no event is a fault",
        "2 events within 60 s are a fault",
        'a fault if disk is not "a"',
        "a fault if 2 events within 3600 s match: not (cpu is less than 2 or "
        'disk contains "x") and op is one of "read", "write"',
    ]


def test_a_field_of_a_dynamic_probe_may_have_the_name_of_a_derived_one() -> None:
    words = [rule.describe_rule() for rule in parse_rules("own: class; own: not class").rules]
    assert words == ["a fault if class is true", "a fault if class is not true"]


def test_an_error_is_all_that_is_said_of_a_wrong_text() -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with pytest.raises(RuleError):
            parse_rules("own: any, 3in 60s")  # Python warns of such a number
    assert not said


def test_counts_are_told_to_forget_and_do_not_share() -> None:
    rules = RuleSet("block_error: 2 in 60s; block_error: bytes > 0, 2 in 60s")
    assert rules.judge_event(event("block_error", 1, bytes=0), ()) is None
    assert rules.judge_event(event("block_error", 2, bytes=1), ()) is not None
    rules.forget_counts()
    assert rules.judge_event(event("block_error", 3, bytes=1), ()) is None
    assert RuleSet(rules.text).judge_event(event("block_error", 4, bytes=1), ()) is None


def test_rules_can_be_limited_to_a_mount() -> None:
    rules = (
        'send_signal: fatal and main and service == "httpd"; out_of_memory: any; '
        'fs_error: mount == "/data"'
    )
    assert is_fault(rules, event("fs_error", mount="/data", error="EIO"))
    assert not is_fault(rules, event("fs_error", mount="/", error="EIO"))
    assert not is_fault(rules, event("fs_error", mount=None, error="EIO"))
    assert is_fault(rules, event("send_signal", **SIGNAL))
    assert is_fault(rules, event("out_of_memory", comm="x", parent_comm="y"))


@pytest.mark.parametrize(
    ("text", "line", "column", "message"),
    [
        ("send_signal: fatl", 1, 14, "has no field fatl (did you mean fatal?)"),
        ('fs_error: place == "/data"', 1, 11, "; it has: class, cpu, dev, disk, error, fstype, "),
        ("fs_error: error == EIO", 1, 20, 'write a text in quotes: "EIO"'),
        ("block_error: none;\n  fs_error: any and\n  x", 3, 3, "fs_error has no field x"),
        ('hung_task: "ä" == comm and y', 1, 28, "no field y"),
        ("block_error: main", 1, 14, "block_error has no field main"),
        ("send_signal: sig", 1, 14, "sig is a number; compare it with a value"),
        ('send_signal: sig == "11"', 1, 21, "sig is a number, but this is a text"),
        ('send_signal: sig in [1, "2"]', 1, 25, "sig is a number, but this is a text"),
        ("send_signal: fatal > 1", 1, 22, "fatal is true or false, but this is a number"),
        ('send_signal: comm > "a"', 1, 14, "> compares numbers"),
        ("send_signal: 1 == 1", 1, 14, "one side must be a field"),
        ("send_signal: 1 < sig < 9", 1, 24, "compare two values at a time"),
        ("send_signal: fatal = true", 1, 20, "to compare write =="),
        ("send_signal: fatal & main", 1, 20, "write and"),
        ("send_signal: fatal main", 1, 20, "not understood"),
        ("send_signal: (fatal", 1, 14, "never closed"),
        ("send_signal: fatal and", 1, 23, "is not complete"),
        ("send_signal: fatal\nout_of_memory: any", 2, 14, "is a ';' missing before"),
        ("send_signal", 1, 1, "the colon is missing"),
        ("send_signal: ;", 1, 14, "the rule says nothing"),
        ("send signal: any", 1, 1, "the name of one probe"),
        ("send_signal: , 3 in 60s", 1, 14, "the condition before the comma is missing"),
        ("send_signal: 3 in 60", 1, 19, "a count has a unit"),
        ("send_signal: 1 in 60s", 1, 14, "from 2 to 1000"),
        ("send_signal: 3 in 25h", 1, 19, "from 1s to 24h"),
        ("send_signal: true", 1, 14, "write any"),
        ("send_signal: print(1)", 1, 14, "a condition is expected"),
        ("send_signal: comm == f'a'", 1, 22, "a field, a text, a number"),
        ('send_signal: comm == "a', 1, 22, "does not end on this line"),
        ("mine: default", 1, 7, "has no default"),
        ("mine: " + "not " * 1000 + "a", 1, None, "nested deeper"),
        ("mine: " + "(" * 1000, 1, 27, "nested deeper"),
        # Python's parser gives up there before 3.13.
        ("mine: " + "-" * 5000 + "1", 1, None, "too complicated" if OLD else "is expected"),
        ("mine: a == " + "-" * 900 + "1", 1, 12, "a number, true or false is expected"),
        ("mine: a" + ".b" * 900, 1, 7, "a condition is expected"),
        ("mine: a and from == 3", 1, 13, "write a field of that name as from_"),
        ("a: any;" * 200, 1, 701, "more than 100 rules"),
        ("x" * (MAX_LENGTH + 1), 1, None, "longer than"),
    ],
)
def test_errors_have_a_place(text: str, line: int, column: int | None, message: str) -> None:
    with pytest.raises(RuleError) as caught:
        parse_rules(text)
    error = caught.value
    assert message in error.message
    assert error.line == line
    assert column is None or error.column == column
    shown, caret = error.show_place().split("\n")
    if column is not None and column < 40:
        source = text.split("\n")[line - 1] + " "
        assert shown.ljust(len(caret))[caret.index("^")] == source[column - 1]


def test_the_examples_of_the_man_page_are_true() -> None:
    page = (PROJECT / "docs" / "man" / "vesper-rules.7").read_text()
    assert "\n".join(rule.text for rules in default_rules().values() for rule in rules) in page
    examples = page.partition(".SH EXAMPLES")[2].partition(".SH")[0]
    shown = [line[4:-1] for line in examples.splitlines() if line.startswith('.B "')]
    assert len(shown) >= 4
    for text in shown:
        assert parse_rules(text.replace("\\(dq", '"').replace("\\-", "-")).doubts == ()


def test_an_empty_text_has_no_rules() -> None:
    assert parse_rules(" # nothing;\n ; ; ").rules == ()


WORDS = st.sampled_from(
    [*FIELDS, *FIELDS["send_signal"], "and", "or", "not", "in", "any", "none", "default", "==",
     "!=", "<", "(", ")", "[", "]", ",", ";", ":", "#", "\n", '"x"', "'", "3 in 60s", "1", "-",
     "1e999", "true", "lambda", "await", "f", "0x", "\\", "é", "\0", "\ud800"]
)  # fmt: skip
VALUES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers())
)


@given(st.text() | st.lists(WORDS, max_size=60).map(" ".join) | st.lists(WORDS).map("".join))
def test_no_text_makes_the_parser_raise_anything_else(text: str) -> None:
    try:
        rules = parse_rules(text).rules
    except RuleError as error:
        assert str(error)
        assert error.show_place()
    else:
        assert all(rule.describe_rule() for rule in rules)


def conditions() -> st.SearchStrategy[str]:
    """Of those that are understood."""
    names = st.sampled_from(["a", "b", "main", "service", "cpu"])
    values = st.integers().map(str) | st.sampled_from(['"x"', "true", "1e999", "0.5", '""'])
    compare = st.builds(
        lambda name, how, value: f"own_{name} {how} {value}",
        names, st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), values.filter(str.isdecimal),
    )  # fmt: skip
    member = st.builds(lambda name, items: f"own_{name} in [{', '.join(items)}]",
                       names, st.lists(values, min_size=1, max_size=4))  # fmt: skip
    leaf = st.sampled_from(["any", "main", "own_a", 'service == "x"', '"x" in own_b',
                            "own_a == own_b"]) | compare | member  # fmt: skip

    def larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        pairs = st.tuples(inner, st.sampled_from([" and ", " or "]), inner)
        return pairs.map("".join).map("({})".format) | inner.map("(not {})".format)

    return st.recursive(leaf, larger, max_leaves=8)


@given(
    condition=conditions(),
    count=st.sampled_from(["", ", 2 in 10s"]),
    fields=st.dictionaries(
        st.sampled_from(["own_a", "own_b", "own_main", "own_cpu", "comm", "parent_comm"]), VALUES
    ),
    services=st.lists(st.text(), max_size=3),
)
def test_no_event_makes_a_rule_raise(
    condition: str, count: str, fields: dict[str, Any], services: list[str]
) -> None:
    rules = RuleSet(f"mine: {condition}{count}")
    for at in (0.0, 1.0, 2.0):
        found = rules.judge_event(event("mine", at, **fields), services)
        assert found is None or found.reason
