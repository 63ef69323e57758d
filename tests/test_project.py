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
    for name in ("README.md", "docs/quickstart.md"):
        text = (PROJECT / name).read_text()
        assert set(re.findall(r"vesper[-/](\d+\.\d+\.\d+)", text)) == {version}, name


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


DOCUMENTS = [*sorted(PROJECT.glob("*.md")), *sorted((PROJECT / "docs").glob("*.md"))]


def test_documents_name_files_that_exist() -> None:
    """A name with a word in capitals stands for any."""
    wrong = []
    for document in DOCUMENTS:
        if document.name == "CHANGELOG.md":  # of files that were
            continue
        named = set(re.findall(r"`((?:[a-z_]+/)+[A-Za-z_.]*)`", document.read_text()))
        wrong += [
            f"{document.name}: {name}"
            for name in sorted(named)
            if not (PROJECT / name).exists() and not re.search(r"[A-Z]{4}", name)
        ]
    assert wrong == []
    assert "vesper_monitor/daemon/event_pipeline.py" in (
        PROJECT / "docs/architecture.md"
    ).read_text()


def list_anchors(markdown: str) -> set[str]:
    """Return the anchors that GitHub makes of the headings."""
    found = set()
    for heading in re.findall(r"^#+ (.*)$", markdown, re.M):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        found.add(re.sub(r"[^\w\- ]", "", plain).replace(" ", "-"))
    return found


def test_links_of_documents_lead_somewhere() -> None:
    wrong = []
    for document in DOCUMENTS:
        for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
            name, _, anchor = link.partition("#")
            target = document.parent / name if name else document
            if "://" in link:
                continue
            if not target.exists() or (anchor and anchor not in list_anchors(target.read_text())):
                wrong.append(f"{document.name}: {link}")
    assert wrong == []


def test_kernels_are_asked_for_features() -> None:
    """Never for their version; each feature is looked for, explained and used."""
    features = (PROJECT / "probe_modules/features.mk").read_text()
    looked_for = set(re.findall(r"^\t\$\(call vsp-have(?:-file)?,([A-Z_]+),", features, re.M))
    header = PROJECT / "probe_modules/include/vesper_features.h"
    explained = re.findall(r"^ \* ([A-Z_]{3,})\s", header.read_text(), flags=re.MULTILINE)
    used: set[str] = set()
    for path in tracked():
        if path.suffix in (".c", ".h", ".S") or path.name == "Kbuild":
            text = path.read_text()
            assert "LINUX_VERSION_CODE" not in text, path
            used.update(re.findall(r"\bVSP_HAVE_([A-Z_]+[A-Z])\b", text))
            used.update(re.findall(r"filter %([A-Z_]+),", text))
    assert set(explained) == looked_for
    assert used == looked_for
