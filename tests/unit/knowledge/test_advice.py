# SPDX-License-Identifier: GPL-2.0-or-later
"""What is known of symptoms, and what ``vesper advise`` makes of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit.support.daemons import PROJECT
from vesper_monitor.guest.event import Event
from vesper_monitor.knowledge import KnowledgeError, Symptom, load_symptoms, matched_words
from vesper_monitor.knowledge.advice import Advice, combine_advice, propose_advice
from vesper_monitor.knowledge.probes import PROBES
from vesper_monitor.rules.language import parse_rules

SYMPTOMS = {symptom.name: symptom for symptom in load_symptoms()}


@pytest.mark.parametrize("symptom", SYMPTOMS.values(), ids=SYMPTOMS)
def test_the_shipped_symptoms_are_valid(symptom: Symptom) -> None:
    """That its rules parse, and its keys are known, was seen when it was read."""
    assert set(symptom.probes) <= set(PROBES)
    assert set(symptom.instead) <= set(SYMPTOMS)
    assert symptom.words
    assert len(set(symptom.words)) == len(symptom.words)
    for word in symptom.words:
        assert word in matched_words(symptom, f"it is the {word.upper()}, I think"), word
    for text in (symptom.rules, symptom.seen):
        parsed = parse_rules(text)
        assert parsed.doubts == ()
        # What is judged must be seen.
        probes = {rule.probe for rule in parsed.rules}
        assert probes <= {*symptom.probes, "last_words", "hang"}, text
    for text in (symptom.title, symptom.why, symptom.source):
        assert text.strip() == text != ""
    # A name of a process is of no use without one.
    assert symptom.service or " main " not in f" {symptom.seen} "


def names(advices: list[Advice]) -> list[str]:
    return [advice.symptom.name for advice in advices]


def said(text: str, *services: str) -> list[str]:
    return names(propose_advice(SYMPTOMS.values(), [], text, services))


def test_words_are_matched_whole_and_named_in_the_reason() -> None:
    assert said("zzz") == []
    assert "network-link" not in said("linked list", "httpd")  # not "link"
    assert said("the FILE-SYSTEM is READ-ONLY!")[0] == "filesystem-read-only"
    (first, *_) = propose_advice(SYMPTOMS.values(), [], "Buffer I/O error on the disk", [])
    assert first.symptom.name == "disk-errors"
    assert first.reason == "you said: disk, i/o error, buffer i/o error"


def test_one_symptom_stands_for_another() -> None:
    assert "out-of-memory" in said("out of memory")
    tolerated = said("out of memory in a container")
    assert "out-of-memory-tolerated" in tolerated
    assert "out-of-memory" not in tolerated


def test_without_a_symptom_advice_for_every_vm_is_given() -> None:
    assert set(said("", "httpd")) == {n for n, s in SYMPTOMS.items() if s.always}
    assert "service-killed" not in said("")


def block_error(number: int, **fields: Any) -> Event:
    fields = {"error": "EIO", "op": "write", "disk": "vda", **fields}
    return Event("vm1", 1, "block_error", "block_error", 0, 0, number * 10**9, 0.0, fields,
                 "EIO on vda", number)  # fmt: skip


def test_a_recorded_event_is_a_reason() -> None:
    events = [block_error(1), block_error(2)]
    found = {a.symptom.name: a for a in propose_advice(SYMPTOMS.values(), events, "", ["httpd"])}
    assert "disk-path-lost" not in found
    assert found["disk-errors"].reason == (
        "it is on record 2 times, last as event 2: EIO on vda"
    )  # fmt: skip


def advice(**changes: Any) -> Advice:
    entry = {"name": "x", "title": "x", "words": (), "probes": (), "why": "x", "source": "x"}
    return Advice(Symptom(**{**entry, **changes}), (), ())


def test_proposals_for_several_symptoms_are_combined() -> None:
    default = advice(probes=("out_of_memory", "hung_task"))
    own = advice(probes=("out_of_memory",), rules="out_of_memory: main; hang: none")
    proposal = combine_advice([default, own, own], ["send_signal"], ["httpd"], "block_error: any")
    assert proposal.probes == ("send_signal", "out_of_memory", "hung_task")
    assert proposal.fault_on == (
        "block_error: any; out_of_memory: main; hang: none; out_of_memory: default"
    )
    # What the user has decided stays so.
    assert (
        combine_advice([default], fault_on="out_of_memory: main").fault_on == "out_of_memory: main"
    )
    assert combine_advice([default]).fault_on == ""


MINE = """
[[symptom]]
name = "disk-errors"
title = "Mine"
words = ["glacier"]
probes = ["block_error"]
rules = "block_error: any"
why = "so"
source = "me"
"""


def test_a_users_own_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(MINE)
    found = {symptom.name: symptom for symptom in load_symptoms([Path("/nonexistent"), tmp_path])}
    assert list(found) == ["disk-errors"]
    both = subprocess.run(
        [sys.executable, "-m", "vesper_monitor.command.main", "advise", "--knowledge",
         str(PROJECT / "vesper_monitor" / "knowledge"), "--knowledge", str(tmp_path),
         "--symptom", "a glacier", "--service", "httpd"],
        cwd=PROJECT, capture_output=True, text=True, timeout=60, check=True,
        env={"VESPER_SOCKET": "/nonexistent/socket"},
    )  # fmt: skip
    assert "disk-errors: Mine\n  because you said: glacier\n" in both.stdout
    assert "  fault_on='block_error: any'\n" in both.stdout
    assert "  services=httpd\n" in both.stdout


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"so"', "1", "symptom disk-errors: why is of the wrong kind"),
        ('why = "so"', "", "symptom disk-errors: why is missing"),
        ('["glacier"]', '"glacier"', "words must be a list of texts"),
        ("why =", "y = 1\nwhy =", "nobody knows y"),
        ("block_error: any", "block_error: anx", "rules: line 1, column 14: block_error has no"),
        ("[[symptom]]", "[[symptoms]]", "it must have entries"),
        ("[[symptom]]", "[[", "mine.toml: "),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    (tmp_path / "mine.toml").write_text(MINE.replace(old, new))
    with pytest.raises(KnowledgeError) as caught:
        load_symptoms([tmp_path])
    assert message in str(caught.value)
    assert str(tmp_path / "mine.toml") in str(caught.value)
