# SPDX-License-Identifier: GPL-2.0-or-later
"""The labs' command line."""

from __future__ import annotations

import pytest

from lab.__main__ import build_parser
from lab.cluster import cli as cluster
from lab.kvm import cli as kvm
from lab.xen import cli as xen


@pytest.mark.parametrize("text", [xen.EXAMPLES, kvm.EXAMPLES, cluster.EXAMPLES])
def test_examples_in_the_help_can_be_parsed(text: str) -> None:
    examples = [line.split("  ")[1] for line in text.splitlines() if "python3" in line]
    assert len(examples) >= 5
    for example in examples:
        words = example.strip().split()
        assert words[:3] == ["python3", "-m", "lab"]
        assert callable(build_parser().parse_args(words[3:]).command)


def test_lab_that_is_not_up_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: object
) -> None:
    monkeypatch.setattr("lab.xen.owner_process.DIRECTORY", tmp_path)
    arguments = build_parser().parse_args(["xen", "status"])
    assert arguments.command(arguments) == 1
    assert "python3 -m lab xen up" in capsys.readouterr().err
