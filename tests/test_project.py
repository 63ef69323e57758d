# SPDX-License-Identifier: GPL-2.0-or-later
"""What must agree between files of the project that cannot know each other."""

from __future__ import annotations

import configparser
import re
import subprocess
from pathlib import Path

import vesper_monitor

PROJECT = Path(__file__).resolve().parents[1]


def tracked() -> list[Path]:
    names = subprocess.run(
        ["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True, check=True, timeout=30
    ).stdout
    return [PROJECT / name for name in names.splitlines() if (PROJECT / name).is_file()]


def test_one_version() -> None:
    setup = configparser.ConfigParser()
    setup.read(PROJECT / "setup.cfg")
    version = setup["metadata"]["version"]
    assert vesper_monitor.__version__ == version
    dkms = (PROJECT / "probe_modules/dkms.conf").read_text()
    assert f'PACKAGE_VERSION="{version}"' in dkms
    assert f"vesper-{version}" in (PROJECT / "README.md").read_text()


def test_each_source_says_its_licence() -> None:
    """GPL-2.0-only in the guest's kernel, GPL-2.0-or-later elsewhere."""
    wrong = []
    for path in tracked():
        name = path.relative_to(PROJECT)
        if path.suffix not in (".py", ".c", ".h", ".S", ".sh", ".toml", ".service"):
            continue
        kernel = name.parts[0] == "probe_modules" or "guest_modules" in name.parts
        kernel |= name.parts[1:2] == ("guest",) and name.parts[0].endswith("_transport")
        licence = "GPL-2.0-only" if kernel else "GPL-2.0-or-later"
        head = "".join(path.read_text().splitlines(keepends=True)[:2])
        found = re.search(r"SPDX-License-Identifier: (\S+)", head)
        if found is None or found[1] != licence:
            wrong.append(str(name))
    assert wrong == []


def test_docs_name_files_that_exist() -> None:
    text = (PROJECT / "docs/architecture.md").read_text()
    named = set(re.findall(r"`((?:[a-z_]+/)+[A-Za-z_.]*)`", text))
    assert len(named) > 20
    assert [name for name in sorted(named) if not (PROJECT / name).exists()] == []
