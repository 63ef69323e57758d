# SPDX-License-Identifier: GPL-2.0-or-later
"""The command lines that the documents show are understood, and vesper(8) knows each option."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from vesper_monitor.command.main import _with_show, build_parser
from vesper_monitor.guest.dynamic_probes.syntax import parse_definition

PROJECT = Path(__file__).resolve().parents[3]
PAGES = sorted((PROJECT / "docs/man").iterdir())


def shown() -> list[str]:
    """Return each example line of README, docs/, the manual pages, and vesper's own help."""
    found = re.findall(r"^    (vesper .*)$", (PROJECT / "README.md").read_text(), re.M)
    for document in sorted((PROJECT / "docs").glob("*.md")):
        found += re.findall(r"^ +# (vesper .*)$", document.read_text(), re.M)
    troubles = (PROJECT / "docs/troubleshooting.md").read_text()
    found += re.findall(r"`(vesper [a-z][^`\n]*)`", troubles)
    for page in PAGES:
        text = page.read_text().replace(r"\(aq", "'").replace(r"\-", "-").replace(r"\e", "\\")
        for block in re.findall(r"^\.(?:EX|nf)\n(.*?)^\.(?:EE|fi)$", text, re.M | re.S):
            found += re.findall(r"^(?:\$ )?(vesper .*)$", block, re.M)
    found += re.findall(r"^  (vesper .*)$", str(build_parser().epilog), re.M)
    # What follows is a comment, another program, or a file.
    return [re.split(r"\s+# |  +|; | \| | > ", line)[0] for line in found]


@pytest.mark.parametrize("line", dict.fromkeys(shown()))
def test_what_is_shown_is_understood(line: str) -> None:
    options = build_parser().parse_args(_with_show(shlex.split(line)[1:]))
    if definition := getattr(options, "definition", None):
        parse_definition(" ".join(definition))


def test_all_documents_show_some() -> None:
    assert len(set(shown())) > 20


def commands(top: argparse.ArgumentParser, name: str) -> Iterator[tuple[str, set[str]]]:
    """Each command that does something, and its options."""
    below = [a for a in top._actions if isinstance(a, argparse._SubParsersAction)]
    for action in below:
        for word, each in action.choices.items():
            yield from commands(each, f"{name} {word}")
    if not below:
        yield name, {a.option_strings[0] for a in top._actions if a.option_strings}


def test_the_page_has_each_option_of_each_command() -> None:
    page = (PROJECT / "docs/man/vesper.8").read_text().replace(r"\-", "-")
    synopsis = page.partition(".SH SYNOPSIS\n")[2].partition(".SH ")[0]
    wrong = []
    for name, options in commands(build_parser(), "vesper"):
        said = [part for part in synopsis.split(".br\n") if part.startswith(f".B {name}\n")]
        for option in options - {"-h", "--json"}:
            if not any(re.search(rf" {option}\b", part) for part in said):
                wrong.append(f"{name} {option}")
    assert wrong == []
