# SPDX-License-Identifier: GPL-2.0-or-later
"""What is said of the probes is complete, and the same everywhere."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vesper_monitor.guest.abi_layout import EventType
from vesper_monitor.knowledge import probes
from vesper_monitor.rules.conditions import NONE
from vesper_monitor.rules.rule_set import default_rules

PROJECT = Path(__file__).resolve().parents[3]
MODULES = PROJECT / "probe_modules"
FOLDERS = sorted(
    path.name
    for path in MODULES.iterdir()
    if path.is_dir() and path.name not in ("build", "core", "include")
)


def source(name: str) -> str:
    """The probe's own, and what it takes from the header of those that tell of a process."""
    text = (MODULES / name / f"{name}.c").read_text()
    shared = MODULES / "include/vesper_process.h"
    return text + shared.read_text() if f'"{shared.name}"' in text else text


def test_each_folder_is_a_probe_that_is_known_everywhere() -> None:
    assert len(FOLDERS) >= 5
    assert sorted(probes.PROBES) == FOLDERS
    assert set(FOLDERS) <= set(default_rules())
    assert set(FOLDERS) <= {event.name.lower() for event in EventType}
    kbuild = (MODULES / "Kbuild").read_text()
    # One source of its own name, or parts in its folder.
    made = re.findall(r"^obj-.* \+= (\w+)/\1\.o$", kbuild, re.M)
    made += re.findall(r"^(\w+)-y := \1/", kbuild, re.M)
    assert sorted(made) == FOLDERS


@pytest.mark.parametrize("name", FOLDERS)
def test_what_is_said_agrees_with_the_module(name: str) -> None:
    info, text = probes.PROBES[name], source(name)
    for line in (info.sees, *info.hooks, info.not_seen, info.cost, info.fault, info.why):
        assert line.strip()
    params = re.findall(r"^module_param\w*\((\w+),", text, re.M)
    assert sorted(info.params) == sorted(params)
    assert sorted(re.findall(r"^MODULE_PARM_DESC\((\w+),", text, re.M)) == sorted(params)
    # Each hook names a function or a tracepoint that is in the source.
    for hook in info.hooks if name != "probe_point" else ():
        found = re.match(r"(?:kprobe on |tracepoint \w+:|notifier )(\w+)", hook)
        assert found is not None, hook
        named = f"{found[1]}(" if hook.startswith("notifier") else f'"{found[1]}"'
        assert named in text, hook
    has_rules = any(rule.condition != NONE for rule in default_rules().get(name, ()))
    assert has_rules == (info.fault != "none"), info.fault


@pytest.mark.parametrize(
    ("path", "made"),
    [("docs/probes.md", probes.make_markdown), ("docs/man/vesper-probes.7", probes.make_man_page)],
)
def test_pages_are_made_from_the_table(path: str, made: object) -> None:
    assert callable(made)
    assert (PROJECT / path).read_text() == made(), "see vesper_monitor/knowledge/probes.py"


def vesper(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vesper_monitor.command.main", *arguments],
        cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False,
        env={"VESPER_SOCKET": "/nonexistent/socket", "COLUMNS": "100"},
    )  # fmt: skip


def test_probe_info_works_without_vesperd() -> None:
    everything = vesper("probe", "info")
    assert everything.returncode == 0, everything.stderr
    assert all(name in everything.stdout for name in FOLDERS)

    told = vesper("probe", "info", "process_exit")
    assert told.returncode == 0, told.stderr
    words = " ".join(told.stdout.split())
    assert all(" ".join(text.split()) in words for _, texts in probes.list_sections("process_exit")
               for text in texts)  # fmt: skip

    answer = json.loads(vesper("probe", "info", "process_exit", "--json").stdout)
    assert answer["probe"] == "process_exit"
    own = {"names", "min_age_ms", "max_users_per_s", "asked_s"}
    assert set(answer["params"]) == own | {"subbuf_size", "n_subbufs"}
    assert len(json.loads(vesper("probe", "info", "--json").stdout)) == len(FOLDERS)

    unknown = vesper("probe", "info", "nothing")
    assert unknown.returncode == 1
    assert "nothing: no such probe; built in are: " in unknown.stderr
