# SPDX-License-Identifier: GPL-2.0-or-later
"""Copies of the agents and their library, of which a test may damage a file."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.unit.ocf.support.host import PROJECT

__all__ = ["copy_library", "damage", "install"]


def install(destination: Path, source: Path = PROJECT) -> None:
    """``make install``, below a folder."""
    subprocess.run(
        ["make", "-s", "-C", str(source), "install", f"DESTDIR={destination}"],
        check=True,
        capture_output=True,
        timeout=60,
    )


def copy_library(installed: Path, folder: Path) -> Path:
    """Copy what was installed, so that its agents use the copy; return the agents' folder."""
    library = installed / "usr/lib/python3/dist-packages/vesper_monitor"
    others = shutil.ignore_patterns("command", "daemon", "guest", "knowledge")
    shutil.copytree(library, folder / "vesper_monitor", ignore=others)
    return Path(shutil.copytree(installed / "usr/lib/ocf/resource.d/vesper", folder / "ocf"))


def damage(path: Path, how: str) -> None:
    """
    :param how: ``missing``, ``empty``, ``half``, or the text before which the file ends.
    """
    text = path.read_text()
    if how == "missing":
        path.unlink()
    elif how == "empty":
        path.write_text("")
    elif how == "half":
        path.write_text(text[: len(text) // 2])
    else:
        assert text.count(how) == 1, how
        path.write_text(text.partition(how)[0])
